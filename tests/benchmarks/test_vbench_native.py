"""Native dimensions against the public implementation, on models that both sides can make.

`golden/vbench_native.json` holds what the functions of VBench (and DINO's and CLIP's own code)
returned for the clips and weights below; its provenance says where. At full size (random ViT-B/16,
B/32 and L/14, six clips of MP4) they agreed within 2e-7 on clips and dimensions, and frames were
those of decord and OpenCV to the bit. The official checkpoints were not at hand.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

from tests.small_clips import clip as small_clip
from vipo_cli.benchmarks import vbench_native as native
from vipo_cli.errors import DataError
from vipo_cli.evaluation.vbench_models import with_dino_positions
from vipo_cli.media import encode_png

GOLDEN = json.loads((Path(__file__).parent / "golden" / "vbench_native.json").read_text())
SIZES = {"wide-0.mp4": (60, 100, 5), "tall-0.mp4": (320, 240, 4), "square-0.mp4": (224, 224, 3)}
STYLE = {"prompt": "a cat, oil painting", "auxiliary_info": {"appearance_style": "oil painting"}}
TOKENS = [30, 4, 9, 2, 31]


def uniform(count, seed):
    """Return numbers in [0, 1) that are the same everywhere."""
    z = np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(seed * 1_000_003)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    return (z ^ (z >> np.uint64(31))).astype(np.float64) / 2.0**64


def frames(height, width, count):
    t, y, x, c = np.ogrid[:count, :height, :width, :3]
    waves = np.abs((3 * x + 2 * y + 40 * t * (1 + c) + 40 * c) % 510 - 255)
    noise = (uniform(height * width * 3, 7).reshape(height, width, 3) * 256).astype(np.int64)
    moving = np.stack([np.roll(noise, (5 * i, 11 * i), (0, 1)) for i in range(count)])
    return np.where((x // 20 + y // 30 + t) % 3 == 0, moving, waves).astype(np.uint8)


def weights(shapes):
    """Return tensors by the public implementations' names."""
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


def renamed(source, block, target, names, theirs):
    """Move a block's tensors to the names of transformers."""
    found = {}
    for kind in ("weight", "bias"):
        parts = source[f"{block}{names['qkv']}{kind}"].chunk(3)
        for letter, part in zip(theirs["qkv"], parts, strict=True):
            found[f"{target}{letter}.{kind}"] = part
        for key in ("out", "one", "two"):
            found[f"{target}{theirs[key]}.{kind}"] = source[f"{block}{names[key]}.{kind}"]
        for number in (1, 2):
            own = source[f"{block}{names['dot']}{number}.{kind}"]
            found[f"{target}{theirs['norms'][number - 1]}.{kind}"] = own
    return found


DINO_NAMES = {
    "qkv": "attn.qkv.", "out": "attn.proj", "one": "mlp.fc1", "two": "mlp.fc2", "dot": "norm"
}  # fmt: skip
CLIP_NAMES = {
    "qkv": "attn.in_proj_", "out": "attn.out_proj", "one": "mlp.c_fc", "two": "mlp.c_proj",
    "dot": "ln_",
}  # fmt: skip


