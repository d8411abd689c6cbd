"""LoRA weights as files: whatever diffusers reads, checked against a model before it is used.

A LoRA adds alpha / rank * up @ down to a layer's weight W; DoRA (arXiv 2402.09353) then scales the
rows of the sum to learnt magnitudes: W' = magnitude * (W + ...) / |W + ...|.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vipo_cli.errors import ModelError, VipoError, did_you_mean
from vipo_cli.run import unwritable, writing

LORA_FILE = "pytorch_lora_weights.safetensors"
"""What plain diffusers looks for in a folder."""
START_FILE = "start_from.safetensors"
"""The LoRA that a run started from, kept in the run's directory."""
METADATA = "lora_adapter_metadata"
"""Where diffusers keeps an adapter's configuration in the header."""
DOWN = (".lora_A.weight", ".lora_down.weight", ".lora.down.weight", "_lora.down.weight")
UP = (".lora_B.weight", ".lora_up.weight", ".lora.up.weight", "_lora.up.weight")
MAGNITUDE = (".lora_magnitude_vector", ".lora_magnitude_vector.weight")
TEXT_ENCODERS = ("lora_te", "text_encoder")
SHOWN = 5
"""How many of a file's faults are named."""


@dataclass(frozen=True, slots=True)
class LoraLayer:
    """What a LoRA does to one layer.

    Attributes:
        down: (rank, inputs); of a convolution (rank, inputs, height, width).
        up: (outputs, rank), likewise.
        alpha: over the rank, the strength.
        magnitude: DoRA's, one for each output; None for plain LoRA.
    """

    down: Tensor
    up: Tensor
    alpha: float
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        """How many directions it has."""
        return self.down.shape[0]

    def folded(self) -> "LoraLayer":
        """Return the same with alpha equal to the rank, the strength being part of `up`."""
        return replace(self, up=self.up * (self.alpha / self.rank), alpha=float(self.rank))

    def merged(self, weight: Tensor) -> Tensor:
        """Return the weight that a layer has under it."""
        change = self.up.flatten(1) @ self.down.flatten(1) * (self.alpha / self.rank)
        merged = weight + change.reshape(weight.shape)
        if self.magnitude is None:
            return merged
        rows = (-1, *[1] * (weight.ndim - 1))
        norm = torch.linalg.vector_norm(merged.flatten(1), dim=1)
        return merged * (self.magnitude.flatten() / norm).reshape(rows)


Lora = dict[str, LoraLayer]
"""The layers of a denoiser that a LoRA changes, by name."""


def find_lora(name: str) -> Path:
    """Resolve a LoRA file, a folder that holds one, or a run directory, whose newest one it is.

    Raises:
        VipoError: none of these.
    """
    path = Path(name)
    if path.is_dir():
        held = path / LORA_FILE
        files = path.glob(f"checkpoints/step-*/{LORA_FILE}")
        steps = sorted(
            (file for file in files if _step(file).isdigit()), key=lambda f: int(_step(f))
        )
        found = [held] if held.is_file() else steps
        if found:
            return found[-1]
        whole = next(path.glob("checkpoints/step-*/model_index.json"), path / "model_index.json")
        raise VipoError(
            f"`{name}` holds no LoRA weights",
            hint=f"all weights were trained there: name it as the model: --model {whole.parent}"
            if whole.is_file()
            else f"give a safetensors file, a run, or a folder with {LORA_FILE}",
        )
    if not path.is_file():
        near = [str(child) for child in path.parent.glob("*")] if path.parent.is_dir() else []
        raise VipoError(
            f"no such LoRA file or folder: `{name}`", hint=did_you_mean(name, near).strip() or None
        )
    if path.suffix != ".safetensors":
        raise ModelError(
            f"`{name}` is not a safetensors file",
            hint="LoRA weights are read from safetensors only",
        )
    return path


def _step(file: Path) -> str:
    return file.parent.name.removeprefix("step-")


def check_safetensors(file: Path) -> dict[str, str]:
    """Check that a safetensors file is as long as its header says; return the header's metadata.

    Raises:
        ModelError: the file is damaged or cut short.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= size - 8:
            raise _cut_short(file)
        try:
            header: dict[str, Any] = json.loads(stream.read(length))
        except ValueError as error:
            raise _cut_short(file) from error
    metadata: dict[str, str] = header.pop("__metadata__", {})
    ends = [tensor["data_offsets"][1] for tensor in header.values()]
    if 8 + length + max(ends, default=0) != size:
        raise _cut_short(file)
    return metadata


def _cut_short(file: Path) -> ModelError:
    return ModelError(
        f"`{file}` is damaged or cut short",
        hint="copy it again, or take another checkpoint of the same run",
    )


def file_fingerprint(file: Path) -> str:
    """Return 16 hexadecimal digits that name a file's contents."""
    import hashlib

    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def read_lora(file: Path, pipeline: Any) -> Lora:
    """Read a LoRA for a pipeline's denoiser, under diffusers' names or any that it converts.

    Args:
        file: of kind safetensors.
        pipeline: whose denoiser has its shapes at least; it is left as it is.

    Raises:
        ModelError: damaged, not a LoRA, or not one for this denoiser: all faults at once.
    """
    header = check_safetensors(file)
    tensors = _load(file)
    _refuse_others(file, tensors)
    layers = _layers(file, _convert(file, tensors, pipeline), _configuration(file, header))
    return uniform(_fitting(file, layers, pipeline, header))


