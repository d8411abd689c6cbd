"""The loop: a generator of step records, for whoever draws, lists or plots them."""

import math
import time
from collections import deque
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from vipo_cli.models.parts import free_unused
from vipo_cli.objectives import LabelledErrors
from vipo_cli.recipe import Recipe
from vipo_cli.run import Progress
from vipo_cli.training import checkpoint
from vipo_cli.training.adapters import provenance_labels
from vipo_cli.training.batches import micro_batches, training_batch
from vipo_cli.training.held_out import margins
from vipo_cli.training.journal import Journal
from vipo_cli.training.out_of_memory import is_out_of_memory, need_less, too_much
from vipo_cli.training.pull import Pull, current_beta, pull, saturation
from vipo_cli.training.rounds import begin_round, steps_per_round
from vipo_cli.training.setup import Setup, learning_rate
from vipo_cli.training.step import Batch, Measured, measure
from vipo_cli.training.trackers import Trackers
from vipo_cli.training.trajectory import StepBatch, measure_steps

MARGIN_DECAY = 0.98
"""Of the running margin that an automatic beta follows."""


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What one update did; the figures are means over its records.

    `margin` is how much more the policy gained on winners than on losers, in units of error;
    `implicit_accuracy` the share of records with a positive one, ties counted half. They and the
    errors on losers and of the reference are None for objectives that do not see them.
    `kept_fraction` is the share of records that pulled on the weights at all: those that no mask,
    clip or hinge switched off. `saturated` is the share of pairs whose implicit probability lies
    beyond 1 or 99 %. `beta` is given where it is automatic. For D3PO, errors are minus the
    log-likelihood of a step.
    """

    step: int
    loss: float
    implicit_accuracy: float | None
    margin: float | None
    margin_std: float | None
    policy_w: float
    policy_l: float | None
    reference_w: float | None
    reference_l: float | None
    kept_fraction: float
    saturated: float | None
    beta: float | None
    gradient_norm: float
    learning_rate: float
    round: int | None
    seconds: float


FIGURES = (
    "loss", "policy_w", "policy_l", "reference_w", "reference_l", "margin", "margin_square",
    "implicit_accuracy", "kept_fraction", "saturated",
)  # fmt: skip
"""What is measured on each record of a batch; not a number where there is no such thing."""


@dataclass(frozen=True, slots=True)
class Pending:
    """An update that the device may still be working on.

    Attributes:
        step: its number, from 1.
        figures: its FIGURES and the norm of its gradient, on the device.
        learning_rate: of it.
        beta: where it is automatic.
        round: of a loop, from 1.
        started: when, in seconds of the performance counter.
    """

    step: int
    figures: Tensor
    learning_rate: float
    beta: float | None
    round: int | None
    started: float

    def record(self, since: float = 0.0) -> StepRecord:
        """Wait until the update is done and return what it did.

        Its seconds count from its start, or from when the record before it was read if that was
        later: of two updates under way together none is counted twice.
        """
        found = dict(zip((*FIGURES, "gradient_norm"), self.figures.tolist(), strict=True))
        square, mean = found.pop("margin_square"), found["margin"]
        spread = math.sqrt(max(square - mean**2, 0.0)) if not math.isnan(mean) else None
        names = {field.name: field.type for field in fields(StepRecord)}
        optional = {
            name: None if math.isnan(value) and names[name] == float | None else value
            for name, value in found.items()
        }
        return StepRecord(
            **optional,  # type: ignore[arg-type]
            step=self.step,
            margin_std=spread,
            beta=self.beta,
            learning_rate=self.learning_rate,
            round=self.round,
            seconds=time.perf_counter() - max(self.started, since),
        )


def update(setup: Setup, step: int) -> Pending:
    """Hand one update of the weights to the device; `step` counts from 0.

    Nothing here waits for the device: what the update did is read from what is returned.
    """
    started = time.perf_counter()
    accelerator, recipe = setup.accelerator, setup.recipe
    rate = learning_rate(recipe, step)
    for group in setup.optimizer.param_groups:
        group["lr"] = rate

    figures = _accumulated(setup, step)
    norm = setup.sharding.update(recipe.optimizer.max_gradient_norm)

    figures = accelerator.reduce(figures, "sum") / recipe.optimizer.batch_size
    beta = current_beta(setup)
    _follow(setup, step, figures)
    round_ = None if recipe.loop.kind == "offline" else setup.round + 1
    everything = torch.cat([figures, norm.reshape(1).to(figures)])
    return Pending(step + 1, everything, rate, beta, round_, started)


def _accumulated(setup: Setup, step: int) -> Tensor:
    """Add up an update's gradient over micro-batches; return the sum of their figures.

    Where memory does not suffice, updates need less of it from here on, and this one begins anew:
    its records, times and noise depend on their places alone.

    Raises:
        VipoError: they cannot need less, or other processes may be waiting for this one already.
    """
    while True:
        try:
            return _in_parts(setup, step)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if setup.accelerator.num_processes > 1 or not need_less(setup):
                raise too_much(setup.recipe, setup.micro_batch) from None
        setup.sharding.forget()
        free_unused()


def _in_parts(setup: Setup, step: int) -> Tensor:
    scale = setup.accelerator.num_processes / setup.recipe.optimizer.batch_size
    parts = micro_batches(setup, step + setup.skipped, setup.micro_batch)
    collected = []
    for number, positions in enumerate(parts):
        batch = training_batch(setup, positions)
        collected.append(accumulate(setup, batch, scale, number == len(parts) - 1))
    return torch.cat(collected, 1).sum(1)


def accumulate(setup: Setup, batch: Batch | StepBatch, scale: float, last: bool) -> Tensor:
    """Add a batch's gradient to the weights' and return its figures, (figures, b)."""
    sharding, autocast = setup.sharding, setup.accelerator.autocast
    if setup.recipe.optimizer.backward == "joint":
        with sharding.accumulating(last=last):
            with autocast():
                measured = _measure(setup, batch)
            pulled = pull(setup, measured, batch)
            sharding.backward(_pulling(measured, pulled, slice(None)) * scale, last=last)
        return _figures(setup, batch, measured, pulled)
    with autocast(), torch.no_grad():
        measured = _measure(setup, batch)
    pulled = pull(setup, measured, batch)
    for item in range(len(pulled.policy)):
        final = last and item == len(pulled.policy) - 1
        with sharding.accumulating(last=final):
            with autocast():
                alone = _measure(setup, batch.item(item), policy_alone=not setup.needs_drift)
            pulling = _pulling(alone, pulled, slice(item, item + 1))
            sharding.backward(pulling * scale, last=final)
    return _figures(setup, batch, measured, pulled)


def _measure(setup: Setup, batch: Batch | StepBatch, *, policy_alone: bool = False) -> Measured:
    reference = None if policy_alone else setup.reference
    if isinstance(batch, StepBatch):
        return measure_steps(setup.family, batch, reference)
    return measure(
        setup.family,
        batch,
        reference,
        setup.old.in_place if setup.old is not None and not policy_alone else None,
        drift=setup.needs_drift,
        residuals=setup.recipe.objective.safeguard is not None and batch.present.shape[0] > 1,
    )


def _pulling(measured: Measured, pulled: Pull, items: slice) -> Tensor:
    """Return a number whose gradient is the loss's: each error times its slope."""
    total = (pulled.policy[items] * measured.policy).sum()
    if pulled.drift is not None:
        assert measured.drift is not None
        total = total + (pulled.drift[items] * measured.drift).sum()
    return total


