"""Errors of the base, measured once: on held-out records always, on all where they are cached."""

import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vipo_cli.errors import ModelError
from vipo_cli.run import Work, cache_home, fingerprint, write_json, writing
from vipo_cli.training.batches import (
    fixed_batch,
    held_out_batch,
    held_out_draws,
    held_out_slices,
    same_bucket,
)
from vipo_cli.training.cache import EncodedData
from vipo_cli.training.devices import after_main, agreed, shared_out
from vipo_cli.training.reference import bare
from vipo_cli.training.setup import Setup
from vipo_cli.training.sharding import whole_tensor
from vipo_cli.training.step import Batch, measure
from vipo_cli.training.trajectory import StepBatch, measure_steps

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

TOLERANCE = 1e-3
"""Relative difference up to which cached errors count as this model's; kernels differ by less."""
MEASURED = 32
"""Records measured at once, unless a micro-batch says that they must be fewer."""
CHECKED = 8
"""Records whose cached errors are measured again before the first step."""


def measure_references(setup: Setup) -> Work[None]:
    """Measure what never changes: the base on held-out records, and all errors to be cached.

    The policy is still the base when this runs, so it is what measures.
    """
    if setup.held_out is not None:
        setup.held_out.base = yield from measure_base(setup)
    if setup.recipe.reference.kind == "cached":
        setup.cached = yield from cache_errors(setup)


def measure_base(setup: Setup) -> Work[Floats]:
    """Measure the policy on held-out records, at each of their draws: (draws, n, k)."""
    count = held_out_draws(setup)
    slices = list(held_out_slices(setup, forward_size(setup)))

    def errors(task: tuple[int, slice]) -> Floats:
        draw, rows = task
        return policy_errors(setup, held_out_batch(setup, rows.start, rows.stop, draw))

    tasks = [(draw, rows) for draw in range(count) for rows in slices]
    found = yield from shared_out("measuring the base", tasks, errors)
    each = len(slices)
    draws = [found[first : first + each] for first in range(0, len(found), each)]
    return np.stack([np.concatenate(parts) for parts in draws])


@torch.no_grad()
def policy_errors(setup: Setup, batch: Batch | StepBatch) -> Floats:
    """Return the policy's errors on a batch, (b, k)."""
    with setup.accelerator.autocast():
        if isinstance(batch, StepBatch):
            measured = measure_steps(setup.family, batch, None)
        else:
            measured = measure(setup.family, batch)
    errors: Floats = measured.policy.T.float().cpu().numpy()
    return errors


def forward_size(setup: Setup) -> int:
    """Return how many records go through the model at once where nothing is learnt."""
    if setup.micro_batch < setup.recipe.optimizer.batch_size:
        return setup.micro_batch
    room = MEASURED if setup.room is None else min(MEASURED, setup.room)
    return max(setup.micro_batch, room)


def cache_errors(setup: Setup) -> Work[Floats]:
    """Return the base's errors at all fixed draws, (n, draws, items), from disk if they are there.

    Raises:
        ModelError: the folder that was named holds those of other settings or of another model.
    """
    path, settings = setup.recipe.reference.path, _settings(setup)
    folder = Path(path) if path else cache_home() / "references" / fingerprint(settings)
    if agreed(not (folder / "index.json").is_file()):
        measured = yield from _measure_all(setup)
        after_main(partial(_keep, folder, measured, settings))
    _refuse_others(folder, settings)
    errors: Floats = np.load(folder / "errors.npy", mmap_mode="r")
    _verify(setup, folder, errors)
    return errors


def _keep(folder: Path, measured: Floats, settings: dict[str, Any]) -> None:
    """Write measured errors, unless another process of this run did."""
    if (folder / "index.json").is_file():
        return
    with writing(folder) as temporary:
        temporary.mkdir(parents=True)
        np.save(temporary / "errors.npy", measured)
        write_json(temporary / "index.json", settings)


def _measure_all(setup: Setup) -> Work[Floats]:
    draws = setup.recipe.noise.draws
    assert draws is not None
    errors = np.full((len(setup.data), draws, setup.items), np.nan, np.float32)
    # as many at once as in training, for the same rounding
    parts = list(same_bucket(setup.data.bucket, setup.train, setup.micro_batch))

    def measured(task: tuple[int, Rows]) -> Floats:
        draw, records = task
        return policy_errors(setup, fixed_batch(setup, records, np.full(len(records), draw)))

    tasks = [(draw, records) for draw in range(draws) for records in parts]
    found = yield from shared_out("caching the reference's errors", tasks, measured)
    for (draw, records), values in zip(tasks, found, strict=True):
        errors[records, draw] = values
    return errors


def _settings(setup: Setup) -> dict[str, Any]:
    """Return all that cached errors depend on."""
    recipe, family = setup.recipe, setup.family
    assert isinstance(setup.data, EncodedData)
    levels = family.noise_level(torch.linspace(0.1, 0.9, 5, device=setup.accelerator.device))
    return {
        "model": _weights_fingerprint(setup),
        "predicts": family.target,
        # the same weights under another scheduler are another model
        "noise_levels": [f"{value:.4f}" for value in (*levels.alpha, *levels.sigma)],
        "guidance": family.guidance,
        "data": setup.data.fingerprint,
        "time": recipe.time.model_dump(),
        "noise": recipe.noise.model_dump(),
        "data.caption_dropout": recipe.data.caption_dropout,
        "data.held_out": recipe.data.held_out,
        "model.precision": recipe.model.precision,
        "run.seed": recipe.run.seed,
        "items": setup.items,
    }


def _weights_fingerprint(setup: Setup) -> str:
    """Name the weights of the base; fresh adapters say nothing before training."""
    fresh = setup.recipe.model.start_from is None
    digest = hashlib.sha256()
    for name, tensor in sorted(bare(setup.family.denoiser).state_dict().items()):
        if "lora_" not in name or not fresh:
            digest.update(name.replace(".base_layer", "").encode())
            values = whole_tensor(tensor).detach().cpu().contiguous().reshape(-1)
            digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _refuse_others(folder: Path, settings: dict[str, Any]) -> None:
    kept = json.loads((folder / "index.json").read_text())
    different = [key for key in settings if kept.get(key) != settings[key]]
    if different:
        raise ModelError(
            f"the cached errors in `{folder}` were measured with other settings",
            details=[
                f"{key}: `{kept.get(key)}` there, `{settings[key]}` here" for key in different
            ],
            hint="use the same settings, or name another folder: --set reference.path=DIR",
        )


def _verify(setup: Setup, folder: Path, errors: Floats) -> None:
    """Measure a few records again; what was computed elsewhere must be what is computed here.

    Raises:
        ModelError: it is not.
    """
    records = next(same_bucket(setup.data.bucket, setup.train, CHECKED))
    draws = np.zeros(len(records), np.int64)
    found = policy_errors(setup, fixed_batch(setup, records, draws))
    kept = np.asarray(errors[records, 0])
    worst = float(np.abs(found - kept).max() / np.abs(found).max())
    if not worst <= TOLERANCE:
        raise ModelError(
            f"the cached errors in `{folder}` are not those of this model: they differ by "
            f"{worst:.1%}",
            hint=f"measure them again: rm -r {folder}",
        )
