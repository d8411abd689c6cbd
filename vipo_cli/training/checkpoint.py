"""Checkpoints: what plain diffusers loads, and beside it what a resumed run needs.

    checkpoints/step-000500/pytorch_lora_weights.safetensors    or a full pipeline
    checkpoints/step-000500/resume/state.safetensors            weights, snapshots, optimizer
    checkpoints/step-000500/resume/state.json                   step, and the hash of the above

A checkpoint appears whole or not at all: it is written beside its place and renamed into it. Order,
noise and times are functions of seed and step, so nothing else has to be remembered.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vipo_cli.errors import ModelError
from vipo_cli.models.family import Family
from vipo_cli.models.lora_files import LORA_FILE as LORA_FILE
from vipo_cli.models.parts import read_index
from vipo_cli.run import unwritable, writing
from vipo_cli.training.adapters import save_lora
from vipo_cli.training.reference import trainable
from vipo_cli.training.setup import Setup


def save(run: Path, step: int, setup: Setup, labels: Mapping[str, str]) -> Path:
    """Write the checkpoint of a step, then remove all but the newest that the recipe keeps.

    Args:
        run: the run directory.
        step: updates made so far.
        setup: the run's state; where it keeps a moving average, that is what diffusers loads.
        labels: provenance for the header of the weights file.
    """
    from safetensors import SafetensorError

    target = run / "checkpoints" / f"step-{step:06d}"
    average = setup.average.weights if setup.average else None
    try:
        with writing(target) as folder:
            folder.mkdir(parents=True)
            _save_weights(folder, setup.family, average, labels)
            _save_state(folder / "resume", step, setup)
    except SafetensorError as error:  # in which safetensors wraps a full disk
        raise unwritable(target, OSError(str(error))) from error
    for old in checkpoints(run)[: -setup.recipe.run.keep_checkpoints]:
        shutil.rmtree(old)
    return target


def checkpoints(run: Path) -> list[Path]:
    """Return a run's checkpoints, oldest first."""
    return sorted((run / "checkpoints").glob("step-*"))


def load(folder: Path, setup: Setup) -> int:
    """Put a checkpoint's state into a run's; return its step.

    Raises:
        ModelError: the checkpoint is damaged, or belongs to another model.
    """
    from safetensors.torch import load_file

    file = verify(folder)
    state = load_file(file)
    step: int = json.loads((folder / "resume" / "state.json").read_text())["step"]
    for group, weights in _groups(setup).items():
        saved = {
            name.removeprefix(f"{group}."): value
            for name, value in state.items()
            if name.startswith(f"{group}.")
        }
        if weights.keys() != saved.keys() or any(
            weights[name].shape != saved[name].shape for name in weights
        ):
            raise ModelError(f"`{folder}` holds the weights of another model")
        with torch.no_grad():
            for name, value in weights.items():
                value.copy_(saved[name])
    _load_optimizer(setup.optimizer, state)
    return step


def _groups(setup: Setup) -> dict[str, Mapping[str, Tensor]]:
    """Return all tensors that a resumed run goes on with, but the optimizer's."""
    kept = {"average": setup.average, "reference": setup.moving, "old": setup.old}
    return {
        "weights": trainable(setup.family),
        **{name: snapshot.weights for name, snapshot in kept.items() if snapshot is not None},
        "running": {"margin": setup.typical_margin},
    }


def verify(folder: Path) -> Path:
    """Check that a checkpoint's state is whole, and return the file.

    Raises:
        ModelError: something is missing, cut short or altered.
    """
    file, note = folder / "resume" / "state.safetensors", folder / "resume" / "state.json"
    try:
        expected = json.loads(note.read_text())
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        intact = found == expected["sha256"]
    except (OSError, json.JSONDecodeError, KeyError):
        intact = False
    if not intact:
        raise ModelError(
            f"the checkpoint `{folder}` is damaged: its resume state is missing or cut short",
            hint=f"remove it and resume from the one before: rm -r {folder}",
        )
    return file


def _save_weights(
    folder: Path, family: Family, average: Mapping[str, Tensor] | None, labels: Mapping[str, str]
) -> None:
    """Write what plain diffusers loads: the moving average where there is one, else the weights."""
    weights = trainable(family)
    kept = {name: value.detach().clone() for name, value in weights.items()} if average else {}
    with torch.no_grad():
        for name, value in (average or {}).items():
            weights[name].copy_(value)
        if hasattr(family.denoiser, "peft_config"):
            save_lora(folder, family, weights, labels)
        else:
            _save_pipeline(folder, family)
        for name, value in kept.items():
            weights[name].copy_(value)


def _save_pipeline(folder: Path, family: Family) -> None:
    """Write the denoiser as it is and copy the other parts, which need not be in memory."""
    index = read_index(family.folder)
    for part in [key for key in index if (family.folder / key).is_dir()]:
        if part != family.denoiser_name:
            shutil.copytree(family.folder / part, folder / part)
    shutil.copy(family.folder / "model_index.json", folder)
    denoiser: Any = family.denoiser
    denoiser.save_pretrained(folder / family.denoiser_name, safe_serialization=True)


def _save_state(folder: Path, step: int, setup: Setup) -> None:
    from safetensors.torch import save_file

    folder.mkdir()
    tensors = {
        f"{group}.{name}": value.detach()
        for group, weights in _groups(setup).items()
        for name, value in weights.items()
    }
    for index, entry in setup.optimizer.state_dict()["state"].items():
        tensors |= {
            f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in entry.items()
        }
    file = folder / "state.safetensors"
    save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, file)
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    (folder / "state.json").write_text(json.dumps({"step": step, "sha256": digest}) + "\n")


def _load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    entries: dict[int, dict[str, Any]] = {}
    for name, value in state.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            entries.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(
        {"state": entries, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def latest(run: Path) -> Path | None:
    """Return the newest checkpoint of a run, or None before the first."""
    found = checkpoints(run)
    return found[-1] if found else None


def clear_leftovers(run: Path) -> None:
    """Remove what a killed process left half written."""
    for leftover in [*run.glob(".*.tmp"), *(run / "checkpoints").glob(".*.tmp")]:
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()