@torch.no_grad()
def _figures(setup: Setup, batch: Batch | StepBatch, measured: Measured, pulled: Pull) -> Tensor:
    policy, reference = measured.policy.detach(), measured.reference
    kept = (pulled.policy != 0).any(0)
    if pulled.drift is not None:
        kept |= (pulled.drift != 0).any(0)
    found = {"loss": pulled.loss, "policy_w": policy[0], "kept_fraction": kept.to(policy.dtype)}
    if len(policy) > 1:
        found["policy_l"] = policy[1]
    if reference is not None:
        found["reference_w"] = reference[0]
        if len(reference) > 1:
            found["reference_l"] = reference[1]
        if setup.kind is LabelledErrors or not batch.alone:
            margin, found["implicit_accuracy"] = margins(
                policy, reference, batch.present, batch.liked, alone=batch.alone
            )
            found["margin"], found["margin_square"] = margin, margin.square()
            saturated = saturation(setup, margin)
            if saturated is not None:
                found["saturated"] = saturated
    missing = torch.full_like(pulled.loss, math.nan)
    return torch.stack([found.get(name, missing).float() for name in FIGURES])


@torch.no_grad()
def _follow(setup: Setup, step: int, figures: Tensor) -> None:
    """Let what follows the policy follow: the average of its weights, reference, typical margin."""
    recipe = setup.recipe
    if setup.average is not None:  # faster during the first steps
        setup.average.follow(min(recipe.model.ema, (1 + step) / (10 + step)))
    if setup.moving is not None and recipe.reference.kind == "ema":
        setup.moving.follow(recipe.reference.decay)
    copied = recipe.reference.kind == "copied" and (step + 1) % recipe.reference.every == 0
    if setup.moving is not None and copied:
        setup.moving.follow(0.0)
    if recipe.objective.typical_logit is not None:
        size = figures[FIGURES.index("margin_square")].sqrt()
        decay = min(MARGIN_DECAY, step / (step + 1))
        setup.typical_margin.lerp_(size, 1 - decay)


