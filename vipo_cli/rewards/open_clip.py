"""CLIP models in the layout of open_clip, as models of transformers."""

import re
from collections.abc import Mapping
from typing import Any

from vipo_cli.rewards.options import filled, required

NAMES = (
    (r"visual\.class_embedding", "vision_model.embeddings.class_embedding"),
    (r"visual\.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    (r"visual\.conv1\.weight", "vision_model.embeddings.patch_embedding.weight"),
    (r"visual\.ln_pre\.(\w+)", r"vision_model.pre_layrnorm.\1"),
    (r"visual\.ln_post\.(\w+)", r"vision_model.post_layernorm.\1"),
    (r"visual\.proj", "visual_projection.weight"),
    (r"visual\.transformer\.resblocks\.(.+)", r"vision_model.encoder.layers.\1"),
    (r"token_embedding\.weight", "text_model.embeddings.token_embedding.weight"),
    (r"positional_embedding", "text_model.embeddings.position_embedding.weight"),
    (r"ln_final\.(\w+)", r"text_model.final_layer_norm.\1"),
    (r"text_projection", "text_projection.weight"),
    (r"transformer\.resblocks\.(.+)", r"text_model.encoder.layers.\1"),
    (r"logit_scale", "logit_scale"),
)
"""What each tensor is called there and here; a block's own are in `BLOCK`."""

BLOCK = (
    (".ln_1.", ".layer_norm1."),
    (".ln_2.", ".layer_norm2."),
    (".attn.", ".self_attn."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
)
TRANSPOSED = ("visual.proj", "text_projection")
UNUSED = ("attn_mask",)
"""Stored by older releases, and the same for every model."""

VISION_HEAD, TEXT_HEAD = 80, 64
"""Width of an attention head in ViT-H-14, which no tensor's shape tells."""


def as_transformers(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the tensors of an open_clip model to those of `CLIPModel`.

    Names that are not known are kept, so that whoever fills a model with them says so.
    """
    renamed: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if name in UNUSED:
            continue
        found = _renamed(name)
        if name in TRANSPOSED:
            renamed[found] = tensor.T.contiguous()
        elif ".in_proj_" in found:
            for part, piece in zip("qkv", tensor.chunk(3), strict=True):
                renamed[found.replace("in_proj_", f"{part}_proj.")] = piece
        else:
            renamed[found] = tensor
    return renamed


def _renamed(name: str) -> str:
    for pattern, replacement in NAMES:
        if match := re.fullmatch(pattern, name):
            found = match.expand(replacement)
            for there, here in BLOCK if "resblocks" in name else ():
                found = found.replace(there, here)
            return found
    return name


def build(tensors: Mapping[str, Any], where: str) -> Any:
    """Build the `CLIPModel` of ViT-H-14, or of a smaller relative, from open_clip's tensors.

    The exact GELU is kept, which OpenAI's own models do not have.

    Raises:
        ModelError: a tensor is missing, left over, or of another shape.
    """
    return clip_like(as_transformers(tensors), where)


def clip_like(tensors: Mapping[str, Any], where: str) -> Any:
    """Build the `CLIPModel` of ViT-H-14, or of a smaller relative, from tensors by its own names.

    Raises:
        ModelError: a tensor is missing, left over, or of another shape.
    """
    import torch
    from transformers import CLIPConfig, CLIPModel

    with torch.device("meta"):
        model = CLIPModel(CLIPConfig(**_sizes(tensors, where)))
    return filled(model, tensors, where)


def _sizes(tensors: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Read the sizes of a model off its tensors."""
    words, positions, patches, grid, projection = required(
        tensors,
        (
            "text_model.embeddings.token_embedding.weight",
            "text_model.embeddings.position_embedding.weight",
            "vision_model.embeddings.patch_embedding.weight",
            "vision_model.embeddings.position_embedding.weight",
            "text_projection.weight",
        ),
        where,
    )
    vocabulary, width = words.shape
    vision_width, _, patch, _ = patches.shape
    side = round((len(grid) - 1) ** 0.5) * patch
    return {
        "projection_dim": projection.shape[0],
        "text_config": {
            "vocab_size": vocabulary,
            "max_position_embeddings": len(positions),
            "num_attention_heads": max(1, width // TEXT_HEAD),
            "bos_token_id": vocabulary - 2,  # the last two words start and end a prompt
            "eos_token_id": vocabulary - 1,
            "pad_token_id": 0,
            **_tower(tensors, "text_model", width),
        },
        "vision_config": {
            "image_size": side,
            "patch_size": patch,
            "num_attention_heads": max(1, vision_width // VISION_HEAD),
            **_tower(tensors, "vision_model", vision_width),
        },
    }


def _tower(tensors: Mapping[str, Any], tower: str, width: int) -> dict[str, Any]:
    """Return depth and widths of one of the two towers."""
    first = f"{tower}.encoder.layers.0.mlp.fc1.weight"
    return {
        "hidden_size": width,
        "intermediate_size": len(tensors[first]) if first in tensors else 4 * width,
        "num_hidden_layers": count_layers(tensors, f"{tower}.encoder.layers."),
        "hidden_act": "gelu",
    }


def count_layers(tensors: Mapping[str, Any], prefix: str) -> int:
    """Return how many numbered layers there are behind a prefix."""
    found = {
        int(name[len(prefix) :].partition(".")[0])
        for name in tensors
        if name.startswith(prefix) and name[len(prefix) :].partition(".")[0].isdigit()
    }
    return max(found, default=-1) + 1
