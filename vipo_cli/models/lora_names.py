"""LoRA weights under the names that other programs read: kohya's scripts and ComfyUI.

Both name layers as the model's original code does, where that is not diffusers'. There the
projections to queries, keys and values are often one layer; what adapts them apart becomes one LoRA
of their summed rank, its `up` block-diagonal, which changes the fused layer by exactly the same.
Read from: kohya-ss/sd-scripts networks/lora*.py, kohya-ss/musubi-tuner convert_lora.py, ComfyUI
comfy/lora.py, and diffusers' converters, which read all but a part of it back.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vipo_cli.errors import ModelError
from vipo_cli.models.lora_files import Lora, LoraLayer, common_rank_and_alpha

Format = Literal["kohya", "comfyui", "peft"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a layer lies in a model's original code.

    Attributes:
        name: of the layer there.
        part: which of a fused layer's parts it is.
        parts: how many there are; all have as many outputs as the layer has inputs, but a fourth,
            of which MLPs in front of the attention are made, has four times as many.
    """

    name: str
    part: int = 0
    parts: int = 1


Rules = Mapping[str, tuple[str, int, int]]
"""Ends of diffusers' names to those of the original, the part of it, and its number of parts."""


def _fused(name: str, *layers: str) -> dict[str, tuple[str, int, int]]:
    return {layer: (name, part, len(layers)) for part, layer in enumerate(layers)}


def _alone(**names: str) -> dict[str, tuple[str, int, int]]:
    return {layer: (name, 0, 1) for layer, name in names.items()}


IMAGE, TEXT = ("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj")


def _double(qkv: str, proj: str, first: str, last: str, modulation: str) -> Rules:
    """Return the rules of a block that text and picture pass side by side."""
    return {
        **_fused(f"img_{qkv}", *(f"attn.{layer}" for layer in IMAGE)),
        **_fused(f"txt_{qkv}", *(f"attn.{layer}" for layer in TEXT)),
        "attn.to_out.0": (f"img_{proj}", 0, 1),
        "attn.to_add_out": (f"txt_{proj}", 0, 1),
        "ff.net.0.proj": (f"img_mlp.{first}", 0, 1),
        "ff.net.2": (f"img_mlp.{last}", 0, 1),
        "ff_context.net.0.proj": (f"txt_mlp.{first}", 0, 1),
        "ff_context.net.2": (f"txt_mlp.{last}", 0, 1),
        "norm1.linear": (f"img_{modulation}", 0, 1),
        "norm1_context.linear": (f"txt_{modulation}", 0, 1),
    }


SINGLE = {
    **_fused("linear1", *(f"attn.{layer}" for layer in IMAGE), "proj_mlp"),
    "proj_out": ("linear2", 0, 1),
}
