"""Clips and models that are small, and the same wherever they are made, to judge as VBench does.

Weights are by the names of DINO's and CLIP's own code. `python -m tests.benchmarks.small_vbench
make FOLDER` writes what the official package needs to judge the clips with them; `... collect
FOLDER` writes down what it said. Between the two goes

    vipo eval vbench FOLDER/clips --backend official --weights FOLDER/weights \
        --info FOLDER/info.json --out FOLDER/out --allow-partial --dimension ...

with FOLDER/weights/dino_model/facebookresearch_dino_main holding that repository's
vision_transformer.py and utils.py.
"""

import base64
import json
import sys
from pathlib import Path

import numpy as np
import torch

GOLDEN = Path(__file__).parent / "golden" / "vbench_native.json"
SIZES = {"wide": (60, 100, 5), "tall": (320, 240, 4), "square": (224, 224, 3)}
STYLE = {"prompt": "a cat, oil painting", "auxiliary_info": {"appearance_style": "oil painting"}}
TOKENS = [49406, 2870, 3086, 49407]
"""The style, as CLIP reads it."""
DIMENSIONS = (
    "subject_consistency",
    "background_consistency",
    "temporal_flickering",
    "aesthetic_quality",
    "appearance_style",
)
HUB = """
import torch
from vision_transformer import VisionTransformer
dependencies = ["torch"]

def dino_vitb16(**_):
    norm = lambda width: torch.nn.LayerNorm(width, eps=1e-6)
    model = VisionTransformer(
        patch_size=16, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2, qkv_bias=True,
        num_classes=0, norm_layer=norm,
    )
    model.load_state_dict(torch.hub.load_state_dict_from_url())
    return model.eval()
"""


def uniform(count, seed):
    """Return numbers in [0, 1) that are the same everywhere."""
    z = np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(seed * 1_000_003)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    return (z ^ (z >> np.uint64(31))).astype(np.float64) / 2.0**64


