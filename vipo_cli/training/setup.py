"""From a recipe to all that a step needs: model, adapters, reference, data, optimizer."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vipo_cli.errors import DataError
from vipo_cli.models import Family
from vipo_cli.models.lora_files import Lora
from vipo_cli.models.parts import load_parts
from vipo_cli.objectives import (
    DriftPairErrors,
    LabelledErrors,
    ListErrors,
    PolicyPairErrors,
    SampleErrors,
    TimedPairErrors,
    has_reference,
    objectives,
    record_of,
)
from vipo_cli.recipe import Recipe
from vipo_cli.training.adapters import make_trainable
from vipo_cli.training.cache import EncodedData
from vipo_cli.training.optimizers import make_optimizer
from vipo_cli.training.precision import keep_in_half, quantization, train_in_half
from vipo_cli.training.prompts import Prompts, sample_count
from vipo_cli.training.reference import Snapshot
from vipo_cli.training.sharding import Sharding, choose_sharding
from vipo_cli.training.step import Reference
from vipo_cli.training.trajectory import Trajectories

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass
class HeldOut:
    """Records that are never learnt from, and how the base does on them.

    Attributes:
        data, records: which they are.
        base: errors of the base model at their fixed draws, (draws, n, k).
    """

    data: EncodedData | Trajectories
    records: Rows
    base: Floats


@dataclass
class Setup:
    """All that a run works with.

    Attributes:
        recipe: what was asked for.
        family: the model; its denoiser is the policy.
        kind: the record that the objective sees.
        objective: the loss, its parameters filled in.
        encoded: the data set, from which a loop takes prompts and winners.
        data, train: what is learnt from, and which of its records.
        held_out: what is kept back.
        base: gives the model before training, where it is kept.
        reference: gives what the policy is compared with; None for objectives without one, and
            where the reference's errors are cached.
        moving: the weights that the reference follows the policy with, where it does.
        old: the policy that the round's data were sampled from, where that is needed.
        optimizer: over the trainable weights, as this process holds them.
        sharding: how processes hold the weights between them.
        average: moving average of the trainable weights, or None.
        typical_margin: running mean of the margin's size, for an automatic beta.
        accelerator: devices, precision, processes.
        micro_batch: records that go through the model at once.
        checkpointing: whether activations are computed again instead of being kept.
        room: records that memory has room for at once, were a batch as large; None: any number.
        cached: errors of the reference at each record's fixed draws, (n, draws, items), or None.
        round: of a loop, from 0.
        round_start: the step that it began with.
        prompts: what validation samples are drawn for, or None.
        skipped: steps whose records were passed over by returns to earlier checkpoints.
    """

    recipe: Recipe
    family: Family
    kind: type[Any]
    objective: Callable[..., Tensor]
    encoded: EncodedData
    data: EncodedData | Trajectories
    train: Rows
    held_out: HeldOut | None
    base: Reference | None
    reference: Reference | None
    moving: Snapshot | None
    old: Snapshot | None
    optimizer: torch.optim.Optimizer
    sharding: Sharding
    average: Snapshot | None
    typical_margin: Tensor
    accelerator: Any
    micro_batch: int
    checkpointing: bool = False
    room: int | None = None
    cached: Floats | None = None
    round: int = 0
    round_start: int = 0
    prompts: Prompts | None = None
    skipped: int = 0

    @property
    def items(self) -> int:
        """How many items of each record the objective sees."""
        if self.kind in (SampleErrors, LabelledErrors):
            return 1
        return self.data.items.shape[1] if self.kind is ListErrors else 2

    @property
    def needs_drift(self) -> bool:
        """Whether the objective asks how far the predictions moved."""
        return self.kind is DriftPairErrors


def frozen_type(recipe: Recipe) -> torch.dtype:
    """Return the type that frozen weights are kept in."""
    return torch.bfloat16 if recipe.model.precision == "bf16" else torch.float32


def load_denoiser(recipe: Recipe, family: Family, accelerator: Any) -> None:
    """Load what is trained, and the autoencoder where samples are to be looked at.

    Weights that processes are to hold slices of lie on the CPU first.

    Weights that are trained are kept in float32 whatever the precision: small updates would be lost
    in less.
    """
    dtype = torch.float32 if recipe.model.train == "full" else frozen_type(recipe)
    place = choose_sharding(recipe, accelerator).place()
    load_parts(
        family,
        [family.denoiser_name],
        dtype=dtype,
        device=place,
        quantization=quantization(recipe, accelerator.device),
    )
    if recipe.loop.kind != "offline" or sample_count(recipe):
        load_parts(family, ["vae"], dtype=dtype, device=accelerator.device)


def assemble(
    recipe: Recipe,
    family: Family,
    encoded: EncodedData,
    accelerator: Any,
    start: Lora | None = None,
) -> Setup:
    """Set up what is trained, on records that are encoded already.

    Args:
        recipe: what is asked for.
        family: the model, its denoiser loaded.
        encoded: the data.
        accelerator: from `start_accelerator`.
        start: the LoRA that training goes on from.

    Raises:
        DataError: records that the objective cannot use, or too few of them.
    """
    kind = record_of(recipe.objective.method)
    refuse_unusable(recipe, kind, encoded)
    train, held_out = split(encoded.prompt, recipe.data.held_out)
    held_out = held_out[np.argsort(encoded.bucket[held_out], kind="stable")]
    data = encoded
    if kind is LabelledErrors and recipe.loop.kind == "offline" and not encoded.labelled:
        data, train = as_singles(encoded, train)
    following = recipe.reference.kind in ("ema", "copied") or recipe.loop.kind == "spin"
    compared = has_reference(kind) and recipe.reference.kind == "base" and not following
    copied = compared or recipe.noise.source == "inverted"
    all_in_half = recipe.model.train == "full" and recipe.model.precision == "bf16"
    if all_in_half:
        train_in_half(family.denoiser)
    base = make_trainable(family, recipe, start, copied=copied)
    sharding = choose_sharding(recipe, accelerator)
    sharding.prepare(family, partial(make_optimizer, recipe))
    if base is not None and recipe.model.train == "full":
        with base() as frozen:
            if all_in_half and recipe.run.sharding != "fsdp":  # which wants one type
                keep_in_half(frozen.denoiser)
            sharding.hold(frozen.denoiser)
    moving = Snapshot(family) if following else None
    wants_old = kind is TimedPairErrors and recipe.objective.parameters.get("denominator") == "old"
    average = Snapshot(family) if recipe.model.ema else None
    return Setup(
        recipe=recipe,
        family=family,
        kind=kind,
        objective=partial(objectives[recipe.objective.method], **recipe.objective.parameters),
        encoded=encoded,
        data=data,
        train=train,
        held_out=HeldOut(encoded, held_out, np.empty(0, np.float32)) if len(held_out) else None,
        base=base,
        reference=_reference(recipe, kind, base, moving),
        moving=moving,
        old=Snapshot(family) if wants_old else None,
        optimizer=sharding.optimizer,
        sharding=sharding,
        average=average,
        typical_margin=torch.zeros((), device=accelerator.device),
        accelerator=accelerator,
        micro_batch=recipe.optimizer.micro_batch or recipe.optimizer.batch_size,
    )


def networks(setup: Setup) -> list[Any]:
    """Return the denoiser, and the copy of it that is the reference where there is one; bare."""
    family = setup.family
    found = [getattr(family.pipeline, family.denoiser_name)]
    if setup.base is not None and setup.recipe.model.train == "full":
        with setup.base() as frozen:
            found.append(frozen.denoiser)
    return found


def refuse_unusable(recipe: Recipe, kind: type[Any], encoded: EncodedData) -> None:
    """Refuse data that an objective cannot learn from.

    Raises:
        DataError: says what is missing and what would work.
    """
    name, method = recipe.data.name, recipe.objective.method
    counts = (encoded.items >= 0).sum(1)
    offline = recipe.loop.kind == "offline"
    problem = hint = None
    if kind is LabelledErrors and offline:
        likes = int(encoded.liked.sum())
        dislikes = len(encoded) - likes if encoded.labelled else int((counts > 1).sum())
        if not likes or not dislikes:
            missing = "dislikes" if likes else "likes"
            problem = f"holds no {missing}, and method `{method}` learns from likes and dislikes"
            hint = "pairs, or single pictures with a column `liked`; --method sft takes likes alone"
    elif encoded.labelled:
        problem = f"holds single labelled pictures, and method `{method}` does not take them"
        hint = "use --method kto"
    elif issubclass(kind, PolicyPairErrors) and offline and (counts < 2).any():
        problem = f"holds pictures without losers, and method `{method}` compares pairs"
        hint = "use --method sft, or data with losers"
    elif issubclass(kind, PolicyPairErrors) and offline and encoded.items.shape[1] > 2:
        problem = f"holds ranked lists, and method `{method}` compares pairs"
        hint = "use --method plackett-luce"
    elif kind is ListErrors and offline and (counts < 2).any():
        problem = f"holds pictures that are compared with none, and method `{method}` ranks"
        hint = "use --method sft, or data with losers"
    elif recipe.noise.source == "stored" and offline and not _noise_known(encoded):
        problem = "does not say which noise its pictures were sampled from"
        hint = "--set noise.source=shared, or columns noise_seed_w and noise_seed_l"
    if problem:
        raise DataError(f"`{name}` {problem}", hint=hint)


def _noise_known(encoded: EncodedData) -> bool:
    present = encoded.items >= 0
    return encoded.noise is not None or bool((encoded.noise_seeds[present] >= 0).all())


def as_singles(encoded: EncodedData, train: Rows) -> tuple[EncodedData, Rows]:
    """Take pairs apart: each winner is a like, each loser a dislike, and they meet no more."""
    sides = [encoded.items[:, :1], encoded.items[:, 1:2]]
    present = np.concatenate(sides)[:, 0] >= 0
    singles = replace(
        encoded,
        items=np.concatenate(sides),
        liked=np.arange(2 * len(encoded)) < len(encoded),
        noise_seeds=np.concatenate([encoded.noise_seeds[:, :1], encoded.noise_seeds[:, 1:2]]),
        region_rows=np.concatenate([encoded.region_rows[:, :1], encoded.region_rows[:, 1:2]]),
        labelled=True,
        prompt=np.tile(encoded.prompt, 2),
        weight=np.tile(encoded.weight, 2),
        probability=np.ones(2 * len(encoded), np.float32),
    )
    records = np.concatenate([train, train + len(encoded)])
    return singles, records[present[records]]


def _reference(
    recipe: Recipe, kind: type[Any], base: Reference | None, moving: Snapshot | None
) -> Reference | None:
    """Choose what the policy is compared with in the step."""
    if not has_reference(kind) or recipe.reference.kind == "cached":
        return None
    return moving.in_place if moving else base


def split(prompts: Rows, held_out: int) -> tuple[Rows, Rows]:
    """Divide records into those learnt from and those kept back, never sharing a prompt.

    Whole prompts are kept back, in an order that no run's seed changes, until `held_out` records
    are reached; where that would be more than half of all, until a fifth is. One prompt at least is
    learnt from.
    """
    if held_out > len(prompts) / 2:
        held_out = len(prompts) // 5
    order = np.random.default_rng(0).permutation(int(prompts.max()) + 1)
    rank = np.argsort(order)[prompts]
    counts = np.cumsum(np.bincount(rank))
    chosen = int(np.searchsorted(counts, held_out)) + 1 if held_out else 0
    kept_back = rank < min(chosen, len(counts) - 1)
    return np.flatnonzero(~kept_back), np.flatnonzero(kept_back)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Return the learning rate of an update, counted from 0."""
    optimizer = recipe.optimizer
    if step < optimizer.warmup_steps:
        return optimizer.learning_rate * (step + 1) / optimizer.warmup_steps
    if optimizer.decay == "constant":
        return optimizer.learning_rate
    rest = max(1, recipe.run.steps - optimizer.warmup_steps)
    return (
        optimizer.learning_rate
        * 0.5
        * (1 + math.cos(math.pi * (step - optimizer.warmup_steps) / rest))
    )
