"""Stored denoising trajectories, for objectives that learn from the steps themselves (D3PO).

A step leads from the noise level (alpha, sigma) down to (alpha_next, sigma_next). It is Gaussian:
the posterior q(x_next | x_t, x0) at what the model takes x0 and eps to be.

    a      = alpha / alpha_next
    spread = sigma^2 - a^2 sigma_next^2                 of x_t about a * x_next
    std^2  = spread * sigma_next^2 / sigma^2
    mean   = alpha_next * x0 + sqrt(sigma_next^2 - std^2) * eps

For diffusion models that is DDIM with eta 1, which is ancestral sampling; for flow models, whose
own sampler is not random, it is the same with their alpha and sigma.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from vipo_cli.models.family import Condition, Family
from vipo_cli.schedules import Latents, NoiseLevel
from vipo_cli.training.arrays import RaggedArray
from vipo_cli.training.step import Items, Measured, Reference

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Trajectories:
    """Pairs of trajectories for the same prompt, the better one first.

    Attributes:
        states: of each trajectory, from noise to clean, (m, T + 1, ...).
        times: of the states, from 1 down to 0, (T + 1,).
        conditions: embeddings of each distinct prompt, the last row that of the empty prompt.
        items: row numbers of each pair's trajectories, winner and loser, (n, 2).
        prompt: row number of each pair's prompt, (n,).
        weight: how much each pair counts, (n,).
        probability: that the winner really is the better one, (n,).
        guidance: scale that they were sampled with; up to 1 there is none.
        fingerprint: names them.
        told: what the denoiser is told of each state beside the prompt, one row for all.
    """

    states: Floats
    times: Floats
    conditions: dict[str, RaggedArray]
    items: Rows
    prompt: Rows
    weight: Floats
    probability: Floats
    guidance: float
    fingerprint: str
    told: Condition = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def bucket(self) -> Rows:
        """Number of the size of each pair's latents, (n,): all are of one size."""
        return np.zeros(len(self), np.int64)

    @property
    def likely_steps(self) -> int:
        """How many steps have a likelihood: all but the last, which ends without noise."""
        return len(self.times) - 2

    def condition(self, rows: Rows) -> Condition:
        """Return the embeddings of some prompts; row -1 is the empty prompt."""
        told = {name: value.expand(len(rows), -1) for name, value in self.told.items()}
        return {name: values.read(rows) for name, values in self.conditions.items()} | told


@dataclass(frozen=True, slots=True)
class StepBatch:
    """One step of each trajectory of some pairs.

    Attributes:
        x_t: the states that the steps start from.
        x_next: the states that they led to.
        time, next_time: when, one step for both trajectories of a pair.
        condition: of the prompt that a pair shares.
        empty: of the empty prompt, where there is guidance.
        guidance: its scale.
        present: True throughout.
        liked: True throughout.
        weight: how much a pair counts.
        probability: that the winner is preferred; 0.5 is a tie.
        reference: None; a policy's likelihoods are not cached.
        certain: whether all probabilities are 1.
    """

    x_t: Float[Tensor, "k b *d"]
    x_next: Float[Tensor, "k b *d"]
    time: Float[Tensor, " b"]
    next_time: Float[Tensor, " b"]
    condition: Condition
    empty: Condition | None
    guidance: float
    present: Bool[Tensor, "k b"]
    liked: Bool[Tensor, " b"]
    weight: Float[Tensor, " b"]
    probability: Float[Tensor, " b"]
    reference: Items | None = None
    certain: bool = True

    @property
    def alone(self) -> bool:
        """Always False: these are pairs."""
        return False

    @property
    def disliked(self) -> bool:
        """Always False."""
        return False

    def item(self, index: int) -> "StepBatch":
        """Return the batch of one trajectory a pair: winners alone are item 0."""
        rows = slice(index, index + 1)
        return replace(
            self, x_t=self.x_t[rows], x_next=self.x_next[rows], present=self.present[rows]
        )

    def to(self, device: torch.device) -> "StepBatch":
        """Return the batch on a device."""
        parts = {part.name: getattr(self, part.name) for part in fields(self)}
        return StepBatch(**{name: _moved(part, device) for name, part in parts.items()})


def _moved(part: Any, device: torch.device) -> Any:
    if isinstance(part, dict):
        return {name: value.to(device) for name, value in part.items()}
    return part.to(device) if isinstance(part, Tensor) else part


def random_steps(data: Trajectories, generators: Sequence[torch.Generator]) -> Rows:
    """Return a step for each pair, which one being what the pair's generator says."""
    steps = data.likely_steps
    return np.array([int(torch.randint(steps, (), generator=each)) for each in generators])


def collate_steps(data: Trajectories, records: Rows, steps: Rows) -> StepBatch:
    """Gather one step of each pair."""
    rows = data.items[records].T
    prompts = data.prompt[records]
    guided = data.guidance > 1
    return StepBatch(
        x_t=torch.from_numpy(data.states[rows, steps]),
        x_next=torch.from_numpy(data.states[rows, steps + 1]),
        time=torch.from_numpy(data.times[steps]),
        next_time=torch.from_numpy(data.times[steps + 1]),
        condition=data.condition(prompts),
        empty=data.condition(np.full_like(prompts, -1)) if guided else None,
        guidance=data.guidance,
        present=torch.ones(rows.shape, dtype=torch.bool),
        liked=torch.ones(len(records), dtype=torch.bool),
        weight=torch.from_numpy(data.weight[records]),
        probability=torch.from_numpy(data.probability[records]),
        certain=bool((data.probability[records] == 1).all()),
    )


