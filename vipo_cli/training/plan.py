"""What a run will cost: `vipo train --dry-run`.

A small model is tried for a few real steps on random latents. What a large one needs is counted on
paper, without reading its weights, and set against how fast this device multiplies matrices.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from vipo_cli.data.record import Record
from vipo_cli.data.sources import opening
from vipo_cli.models import Family, find_model, load_family, open_family
from vipo_cli.recipe import Recipe
from vipo_cli.run import Progress, Work
from vipo_cli.training.adapters import check_adapters
from vipo_cli.training.buckets import buckets_of
from vipo_cli.training.cost import Encodings, encodings, stand_in, trial
from vipo_cli.training.devices import refuse_uneven, start_accelerator
from vipo_cli.training.loop import update
from vipo_cli.training.memory import Fit, choose, is_small, standing
from vipo_cli.training.reference import trainable
from vipo_cli.training.setup import assemble, frozen_type
from vipo_cli.training.train import peak_memory_bytes

TRIAL_STEPS = 3
ENCODED = 8
EFFICIENCY = 0.4
"""Share of the speed of a large matrix product that training reaches, as a rule: UNets 30 to 45 %,
transformers 40 to 50 %."""
SIDE = 4096
"""Rows and columns of the matrices that are multiplied to see how fast a device is; half on a CPU.
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will train, read and cost.

    Attributes:
        trained_parameters, parameters: of the denoiser, and how many of them are trained.
        pairs: records of the data, opened and not read.
        steps, epochs: updates, and how often each record is seen.
        how: `measured` in trial steps, or `estimated` from counts.
        flops: floating-point operations for a record's share of an update.
        throughput: operations a second of a matrix product on this device; None where measured.
        micro_batch: records that go through the model at once.
        checkpointing: whether activations are computed again.
        seconds_per_step, encoding_seconds, sampling_seconds, seconds: of one update, of encoding
            the data, of what a loop samples, and of all.
        memory: bytes at the peak, by part; in all where measured.
        available_bytes: free for it; None where it was not asked.
        cache_bytes: on disk, at most.
        samples: pictures that a loop lets the model draw.
        processes: that share all of it but the encoding; memory is that of one.
    """

    trained_parameters: int
    parameters: int
    pairs: int
    steps: int
    epochs: float
    how: str
    flops: int
    throughput: float | None
    micro_batch: int
    checkpointing: bool
    seconds_per_step: float
    encoding_seconds: float
    sampling_seconds: float
    seconds: float
    memory: dict[str, int]
    available_bytes: int | None
    cache_bytes: int
    samples: int
    processes: int

    @property
    def peak_memory_bytes(self) -> int:
        """All parts together."""
        return sum(self.memory.values())

    @property
    def pairs_per_second(self) -> float:
        """While updates are made."""
        return self.epochs * self.pairs / self.steps / self.seconds_per_step

    def document(self, recipe: Recipe) -> dict[str, Any]:
        """Return the JSON document."""
        derived = ("peak_memory_bytes", "pairs_per_second")
        plan = {key: getattr(self, key) for key in (*self.__slots__, *derived)}
        return {"recipe": recipe.model_dump(), "plan": plan}

    def text(self, recipe: Recipe) -> str:
        """Return the recipe as YAML and the plan as comments below it."""
        share = self.trained_parameters / self.parameters
        kept = "computed again" if self.checkpointing else "kept"
        lines = [
            f"trains    {self.trained_parameters:,} parameters, {share:.1%} of {self.parameters:,}",
            f"reads     {self.pairs:,} pairs, {self.epochs:.1f} times over in {self.steps:,} steps",
            f"computes  {self.flops / 1e12:.3g} TFLOP a pair, {self.micro_batch} at once, "
            f"activations {kept}",
            f"time      about {_clock(self.seconds)}: {_clock(self.encoding_seconds)} to encode, "
            f"{self.seconds_per_step:.2f} s a step ({self.pairs_per_second:.3g} pairs/s)",
            f"memory    {self._memory()}",
            f"cache     at most {self.cache_bytes / 1e6:,.0f} MB on disk",
        ]
        if self.samples:
            lines.append(
                f"samples   {self.samples:,} pictures that the model draws itself, "
                f"{_clock(self.sampling_seconds)} of the time"
            )
        if self.processes > 1:
            lines.append(
                f"processes {self.processes}, each with "
                f"{recipe.optimizer.batch_size // self.processes} pairs of a batch; memory is that "
                "of one, and what they exchange is not in the time"
            )
        lines.append(f"how       {self._how()}")
        lines.append("not seen  whether pictures are broken: vipo data check")
        return recipe.to_yaml() + "".join(f"# {line}\n" for line in lines)

    def _memory(self) -> str:
        parts = [f"{name} {size / 1e9:.1f}" for name, size in self.memory.items() if size > 5e7]
        free = self.available_bytes
        against = "" if free is None else f" of the {free / 1e9:.1f} GB that are free"
        by_part = f": {', '.join(parts)}" if len(self.memory) > 1 else ""
        return f"about {self.peak_memory_bytes / 1e9:.1f} GB at the peak{against}{by_part}"

    def _how(self) -> str:
        if self.throughput is None:
            return f"measured here, in {TRIAL_STEPS} trial steps"
        return (
            f"operations counted; time at {EFFICIENCY:.0%} of the "
            f"{self.throughput / 1e12:.3g} TFLOP/s of a matrix product here"
        )


def plan(recipe: Recipe, processes: int = 1) -> Work[Plan]:
    """Say what a recipe will cost on this machine; nothing is written.

    Of several processes only one is tried, with its share of a batch: what they exchange is not
    seen.

    Raises:
        RecipeError: a batch that cannot be shared out evenly.
        VipoError: data, model or adapters that cannot be used, or an update that does not fit.
    """
    refuse_uneven(recipe.optimizer.batch_size, processes)
    pairs = yield from opening(recipe.data.name, recipe.data.parameters)
    yield Progress("counting", 0, 1)
    accelerator = start_accelerator(recipe)
    family = open_family(recipe.model.name)
    family.guidance = recipe.model.guidance
    size = buckets_of(family, recipe.data).sizes[0]
    looks = encodings(family, size, frozen_type(recipe))
    start = check_adapters(recipe, family)
    team = SimpleNamespace(device=accelerator.device, num_processes=processes)
    fit = choose(recipe, family, looks, 2, team, start)
    if is_small(family):
        return (yield from _tried(recipe, pairs, looks, fit, accelerator, processes))
    throughput = matrix_throughput(accelerator.device, frozen_type(recipe))
    return _estimated(recipe, pairs, looks, fit, throughput, processes)


def _estimated(
    recipe: Recipe,
    pairs: Sequence[Record],
    looks: Encodings,
    fit: Fit,
    throughput: float,
    processes: int,
) -> Plan:
    """Set what was counted against the speed of a device."""
    cost = fit.cost
    assert cost is not None
    speed = throughput * EFFICIENCY
    batch, steps = recipe.optimizer.batch_size, recipe.run.steps
    per_step = cost.record_flops * batch / processes / speed
    encoding = (2 * looks.media_flops + looks.prompt_flops) * len(pairs) / speed
    samples, passes = _samples(recipe), _passes(recipe)
    sampling = samples * passes * cost.forward_flops / speed / processes
    parts = standing(recipe, cost, processes)
    parts["activations"] += cost.each * fit.micro_batch
    return Plan(
        trained_parameters=cost.trained,
        parameters=cost.parameters,
        pairs=len(pairs),
        steps=steps,
        epochs=steps * batch / len(pairs),
        how="estimated",
        flops=cost.record_flops,
        throughput=throughput,
        micro_batch=fit.micro_batch,
        checkpointing=fit.checkpointing,
        seconds_per_step=per_step,
        encoding_seconds=encoding,
        sampling_seconds=sampling,
        seconds=per_step * steps + encoding + sampling,
        memory=parts | {"margin": (fit.needed or 0) - sum(parts.values())},
        available_bytes=fit.available,
        cache_bytes=_cache_bytes(looks, len(pairs)),
        samples=samples,
        processes=processes,
    )


def _tried(
    recipe: Recipe,
    pairs: Sequence[Record],
    looks: Encodings,
    fit: Fit,
    accelerator: Any,
    processes: int,
) -> Work[Plan]:
    """Make a few steps with a process's share of random latents and extrapolate."""
    yield Progress("loading the model", 0, 1)
    cost = fit.cost
    assert cost is not None
    family = load_family(recipe.model.name, recipe.model.precision)
    each = _encoding_seconds(family, looks)
    batch, steps = recipe.optimizer.batch_size, recipe.run.steps
    share = batch // processes
    own = trial(_live(_with_batch(recipe, share)))
    setup = assemble(own, family, stand_in(looks, share, 2), accelerator)
    taken = []
    for step in range(TRIAL_STEPS):
        taken.append(update(setup, step).record().seconds)
        yield Progress("trial steps", step + 1, TRIAL_STEPS)
    per_step = float(np.median(taken[1:]))
    encoding, samples = each * 2 * len(pairs), _samples(recipe)
    forward = per_step / share * cost.forward_flops / cost.record_flops
    sampling = samples * _passes(recipe) * forward / processes
    return Plan(
        trained_parameters=sum(value.numel() for value in trainable(setup.family).values()),
        parameters=cost.parameters,
        pairs=len(pairs),
        steps=steps,
        epochs=steps * batch / len(pairs),
        how="measured",
        flops=cost.record_flops,
        throughput=None,
        micro_batch=fit.micro_batch,
        checkpointing=fit.checkpointing,
        seconds_per_step=per_step,
        encoding_seconds=encoding,
        sampling_seconds=sampling,
        seconds=per_step * steps + encoding + sampling,
        memory={"all": peak_memory_bytes()},
        available_bytes=None,
        cache_bytes=_cache_bytes(looks, len(pairs)),
        samples=samples,
        processes=processes,
    )


