"""Samples of the policy for the prompts of some records, and what a reward says of them.

Each sample's randomness depends on seed, round, record and candidate alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vipo_cli.media import Framing, Pixels, encode_clip, encode_png
from vipo_cli.models.family import Condition
from vipo_cli.models.sample import (
    decode_latents,
    fitting_batch_size,
    sample_latents,
    size_of,
)
from vipo_cli.objectives import StepLikelihoods
from vipo_cli.rewards import Reward
from vipo_cli.training.batches import same_bucket
from vipo_cli.training.ranking import Scores
from vipo_cli.training.setup import Setup
from vipo_cli.training.trajectory import sample_trajectories, step_times

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

FRAME_RATE = 8.0
"""Frames a second of clips that rewards look at."""
SAMPLES, STARTS, ORDER = 3, 4, 5
"""Streams of random numbers, after those of training."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """What is sampled where.

    Attributes:
        folder: where it is kept.
        stage: what its progress is called.
        seed: base seed and number; that of held-out samples is 0.
        records: of the data set, for whose prompts samples are drawn.
        candidates: samples for each.
        least: records that must come of it.
        steps: denoising steps.
        guidance: guidance scale.
    """

    folder: Path
    stage: str
    seed: tuple[int, int]
    records: Rows
    candidates: int
    least: int
    steps: int
    guidance: float

    def generator(self, stream: int, record: int, candidate: int = 0) -> torch.Generator:
        """Return the source of a sample's randomness."""
        seed, number = self.seed
        entropy = np.random.SeedSequence((seed, stream, number, record, candidate))
        return torch.Generator().manual_seed(int(entropy.generate_state(1)[0]))


def blocks(setup: Setup, sampling: Sampling) -> Iterator[Rows]:
    """Yield the records in parts of one size, whose samples fill a forward pass."""
    size = max(1, fitting_batch_size(setup.family.size) // sampling.candidates)
    yield from same_bucket(setup.encoded.bucket, sampling.records, size)


def draw(setup: Setup, sampling: Sampling, records: Rows) -> dict[str, Floats]:
    """Return samples for the prompts of some records, all of one after all of another.

    Returns:
        `mean` and `noise`: clean latents and what their sampling started from; or `states`, the
        last of which is clean, for objectives on trajectories.
    """
    how = _draw_trajectories if setup.kind is StepLikelihoods else _draw_latents
    samples = [(int(record), number) for record in records for number in range(sampling.candidates)]
    size = fitting_batch_size(setup.family.size)
    parts = [
        how(setup, sampling, samples[first : first + size])
        for first in range(0, len(samples), size)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _draw_latents(
    setup: Setup, sampling: Sampling, samples: Sequence[tuple[int, int]]
) -> dict[str, Floats]:
    generators = [sampling.generator(SAMPLES, *sample) for sample in samples]
    shape = setup.encoded.shape(samples[0][0])
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    condition, empty = _conditions(setup, [record for record, _ in samples])
    latents = sample_latents(
        setup.family,
        noise.to(setup.accelerator.device),
        condition,
        empty,
        generators,
        steps=sampling.steps,
        guidance=sampling.guidance,
    )
    return {"mean": latents.cpu().numpy(), "noise": noise.numpy()}


def _draw_trajectories(
    setup: Setup, sampling: Sampling, samples: Sequence[tuple[int, int]]
) -> dict[str, Floats]:
    """Sample trajectories; those of a prompt start from the same noise and part on the way."""
    shape = setup.encoded.shape(samples[0][0])
    start = torch.stack(
        [torch.randn(shape, generator=sampling.generator(STARTS, record)) for record, _ in samples]
    )
    condition, empty = _conditions(setup, [record for record, _ in samples])
    told = told_of(setup, shape, len(samples))
    states = sample_trajectories(
        setup.family,
        start.to(setup.accelerator.device),
        condition | told,
        empty | told if sampling.guidance > 1 else None,
        step_times(sampling.steps, setup.recipe.time.shift),
        sampling.guidance,
        [sampling.generator(SAMPLES, *sample) for sample in samples],
    )
    return {"states": states.cpu().numpy()}


def encoded(pixels: Pixels) -> bytes:
    """Return a picture or a clip as the bytes of a file, nothing lost."""
    return encode_png(pixels) if pixels.ndim == 3 else encode_clip(pixels, FRAME_RATE)


def told_of(setup: Setup, shape: tuple[int, ...], count: int) -> Condition:
    """Return what the denoiser is told of samples beside their prompts: nothing was cropped."""
    size = size_of(setup.family, shape)
    framing = Framing((size.width, size.height), (0, 0), size)
    told = setup.family.media_condition([framing] * count)
    return {name: value.to(setup.accelerator.device) for name, value in told.items()}


def _conditions(setup: Setup, records: Sequence[int]) -> tuple[Condition, Condition]:
    """Return what the prompts of some records and the empty one condition on."""
    prompts = setup.encoded.prompt[list(records)]
    device = setup.accelerator.device
    condition, empty = (
        {name: values.to(device) for name, values in setup.encoded.condition(rows).items()}
        for rows in (prompts, np.full_like(prompts, -1))
    )
    return condition, empty


def score(
    setup: Setup,
    sampling: Sampling,
    reward: Reward,
    drawn: dict[str, Floats],
    texts: Sequence[str],
) -> Scores:
    """Return what the reward says of each prompt's samples, (prompts, candidates)."""
    clean = drawn["states"][:, -1] if "states" in drawn else drawn["mean"]
    prompts = [text for text in texts for _ in range(sampling.candidates)]
    size = fitting_batch_size(setup.family.size)
    scores = []
    for first in range(0, len(clean), size):
        latents = torch.from_numpy(clean[first : first + size]).to(setup.accelerator.device)
        pictures = [encoded(pixels) for pixels in decode_latents(setup.family, latents)]
        scores.append(reward.score(pictures, prompts[first : first + size]))
    return np.concatenate(scores).astype(np.float64).reshape(len(texts), -1)
