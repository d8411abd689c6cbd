"""LoRA weights under the names that other programs read: kohya's scripts and ComfyUI.

Both name layers as a model's original code does. There the projections to queries, keys and values
are often one layer: what adapts them one by one becomes a LoRA of their summed rank whose `up` is
block-diagonal, and changes the fused layer by exactly the same. The names are those that diffusers'
converters, kohya-ss/sd-scripts, kohya-ss/musubi-tuner and ComfyUI's comfy/lora.py agree on.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from vipo_cli.errors import ModelError
from vipo_cli.models.lora_files import Lora, LoraLayer

Format = Literal["kohya", "comfyui", "peft"]


@dataclass(frozen=True, slots=True)
class Block:
    """How the layers of a kind of block are called, here and in the original code.

    Attributes:
        ours, theirs: what precedes the block's number.
        layers: the original's layers, and which of ours each is made of.
    """

    ours: str
    theirs: str
    layers: Mapping[str, tuple[str, ...]]


QKV = ("attn.to_q", "attn.to_k", "attn.to_v")
TEXT_QKV = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")

FLUX = (
    Block(
        "transformer_blocks",
        "double_blocks",
        {
            "img_attn.qkv": QKV,
            "img_attn.proj": ("attn.to_out.0",),
            "img_mlp.0": ("ff.net.0.proj",),
            "img_mlp.2": ("ff.net.2",),
            "img_mod.lin": ("norm1.linear",),
            "txt_attn.qkv": TEXT_QKV,
            "txt_attn.proj": ("attn.to_add_out",),
            "txt_mlp.0": ("ff_context.net.0.proj",),
            "txt_mlp.2": ("ff_context.net.2",),
            "txt_mod.lin": ("norm1_context.linear",),
        },
    ),
    Block(
        "single_transformer_blocks",
        "single_blocks",
        {
            "linear1": (*QKV, "proj_mlp"),
            "linear2": ("proj_out",),
            "modulation.lin": ("norm.linear",),
        },
    ),
)
HUNYUAN = (
    Block(
        "transformer_blocks",
        "double_blocks",
        {
            "img_attn_qkv": QKV,
            "img_attn_proj": ("attn.to_out.0",),
            "img_mlp.fc1": ("ff.net.0.proj",),
            "img_mlp.fc2": ("ff.net.2",),
            "img_mod.linear": ("norm1.linear",),
            "txt_attn_qkv": TEXT_QKV,
            "txt_attn_proj": ("attn.to_add_out",),
            "txt_mlp.fc1": ("ff_context.net.0.proj",),
            "txt_mlp.fc2": ("ff_context.net.2",),
            "txt_mod.linear": ("norm1_context.linear",),
        },
    ),
    Block(
        "single_transformer_blocks",
        "single_blocks",
        {
            "linear1": (*QKV, "proj_mlp"),
            "linear2": ("proj_out",),
            "modulation.linear": ("norm.linear",),
        },
    ),
    Block(
        "context_embedder.token_refiner.refiner_blocks",
        "txt_in.individual_token_refiner.blocks",
        {
            "self_attn_qkv": QKV,
            "self_attn_proj": ("attn.to_out.0",),
            "mlp.fc1": ("ff.net.0.proj",),
            "mlp.fc2": ("ff.net.2",),
        },
    ),
)
SD3 = (
    Block(
        "transformer_blocks",
        "joint_blocks",
        {
            "x_block.attn.qkv": QKV,
            "x_block.attn.proj": ("attn.to_out.0",),
            "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
            "x_block.attn2.proj": ("attn2.to_out.0",),
            "x_block.mlp.fc1": ("ff.net.0.proj",),
            "x_block.mlp.fc2": ("ff.net.2",),
            "context_block.attn.qkv": TEXT_QKV,
            "context_block.attn.proj": ("attn.to_add_out",),
            "context_block.mlp.fc1": ("ff_context.net.0.proj",),
            "context_block.mlp.fc2": ("ff_context.net.2",),
        },
    ),
)
WAN = (
    Block(
        "blocks",
        "blocks",
        {
            **{f"self_attn.{name}": (f"attn1.to_{name}",) for name in "qkv"},
            **{f"cross_attn.{name}": (f"attn2.to_{name}",) for name in "qkv"},
            "self_attn.o": ("attn1.to_out.0",),
            "cross_attn.o": ("attn2.to_out.0",),
            "ffn.0": ("ffn.net.0.proj",),
            "ffn.2": ("ffn.net.2",),
        },
    ),
)
RESNET = {
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
"""Layers of SDXL's residual blocks, here and in the original code."""


