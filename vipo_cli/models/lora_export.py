"""A trained LoRA as one file for other programs: their names, and the metadata they list it by."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from vipo_cli.errors import ModelError, VipoError
from vipo_cli.models.load import open_family
from vipo_cli.models.lora_files import (
    METADATA,
    Lora,
    check_safetensors,
    common_rank_and_alpha,
    find_lora,
    read_lora,
    read_own,
    write_tensors,
)
from vipo_cli.models.lora_names import Format, renamed

Precision = Literal["fp32", "fp16", "bf16"]
TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

ARCHITECTURES = {
    "StableDiffusionPipeline": ("stable-diffusion-v1", "sd_v1"),
    "StableDiffusionXLPipeline": ("stable-diffusion-xl-v1-base", "sdxl_base_v1-0"),
    "StableDiffusion3Pipeline": ("stable-diffusion-3", "sd3"),
    "FluxPipeline": ("flux-1-dev", "flux1"),
    "WanPipeline": ("wan2.1", "wan"),
    "HunyuanVideoPipeline": ("hunyuan-video", "hunyuan_video"),
}
"""Kind of pipeline to its name in ModelSpec and in kohya's metadata."""
MODULES = {
    "StableDiffusion3Pipeline": "networks.lora_sd3",
    "FluxPipeline": "networks.lora_flux",
    "WanPipeline": "networks.lora_wan",
}
"""What kohya's scripts load the LoRA of a kind of model with, where it is not networks.lora."""
SD2_WIDTH = 1024
"""Of SD 2's text encoder; SD 1's has 768."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written.

    Attributes:
        file: where.
        source: the LoRA file that it was made from.
        pipeline: class of the pipeline that it belongs to.
        to: the program that was asked for.
        own_names: whether the names are diffusers' because that program has none of its own.
        layers: how many are adapted, counted as diffusers has them.
        rank, alpha: of most of them.
        bytes: size of the file.
    """

    file: Path
    source: Path
    pipeline: str
    to: Format
    own_names: bool
    layers: int
    rank: int
    alpha: float
    bytes: int


def export_lora(
    target: str, to: Format, out: Path, *, precision: Precision = "fp32", model: str | None = None
) -> Exported:
    """Write the LoRA of a run, checkpoint or file under another program's names.

    Args:
        target: run or checkpoint directory, folder or file.
        to: which program.
        out: the file to make.
        precision: of the weights there.
        model: what it was trained on, where the file does not say.

    Raises:
        VipoError: no LoRA there, or the file to make exists.
        ModelError: damaged, of an unknown model, or of a kind that the program does not read.
    """
    source = find_lora(target)
    if out.exists():
        raise VipoError(f"`{out}` exists", hint="choose another --out")
    header = check_safetensors(source)
    lora, pipeline, layers_per_block = _read(source, header, model)
    tensors, own_names = renamed(lora, pipeline, to, layers_per_block)
    kept = {key: value for key, value in header.items() if key.startswith("vipo.")}
    about = kept | listing(lora, pipeline, header, out.stem)
    write_tensors(
        out,
        {
            name: value if name.endswith(".alpha") else value.to(TYPES[precision])
            for name, value in tensors.items()
        },
        about,
    )
    rank, alpha = common_rank_and_alpha(lora)
    size = out.stat().st_size
    return Exported(out, source, pipeline, to, own_names, len(lora), rank, alpha, size)


def _read(source: Path, header: Mapping[str, str], model: str | None) -> tuple[Lora, str, int]:
    """Return a LoRA, the class of its pipeline, and how its UNet counts its blocks.

    What was trained here says all that; for other files the model is opened.
    """
    if model is None and "vipo.pipeline" in header:
        layers = int(header.get("vipo.layers_per_block", 2))
        return read_own(source), header["vipo.pipeline"], layers
    base = model or header.get("vipo.base")
    if base is None:
        raise ModelError(
            f"`{source}` does not say which model it was trained on",
            hint="name the model: --model MODEL",
        )
    family = open_family(base)
    config: Any = getattr(family.pipeline, family.denoiser_name).config
    layers = int(getattr(config, "layers_per_block", 2))
    return read_lora(source, family.pipeline), type(family.pipeline).__name__, layers


def provenance(target: str) -> dict[str, Any]:
    """Return what the header of a LoRA file says of where it comes from, and what it holds.

    Raises:
        VipoError: no LoRA there.
        ModelError: it is damaged.
    """
    import json

    source = find_lora(target)
    header = check_safetensors(source)
    said = {
        key.removeprefix("vipo."): json.loads(value) if value.startswith("{") else value
        for key, value in header.items()
        if key.startswith("vipo.")
    }
    others = {
        key: value
        for key, value in header.items()
        if not key.startswith("vipo.") and key not in ("format", METADATA)
    }
    found: dict[str, Any] = {"file": str(source), "bytes": source.stat().st_size}
    if "pipeline" in said:
        lora = read_own(source)
        rank, alpha = common_rank_and_alpha(lora)
        found |= {"layers": len(lora), "rank": rank, "alpha": alpha}
    return found | {"provenance": said, "metadata": others}


def listing(lora: Lora, pipeline: str, header: Mapping[str, str], title: str) -> dict[str, str]:
    """Return what programs that list LoRA files look for: the keys of ModelSpec and of kohya.

    Args:
        lora: as it was trained.
        pipeline: class of the pipeline that it belongs to.
        header: of the file that is exported.
        title: what it is to be called.
    """
    rank, alpha = common_rank_and_alpha(lora)
    architecture, version = ARCHITECTURES.get(pipeline, (pipeline, pipeline))
    widths = {layer.down.shape[1] for name, layer in lora.items() if name.endswith("attn2.to_k")}
    velocity = header.get("vipo.target") == "velocity"
    if pipeline == "StableDiffusionPipeline" and SD2_WIDTH in widths:
        architecture = "stable-diffusion-v2-768-v" if velocity else "stable-diffusion-v2-512"
        version = "sd_v2_v" if velocity else "sd_v2"
    found = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": title,
        "modelspec.resolution": header.get("vipo.resolution", ""),
        "modelspec.prediction_type": {"epsilon": "epsilon", "velocity": "v"}.get(
            header.get("vipo.target", ""), ""
        ),
        "ss_base_model_version": version,
        "ss_network_module": MODULES.get(pipeline, "networks.lora"),
        "ss_network_dim": str(rank),
        "ss_network_alpha": f"{alpha:g}",
    }
    return {key: value for key, value in found.items() if value}