def measure_steps(family: Family, batch: StepBatch, reference: Reference | None = None) -> Measured:
    """Measure minus the log-likelihood of each step, as policy and as reference.

    It takes the place of an error: the smaller, the more the model would do the same. Guidance is
    part of the model here, as it was when the trajectories were sampled.
    """
    policy = -_log_likelihood(family, batch)
    base = None
    if reference is not None:
        with reference() as frozen, torch.no_grad():
            base = -_log_likelihood(frozen, batch)
    return Measured(policy, base)


def _log_likelihood(family: Family, batch: StepBatch) -> Items:
    items = batch.present.shape[0]

    def repeated(values: Tensor) -> Tensor:
        return values.expand(items, *values.shape).flatten(0, 1)

    time, then = repeated(batch.time), repeated(batch.next_time)
    condition = {name: repeated(values) for name, values in batch.condition.items()}
    empty = batch.empty
    if empty is not None:
        empty = {name: repeated(values) for name, values in empty.items()}
    x_t = batch.x_t.flatten(0, 1)
    x0, eps = estimate(family, x_t, time, condition, empty, batch.guidance)
    step = transition(family.noise_level(time), family.noise_level(then), x0, eps)
    return step.log_likelihood(batch.x_next.flatten(0, 1)).reshape(batch.present.shape)


def estimate(
    family: Family,
    x_t: Latents,
    time: Float[Tensor, " b"],
    condition: Condition,
    empty: Condition | None,
    guidance: float,
) -> tuple[Latents, Latents]:
    """Return what a model takes x0 and eps to be, under guidance where `empty` is given."""
    if empty is None:
        prediction = family.predict(x_t, time, condition).float()
    else:
        both = {name: torch.cat([empty[name], condition[name]]) for name in condition}
        said = family.predict(torch.cat([x_t, x_t]), torch.cat([time, time]), both).float()
        without, with_prompt = said.chunk(2)
        prediction = without + guidance * (with_prompt - without)
    return family.noise_level(time).split(family.target, x_t.float(), prediction)


@dataclass(frozen=True, slots=True)
class Transition:
    """A Gaussian step: every place of x_next by itself, with one width a sample."""

    mean: Latents
    std: Float[Tensor, " b"]

    def sample(self, noise: Latents) -> Latents:
        """Return where unit noise leads."""
        return self.mean + _rows(self.std, noise) * noise

    def log_likelihood(self, x_next: Latents) -> Float[Tensor, " b"]:
        """Return the logarithm of the density, as a mean over all places."""
        distance = (x_next - self.mean) / _rows(self.std, x_next)
        squares = distance.square().flatten(1).mean(1)
        return -0.5 * squares - self.std.log() - 0.5 * math.log(2 * math.pi)


def transition(now: NoiseLevel, then: NoiseLevel, x0: Latents, eps: Latents) -> Transition:
    """Return the step from one noise level to a lower one."""
    spread = now.sigma.square() - (now.alpha / then.alpha * then.sigma).square()
    variance = spread.clamp(min=0) * (then.sigma / now.sigma).square()
    along = (then.sigma.square() - variance).clamp(min=0).sqrt()
    return Transition(NoiseLevel(then.alpha, along).mix(x0, eps), variance.sqrt())


def _rows(values: Float[Tensor, " b"], like: Latents) -> Tensor:
    """Reshape one value a sample so that it multiplies whole samples."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def step_times(steps: int, shift: float = 1.0) -> Float[Tensor, " t"]:
    """Return evenly spaced times from 1 to 0, shifted as those of training are."""
    time = torch.linspace(1, 0, steps + 1)
    return shift * time / (1 + (shift - 1) * time)


@torch.no_grad()
def sample_trajectories(
    family: Family,
    start: Latents,
    condition: Condition,
    empty: Condition | None,
    times: Float[Tensor, " t"],
    guidance: float,
    generators: Sequence[torch.Generator],
) -> Float[Tensor, "b t *d"]:
    """Sample from noise to clean and return all states, the start included.

    Args:
        family: the model.
        start: unit noise.
        condition: of each sample's prompt.
        empty: of the empty prompt, for each sample; None samples without guidance.
        times: of the states, from 1 to 0.
        guidance: scale.
        generators: the noise of a sample's steps, one each, so that batches do not matter.
    """
    states = [start]
    for index in range(len(times) - 1):
        x_t, rows = states[-1], start.new_ones(len(start))
        time = times[index].item() * rows
        x0, eps = estimate(family, x_t, time, condition, empty, guidance)
        if index == len(times) - 2:
            states.append(x0)
            break
        then = family.noise_level(times[index + 1].item() * rows)
        noise = torch.stack(
            [torch.randn(start.shape[1:], generator=generator) for generator in generators]
        )
        step = transition(family.noise_level(time), then, x0, eps)
        states.append(step.sample(noise.to(start.device)))
    return torch.stack(states, 1)
