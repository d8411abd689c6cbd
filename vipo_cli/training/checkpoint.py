"""Checkpoints: what plain diffusers loads, and beside it what a resumed run needs.

    checkpoints/step-000500/pytorch_lora_weights.safetensors    or a full pipeline
    checkpoints/step-000500/resume/state.safetensors            weights, snapshots, optimizer
    checkpoints/step-000500/resume/state.json                   step, hash of the above, and how
                                                                updates fitted into memory

A checkpoint appears whole or not at all: it is written beside its place and renamed into it. Order,
noise and times are functions of seed and step, so nothing else has to be remembered. It holds whole
tensors by name, so a run may go on with more or fewer processes than it was started with.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from vipo_cli.errors import ModelError
from vipo_cli.models.family import Family
from vipo_cli.models.lora_files import LORA_FILE as LORA_FILE
from vipo_cli.models.parts import read_index
from vipo_cli.recipe.sections import Run
from vipo_cli.run import unwritable, writing
from vipo_cli.training.adapters import save_lora
from vipo_cli.training.devices import from_main, is_main, wait
from vipo_cli.training.out_of_memory import go_way, way_of
from vipo_cli.training.reference import bare, trainable
from vipo_cli.training.setup import Setup
from vipo_cli.training.sharding import whole_shape

Tensors = Mapping[str, Tensor]


def save(run: Path, step: int, setup: Setup, labels: Mapping[str, str]) -> Path:
    """Write the checkpoint of a step, then remove all but the newest that the recipe keeps.

    All processes give what they hold; the main one writes while the others wait.

    Args:
        run: the run directory.
        step: updates made so far.
        setup: the run's state; where it keeps a moving average, that is what diffusers loads.
        labels: provenance for the header of the weights file.
    """
    target = run / "checkpoints" / f"step-{step:06d}"
    groups = {name: setup.sharding.gathered(held) for name, held in _groups(setup).items()}
    state = setup.sharding.gathered_state()
    if is_main():
        _write(target, step, setup, groups, state, labels)
        for old in _superseded(run, setup.recipe.run):
            shutil.rmtree(old)
    wait()
    return target


def _write(
    target: Path,
    step: int,
    setup: Setup,
    groups: Mapping[str, Tensors],
    state: Mapping[str, Tensors],
    labels: Mapping[str, str],
) -> None:
    from safetensors import SafetensorError

    weights = groups.get("average", groups["weights"])
    try:
        with writing(target) as folder:
            folder.mkdir(parents=True)
            if setup.recipe.model.train == "lora":
                save_lora(folder, setup.family, weights, labels)
            else:
                _save_pipeline(folder, setup.family, weights)
            _save_state(folder / "resume", _note(step, setup), groups, state)
    except SafetensorError as error:  # in which safetensors wraps a full disk
        raise unwritable(target, OSError(str(error))) from error


def checkpoints(run: Path) -> list[Path]:
    """Return a run's checkpoints, oldest first."""
    return sorted((run / "checkpoints").glob("step-*"))


def step_of(folder: Path) -> int:
    """Return the step of a checkpoint."""
    return int(folder.name.removeprefix("step-"))


def _superseded(run: Path, section: Run) -> list[Path]:
    """Return the checkpoints that are to go.

    A run that may return to an earlier one keeps as many as if it had never been stopped: what a
    stop wrote on the way stays until the next, and takes no other's place.
    """
    found = checkpoints(run)
    if section.on_spike == "warn":
        return found[: -section.keep_checkpoints]
    between = [folder for folder in found if step_of(folder) % section.checkpoint_every]
    regular = [folder for folder in found if folder not in between]
    return [folder for folder in between if folder != found[-1]] + regular[
        : -section.keep_checkpoints
    ]


