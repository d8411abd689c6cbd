"""One training step's errors: the one place where pairing, shared noise and the reference meet."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vipo_cli.models.family import Condition, Family
from vipo_cli.objectives.errors import PairErrors, SampleErrors
from vipo_cli.schedules import Latents


@dataclass(frozen=True, slots=True)
class Draw:
    """Randomness of a batch: one time and one noise for winner and loser together."""

    time: Float[Tensor, " b"]
    eps: Latents


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Clean latents of winners and losers, and the condition that both share."""

    x0_w: Latents
    x0_l: Latents | None
    condition: Condition


def pair_errors(
    family: Family, reference: AbstractContextManager[Family], batch: PairBatch, draw: Draw
) -> PairErrors:
    """Predict winners and losers in one call, once as policy and once as reference."""
    assert batch.x0_l is not None
    x0 = torch.cat([batch.x0_w, batch.x0_l])
    eps = torch.cat([draw.eps, draw.eps])
    time = torch.cat([draw.time, draw.time])
    condition = {name: torch.cat([value, value]) for name, value in batch.condition.items()}

    policy_w, policy_l = prediction_errors(family, x0, eps, time, condition).chunk(2)
    with reference as frozen, torch.no_grad():
        reference_w, reference_l = prediction_errors(frozen, x0, eps, time, condition).chunk(2)
    return PairErrors(policy_w, policy_l, reference_w, reference_l)


def sample_errors(family: Family, batch: PairBatch, draw: Draw) -> SampleErrors:
    """Predict the winners alone."""
    return SampleErrors(prediction_errors(family, batch.x0_w, draw.eps, draw.time, batch.condition))


def prediction_errors(
    family: Family, x0: Latents, eps: Latents, time: Float[Tensor, " b"], condition: Condition
) -> Float[Tensor, " b"]:
    """Return each sample's mean squared error against the family's own target."""
    level = family.noise_level(time)
    x_t = level.mix(x0, eps)
    target = level.target(family.target, x0, eps)
    prediction = family.predict(x_t, time, condition)
    return (prediction.float() - target.float()).square().flatten(1).mean(1)


def sample_generator(seed: int, stream: int, position: int) -> torch.Generator:
    """Return the generator of one sample.

    It depends on the run's seed, on what the numbers are for, and on the sample's place in the
    order, so results do not depend on batches or processes, and a step can be replayed alone.
    """
    state = np.random.SeedSequence((seed, stream, position)).generate_state(1)[0]
    return torch.Generator().manual_seed(int(state))