@dataclass(frozen=True, slots=True)
class Naming:
    """How a program names the LoRA of a kind of model.

    Attributes:
        blocks: of the original code; empty: diffusers' own names.
        prefix: of every name.
        kohya: whether dots become underscores and alpha is kept beside each layer, else not.
    """

    blocks: tuple[Block, ...]
    prefix: str
    kohya: bool


def _kohya(blocks: tuple[Block, ...] = ()) -> Naming:
    return Naming(blocks, "lora_unet_", kohya=True)


NAMINGS: Mapping[tuple[str, Format], Naming] = {
    ("StableDiffusionPipeline", "kohya"): _kohya(),
    ("StableDiffusionPipeline", "comfyui"): _kohya(),
    ("StableDiffusionXLPipeline", "kohya"): _kohya(),
    ("StableDiffusionXLPipeline", "comfyui"): _kohya(),
    ("StableDiffusion3Pipeline", "kohya"): _kohya(SD3),
    ("StableDiffusion3Pipeline", "comfyui"): Naming((), "transformer.", kohya=False),
    ("FluxPipeline", "kohya"): _kohya(FLUX),
    ("FluxPipeline", "comfyui"): _kohya(FLUX),
    ("WanPipeline", "kohya"): _kohya(WAN),
    ("WanPipeline", "comfyui"): Naming(WAN, "diffusion_model.", kohya=False),
    ("HunyuanVideoPipeline", "kohya"): _kohya(HUNYUAN),
    ("HunyuanVideoPipeline", "comfyui"): Naming(HUNYUAN, "transformer.", kohya=False),
}
"""Kind of pipeline and program to the names; a pair that is not here has no established ones."""

DENOISERS = {"StableDiffusionPipeline": "unet", "StableDiffusionXLPipeline": "unet"}
"""Kind of pipeline to what it calls its denoiser, where that is not `transformer`."""


def renamed(
    lora: Lora, pipeline: str, to: Format, layers_per_block: int = 2
) -> tuple[dict[str, Tensor], bool]:
    """Return the tensors of a LoRA under another program's names.

    Args:
        lora: layers under diffusers' names.
        pipeline: class of the pipeline that it belongs to.
        to: which program.
        layers_per_block: of SDXL's UNet, whose blocks the original code counts through.

    Returns:
        The tensors, and whether the names are diffusers' own because there are no others.

    Raises:
        ModelError: DoRA, on which programs disagree, or a layer that has no name there.
    """
    naming = NAMINGS.get((pipeline, to))
    if naming is None:
        part = DENOISERS.get(pipeline, "transformer")
        return dict(_dotted(lora, f"{part}.")), to != "peft"
    if any(layer.magnitude is not None for layer in lora.values()):
        raise ModelError(
            f"a LoRA with DoRA cannot be exported for {to}: programs that read it scale "
            "different rows, or leave the magnitudes out",
            hint="--to peft keeps it for diffusers",
        )
    if pipeline == "StableDiffusionXLPipeline":
        lora = {_sgm_name(name, layers_per_block): layer for name, layer in lora.items()}
    elif naming.blocks:
        lora = dict(_original(lora, naming.blocks))
    if not naming.kohya:
        return dict(_dotted(lora, naming.prefix)), False
    tensors = {}
    for name, layer in lora.items():
        stem = naming.prefix + name.replace(".", "_")
        tensors[f"{stem}.lora_down.weight"] = layer.down
        tensors[f"{stem}.lora_up.weight"] = layer.up
        tensors[f"{stem}.alpha"] = torch.tensor(float(layer.alpha))
    return tensors, False


