"""The loop: a generator of step records, for whoever draws, lists or plots them."""

import math
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from vipo_cli.analysis.intervals import clustered_mean
from vipo_cli.errors import TrainingDiverged
from vipo_cli.run import append_line
from vipo_cli.training import checkpoint
from vipo_cli.training.setup import Setup, learning_rate
from vipo_cli.training.step import Draw, PairBatch, pair_errors, sample_errors, sample_generator

TRAINING, HELD_OUT = 0, 1
"""Streams of random numbers."""
HELD_OUT_DRAWS = 4
FIRST_STEPS = 20
EXPLODED = 10.0
"""A prediction error this many times the largest of the first steps ends a run."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What one update did; the means are over its pairs.

    `margin` is how much more the policy gained on winners than on losers, in units of error;
    `implicit_accuracy` the share of pairs with a positive one, ties counted half. They and the
    errors on losers and of the reference are None for objectives that see winners alone.
    """

    step: int
    loss: float
    implicit_accuracy: float | None
    margin: float | None
    policy_w: float
    policy_l: float | None
    reference_w: float | None
    reference_l: float | None
    gradient_norm: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True, slots=True)
class HeldOut:
    """How the policy does on pairs that it never learnt from.

    Attributes:
        metric: `implicit_accuracy`, or `error` for objectives that see winners alone.
        value: its mean.
        ci95: interval from resampling prompts.
        n: pairs measured, each at several fixed times and noises.
    """

    metric: str
    value: float
    ci95: tuple[float, float]
    n: int


