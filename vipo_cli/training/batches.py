"""Batches of a run: what it learns from at each position, and what it is measured on."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from vipo_cli.training.cache import EncodedData
from vipo_cli.training.draw import (
    FIXED,
    HELD_OUT,
    TRAINING,
    Place,
    collate,
    inverted,
    move,
    order,
    sample_generator,
)
from vipo_cli.training.setup import Setup
from vipo_cli.training.step import Batch
from vipo_cli.training.trajectory import StepBatch, Trajectories, collate_steps, random_steps

HELD_OUT_DRAWS = 4
"""Fixed times and noises that each held-out record is measured at."""

Rows = NDArray[np.int64]


def training_batch(setup: Setup, positions: list[int]) -> Batch | StepBatch:
    """Return the records at some positions of the run's endless stream, in ascending order."""
    recipe = setup.recipe
    place = _place(setup, range(positions[0], positions[-1] + 1))
    chosen = [position - positions[0] for position in positions]
    records, epochs = place.records[chosen], place.epochs[chosen]
    if recipe.noise.draws is not None:
        return fixed_batch(setup, records, epochs % recipe.noise.draws)
    generators = [sample_generator(recipe.run.seed, TRAINING, position) for position in positions]
    if isinstance(setup.data, Trajectories):
        steps = random_steps(setup.data, generators)
        return collate_steps(setup.data, records, steps).to(setup.accelerator.device)
    return _batch(setup, setup.data, records, generators, setup.items, training=True)


def fixed_batch(setup: Setup, records: Rows, draws: Rows) -> Batch:
    """Return records at fixed draws of theirs, with the reference's errors where cached."""
    count = setup.recipe.noise.draws
    assert count is not None
    assert isinstance(setup.data, EncodedData)
    generators = [
        sample_generator(setup.recipe.run.seed, FIXED, int(record) * count + int(draw))
        for record, draw in zip(records, draws, strict=True)
    ]
    batch = _batch(setup, setup.data, records, generators, setup.items, training=True)
    if setup.cached is None:
        return batch
    known = torch.from_numpy(setup.cached[records, draws].T.copy())
    return batch.with_reference(known.to(setup.accelerator.device))


def micro_batches(setup: Setup, step: int, micro: int) -> list[list[int]]:
    """Return the positions of this process's micro-batches of an update.

    Every process has as many, since with sharded weights they must all go forward together.
    """
    size, accelerator = setup.recipe.optimizer.batch_size, setup.accelerator
    positions = range(step * size, (step + 1) * size)
    buckets = setup.data.bucket[_place(setup, positions).records]
    chunks = deal(buckets, accelerator.num_processes, micro)
    own = chunks[accelerator.process_index :: accelerator.num_processes]
    return [[positions[place] for place in chunk] for chunk in own]


def deal(buckets: Rows, processes: int, micro: int) -> list[list[int]]:
    """Cut places into chunks of one bucket and of at most `micro`, a multiple of `processes`.

    Args:
        buckets: of each place, (n,); n is a multiple of `processes`.
        processes: that get as many chunks each.
        micro: most places in a chunk.
    """
    groups = [np.flatnonzero(buckets == bucket) for bucket in np.unique(buckets)]
    counts = [-(-len(group) // micro) for group in groups]
    while sum(counts) % processes:
        largest = max(range(len(groups)), key=lambda number: len(groups[number]) / counts[number])
        counts[largest] += 1
    return [
        part.tolist()
        for group, count in zip(groups, counts, strict=True)
        for part in np.array_split(group, count)
    ]


def same_bucket(buckets: Rows, records: Rows, size: int) -> Iterator[Rows]:
    """Yield records in parts of one bucket, `size` at most; within a bucket in their order."""
    own = buckets[records]
    for bucket in dict.fromkeys(own.tolist()):
        group = records[own == bucket]
        for first in range(0, len(group), size):
            yield group[first : first + size]


def _place(setup: Setup, positions: range) -> Place:
    """Return the records at some positions of the run's endless stream."""
    start = setup.round_start * setup.recipe.optimizer.batch_size
    seed = (setup.recipe.run.seed, setup.round) if setup.round else (setup.recipe.run.seed,)
    return order(setup.train, range(positions.start - start, positions.stop - start), seed)


def held_out_batch(setup: Setup, first: int, last: int, draw: int) -> Batch | StepBatch:
    """Return held-out records of one bucket at a draw that is the same whatever the run's seed.

    Of trajectories, draw i is step i.
    """
    assert setup.held_out is not None
    records, data = setup.held_out.records[first:last], setup.held_out.data
    if isinstance(data, Trajectories):
        return collate_steps(data, records, np.full(len(records), draw)).to(
            setup.accelerator.device
        )
    start = draw * len(setup.held_out.records) + first
    generators = [
        sample_generator(0, HELD_OUT, position) for position in range(start, start + len(records))
    ]
    return _batch(setup, data, records, generators, data.items.shape[1], training=False)


def held_out_slices(setup: Setup, size: int) -> Iterator[slice]:
    """Yield the held-out records in parts of one bucket, `size` at most; they lie in that order."""
    assert setup.held_out is not None
    first = 0
    for part in same_bucket(setup.held_out.data.bucket, setup.held_out.records, size):
        yield slice(first, first + len(part))
        first += len(part)


def held_out_draws(setup: Setup) -> int:
    """Return how many draws held-out records are measured at: every step of trajectories."""
    assert setup.held_out is not None
    data = setup.held_out.data
    return data.likely_steps if isinstance(data, Trajectories) else HELD_OUT_DRAWS


def _batch(
    setup: Setup,
    data: EncodedData,
    records: Rows,
    generators: list[torch.Generator],
    items: int,
    *,
    training: bool,
) -> Batch:
    recipe, device = setup.recipe, setup.accelerator.device
    dropout = recipe.data.caption_dropout if training else 0.0
    batch = move(
        collate(recipe, data, records, generators, items=items, caption_dropout=dropout), device
    )
    if recipe.noise.source == "inverted":
        assert setup.base is not None
        with setup.accelerator.autocast():
            return inverted(batch, setup.base, recipe.noise.inversion_steps)
    return batch