def frames(height, width, count):
    """Return a clip of waves and of a square of noise, both of which move."""
    t, y, x, c = np.ogrid[:count, :height, :width, :3]
    waves = np.abs((3 * x + 2 * y + 40 * t * (1 + c) + 40 * c) % 510 - 255)
    noise = (uniform(height * width * 3, 7).reshape(height, width, 3) * 256).astype(np.int64)
    inside = (abs(x - width // 3 - 4 * t) < 12) & (abs(y - height // 2) < 12)
    return np.where(inside, noise, waves).astype(np.uint8)


def weights(shapes):
    """Return tensors of some shapes."""
    made = {}
    for number, (name, shape) in enumerate(sorted(shapes.items())):
        values = (uniform(int(np.prod(shape)), number) - 0.5) * (1.0 if len(shape) < 4 else 0.2)
        scale = any(part in name for part in ("norm", "ln_")) and name.endswith("weight")
        made[name] = torch.from_numpy((values + float(scale)).reshape(shape).astype(np.float32))
    return made


def layers(blocks, width, inner, names):
    """Return the shapes of transformer blocks, whose parts the public code calls by these names."""
    qkv, dot = names["qkv"], names["dot"]
    shapes = {}
    for block in blocks:
        shapes |= {
            f"{block}{qkv}weight": (3 * width, width),
            f"{block}{qkv}bias": (3 * width,),
            f"{block}{names['out']}.weight": (width, width),
            f"{block}{names['out']}.bias": (width,),
            f"{block}{names['one']}.weight": (inner, width),
            f"{block}{names['one']}.bias": (inner,),
            f"{block}{names['two']}.weight": (width, inner),
            f"{block}{names['two']}.bias": (width,),
        }
        for norm in (f"{dot}1", f"{dot}2"):
            shapes |= {f"{block}{norm}.weight": (width,), f"{block}{norm}.bias": (width,)}
    return shapes


DINO_NAMES = {
    "qkv": "attn.qkv.", "out": "attn.proj", "one": "mlp.fc1", "two": "mlp.fc2", "dot": "norm"
}  # fmt: skip
CLIP_NAMES = {
    "qkv": "attn.in_proj_", "out": "attn.out_proj", "one": "mlp.c_fc", "two": "mlp.c_proj",
    "dot": "ln_",
}  # fmt: skip
CLIP_NORMS = ("ln_final", "visual.ln_pre", "visual.ln_post")


def dino_weights():
    return weights({
        "cls_token": (1, 1, 16),
        "pos_embed": (1, 197, 16),
        "patch_embed.proj.weight": (16, 3, 16, 16),
        "patch_embed.proj.bias": (16,),
        "norm.weight": (16,),
        "norm.bias": (16,),
        **layers(["blocks.0.", "blocks.1."], 16, 32, DINO_NAMES),
    })  # fmt: skip


def clip_weights():
    """Return weights in half precision, as OpenAI's are; its code rounds them even on a CPU."""
    made = weights({
        "positional_embedding": (77, 64),
        "text_projection": (64, 768),
        "logit_scale": (),
        "visual.class_embedding": (64,),
        "visual.positional_embedding": (50, 64),
        "visual.proj": (64, 768),
        "visual.conv1.weight": (64, 3, 32, 32),
        "token_embedding.weight": (49408, 64),
        **{f"{name}.{kind}": (64,) for name in CLIP_NORMS for kind in ("weight", "bias")},
        **layers([f"transformer.resblocks.{i}." for i in (0, 1)], 64, 256, CLIP_NAMES),
        **layers([f"visual.transformer.resblocks.{i}." for i in (0, 1)], 64, 256, CLIP_NAMES),
    })  # fmt: skip
    return {name: value.half().float() for name, value in made.items()}


def head_weights():
    return weights({"weight": (1, 768), "bias": (1,)})


class Holder(torch.nn.Module):
    """A module with tensors of some names, to be written as CLIP is published: as TorchScript."""

    def __init__(self, tensors):
        super().__init__()
        for name in sorted({name.partition(".")[0] for name in tensors}):
            inner = {k.partition(".")[2]: v for k, v in tensors.items() if k.startswith(f"{name}.")}
            if inner:
                self.add_module(name, Holder(inner))
            else:
                self.register_parameter(name, torch.nn.Parameter(tensors[name]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def make(folder):
    """Write clips, prompts and weights as the official package looks for them."""
    from vipo_cli.clips import encode_mp4

    (folder / "clips").mkdir(parents=True, exist_ok=True)
    entries = []
    for name, size in SIZES.items():
        prompt = f"{name}, oil painting"
        (folder / "clips" / f"{prompt}-0.mp4").write_bytes(encode_mp4(frames(*size), 8))
        entries.append({
            "prompt_en": prompt,
            "dimension": DIMENSIONS,
            "auxiliary_info": {"appearance_style": {"appearance_style": "oil painting"}},
        })  # fmt: skip
    (folder / "info.json").write_text(json.dumps(entries))
    for name, tensors in (("clip_model/ViT-B-32.pt", clip_weights()),
                          ("clip_model/ViT-L-14.pt", clip_weights())):  # fmt: skip
        (folder / "weights" / name).parent.mkdir(parents=True, exist_ok=True)
        torch.jit.save(torch.jit.script(Holder(tensors)), folder / "weights" / name)
    for name, tensors in (("dino_model/dino_vitbase16_pretrain.pth", dino_weights()),
                          ("aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth",
                           head_weights())):  # fmt: skip
        (folder / "weights" / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(tensors, folder / "weights" / name)
    hub = folder / "weights" / "dino_model" / "facebookresearch_dino_main"
    hub.mkdir(exist_ok=True)
    (hub / "hubconf.py").write_text(HUB)


def collect(folder):
    """Write down what the official package said of which clips."""
    found = {"provenance": PROVENANCE, "clips": {}}
    for file in sorted((folder / "clips").iterdir()):
        found["clips"][file.name.partition(",")[0]] = base64.b64encode(file.read_bytes()).decode()
    for name in DIMENSIONS:
        file = folder / "out" / "official" / name / "results_eval_results.json"
        value, results = json.loads(file.read_text())[name]
        clips = {
            Path(one["video_path"]).name.partition(",")[0]: one["video_results"] for one in results
        }
        found[name] = {"value": value, "clips": clips}
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")


PROVENANCE = (
    "vbench 0.1.5 as `vipo eval setup vbench` installs it (torch 2.13.0, torchvision 0.28.0, "
    "openai-clip 1.0.1, decord 0.6.0, opencv-python 4.11.0.86), run by `vipo eval vbench "
    "--backend official` on a CPU; DINO 7c446df"
)

if __name__ == "__main__":
    {"make": make, "collect": collect}[sys.argv[1]](Path(sys.argv[2]))