@pytest.fixture(scope="module")
def dino():
    shapes = {
        "cls_token": (1, 1, 16),
        "pos_embed": (1, 197, 16),
        "patch_embed.proj.weight": (16, 3, 16, 16),
        "patch_embed.proj.bias": (16,),
        "norm.weight": (16,),
        "norm.bias": (16,),
        **layers(["blocks.0.", "blocks.1."], 16, 32, DINO_NAMES),
    }
    own = weights(shapes)
    tensors = {
        "embeddings.cls_token": own["cls_token"],
        "embeddings.position_embeddings": own["pos_embed"],
        "embeddings.patch_embeddings.projection.weight": own["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": own["patch_embed.proj.bias"],
        "layernorm.weight": own["norm.weight"],
        "layernorm.bias": own["norm.bias"],
    }
    theirs = {
        "qkv": [f"attention.{letter}_proj" for letter in "qkv"],
        "out": "attention.o_proj",
        "one": "mlp.fc1",
        "two": "mlp.fc2",
        "norms": ["layernorm_before", "layernorm_after"],
    }
    for number in (0, 1):
        tensors |= renamed(own, f"blocks.{number}.", f"layers.{number}.", DINO_NAMES, theirs)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        layer_norm_eps=1e-6,
    )
    model = ViTModel(config, add_pooling_layer=False)
    model.load_state_dict(tensors)
    return with_dino_positions(model).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def clip():
    shapes = {
        "positional_embedding": (8, 64),
        "text_projection": (64, 8),
        "logit_scale": (),
        "visual.class_embedding": (64,),
        "visual.positional_embedding": (50, 64),
        "visual.proj": (64, 8),
        "visual.conv1.weight": (64, 3, 32, 32),
        "token_embedding.weight": (32, 64),
        **{f"{n}.{k}": (64,) for n in NORMS for k in ("weight", "bias")},
        **layers([f"transformer.resblocks.{i}." for i in (0, 1)], 64, 256, CLIP_NAMES),
        **layers([f"visual.transformer.resblocks.{i}." for i in (0, 1)], 64, 256, CLIP_NAMES),
    }
    own = weights(shapes)
    tensors = {
        "logit_scale": own["logit_scale"],
        "visual_projection.weight": own["visual.proj"].T,
        "text_projection.weight": own["text_projection"].T,
        "text_model.embeddings.token_embedding.weight": own["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": own["positional_embedding"],
        "vision_model.embeddings.class_embedding": own["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": own["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": own["visual.positional_embedding"],
    }
    for name, theirs in NORMS.items():
        tensors |= {f"{theirs}.{k}": own[f"{name}.{k}"] for k in ("weight", "bias")}
    parts = {
        "qkv": [f"self_attn.{letter}_proj" for letter in "qkv"],
        "out": "self_attn.out_proj",
        "one": "mlp.fc1",
        "two": "mlp.fc2",
        "norms": ["layer_norm1", "layer_norm2"],
    }
    for tower, prefix in (("text_model", ""), ("vision_model", "visual.")):
        for i in (0, 1):
            block = f"{prefix}transformer.resblocks.{i}."
            tensors |= renamed(own, block, f"{tower}.encoder.layers.{i}.", CLIP_NAMES, parts)
    size = {
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "hidden_act": "quick_gelu",
    }
    config = CLIPConfig(
        text_config={
            **size,
            "vocab_size": 32,
            "max_position_embeddings": 8,
            "eos_token_id": 2,
            "bos_token_id": 0,
        },
        vision_config={**size, "image_size": 224, "patch_size": 32},
        projection_dim=8,
    )
    model = CLIPModel(config)
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False)


NORMS = {
    "ln_final": "text_model.final_layer_norm",
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
}


def scorers(dino, clip):
    style = native.ClipEmbedder(clip, lambda _: [TOKENS], pillow=True)
    head = torch.nn.Linear(8, 1)
    head.load_state_dict(weights({"weight": (1, 8), "bias": (1,)}))
    head.requires_grad_(False)
    return [
        native.Consistency("subject_consistency", "", native.DinoEmbedder(dino, 2)),
        native.Consistency("background_consistency", "", native.ClipEmbedder(clip, batch_size=2)),
        native.TemporalFlickering(),
        native.AestheticQuality("", native.ClipEmbedder(clip), head),
        native.AppearanceStyle("", style, style.text, float(clip.logit_scale.exp())),
    ]


def test_dimensions_are_those_of_the_public_implementation(dino, clip):
    made = {name: frames(*size) for name, size in SIZES.items()}
    for scorer in scorers(dino, clip):
        golden = GOLDEN[scorer.dimension]
        judged = {name: scorer.score(own, STYLE) for name, own in made.items()}
        values = {name: one.value for name, one in judged.items()}
        assert values == pytest.approx(golden["clips"], abs=1e-6), scorer.dimension
        sizes = [one.weight if scorer.pooled else 1 for one in judged.values()]
        value = np.average(list(values.values()), weights=sizes)
        assert value == pytest.approx(golden["value"], abs=1e-6), scorer.dimension


def test_the_ways_to_scale_can_be_told_apart(dino, clip, monkeypatch):
    tall = frames(*SIZES["tall-0.mp4"])
    subject, background, *_ = scorers(dino, clip)
    interpolate = torch.nn.functional.interpolate

    def filtered(*args, **options):
        return interpolate(*args, **options | {"antialias": "scale_factor" not in options})

    monkeypatch.setattr(torch.nn.functional, "interpolate", filtered)
    for scorer in (subject, background):
        golden = GOLDEN[scorer.dimension]["clips"]["tall-0.mp4"]
        assert abs(scorer.score(tall, STYLE).value - golden) > 1e-4


def test_positions_are_scaled_as_dino_does_it(dino):
    tokens = torch.empty(1, 1 + 14 * 21, 16)
    ours = native.dino_positions(dino.embeddings, tokens, 224, 336)
    theirs = ViTModel(dino.config).embeddings.interpolate_pos_encoding
    with torch.no_grad():
        other = theirs.__func__(dino.embeddings, tokens, 224, 336)
    assert ours.shape == other.shape
    assert (ours - other).abs().max() > 1e-3


def test_flickering_sees_what_changes_alone():
    still = np.full((3, 4, 4, 3), 77, np.uint8)
    assert native.TemporalFlickering().score(still, {}).value == 1.0
    still[1] += 51
    assert native.TemporalFlickering().score(still, {}).value == pytest.approx(1 - 51 / 255)


def test_a_prompt_without_a_style_cannot_be_judged(dino, clip):
    [*_, style] = scorers(dino, clip)
    with pytest.raises(DataError, match="does not say which style"):
        style.score(frames(30, 30, 2), {"prompt": "a cat"})


def test_frames_are_decoded_and_one_alone_is_refused():
    assert native.frames_of(small_clip(0)).shape == (3, 16, 16, 3)
    with pytest.raises(DataError, match="one frame"):
        native.frames_of(encode_png(np.zeros((4, 4, 3), np.uint8)))