def load(folder: Path, setup: Setup) -> int:
    """Put a checkpoint's state into a run's; return its step.

    Raises:
        ModelError: the checkpoint is damaged, or belongs to another model.
    """
    from safetensors import safe_open

    file = from_main(partial(verify, folder))
    note: dict[str, Any] = json.loads((folder / "resume" / "state.json").read_text())
    with safe_open(file, "pt") as saved:
        names = saved.keys()
        for group, weights in _groups(setup).items():
            shapes = {
                name.removeprefix(f"{group}."): saved.get_slice(name).get_shape()
                for name in names
                if name.startswith(f"{group}.")
            }
            expected = {name: list(whole_shape(value)) for name, value in weights.items()}
            if shapes != expected:
                raise _other_model(folder, shapes, expected)
            setup.sharding.restore(weights, partial(_read, saved, group))
        setup.sharding.restore_state(_SavedState(saved))
    way = way_of(setup)
    go_way(setup, (note.get("micro_batch", way[0]), note.get("checkpointing", way[1])))
    return int(note["step"])


def _other_model(
    folder: Path, there: Mapping[str, list[int]], here: Mapping[str, list[int]]
) -> ModelError:
    """Return the error for a checkpoint whose weights are not those of the run, naming one."""
    names = [name for name in {**here, **there} if there.get(name) != here.get(name)]
    shapes = [each.get(names[0]) for each in (there, here)]
    said = [" x ".join(map(str, shape)) if shape is not None else "absent" for shape in shapes]
    return ModelError(
        f"`{folder}` holds the weights of another model",
        details=[
            f"{len(names):,} of {len({**here, **there}):,} tensors differ: "
            f"`{names[0]}` is {said[0]} there, {said[1]} in this run"
        ],
        hint=f"the run's own recipe made it with another model, rank or objective: compare "
        f"{folder.parents[1] / 'recipe.yaml'}",
    )


def _read(saved: Any, group: str, name: str) -> Tensor:
    value: Tensor = saved.get_tensor(f"{group}.{name}")
    return value


class _SavedState(Mapping[str, dict[str, Tensor]]):
    """What the optimizer kept, read from an open file for one weight at a time."""

    def __init__(self, saved: Any) -> None:
        self._saved = saved
        self._keys: dict[str, list[str]] = {}
        for entry in saved.keys():  # noqa: SIM118  # no mapping
            if entry.startswith("optimizer."):
                name, _, key = entry.removeprefix("optimizer.").rpartition(".")
                self._keys.setdefault(name, []).append(key)

    def __getitem__(self, name: str) -> dict[str, Tensor]:
        keys = self._keys[name]
        return {key: self._saved.get_tensor(f"optimizer.{name}.{key}") for key in keys}

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def _groups(setup: Setup) -> dict[str, Tensors]:
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


def _save_pipeline(folder: Path, family: Family, weights: Tensors) -> None:
    """Write the denoiser with some weights; copy the other parts, which need not be in memory."""
    from huggingface_hub import save_torch_state_dict

    index = read_index(family.folder)
    for part in [key for key in index if (family.folder / key).is_dir()]:
        if part != family.denoiser_name:
            shutil.copytree(family.folder / part, folder / part)
    shutil.copy(family.folder / "model_index.json", folder)
    denoiser: Any = bare(family.denoiser)
    others = {name: value for name, value in denoiser.state_dict().items() if name not in weights}
    place = folder / family.denoiser_name
    denoiser.save_config(place)
    save_torch_state_dict(
        {**others, **weights},
        place,
        filename_pattern="diffusion_pytorch_model{suffix}.safetensors",
        max_shard_size="10GB",
    )


def _note(step: int, setup: Setup) -> dict[str, Any]:
    micro_batch, checkpointing = way_of(setup)
    return {"step": step, "micro_batch": micro_batch, "checkpointing": checkpointing}


def _save_state(
    folder: Path,
    note: Mapping[str, Any],
    groups: Mapping[str, Tensors],
    state: Mapping[str, Tensors],
) -> None:
    from safetensors.torch import save_file

    folder.mkdir()
    tensors = {
        f"{group}.{name}": value for group, held in groups.items() for name, value in held.items()
    }
    tensors |= {
        f"optimizer.{name}.{key}": value
        for name, entry in state.items()
        for key, value in entry.items()
    }
    file = folder / "state.safetensors"
    save_file(tensors, file)
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    (folder / "state.json").write_text(json.dumps({**note, "sha256": digest}) + "\n")


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
