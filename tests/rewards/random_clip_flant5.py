"""A CLIP-FlanT5 of a few thousand random weights in its published layout, and what it is shown.

Used by the tests and by `make_clip_flant5_golden.py`, which runs beside the upstream code and so
without vipo.
"""

import io
import json
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

GOLDEN = Path(__file__).parent / "golden" / "clip_flant5.json"

PROMPTS = (
    "two dogs",
    'a  sign that says "no smoking", photographed at night from the other side of a wet street in '
    "the rain,\n4K, highly detailed, by a painter of the nineteenth century",
    "caf\u00e9 \u2602",
    "",
    "a red ball to the left of a blue cube",
)
SIZES = (60, 90), (70, 30), (28, 28), (56, 56), (150, 149)
SIDE = 56
SPECIALS = ("<pad>", "</s>", "<unk>")
EXTRA = 100
"""Words for gaps that T5's vocabulary ends with."""
ROOM = 28
"""Rows of the embedding beyond the vocabulary, as T5 has."""
KINDS = {
    "xl": {"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new"},
    "xxl": {"feed_forward_proj": "gelu", "dense_act_fn": "gelu"},
}
"""What sets the two apart but for their sizes: FlanT5-XXL's published config names another gelu."""


SPREADS = {"shared.weight": 0.7, "lm_head.weight": 0.3, "mm_projector.2.weight": 0.7}


@lru_cache
def pictures():
    """Return encoded pictures of several shapes."""
    found = []
    for seed, (height, width) in enumerate(SIZES):
        rng = np.random.default_rng(seed)
        rows, columns = np.indices((height, width))
        waves = [np.sin((seed + 1) * (k + 1) * rows / 17 + columns / (5 + k)) for k in range(3)]
        noise = rng.normal(0, 0.2, (height, width, 3))
        pixels = np.clip(127 + 90 * (np.stack(waves, -1) + noise), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found


def config(kind, words, tower="openai/clip-vit-large-patch14-336"):
    """Return a description as the hub has it."""
    return {
        "architectures": ["CLIPT5ForConditionalGeneration"],
        "model_type": "clip_t5",
        "d_model": 48,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "vocab_size": words + ROOM,
        "is_gated_act": True,
        "tie_word_embeddings": False,
        "layer_norm_epsilon": 1e-6,
        "dropout_rate": 0.1,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
        "is_encoder_decoder": True,
        "torch_dtype": "bfloat16",
        "freeze_mm_mlp_adapter": False,
        "mm_hidden_size": 128,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "mm_vision_tower": tower,
        "use_mm_proj": True,
        **KINDS[kind],
    }


def vision_config():
    """Return the sizes of the part that looks."""
    return {
        "hidden_size": 128,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": 14,
        "hidden_act": "quick_gelu",
    }


def write_tokenizer(file, pieces):
    """Write a vocabulary with its scores as the published tokenizer.json, normaliser left out."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

    gaps = [f"<extra_id_{number}>" for number in reversed(range(EXTRA))]
    vocabulary = [(piece, score) for piece, score in pieces] + [(gap, 0.0) for gap in gaps]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        "$A </s>", "$A </s> $B </s>", [("</s>", 1)]
    )
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in (*SPECIALS, *gaps)])
    tokenizer.save(str(file))
    return tokenizer


def tensors(shapes):
    """Return a state dict of given shapes: each tensor by its name alone, in what bf16 can hold."""
    import torch

    found = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        plain = name.endswith("weight") and len(shape) == 1
        spread = 0.05 if len(shape) == 1 else SPREADS.get(name, 0.2)
        values = rng.normal(float(plain), spread, shape)
        found[name] = torch.tensor(values, dtype=torch.bfloat16)
    same = [name for name in found if name.endswith("embed_tokens.weight")]
    return found | dict.fromkeys(same, found["shared.weight"])


def write_files(folder, kind, shapes, pieces, tower="openai/clip-vit-large-patch14-336"):
    """Write a checkpoint: the smaller model in one file, the larger in two."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    words = len(pieces) + EXTRA
    (folder / "config.json").write_text(json.dumps(config(kind, words, tower)))
    write_tokenizer(folder / "tokenizer.json", pieces)
    whole = tensors(shapes)
    if kind == "xl":
        torch.save(whole, folder / "pytorch_model.bin")
        return folder
    names = sorted(whole)
    index = {}
    for number, part in enumerate((names[::2], names[1::2])):
        file = f"pytorch_model-0000{number + 1}-of-00002.bin"
        torch.save({name: whole[name] for name in part}, folder / file)
        index |= dict.fromkeys(part, file)
    described = {"metadata": {"total_size": 0}, "weight_map": index}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(described))
    return folder
