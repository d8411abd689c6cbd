"""A pipeline part by part: opened from its configurations alone, its networks loaded when needed.

Encoders are only needed until the data are encoded, the denoiser only from then on; so a model
whose parts do not fit into memory together can be trained, and what a run will cost can be told
before any weight is read.
"""

import ctypes
import gc
import json
from collections.abc import Iterable
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from vipo_cli.errors import ModelError
from vipo_cli.models.family import Family
from vipo_cli.run import fingerprint, remembered_fingerprint

UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts of pipelines that training has no use for."""


def open_pipeline(folder: Path, name: str) -> Any:
    """Build a pipeline whose networks have shapes but no weights: they lie on the meta device.

    Args:
        folder: in diffusers layout.
        name: what the user called it.

    Raises:
        ModelError: a part is missing or damaged, or comes from a library that is not known.
    """
    import diffusers
    from accelerate import init_empty_weights

    index = read_index(folder)
    parts: dict[str, Any] = dict.fromkeys(
        key for key, value in index.items() if isinstance(value, list) and len(value) == 2
    )
    for part, (library, kind) in _listed(index).items():
        place = folder / part
        try:
            found = _class_of(library, kind)
            if not _is_network(found):
                _refuse_without_vocabulary(found, place)
                parts[part] = found.from_pretrained(place)
                continue
            with init_empty_weights():
                parts[part] = _from_configuration(found, place)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise broken_part(name, part, error) from error
    kind = str(index["_class_name"])
    options = {"requires_safety_checker": False} if kind == "StableDiffusionPipeline" else {}
    others = {key: value for key, value in index.items() if key[0] != "_" and key not in parts}
    try:
        return getattr(diffusers, kind)(**parts, **(others | options))
    except (TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"cannot load the model `{name}`: its parts make no {kind}: {_first_line(error)}",
            hint="compare `model_index.json` with where the model came from",
        ) from error


def load_parts(
    family: Family, parts: Iterable[str], *, dtype: Any, device: Any, quantization: Any = None
) -> None:
    """Load some networks of a family with their weights, frozen.

    An autoencoder that asks to be upcast is kept in float32: in half precision it overflows.

    Args:
        family: opened before.
        parts: what the pipeline calls them.
        dtype: of the weights.
        device: where they go.
        quantization: diffusers' configuration for the denoiser's weights.

    Raises:
        ModelError: weights are missing, damaged, or belong to another architecture.
    """
    import torch

    index = _listed(read_index(family.folder))
    for part in parts:
        found = _class_of(*index[part])
        options: dict[str, Any] = {"dtype": dtype}
        if _asks_to_be_upcast(found, family.folder / part):
            options = {"dtype": torch.float32}
        if quantization is not None and part == family.denoiser_name:
            options |= {"quantization_config": quantization, "device_map": {"": device}}
        network = _with_weights(found, family.folder, part, options).requires_grad_(False).eval()
        put_part(family, part, network if "device_map" in options else network.to(device))
        del network
        free_unused()  # the file's numbers, where they were of another type


def put_part(family: Family, part: str, network: Any) -> None:
    """Put a network, or None, in the place of a part."""
    setattr(family.pipeline, part, network)
    if part == family.denoiser_name:
        family.denoiser = network


def release_parts(family: Family, parts: Iterable[str]) -> None:
    """Take networks away, so that their memory is free."""
    for part in parts:
        put_part(family, part, None)
    free_unused()


def free_unused() -> None:
    """Give back what allocators keep of memory that nobody uses any more.

    A text encoder's weights are small enough for the C library to keep their place for later.
    """
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def encoder_parts(family: Family) -> tuple[str, ...]:
    """Return the names of all networks but the denoiser, loaded or not."""
    return tuple(
        part
        for part, (library, kind) in _listed(read_index(family.folder)).items()
        if part != family.denoiser_name and _is_network(_class_of(library, kind))
    )


def fingerprint_parts(family: Family, parts: Iterable[str]) -> str:
    """Name the files of some parts, and of what goes with them, by content: 16 digits.

    A file is read once; while its size and date stay, its name is remembered.
    """
    index = _listed(read_index(family.folder))
    tokenizers = [part for part in index if part.startswith("tokenizer")]
    folders = [family.folder / part for part in sorted({*parts, *tokenizers})]
    return fingerprint({folder.name: remembered_fingerprint(folder) for folder in folders})


def read_index(folder: Path) -> dict[str, Any]:
    """Read `model_index.json`.

    Raises:
        ModelError: it is missing or names no pipeline.
    """
    file = folder / "model_index.json"
    try:
        index = json.loads(file.read_text())
        index["_class_name"]
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ModelError(
            f"`{file}` is damaged: it names no pipeline",
            hint="compare the folder with where it came from",
        ) from error
    return dict(index)


def broken_part(name: str, part: str, error: Exception) -> ModelError:
    """Return the error for a part that cannot be read."""
    return ModelError(
        f"cannot load the model `{name}`: {part}: {_first_line(error)}",
        hint="the folder may be incomplete: compare it with where it came from",
    )


def _listed(index: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return library and class of each part that an index lists and training has a use for."""
    return {
        key: (value[0], value[1] or "")
        for key, value in index.items()
        if isinstance(value, list) and len(value) == 2 and value[0] and key not in UNUSED
    }


def _class_of(library: str, kind: str) -> Any:
    if library not in ("diffusers", "transformers"):
        raise ValueError(f"its class {kind} comes from `{library}`, which is not loaded")
    return getattr(import_module(library), kind)


def _is_network(found: Any) -> bool:
    from torch import nn

    return isinstance(found, type) and issubclass(found, nn.Module)


def _refuse_without_vocabulary(found: Any, place: Path) -> None:
    """Refuse a tokenizer without its files: transformers would make one that knows no word."""
    names = dict(getattr(found, "vocab_files_names", {}))
    whole = names.pop("tokenizer_file", None)
    missing = [name for name in names.values() if not (place / name).is_file()]
    if (names or whole) and missing and not (whole and (place / whole).is_file()):
        raise ValueError(
            f"its vocabulary is missing: {', '.join([*missing, *filter(None, [whole])])}"
        )


def _from_configuration(found: Any, place: Path) -> Any:
    if found.__module__.startswith("transformers"):
        return found(found.config_class.from_pretrained(place))
    return found.from_config(found.load_config(place))


def _asks_to_be_upcast(found: Any, place: Path) -> bool:
    usual = signature(found.__init__).parameters.get("force_upcast")
    return usual is not None and found.load_config(place).get("force_upcast", usual.default)


def _with_weights(found: Any, folder: Path, part: str, options: dict[str, Any]) -> Any:
    """Load one network and refuse weights that leave a part of it random."""
    from safetensors import SafetensorError

    try:
        network, report = found.from_pretrained(
            folder / part, use_safetensors=True, output_loading_info=True, **options
        )
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise broken_part(str(folder), part, error) from error
    wrong = [
        *report.get("missing_keys", ()),
        *(entry[0] for entry in report.get("mismatched_keys", ())),
    ]
    if wrong:
        raise ModelError(
            f"cannot load the model `{folder}`: the weights of {part} are those of another "
            f"architecture, or incomplete: {len(wrong)} tensors are missing, such as `{wrong[0]}`",
            hint="compare the folder with where it came from",
        )
    return network


def _first_line(error: Exception) -> str:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return first.removeprefix("Error ")
