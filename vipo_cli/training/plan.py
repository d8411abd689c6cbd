"""What a run will cost, from a few real steps on random latents: `vipo train --dry-run`."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vipo_cli.data.sources import open_pairs
from vipo_cli.models import Family, load_family
from vipo_cli.recipe import Recipe
from vipo_cli.run import Progress, Work
from vipo_cli.training.adapters import check_adapters
from vipo_cli.training.arrays import RaggedArray
from vipo_cli.training.cache import EncodedData
from vipo_cli.training.devices import start_accelerator
from vipo_cli.training.loop import update
from vipo_cli.training.reference import trainable
from vipo_cli.training.setup import assemble
from vipo_cli.training.train import peak_memory_bytes

TRIAL_STEPS = 3
ENCODED = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will train, read and cost; time and memory as measured in a trial here.

    `samples` are the pictures that a loop lets the model draw; their time is not counted.
    """

    trained_parameters: int
    parameters: int
    pairs: int
    steps: int
    epochs: float
    seconds_per_step: float
    encoding_seconds: float
    seconds: float
    peak_memory_bytes: int
    cache_bytes: int
    samples: int

    def document(self, recipe: Recipe) -> dict[str, Any]:
        """Return the JSON document."""
        plan = {key: getattr(self, key) for key in self.__slots__}
        return {"recipe": recipe.model_dump(), "plan": plan}

    def text(self, recipe: Recipe) -> str:
        """Return the recipe as YAML and the plan as comments below it."""
        share = self.trained_parameters / self.parameters
        lines = [
            f"trains    {self.trained_parameters:,} parameters, {share:.1%} of {self.parameters:,}",
            f"reads     {self.pairs:,} pairs, {self.epochs:.1f} times over in {self.steps:,} steps",
            f"time      about {_clock(self.seconds)}: {_clock(self.encoding_seconds)} to encode, "
            f"{self.seconds_per_step:.2f} s a step",
            f"memory    about {self.peak_memory_bytes / 1e9:.1f} GB at the peak",
            f"cache     at most {self.cache_bytes / 1e6:.0f} MB on disk",
        ]
        if self.samples:
            lines.append(
                f"samples   {self.samples:,} pictures that the model draws itself, "
                "not counted in the time"
            )
        return recipe.to_yaml() + "".join(f"# {line}\n" for line in lines)


def plan(recipe: Recipe) -> Work[Plan]:
    """Try a recipe on random latents for a few steps and extrapolate; nothing is written."""
    pairs = open_pairs(recipe.data.name, recipe.data.parameters)
    yield Progress("loading the model", 0, 1)
    accelerator = start_accelerator(recipe)
    family = load_family(recipe.model.name)
    parameters = sum(value.numel() for value in family.denoiser.parameters())
    encoded, seconds_each = _stand_in(family, recipe.optimizer.batch_size)
    start = check_adapters(recipe, family)
    setup = assemble(_trial(recipe), family, encoded, accelerator, start)
    taken = []
    for step in range(TRIAL_STEPS):
        taken.append(update(setup, step).record().seconds)
        yield Progress("trial steps", step + 1, TRIAL_STEPS)
    per_step = float(np.median(taken[1:]))
    pictures = len(pairs) * setup.items
    encoding = seconds_each * pictures
    picture_bytes = 8 * int(np.prod(encoded.shape(0)))
    prompt_bytes = sum(4 * int(np.prod(values.shape(0))) for values in encoded.conditions.values())
    return Plan(
        trained_parameters=sum(value.numel() for value in trainable(setup.family).values()),
        parameters=parameters,
        pairs=len(pairs),
        steps=recipe.run.steps,
        epochs=recipe.run.steps * recipe.optimizer.batch_size / len(pairs),
        seconds_per_step=per_step,
        encoding_seconds=encoding,
        seconds=per_step * recipe.run.steps + encoding,
        peak_memory_bytes=peak_memory_bytes(),
        cache_bytes=pictures * picture_bytes + len(pairs) * prompt_bytes,
        samples=_samples(recipe),
    )


def _samples(recipe: Recipe) -> int:
    loop = recipe.loop
    if loop.kind == "offline":
        return 0
    candidates = 1 if loop.kind == "spin" else loop.candidates
    return candidates * (loop.rounds * loop.prompts + recipe.data.held_out)


def _trial(recipe: Recipe) -> Recipe:
    """Return the recipe for random latents: what depends on the data is left out."""
    changes = {
        "data": recipe.data.model_copy(update={"held_out": 0}),
        "loop": recipe.loop.model_copy(update={"kind": "offline"}),
        "reference": recipe.reference.model_copy(
            update={"kind": "base"} if recipe.reference.kind == "cached" else {}
        ),
        "noise": recipe.noise.model_copy(
            update={"source": "shared"} if recipe.noise.source == "stored" else {}
        ),
    }
    return recipe.model_copy(update=changes)


@torch.no_grad()
def _stand_in(family: Family, count: int) -> tuple[EncodedData, float]:
    """Return random latents and prompts of the right shapes, and the seconds for one picture."""
    device = next(family.denoiser.parameters()).device
    pixels = torch.zeros(ENCODED, 3, *family.size.shape, device=device)
    started = time.perf_counter()
    mean, _ = family.encode_media(pixels)
    seconds = (time.perf_counter() - started) / ENCODED
    shape = (2 * count, *mean.shape[1:])
    latents = np.random.default_rng(0).standard_normal(shape, np.float32)
    conditions = {
        name: value.float().cpu().numpy() for name, value in family.encode_prompts([""]).items()
    }
    rows = np.arange(count)
    encoded = EncodedData.of_latents(
        RaggedArray.of(latents),
        {name: RaggedArray.of(values) for name, values in conditions.items()},
        np.stack([rows, rows + count], 1),
        np.zeros(count, np.int64),
        fingerprint="trial",
    )
    return encoded, seconds


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
