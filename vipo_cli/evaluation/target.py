"""What is evaluated: from the words on the command line to a model or a folder of pictures."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from vipo_cli.errors import ModelError, UnknownName, VipoError, did_you_mean
from vipo_cli.models import ModelSpec, find_model, models
from vipo_cli.models.lora_files import (
    LORA_FILE,
    START_FILE,
    check_safetensors,
    file_fingerprint,
)
from vipo_cli.run import fingerprint, folder_fingerprint

_STEP = re.compile(r"step-(\d+)$")


@dataclass(frozen=True, slots=True)
class Target:
    """What is evaluated: a model, or pictures that are finished already.

    Attributes:
        label: how reports call it.
        spec: the pipeline to load and how it wants to be sampled; None for finished pictures.
        lora: LoRA weights to load on top, if any.
        pictures: folder of finished pictures, if that is what the target is.
        base: the model that it was trained from, if that is known.
        run: the run directory that it belongs to, if any.
        step: the training step of its checkpoint, if any.
    """

    label: str
    spec: ModelSpec | None
    lora: Path | None = None
    pictures: Path | None = None
    base: str | None = None
    run: Path | None = None
    step: int | None = None


def find_target(name: str, *, base: str | None = None) -> Target:
    """Resolve a run or checkpoint directory, a LoRA file, a pipeline, a model name, or pictures.

    Args:
        name: as the user gave it.
        base: the model that a LoRA was trained on, where its file does not say.

    Raises:
        ModelError: a checkpoint or LoRA file that is damaged, or of an unknown base.
        VipoError: a folder that is none of these, or a run without a checkpoint.
        UnknownName: no such path, model name or hub id.
    """
    path = Path(name)
    if path.is_file():
        return _lora_target(path, base)
    if path.is_dir():
        if (path / "recipe.yaml").is_file() or (path / "checkpoints").is_dir():
            return _checkpoint_target(_latest_checkpoint(path), base)
        if any((path / file).is_file() for file in ("model_index.json", LORA_FILE)):
            return _checkpoint_target(path, base)
        if next(picture_folders(path), None):
            return Target(path.resolve().name, None, pictures=path)
        raise VipoError(
            f"`{name}` holds nothing that can be evaluated",
            hint="give a run or checkpoint directory, a LoRA file, a diffusers folder, "
            "a model name, or a folder of pictures (00000/metadata.jsonl, 00000/samples/0000.png)",
        )
    _refuse_missing_path(name)
    return Target(name, find_model(name))


def picture_folders(folder: Path) -> Iterator[Path]:
    """Iterate over the prompts' folders of GenEval's official layout, in order."""
    for child in sorted(folder.iterdir()):
        if child.name.isdigit() and (child / "metadata.jsonl").is_file():
            yield child


def target_fingerprint(target: Target) -> str:
    """Return 16 hexadecimal digits that name the weights; pictures are named by their place."""
    if target.spec is None:
        return fingerprint({"pictures": str(target.pictures and target.pictures.resolve())})
    lora = file_fingerprint(target.lora) if target.lora else None
    return fingerprint({"weights": _weights(target.spec), "lora": lora})


def _weights(spec: ModelSpec) -> Any:
    """Name a pipeline's weights: by content for a folder, by commit for a hub id."""
    folder = Path(spec.source)
    if folder.is_dir():
        index = _read_json(folder / "model_index.json")
        parts = sorted(name for name in index if (folder / name).is_dir())
        return [index, {name: folder_fingerprint(folder / name) for name in parts}]
    if folder.is_absolute():
        return spec.source  # as below
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        index_file = Path(hf_hub_download(spec.source, "model_index.json"))
    except (LocalEntryNotFoundError, HfHubHTTPError, ConnectionError):
        return spec.source  # loading the pipeline will say what is missing and how to get it
    return [spec.source, index_file.parent.name]


def _refuse_missing_path(name: str) -> None:
    """Say that a path does not exist, where the name can only be meant as one."""
    path = Path(name)
    if name in models:
        return
    looks_like_path = name.startswith(("/", "./", "../", "~")) or name.endswith("/")
    # a hub id has one slash too; a path whose first folder exists is not meant as a hub id
    if looks_like_path or name.count("/") > 1 or ("/" in name and path.parent.is_dir()):
        parent = path.parent
        neighbours = [child.name for child in parent.iterdir()] if parent.is_dir() else []
        near = did_you_mean(path.name, neighbours).replace("`", f"`{parent}/", 1)
        raise VipoError(
            f"no such file or folder: `{name}`",
            hint=near.strip() or "finished runs are in `runs/`; see them with: ls runs",
        )
    if "/" not in name:
        runs = [child.name for child in Path("runs").glob("*")]
        if name in runs:
            raise VipoError(
                f"no such file or folder: `{name}`", hint=f"did you mean `runs/{name}`?"
            )
        here = [child.name for child in Path().iterdir() if not child.name.startswith(".")]
        raise UnknownName("target", name, sorted({*models.names(), *here}))