def read_own(file: Path) -> Lora:
    """Read a LoRA that was trained here, without its model.

    Raises:
        ModelError: it is damaged.
    """
    header = check_safetensors(file)
    layers = _layers(file, _load(file), _configuration(file, header))
    return {name.partition(".")[2]: layer for name, layer in layers.items()}


def check_lora(file: Path, pipeline: Any) -> None:
    """Refuse a LoRA for another denoiser; what it holds for text encoders is left to diffusers.

    Raises:
        ModelError: damaged, or not for this denoiser.
    """
    header = check_safetensors(file)
    tensors = {
        name: value for name, value in _load(file).items() if not name.startswith(TEXT_ENCODERS)
    }
    if all(name.endswith((*DOWN, *UP, *MAGNITUDE, ".alpha")) for name in tensors):
        _fitting(file, _layers(file, _convert(file, tensors, pipeline), {}), pipeline, header)


def uniform(lora: Lora) -> Lora:
    """Return a LoRA as it is if all layers share rank and alpha, else with alpha as the rank."""
    kinds = {(layer.rank, layer.alpha) for layer in lora.values()}
    return lora if len(kinds) == 1 else {name: layer.folded() for name, layer in lora.items()}


def _load(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return {name: value.float() for name, value in load_file(file).items()}
    except SafetensorError as error:
        raise _cut_short(file) from error


def _refuse_others(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse what is not the plain LoRA or DoRA of a denoiser, rather than use a part of it."""
    encoders = [name for name in tensors if name.startswith(TEXT_ENCODERS)]
    unknown = [name for name in tensors if not name.endswith((*DOWN, *UP, *MAGNITUDE, ".alpha"))]
    if not tensors:
        raise ModelError(f"`{file}` holds no tensors")
    if encoders:
        raise ModelError(
            f"the LoRA `{file}` changes the text encoder too: {_some(encoders)}",
            hint="text encoders stay as they are here; take a LoRA of the denoiser alone",
        )
    if unknown:
        raise ModelError(
            f"`{file}` is not a plain LoRA: it holds {_some(unknown)}",
            hint="LoRA and diffusers' DoRA can be read; LoHa, LoKr, kohya's DoRA, and changes of "
            "biases and norms cannot",
        )


def _convert(file: Path, tensors: Mapping[str, Tensor], pipeline: Any) -> dict[str, Tensor]:
    """Return tensors under diffusers' names, alphas of single layers folded into `up`."""
    from diffusers.utils import convert_unet_state_dict_to_peft

    folded = _at_full_strength(file, tensors)
    options = {"unet_config": pipeline.unet.config} if denoiser_name(pipeline) == "unet" else {}
    try:
        found = type(pipeline).lora_state_dict(folded, **options)
        converted = dict(found[0] if isinstance(found, tuple) else found)
        if not any(".lora_A" in name for name in converted):
            converted = convert_unet_state_dict_to_peft(converted)
    except (ValueError, KeyError, IndexError, AssertionError, NotImplementedError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"`{file}` is not a LoRA that diffusers reads for a {type(pipeline).__name__}: "
            f"{first[:200]}",
            hint="name a LoRA that was trained on this model or on one of its kind",
        ) from error
    return converted


def _at_full_strength(file: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Multiply `up` by alpha / rank wherever a layer has an alpha, and make that the rank.

    Some converters apply alpha, some hand it on, some insist on it: now all come to the same.
    """
    folded = dict(tensors)
    for name, alpha in tensors.items():
        if not name.endswith(".alpha"):
            continue
        stem = name.removesuffix(".alpha")
        down = next((stem + end for end in DOWN if stem + end in folded), None)
        up = next((stem + end for end in UP if stem + end in folded), None)
        if down is None or up is None:
            raise ModelError(f"the LoRA `{file}` lacks weights: `{name}` stands alone")
        rank = folded[down].shape[0]
        folded[up] = folded[up] * (alpha.item() / rank)
        folded[name] = torch.tensor(float(rank))
    return folded


def _configuration(file: Path, header: Mapping[str, str]) -> dict[str, Any]:
    """Return what diffusers noted of the adapter, without the denoiser's name before each key."""
    try:
        noted = json.loads(header.get(METADATA, "{}"))
        return {key.partition(".")[2]: value for key, value in noted.items()}
    except (ValueError, AttributeError) as error:
        raise ModelError(f"the LoRA `{file}` is damaged: its header cannot be read") from error


def _layers(file: Path, tensors: Mapping[str, Tensor], configuration: Mapping[str, Any]) -> Lora:
    """Put the tensors of each layer together."""
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        for key, ends in (("down", DOWN), ("up", UP), ("magnitude", MAGNITUDE)):
            for end in ends:
                if name.endswith(end):
                    found.setdefault(name.removesuffix(end), {})[key] = value
    halves = [name for name, parts in found.items() if "down" not in parts or "up" not in parts]
    if halves:
        raise ModelError(f"the LoRA `{file}` lacks one half of {_some(halves)}")
    broken = [name for name, parts in found.items() if not _consistent(parts)]
    if broken:
        raise ModelError(
            f"the LoRA `{file}` is damaged: ranks do not agree or values are not finite in "
            f"{_some(broken)}"
        )
    return {
        name: LoraLayer(alpha=_alpha(name, parts["down"].shape[0], configuration), **parts)
        for name, parts in found.items()
    }


def _consistent(parts: Mapping[str, Tensor]) -> bool:
    down, up = parts["down"], parts["up"]
    agree = down.ndim == up.ndim > 1 and down.shape[0] == up.shape[1]
    return agree and all(bool(value.isfinite().all()) for value in parts.values())


def _alpha(name: str, rank: int, configuration: Mapping[str, Any]) -> float:
    """Return a layer's alpha; without a configuration it is the rank."""
    from peft.utils.other import get_pattern_key

    pattern = configuration.get("alpha_pattern") or {}
    alpha = pattern.get(get_pattern_key(pattern, name), configuration.get("lora_alpha", rank))
    return float(alpha) * (rank**0.5 if configuration.get("use_rslora") else 1.0)


def _fitting(file: Path, layers: Lora, pipeline: Any, header: Mapping[str, str]) -> Lora:
    """Return layers under the denoiser's own names, or refuse those that it does not have."""
    part = denoiser_name(pipeline)
    modules = dict(getattr(pipeline, part).named_modules())
    fitting, faults = {}, []
    for full, layer in layers.items():
        name = full.removeprefix(f"{part}.")
        module = modules.get(name) if name != full else None
        if module is not None and hasattr(module, "get_base_layer"):  # an adapter is on it
            module = module.get_base_layer()
        if not isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d):
            faults.append(f"`{full}`: no such layer")
        elif not _fits(layer, module.weight):
            given = _shape(layer.up.shape[:1] + layer.down.shape[1:])
            faults.append(f"`{full}`: made for {given}, the layer is {_shape(module.weight.shape)}")
        fitting[name] = layer
    if not faults:
        return fitting
    said = header.get("vipo.base")
    more = [f"and {len(faults) - SHOWN:,} more"] if len(faults) > SHOWN else []
    raise ModelError(
        f"the LoRA `{file}` does not fit the {part} of this {type(pipeline).__name__}: "
        f"{len(faults):,} of its {len(layers):,} layers",
        details=[*faults[:SHOWN], *more],
        hint=f"it was trained on `{said}`: --model {said}"
        if said
        else "it belongs to another model: name that with --model",
    )


def _fits(layer: LoraLayer, weight: Tensor) -> bool:
    outputs = layer.up.shape[0] == weight.shape[0]
    pointwise = layer.up.ndim == 2 or set(layer.up.shape[2:]) == {1}
    return outputs and pointwise and layer.down.shape[1:] == weight.shape[1:]


def denoiser_name(pipeline: Any) -> str:
    """Return what a pipeline calls its denoiser."""
    return "unet" if hasattr(pipeline, "unet") else "transformer"


def _some(names: list[str]) -> str:
    """Say how many names there are, and one of them."""
    return f"`{names[0]}`" + (f" and {len(names) - 1:,} more" if len(names) > 1 else "")


def _shape(shape: torch.Size) -> str:
    return " x ".join(map(str, shape))


def write_tensors(file: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write a safetensors file whole or not at all.

    Raises:
        VipoError: the disk is full or the place cannot be written to.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    kept = {name: value.contiguous() for name, value in tensors.items()}
    try:
        with writing(file) as temporary:
            save_file(kept, temporary, metadata={"format": "pt", **header})
    except SafetensorError as error:  # in which safetensors wraps a full disk
        raise unwritable(file, OSError(str(error))) from error


def common_rank_and_alpha(lora: Lora) -> tuple[int, float]:
    """Return the rank and the alpha that most layers have."""
    pairs = Counter((layer.rank, layer.alpha) for layer in lora.values())
    return pairs.most_common(1)[0][0]
