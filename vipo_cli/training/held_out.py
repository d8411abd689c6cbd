"""How the policy does on records that it never learnt from, always against the base."""

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vipo_cli.analysis.intervals import clustered_mean
from vipo_cli.run import finish
from vipo_cli.training.batches import held_out_batch, held_out_draws, held_out_slices
from vipo_cli.training.cached import forward_size, policy_errors
from vipo_cli.training.devices import shared_out
from vipo_cli.training.setup import HeldOut, Setup
from vipo_cli.training.step import Items
from vipo_cli.training.trajectory import Trajectories

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class HeldOutRecord:
    """What was measured on held-out records, each at several fixed times and noises.

    Of trajectories the likelihood is that of all steps together.

    Attributes:
        metric: `implicit_accuracy`, or `error` where winners stand alone.
        value: its mean.
        ci95: interval from resampling prompts.
        n: records measured.
        winner_gain: how much smaller the policy's error on winners is than the base's; negative
            when winners become less likely. Its interval likewise.
    """

    metric: str
    value: float
    ci95: tuple[float, float]
    n: int
    winner_gain: float
    winner_gain_ci95: tuple[float, float]


def measure_held_out(setup: Setup) -> HeldOutRecord | None:
    """Measure at the same times and noises whatever the run's seed."""
    held_out = setup.held_out
    if held_out is None:
        return None
    slices = list(held_out_slices(setup, forward_size(setup)))
    work = partial(_measure_slice, setup, held_out)
    measured = finish(shared_out("measuring held-out records", slices, work))
    prompts = held_out.data.prompt[held_out.records]
    scores, gains = (
        np.concatenate([getattr(each, name) for each in measured]).astype(np.float64)
        for name in ("scores", "gains")
    )
    interval, gain = clustered_mean(scores, prompts), clustered_mean(gains, prompts)
    compared = _is_compared(held_out)
    # of very few records the interval of a mean reaches beyond what a share can be
    most = 1.0 if compared else math.inf
    return HeldOutRecord(
        metric="implicit_accuracy" if compared else "error",
        value=interval.value,
        ci95=(max(0.0, interval.low), min(most, interval.high)),
        n=len(held_out.records),
        winner_gain=gain.value,
        winner_gain_ci95=(gain.low, gain.high),
    )


@dataclass(frozen=True, slots=True)
class _Measured:
    """What was measured on some held-out records.

    Attributes:
        scores: right or wrong, or the error, of each, a mean over its draws.
        gains: on the winner of each, likewise.
    """

    scores: Floats
    gains: Floats


def _measure_slice(setup: Setup, held_out: HeldOut, rows: slice) -> _Measured:
    draws = range(held_out_draws(setup))
    batches = [held_out_batch(setup, rows.start, rows.stop, draw) for draw in draws]
    policy = np.stack([policy_errors(setup, batch).T for batch in batches])
    base = held_out.base[:, rows].transpose(0, 2, 1)
    if isinstance(held_out.data, Trajectories):
        policy, base = policy.mean(0, keepdims=True), base.mean(0, keepdims=True)
    gains = (base - policy)[:, 0].mean(0)
    if not _is_compared(held_out):
        return _Measured(policy[:, 0].mean(0), gains)
    right = []
    for own, other, batch in zip(policy, base, batches, strict=False):
        errors = torch.from_numpy(own), torch.from_numpy(other)
        right.append(compare(*errors, batch.present.cpu(), batch.liked.cpu())[1].numpy())
    return _Measured(np.mean(right, 0), gains)


def _is_compared(held_out: HeldOut) -> bool:
    """Return whether there is anything that held-out winners are better than."""
    data, records = held_out.data, held_out.records
    if isinstance(data, Trajectories):
        return True
    return bool((data.items[records, 1:] >= 0).any() or not data.liked[records].all())


def compare(
    policy: Items, reference: Items, present: Tensor, liked: Tensor
) -> tuple[Tensor, Tensor]:
    """Return each record's margin, and whether its sign is right, ties counted half.

    The margin is how much more the policy gained on the better item than on the worse, averaged
    over all pairs of a list; of a single sample, its gain if it was liked and its loss if not.
    """
    alone = len(present) == 1 or not bool(present[1:].any())
    return margins(policy, reference, present, liked, alone=alone)


def margins(
    policy: Items, reference: Items, present: Tensor, liked: Tensor, *, alone: bool
) -> tuple[Tensor, Tensor]:
    """Return what `compare` does without asking the device; `alone`: no record has two items."""
    gain = reference - policy
    if alone:
        margin = torch.where(liked, gain[0], -gain[0])
        return margin, (margin.sign() + 1) / 2
    better, worse = torch.triu_indices(len(gain), len(gain), 1)
    both = (present[better] & present[worse]).to(gain.dtype)
    difference = gain[better] - gain[worse]
    pairs = both.sum(0).clamp(min=1)
    right = (difference.sign() + 1) / 2
    return (difference * both).sum(0) / pairs, (right * both).sum(0) / pairs