def _latest_checkpoint(run: Path) -> Path:
    """Return the checkpoint of the highest step in a run directory."""
    found = [
        (int(match[1]), child)
        for child in (run / "checkpoints").glob("step-*")
        if child.is_dir() and (match := _STEP.match(child.name))
    ]
    if not found:
        raise VipoError(
            f"`{run}` has no checkpoint yet",
            hint=f"let it train on: vipo train --resume {run}",
        )
    return max(found)[1]


def _checkpoint_target(folder: Path, base: str | None) -> Target:
    """Resolve a folder that holds a pipeline or LoRA weights, alone or within a run directory."""
    run = folder.resolve().parent.parent
    recipe = run / "recipe.yaml"
    match = _STEP.match(folder.resolve().name)
    if match is None or not recipe.is_file():
        if (folder / LORA_FILE).is_file():
            return _lora_target(folder / LORA_FILE, base)
        _check_pipeline(folder)
        return Target(str(folder).rstrip("/"), find_model(str(folder)), base=base)
    trained_from = base or _base_of(recipe)
    shown = Path(run.name) if folder.is_absolute() else folder.parent.parent
    label, step = f"{shown if shown.name else run.name} (step {int(match[1])})", int(match[1])
    spec = find_model(trained_from)
    lora: Path | None = folder / LORA_FILE
    if (folder / "model_index.json").is_file():
        _check_pipeline(folder)
        spec, lora = replace(spec, name=label, source=str(folder)), None
    elif (folder / LORA_FILE).is_file():
        check_safetensors(folder / LORA_FILE)
    else:
        raise ModelError(
            f"the checkpoint `{folder}` holds no weights",
            hint="evaluate an earlier one of the same run: "
            f"ls {folder.parent}; vipo eval geneval {folder.parent}/step-...",
        )
    return Target(label, spec, lora, base=trained_from, run=folder.parent.parent, step=step)


def _lora_target(file: Path, base: str | None) -> Target:
    """Resolve LoRA weights that belong to no run."""
    if file.suffix != ".safetensors":
        raise ModelError(
            f"`{file}` is not a safetensors file",
            hint="LoRA weights are read from safetensors only",
        )
    if _STEP.match(file.resolve().parent.name) and file.name == LORA_FILE:
        in_run = file.resolve().parents[2] / "recipe.yaml"
        if in_run.is_file():
            return _checkpoint_target(file.parent, base)
    metadata = check_safetensors(file)
    recipe = file.resolve().parent / "recipe.yaml"
    if base is None and file.name == START_FILE and recipe.is_file():
        base = _base_of(recipe)
    trained_on = base or metadata.get("vipo.base")
    if trained_on is None:
        raise ModelError(
            f"`{file}` does not say which model it was trained on",
            hint="name the model: --model MODEL",
        )
    return Target(str(file), find_model(trained_on), file, base=trained_on)


def _check_pipeline(folder: Path) -> None:
    """Check that all parts of a pipeline are there and whole."""
    index = _read_json(folder / "model_index.json")
    parts = [name for name, value in index.items() if isinstance(value, list) and value[0]]
    missing = [name for name in parts if not (folder / name).is_dir()]
    if missing:
        raise ModelError(
            f"the model `{folder}` is incomplete: no {', '.join(f'`{name}`' for name in missing)}",
            hint="copy it again, or evaluate another checkpoint of the same run",
        )
    for name in parts:
        for file in (folder / name).glob("*.safetensors"):
            check_safetensors(file)


def _base_of(recipe: Path) -> str:
    """Return the model that a run's recipe starts from."""
    try:
        name = yaml.safe_load(recipe.read_text())["model"]["name"]
    except (yaml.YAMLError, TypeError, KeyError) as error:
        raise ModelError(
            f"`{recipe}` does not say which model the run started from",
            hint="name the model: --model MODEL",
        ) from error
    return str(name)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise ModelError(f"`{file}` is damaged: {error}") from error
    return value
