"""Native dimensions against the official package, on models that both sides can make.

`golden/vbench_native.json` holds clips and what vbench 0.1.5 said of them with the weights that
`small_vbench` makes. At full size (random ViT-B/16, B/32 and L/14) the same was done by hand. The
official checkpoints were not at hand.
"""

import base64
import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel

from tests.benchmarks import small_vbench as small
from tests.benchmarks.small_vbench import CLIP_NAMES, DINO_NAMES, STYLE, TOKENS, frames
from tests.small_clips import clip as small_clip
from vipo_cli.benchmarks import vbench_native as native
from vipo_cli.errors import DataError
from vipo_cli.evaluation.vbench_models import with_dino_positions
from vipo_cli.media import encode_png

GOLDEN = json.loads(small.GOLDEN.read_text())
needs_av = pytest.mark.skipif(find_spec("av") is None, reason="the extra `video` reads MP4")


@pytest.fixture(scope="module")
def decoded():
    clips = {name: base64.b64decode(text) for name, text in GOLDEN["clips"].items()}
    return {name: native.frames_of(data) for name, data in clips.items()}


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


@pytest.fixture(scope="module")
def dino():
    own = small.dino_weights()
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
    own = small.clip_weights()
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
            "vocab_size": 49408,
            "max_position_embeddings": 77,
            "eos_token_id": 49407,
            "bos_token_id": 49406,
        },
        vision_config={**size, "image_size": 224, "patch_size": 32},
        projection_dim=768,
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
    head = torch.nn.Linear(768, 1)
    head.load_state_dict(small.head_weights())
    head.requires_grad_(False)
    return [
        native.Consistency("subject_consistency", "", native.DinoEmbedder(dino, 2)),
        native.Consistency("background_consistency", "", native.ClipEmbedder(clip, batch_size=2)),
        native.TemporalFlickering(),
        native.AestheticQuality("", native.ClipEmbedder(clip), head),
        native.AppearanceStyle("", style, style.text, float(clip.logit_scale.exp())),
    ]


@needs_av
def test_dimensions_are_those_of_the_official_package(dino, clip, decoded):
    for scorer in scorers(dino, clip):
        golden = GOLDEN[scorer.dimension]
        judged = {name: scorer.score(own, STYLE) for name, own in decoded.items()}
        values = {name: one.value for name, one in judged.items()}
        assert values == pytest.approx(golden["clips"], abs=1e-6), scorer.dimension
        sizes = [one.weight if scorer.pooled else 1 for one in judged.values()]
        value = np.average(list(values.values()), weights=sizes)
        assert value == pytest.approx(golden["value"], abs=1e-6), scorer.dimension


@needs_av
def test_the_ways_to_scale_can_be_told_apart(dino, clip, decoded, monkeypatch):
    subject, background, *_ = scorers(dino, clip)
    interpolate = torch.nn.functional.interpolate

    def filtered(*args, **options):
        return interpolate(*args, **options | {"antialias": "scale_factor" not in options})

    monkeypatch.setattr(torch.nn.functional, "interpolate", filtered)
    for scorer in (subject, background):
        golden = GOLDEN[scorer.dimension]["clips"]["tall"]
        assert abs(scorer.score(decoded["tall"], STYLE).value - golden) > 1e-4


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


@needs_av
def test_flickering_does_not_heed_what_a_clip_says_of_its_colours():
    golden = json.loads((small.GOLDEN.parent / "vbench_tagged.json").read_text())
    data, scorer = base64.b64decode(golden["clip"]), native.TemporalFlickering()
    official = pytest.approx(golden["temporal_flickering"], abs=1e-9)
    assert scorer.score(native.frames_of(data, bt601=scorer.bt601), {}).value == official
    assert abs(scorer.score(native.frames_of(data), {}).value - official.expected) > 1e-3


def test_a_prompt_without_a_style_cannot_be_judged(dino, clip):
    [*_, style] = scorers(dino, clip)
    with pytest.raises(DataError, match="does not say which style"):
        style.score(frames(30, 30, 2), {"prompt": "a cat"})


def test_frames_are_decoded_and_one_alone_is_refused():
    assert native.frames_of(small_clip(0)).shape == (3, 16, 16, 3)
    with pytest.raises(DataError, match="one frame"):
        native.frames_of(encode_png(np.zeros((4, 4, 3), np.uint8)))