def steps(
    setup: Setup, run: Path, start: int = 0, trackers: Trackers | None = None
) -> Generator[StepRecord | Progress, None, None]:
    """Train from a step on to the recipe's last, writing records, samples and checkpoints.

    What takes long beside, such as samples, yields its progress, and so does what the user is to be
    told. Where the recipe asks for it, a gradient that spikes leads back to the last good
    checkpoint, and from there on past the records that were learnt from since. Closing the
    generator writes a checkpoint first, so nothing that was trained is lost.

    Raises:
        TrainingDiverged: with what was seen; the last good checkpoint stays.
    """
    recipe = setup.recipe
    with closing(Journal(setup, run, trackers or Trackers())) as journal:
        done = begun = start
        waiting: deque[Pending] = deque()
        read = 0.0
        try:
            if start == 0 or _due(recipe, start, recipe.run.held_out_every):
                yield from journal.measure(start)
            while done < recipe.run.steps:
                if (number := round_due(recipe, done, begun)) is not None:
                    yield from begin_round(setup, run, number, done)
                waiting.append(update(setup, done))
                done += 1
                journal.note_micro_batch(done)
                records, back = [], None
                while back is None and len(waiting) > _unread(setup, done):
                    records.append(waiting.popleft().record(read))
                    read = time.perf_counter()
                    back = journal.note(asdict(records[-1]))
                if back is not None:
                    waiting.clear()
                    done = begun = journal.go_back(records[-1].step, back)
                else:
                    if _due(recipe, done, recipe.run.held_out_every):
                        yield from journal.measure(done)
                    if _due(recipe, done, recipe.run.checkpoint_every):
                        save(setup, run, done)
                yield from records
                yield from journal.told(done)
        except GeneratorExit:
            spoilt = [journal.note(asdict(each.record(read))) is not None for each in waiting]
            named = run / "checkpoints" / f"step-{done:06d}"
            if done != begun and not any(spoilt) and checkpoint.latest(run) != named:
                save(setup, run, done)
            raise


def _unread(setup: Setup, done: int) -> int:
    """Return how many updates may be under way on the device while the next is prepared.

    One, so that the device never waits for the host to read a record; none on a CPU, which has
    nothing to wait for, and none before anything that the weights are needed for.
    """
    run = setup.recipe.run
    pause = (
        _due(setup.recipe, done, run.held_out_every)
        or _due(setup.recipe, done, run.checkpoint_every)
        or round_due(setup.recipe, done, 0) is not None
    )
    return 0 if pause or setup.accelerator.device.type == "cpu" else 1


def _due(recipe: Recipe, done: int, every: int) -> bool:
    return done % every == 0 or done == recipe.run.steps


def round_due(recipe: Recipe, step: int, start: int) -> int | None:
    """Return the round to begin before a step, or to go on with if the run starts there."""
    if recipe.loop.kind == "offline":
        return None
    number, position = divmod(step, steps_per_round(recipe))
    return number if position == 0 or step == start else None


def save(setup: Setup, run: Path, step: int) -> Path:
    """Write a checkpoint of this run."""
    labels = provenance_labels(setup.recipe, setup.family, step, setup.encoded.fingerprint, run)
    return checkpoint.save(run, step, setup, labels)
