"""Name colours with GenEval's public code on drawn CLIP weights, for the tests to compare with.

    python tests/benchmarks/official_colours.py PATH/TO/geneval/evaluation/evaluate_images.py

It needs open_clip_torch 3.3.0 and clip_benchmark 1.6.2 in an environment of their own. The crops,
the templates and the averaging are all its own; boxes come as plain floats, since Pillow 13
refuses its numpy ones. Its half precision is switched off.
"""

import importlib.util
import json
import sys
import types
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from random_mask2former import draw, drawn_picture

GOLDEN = Path(__file__).parent / "golden" / "geneval_colours.json"
BOXES = ((10, 5, 40, 60), (0, 0, 90, 70), (50, 20, 53, 69), (30, 30, 80, 34), (60, 40, 61, 41))
NAMES = ("computer mouse", "skis")
SIDE, WIDTH, TEXT_WIDTH, EMBEDDED = 32, 32, 16, 16


def drawn(name, *shape):
    return torch.from_numpy(np.asarray(draw(name, shape), np.float32))


def block(name, width):
    stacked = ("q", "k", "v")
    return {
        "attn.in_proj_weight": torch.cat(
            [drawn(f"{name}.self_attn.{x}_proj.weight", width, width) for x in stacked]
        ),
        "attn.in_proj_bias": torch.cat(
            [drawn(f"{name}.self_attn.{x}_proj.bias", width) for x in stacked]
        ),
        "attn.out_proj.weight": drawn(f"{name}.self_attn.out_proj.weight", width, width),
        "attn.out_proj.bias": drawn(f"{name}.self_attn.out_proj.bias", width),
        "ln_1.weight": drawn(f"{name}.layer_norm1.weight", width),
        "ln_1.bias": drawn(f"{name}.layer_norm1.bias", width),
        "ln_2.weight": drawn(f"{name}.layer_norm2.weight", width),
        "ln_2.bias": drawn(f"{name}.layer_norm2.bias", width),
        "mlp.c_fc.weight": drawn(f"{name}.mlp.fc1.weight", 4 * width, width),
        "mlp.c_fc.bias": drawn(f"{name}.mlp.fc1.bias", 4 * width),
        "mlp.c_proj.weight": drawn(f"{name}.mlp.fc2.weight", width, 4 * width),
        "mlp.c_proj.bias": drawn(f"{name}.mlp.fc2.bias", width),
    }


def build():
    from open_clip.model import CLIP

    seeing = {"layers": 2, "width": WIDTH, "head_width": 16, "patch_size": 8, "image_size": SIDE}
    reading = {"vocab_size": 49408, "width": TEXT_WIDTH, "heads": 2, "layers": 2}
    model = CLIP(EMBEDDED, seeing, reading | {"context_length": 77}, quick_gelu=True)
    eye, text = "vision_model.", "text_model."
    state = {
        "visual.class_embedding": drawn(f"{eye}embeddings.class_embedding", WIDTH),
        "visual.conv1.weight": drawn(f"{eye}embeddings.patch_embedding.weight", WIDTH, 3, 8, 8),
        "visual.positional_embedding": drawn(
            f"{eye}embeddings.position_embedding.weight", (SIDE // 8) ** 2 + 1, WIDTH
        ),
        "visual.proj": drawn("visual_projection.weight", EMBEDDED, WIDTH).T,
        "text_projection": drawn("text_projection.weight", EMBEDDED, TEXT_WIDTH).T,
        "token_embedding.weight": drawn(
            f"{text}embeddings.token_embedding.weight", 49408, TEXT_WIDTH
        ),
        "positional_embedding": drawn(
            f"{text}embeddings.position_embedding.weight", 77, TEXT_WIDTH
        ),
        "logit_scale": torch.tensor(4.6),
    }
    for part in ("weight", "bias"):
        state[f"visual.ln_pre.{part}"] = drawn(f"{eye}pre_layrnorm.{part}", WIDTH)
        state[f"visual.ln_post.{part}"] = drawn(f"{eye}post_layernorm.{part}", WIDTH)
        state[f"ln_final.{part}"] = drawn(f"{text}final_layer_norm.{part}", TEXT_WIDTH)
    for layer in range(2):
        for there, here, width in (("visual.", eye, WIDTH), ("", text, TEXT_WIDTH)):
            for name, tensor in block(f"{here}encoder.layers.{layer}", width).items():
                state[f"{there}transformer.resblocks.{layer}.{name}"] = tensor
    model.load_state_dict(state)
    return model.eval()


def load_official(file):
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    spec = importlib.util.spec_from_file_location("official", file)
    official = importlib.util.module_from_spec(spec)
    absent = {name: mock.MagicMock() for name in ("mmdet", "mmdet.apis")}
    with (
        mock.patch.dict(sys.modules, absent),
        mock.patch("torch.cuda.is_available", lambda: True),  # it asserts that
    ):
        spec.loader.exec_module(official)
    preprocessing = PreprocessCfg(
        size=SIDE,
        mean=open_clip.OPENAI_DATASET_MEAN,
        std=open_clip.OPENAI_DATASET_STD,
        interpolation="bicubic",
        resize_mode="shortest",
    )
    official.DEVICE = "cpu"
    official.args = types.SimpleNamespace(options={})
    official.clip_model = build()
    official.transform = image_transform_v2(preprocessing, is_train=False)
    official.tokenizer = open_clip.get_tokenizer("ViT-L-14")
    return official


def mask_of(box, width, height):
    """Return an ellipse that fills a box."""
    y, x = np.mgrid[:height, :width]
    left, top, right, bottom = box
    across = (2 * x - left - right + 1) ** 2 * (bottom - top) ** 2
    down = (2 * y - top - bottom + 1) ** 2 * (right - left) ** 2
    return across + down <= (right - left) ** 2 * (bottom - top) ** 2


def main(file):
    import open_clip
    import PIL
    from PIL import Image

    official = load_official(file)
    seen = []
    classify = official.zsc.run_classification

    def listen(*arguments):
        answer = classify(*arguments, amp=False)
        seen.append(answer[0].tolist())
        return answer

    official.zsc.run_classification = listen
    official.zsc.zero_shot_classifier = partial(official.zsc.zero_shot_classifier, amp=False)
    picture = Image.fromarray(drawn_picture(90, 70))
    objects = [([*map(float, box), 0.9], mask_of(box, 90, 70)) for box in BOXES]
    colours = {name: official.color_classification(picture, objects, name) for name in NAMES}
    tokens = {
        text: [token for token in official.tokenizer([text])[0].tolist() if token]
        for name in NAMES
        for colour in official.COLORS
        for text in (
            f"a photo of a {colour} {name}",
            f"a photo of a {colour}-colored {name}",
            f"a photo of a {colour} object",
        )
    }
    about = {
        "from": "github.com/djghosh13/geneval, evaluation/evaluate_images.py, af4902f",
        "with": f"open_clip {open_clip.__version__}, clip_benchmark 1.6.2, "
        f"Pillow {PIL.__version__}",
        "tokens": tokens,
        "boxes": BOXES,
        "colours": colours,
        "cosines": {
            name: (np.array(logits) / 100).round(7).tolist()
            for name, logits in zip(NAMES, seen, strict=True)
        },
    }
    GOLDEN.write_text(json.dumps(about) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
