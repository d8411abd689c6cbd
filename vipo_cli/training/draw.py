"""The randomness of a step: which records, at which times, mixed with which noise.

Every record's numbers come from a generator of its own, which depends on the run's seed, on what
the numbers are for, and on the record's place in the order. So results depend neither on batches
nor on processes, and a step can be replayed alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from vipo_cli.models.family import Condition
from vipo_cli.recipe.sections import Recipe, Time
from vipo_cli.training.cache import EncodedData
from vipo_cli.training.step import Batch, Reference

TRAINING, HELD_OUT, FIXED = 0, 1, 2
"""Streams of random numbers."""


def sample_generator(seed: int, stream: int, position: int) -> torch.Generator:
    """Return the generator of one record."""
    state = np.random.SeedSequence((seed, stream, position)).generate_state(1)[0]
    return torch.Generator().manual_seed(int(state))


def time_at(section: Time, u: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
    """Turn uniform numbers in [0, 1) into times: the quantile function of the sampler."""
    if section.sampler == "list":
        assert section.values is not None
        values = torch.tensor(section.values, dtype=u.dtype)
        return values[(u * len(values)).long()]
    if section.sampler == "uniform" and section.shift == 1:
        return section.low + (section.high - section.low) * u
    low, high = (_unshifted(bound, section.shift) for bound in (section.low, section.high))
    if section.sampler == "uniform":
        time = low + (high - low) * u
    else:  # the part of the distribution between the bounds
        bounds = torch.tensor([low, high], dtype=torch.float64)
        first, last = torch.special.ndtr((bounds.logit() - section.mean) / section.std)
        normal = torch.special.ndtri(first + (last - first) * u.double())
        time = (section.mean + section.std * normal).sigmoid().to(u.dtype)
    shifted = section.shift * time / (1 + (section.shift - 1) * time)
    return shifted.clamp(section.low, section.high)


def _unshifted(time: float, shift: float) -> float:
    return time / (shift - (shift - 1) * time)


@dataclass(frozen=True, slots=True)
class Place:
    """Records at some positions of the endless stream, and how often each was passed before."""

    records: NDArray[np.int64]
    epochs: NDArray[np.int64]


def order(train: NDArray[np.int64], positions: range, seed: Sequence[int]) -> Place:
    """Return the records at some positions; each epoch has an order of its own."""
    size = len(train)
    records = np.empty(len(positions), np.int64)
    epochs = np.arange(positions.start, positions.stop) // size
    for epoch in range(positions.start // size, (positions.stop - 1) // size + 1):
        shuffled = _shuffled(size, (seed[0], epoch, *seed[1:]))
        first, last = max(positions.start, epoch * size), min(positions.stop, (epoch + 1) * size)
        records[first - positions.start : last - positions.start] = shuffled[
            first - epoch * size : last - epoch * size
        ]
    return Place(train[records], epochs)


@lru_cache(maxsize=2)
def _shuffled(size: int, seed: tuple[int, ...]) -> NDArray[np.int64]:
    return np.random.default_rng(seed).permutation(size)


def collate(
    recipe: Recipe,
    data: EncodedData,
    records: NDArray[np.int64],
    generators: Sequence[torch.Generator],
    *,
    items: int,
    caption_dropout: float = 0.0,
) -> Batch:
    """Gather records with the time, noise and samples of their posteriors that generators give.

    Args:
        recipe: how times and noise are drawn.
        data: where the records stand.
        records: their numbers; their pictures are of one size.
        generators: one each.
        items: how many items of each record, the best first.
        caption_dropout: share of records that get the empty prompt.
    """
    shape = data.shape(int(records[0]))
    fresh = items if recipe.noise.source == "independent" else 1
    times, dropped, eps, posterior = [], [], [], []
    for generator in generators:
        times.append(torch.rand((), generator=generator))
        noise = torch.randn((fresh + items, *shape), generator=generator)
        eps.append(noise[:fresh])
        posterior.append(noise[fresh:])
        dropped.append(torch.rand((), generator=generator).item())
    rows = data.items[records, :items]
    prompts = np.where(np.array(dropped) < caption_dropout, -1, data.prompt[records])
    x0 = torch.stack(
        [data.latents(rows[:, i], torch.stack([p[i] for p in posterior])) for i in range(items)]
    )
    mixed = torch.stack(eps, 1)
    if recipe.noise.source == "stored":
        mixed = _stored(data, records, items)
    region = None
    if len(data.regions):
        region = torch.stack(
            [data.region(data.region_rows[records, i], shape) for i in range(items)]
        )
    return Batch(
        x0=x0,
        eps=mixed.expand(items, *mixed.shape[1:]),
        present=torch.from_numpy(rows >= 0).T,
        time=time_at(recipe.time, torch.stack(times)),
        condition=data.condition(prompts),
        liked=torch.from_numpy(data.liked[records]),
        weight=torch.from_numpy(data.weight[records]),
        probability=torch.from_numpy(data.probability[records]),
        region=region,
        media_condition=_told(data, rows),
        here=None if (rows >= 0).all() else rows.T >= 0,
        certain=bool((data.probability[records] == 1).all()),
        disliked=not data.liked[records].all(),
    )


def _told(data: EncodedData, rows: NDArray[np.int64]) -> Condition:
    """Return what the denoiser is told of each item, (k, b, ...); absent ones repeat the last."""
    if not data.media_conditions:
        return {}
    each = [data.media_condition(column) for column in rows.T]
    return {name: torch.stack([told[name] for told in each]) for name in each[0]}


def _stored(data: EncodedData, records: NDArray[np.int64], items: int) -> Tensor:
    """Return the noise that the items were sampled from."""
    if data.noise is not None:
        return torch.stack([data.noise.read(rows) for rows in data.items[records, :items].T])
    shape = data.shape(int(records[0]))
    return torch.stack(
        [
            torch.stack(
                [
                    torch.randn(shape, generator=torch.Generator().manual_seed(int(seed)))
                    for seed in seeds
                ]
            )
            for seeds in data.noise_seeds[records, :items].T
        ]
    )


def move(batch: Batch, device: torch.device) -> Batch:
    """Return the batch on a device."""
    parts = {
        name: getattr(batch, name)
        for name in Batch.__slots__
        if isinstance(getattr(batch, name), Tensor)
    }
    return replace(
        batch,
        **{name: value.to(device, non_blocking=True) for name, value in parts.items()},
        condition=_moved(batch.condition, device),
        media_condition=_moved(batch.media_condition, device),
    )


def _moved(condition: Condition, device: torch.device) -> Condition:
    return {name: value.to(device, non_blocking=True) for name, value in condition.items()}


@torch.no_grad()
def inverted(batch: Batch, reference: Reference, steps: int) -> Batch:
    """Replace the noise by what DDIM inversion with the reference finds for each item.

    From the clean latents the reference's own predictions lead up to the batch's times; the noise
    is what then takes the place of eps (InPO, SmPO; those invert with the policy as it is, which
    makes the noise a moving one).
    """
    items, records = batch.present.shape
    x0 = batch.x0.flatten(0, 1)
    time = batch.time.repeat(items)
    condition = {
        **{
            name: value.repeat(items, *[1] * (value.ndim - 1))
            for name, value in batch.condition.items()
        },
        **{name: value.flatten(0, 1) for name, value in batch.media_condition.items()},
    }
    x_t = x0
    with reference() as family:
        for step in range(steps):
            now = time * step / steps
            prediction = family.predict(x_t, now, condition)
            clean, eps = family.noise_level(now).split(family.target, x_t, prediction.float())
            x_t = family.noise_level(time * (step + 1) / steps).mix(clean, eps)
        level = family.noise_level(time)
    alpha, sigma = (value.reshape(-1, *[1] * (x0.ndim - 1)) for value in (level.alpha, level.sigma))
    noise = (x_t - alpha * x0) / sigma
    return replace(batch, eps=noise.reshape(items, records, *noise.shape[1:]))