def _with_batch(recipe: Recipe, size: int) -> Recipe:
    smaller = recipe.optimizer.model_copy(update={"batch_size": size})
    return recipe.model_copy(update={"optimizer": smaller})


def _live(recipe: Recipe) -> Recipe:
    """Return the recipe with a reference that is computed: random latents have none cached."""
    if recipe.reference.kind != "cached":
        return recipe
    live = recipe.reference.model_copy(update={"kind": "base", "path": None})
    return recipe.model_copy(update={"reference": live})


@torch.no_grad()
def _encoding_seconds(family: Family, looks: Encodings) -> float:
    """Return how long one picture or clip takes to encode."""
    count = ENCODED if looks.size.frames == 1 else 1
    pixels = torch.zeros(count, 3, *looks.size.shape)
    started = time.perf_counter()
    family.encode_media(pixels)
    return (time.perf_counter() - started) / count


def _cache_bytes(looks: Encodings, pairs: int) -> int:
    return pairs * (2 * looks.bytes_a_picture + looks.bytes_a_prompt)


def _samples(recipe: Recipe) -> int:
    loop = recipe.loop
    if loop.kind == "offline":
        return 0
    candidates = 1 if loop.kind == "spin" else loop.candidates
    return candidates * (loop.rounds * loop.prompts + recipe.data.held_out)


def _passes(recipe: Recipe) -> int:
    """Return how many forward passes a sample takes."""
    spec = find_model(recipe.model.name)
    steps = recipe.loop.sampling_steps or spec.sampling_steps
    guidance = spec.guidance if recipe.loop.guidance is None else recipe.loop.guidance
    return steps * (2 if guidance > 1 else 1)


def matrix_throughput(device: torch.device, dtype: torch.dtype) -> float:
    """Return how many operations a second a large matrix product does on a device."""
    side = SIDE if device.type == "cuda" else SIDE // 2
    one = torch.randn(side, side, device=device, dtype=dtype)
    best = 0.0
    for _ in range(4):  # the first one warms up
        started = time.perf_counter()
        (one @ one)[0, 0].item()
        best = max(best, 2 * side**3 / (time.perf_counter() - started))
    return best


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"{minutes:.0f} min"
    hours = minutes / 60
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"