def _dotted(lora: Lora, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Yield tensors under names with dots, their strength folded in: no alpha stands beside them.

    DoRA's magnitude goes with the sum and stays.
    """
    for name, layer in lora.items():
        folded = layer.folded()
        yield f"{prefix}{name}.lora_A.weight", folded.down
        yield f"{prefix}{name}.lora_B.weight", folded.up
        if layer.magnitude is not None:
            yield f"{prefix}{name}.lora_magnitude_vector", layer.magnitude


def _original(lora: Lora, blocks: tuple[Block, ...]) -> Iterator[tuple[str, LoraLayer]]:
    """Yield the layers of the original code, fused where those are."""
    places = {}
    for block in blocks:
        for theirs, ours in block.layers.items():
            for name in ours:
                places[block.ours, name] = (f"{block.theirs}.{{}}.{theirs}", ours)
    done = set()
    for name in lora:
        found = re.fullmatch(r"(.+?)\.(\d+)\.(.+)", name)
        place = places.get((found[1], found[3])) if found else None
        if found is None or place is None:
            raise _nameless(name)
        target, ours = place[0].format(found[2]), place[1]
        if target not in done:
            done.add(target)
            yield target, fused([lora.get(f"{found[1]}.{found[2]}.{each}") for each in ours])


def fused(parts: list[LoraLayer | None]) -> LoraLayer:
    """Return one layer for several with the same inputs, whose outputs follow one another.

    A part that is not adapted stays as it is. The first three have as many outputs as inputs; a
    fourth is the MLP beside an attention, with four times as many.
    """
    present = [part for part in parts if part is not None]
    if len(parts) == 1:
        return present[0]
    if len({part.alpha / part.rank for part in present}) > 1:
        parts = [part and part.folded() for part in parts]
        present = [part for part in parts if part is not None]
    rank = max(part.rank for part in present)
    inputs = present[0].down.shape[1]
    down, up = [], []
    for number, part in enumerate(parts):
        if part is None:
            down.append(torch.zeros(rank, inputs))
            up.append(torch.zeros(inputs if number < 3 else 4 * inputs, rank))
        else:
            missing = rank - part.rank
            down.append(pad(part.down, (0, 0, 0, missing)))
            up.append(pad(part.up, (0, missing)))
    strength = present[0].alpha / present[0].rank
    return LoraLayer(torch.cat(down), torch.block_diag(*up), strength * rank * len(parts))


def _sgm_name(name: str, layers_per_block: int) -> str:
    """Return what the original code of SDXL calls a layer; it counts blocks through."""
    per_block = layers_per_block + 1
    found = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(attentions|resnets)\.(\d+)\.(.+)", name)
    middle = re.fullmatch(r"mid_block\.(attentions|resnets)\.(\d+)\.(.+)", name)
    if found:
        first = 1 if found[1] == "down" else 0
        number = first + int(found[2]) * per_block + int(found[4])
        side = "input" if found[1] == "down" else "output"
        kind, inner = found[3], found[5]
        place = f"{side}_blocks.{number}.{int(kind == 'attentions')}"
    elif middle:
        kind, inner = middle[1], middle[3]
        place = f"middle_block.{1 if kind == 'attentions' else 2 * int(middle[2])}"
    else:
        raise _nameless(name)
    if kind == "resnets" and inner not in RESNET:
        raise _nameless(name)
    return f"{place}.{RESNET[inner] if kind == 'resnets' else inner}"


def _nameless(name: str) -> ModelError:
    return ModelError(
        f"the layer `{name}` has no name in other programs", hint="--to peft keeps diffusers' names"
    )