def order(setup: Setup, positions: range) -> NDArray[np.int64]:
    """Return the pairs at some positions of the endless stream; each epoch has its own order."""
    size = len(setup.train)
    pairs = np.empty(len(positions), np.int64)
    for epoch in range(positions.start // size, (positions.stop - 1) // size + 1):
        shuffled = np.random.default_rng((setup.recipe.run.seed, epoch)).permutation(size)
        first, last = max(positions.start, epoch * size), min(positions.stop, (epoch + 1) * size)
        pairs[first - positions.start : last - positions.start] = shuffled[
            first - epoch * size : last - epoch * size
        ]
    return setup.train[pairs]


def draw_batch(
    setup: Setup, pairs: NDArray[np.int64], seed: int, stream: int, positions: range
) -> tuple[PairBatch, Draw]:
    """Collate some pairs with their randomness, each from its own generator."""
    shape = setup.pairs.mean.shape[1:]
    times, eps, noise_w, noise_l, dropped = [], [], [], [], []
    for position in positions:
        generator = sample_generator(seed, stream, position)
        times.append(torch.rand((), generator=generator))
        noise = torch.randn((3, *shape), generator=generator)
        eps.append(noise[0])
        noise_w.append(noise[1])
        noise_l.append(noise[2])
        dropped.append(torch.rand((), generator=generator).item())
    recipe, device = setup.recipe, setup.accelerator.device
    prompts = setup.pairs.prompt[pairs]
    if stream == TRAINING:
        prompts = np.where(np.array(dropped) < recipe.data.caption_dropout, -1, prompts)
    x0_w = setup.pairs.latents(setup.pairs.winner[pairs], torch.stack(noise_w))
    x0_l = None
    if setup.on_pairs:
        x0_l = setup.pairs.latents(setup.pairs.loser[pairs], torch.stack(noise_l)).to(device)
    condition = {name: value.to(device) for name, value in setup.pairs.condition(prompts).items()}
    low, high = recipe.time.low, recipe.time.high
    time = low + (high - low) * torch.stack(times)
    return (
        PairBatch(x0_w.to(device), x0_l, condition),
        Draw(time.to(device), torch.stack(eps).to(device)),
    )


def losses(
    setup: Setup, batch: PairBatch, draw: Draw
) -> tuple[Float[Tensor, " b"], Float[Tensor, "b metrics"]]:
    """Return each pair's loss, and its detached errors and margin for the records."""
    with setup.accelerator.autocast():
        if setup.on_pairs:
            assert setup.reference is not None
            errors = pair_errors(setup.family, setup.reference(), batch, draw)
            metrics = [errors.policy_w, errors.policy_l, errors.reference_w, errors.reference_l]
            metrics += [errors.margin, (errors.margin.sign() + 1) / 2]
            loss = setup.objective(errors)
        else:
            single = sample_errors(setup.family, batch, draw)
            metrics, loss = [single.policy], setup.objective(single)
    return loss, torch.stack([loss, *metrics], 1).detach()


def update(setup: Setup, step: int) -> StepRecord:
    """Make one update of the weights; `step` counts from 0."""
    started = time.perf_counter()
    accelerator, optimizer, recipe = setup.accelerator, setup.optimizer, setup.recipe
    size = recipe.optimizer.batch_size
    share = range(step * size, (step + 1) * size)[
        accelerator.process_index :: accelerator.num_processes
    ]
    micro = recipe.optimizer.micro_batch or size
    rate = learning_rate(recipe, step)
    for group in optimizer.param_groups:
        group["lr"] = rate

    everything = order(setup, range(step * size, (step + 1) * size))
    collected = []
    for start in range(0, len(share), micro):
        positions = share[start : start + micro]
        pairs = everything[[position - step * size for position in positions]]
        batch, draw = draw_batch(setup, pairs, recipe.run.seed, TRAINING, positions)
        last = start + micro >= len(share)
        with _synchronised(setup, last):
            loss, metrics = losses(setup, batch, draw)
            accelerator.backward(loss.sum() * accelerator.num_processes / size)
        collected.append(metrics)
    weights = [value for value in setup.family.denoiser.parameters() if value.requires_grad]
    norm = accelerator.clip_grad_norm_(weights, recipe.optimizer.max_gradient_norm)
    optimizer.step()
    optimizer.zero_grad()
    _move_average(setup, step)

    mean = accelerator.gather_for_metrics(torch.cat(collected)).mean(0)
    values = [float(value) for value in torch.cat([mean, norm.reshape(1)]).tolist()]
    loss_value, policy_w, gradient_norm = values[0], values[1], values[-1]
    pair_values: list[float | None] = list(values[2:-1]) if setup.on_pairs else [None] * 5
    policy_l, reference_w, reference_l, margin, accuracy = pair_values
    return StepRecord(
        step=step + 1,
        loss=loss_value,
        implicit_accuracy=accuracy,
        margin=margin,
        policy_w=policy_w,
        policy_l=policy_l,
        reference_w=reference_w,
        reference_l=reference_l,
        gradient_norm=gradient_norm,
        learning_rate=rate,
        seconds=time.perf_counter() - started,
    )


def _synchronised(setup: Setup, last: bool) -> AbstractContextManager[None]:
    """Let processes exchange gradients only with the last micro-batch of an update."""
    if last:
        return nullcontext()
    context: AbstractContextManager[None] = setup.accelerator.no_sync(setup.family.denoiser)
    return context


@torch.no_grad()
def _move_average(setup: Setup, step: int) -> None:
    """Let the moving average follow the weights, faster during the first steps."""
    if setup.average is None:
        return
    decay = min(setup.recipe.model.ema, (1 + step) / (10 + step))
    for name, value in checkpoint.trainable(setup.family).items():
        setup.average[name].lerp_(value, 1 - decay)


@torch.no_grad()
def measure_held_out(setup: Setup) -> HeldOut | None:
    """Measure on the pairs kept back, at the same times and noises whatever the run's seed."""
    if not len(setup.held_out):
        return None
    values = []
    batch = max(1, (setup.recipe.optimizer.micro_batch or 32))
    for start in range(0, len(setup.held_out), batch):
        pairs = setup.held_out[start : start + batch]
        scores = []
        for repeat in range(HELD_OUT_DRAWS):
            first = repeat * len(setup.held_out) + start
            drawn = draw_batch(setup, pairs, 0, HELD_OUT, range(first, first + len(pairs)))
            scores.append(losses(setup, *drawn)[1][:, -1])
        values.append(torch.stack(scores).mean(0).cpu().numpy())
    prompts = setup.pairs.prompt[setup.held_out]
    interval = clustered_mean(np.concatenate(values).astype(np.float64), prompts)
    return HeldOut(
        metric="implicit_accuracy" if setup.on_pairs else "error",
        value=interval.value,
        ci95=(interval.low, interval.high),
        n=len(prompts),
    )


def steps(setup: Setup, run: Path, start: int = 0) -> Generator[StepRecord, None, None]:
    """Train from a step on to the recipe's last, writing records and checkpoints.

    Closing the generator writes a checkpoint first, so nothing that was trained is lost.

    Raises:
        TrainingDiverged: with what was seen; the last good checkpoint stays.
    """
    recipe = setup.recipe
    done = start
    first_errors: list[float] = []
    try:
        for step in range(start, recipe.run.steps):
            record = update(setup, step)
            if len(first_errors) < FIRST_STEPS:
                first_errors.append(record.policy_w)
            _refuse_divergence(record, max(first_errors), run)
            done = record.step
            append_line(run / "metrics.jsonl", asdict(record))
            if done % recipe.run.held_out_every == 0 or done == recipe.run.steps:
                held_out = measure_held_out(setup)
                if held_out:
                    append_line(run / "metrics.jsonl", {"step": done, "held_out": asdict(held_out)})
            if done % recipe.run.checkpoint_every == 0 or done == recipe.run.steps:
                save(setup, run, done)
            yield record
    except GeneratorExit:
        if done > start and checkpoint.latest(run) != run / "checkpoints" / f"step-{done:06d}":
            save(setup, run, done)
        raise


def save(setup: Setup, run: Path, step: int) -> Path:
    """Write a checkpoint of this run."""
    recipe = setup.recipe
    labels = {
        "vipo.base": recipe.model.name,
        "vipo.method": recipe.objective.method,
        "vipo.step": str(step),
    }
    return checkpoint.save(
        run, step, setup.family, setup.optimizer, setup.average, labels, recipe.run.keep_checkpoints
    )


def _refuse_divergence(record: StepRecord, usual: float, run: Path) -> None:
    seen = None
    if not math.isfinite(record.loss) or not math.isfinite(record.gradient_norm):
        seen = f"loss {record.loss:g}, gradient norm {record.gradient_norm:g}"
    elif record.policy_w > EXPLODED * usual:
        times = record.policy_w / usual
        seen = f"prediction error {record.policy_w:.3g}, {times:.0f} times that of the first steps"
    if seen is None:
        return
    last = checkpoint.latest(run)
    raise TrainingDiverged(
        f"training diverged at step {record.step}: {seen}",
        hint=(f"the last good checkpoint is `{last}`" if last else "no checkpoint was written yet")
        + "; try a lower optimizer.learning_rate or a higher objective.beta",
    )
