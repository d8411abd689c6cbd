"""What a run writes down as it goes, what it tells, and when it has to go back.

    {"step": 250, "loss": ...}                        a step
    {"step": 250, "held_out": {...}}                  a measurement on records that are kept back
    {"step": 250, "pictures": {...}}                  validation samples against the base's
    {"step": 250, "alarm": {...}}                     something went wrong, or is over
    {"step": 250, "micro_batch": 4, ...}              memory did not suffice for more at once
    {"step": 250, "returned_to": 200, "alarm": {...}} what came after step 200 is undone

Nothing is ever taken out of `metrics.jsonl` by a return; who reads it leaves out what was undone
(`vipo_cli.analysis.history.standing`).
"""

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from vipo_cli.analysis.history import skipped_steps, standing
from vipo_cli.errors import TrainingDiverged
from vipo_cli.recipe import Recipe
from vipo_cli.recipe.combinations import HEALTHY
from vipo_cli.run import Progress, Work, append_line, read_lines
from vipo_cli.training import checkpoint
from vipo_cli.training.alarms import Alarm, Watch
from vipo_cli.training.devices import from_main, is_main, process_count, wait
from vipo_cli.training.held_out import measure_held_out
from vipo_cli.training.out_of_memory import way_of
from vipo_cli.training.rounds import steps_per_round
from vipo_cli.training.samples import draw_samples, forget_samples
from vipo_cli.training.setup import Setup
from vipo_cli.training.trackers import Trackers

RETURNS = 3
"""Returns of a run after which the next one is its end."""


class Journal:
    """The records of a run that is under way.

    Args:
        setup: the run's state; `skipped` is set to what the records so far say.
        run: its directory.
        trackers: where records are sent besides.
    """

    def __init__(self, setup: Setup, run: Path, trackers: Trackers) -> None:
        self._setup = setup
        self._recipe = setup.recipe
        self._run = run
        self._trackers = trackers
        self._told: list[str] = []
        self._way = way_of(setup)
        self._cause: Alarm | None = None
        lines = from_main(partial(read_lines, run / "metrics.jsonl"))
        self._take_up(lines)

    def _take_up(self, lines: list[dict[str, Any]]) -> None:
        """Know what a run knew that had recorded some lines."""
        self._watch = Watch(self._recipe, self._run, lines)
        self._returns = sum("returned_to" in line for line in lines)
        self._measured = {line["step"] for line in standing(lines) if "held_out" in line}
        self._setup.skipped = skipped_steps(lines)

    def told(self, step: int) -> Work[None]:
        """Yield what is to be told since it was asked last."""
        if process_count() == 1:  # else only where all processes meet, since one has trackers
            self._told += self._trackers.warnings()
        told, self._told = self._told, []
        for text in told:
            yield Progress("training", step, self._recipe.run.steps, warning=text)

    def note(self, record: Mapping[str, Any]) -> Path | None:
        """Write a step's record and alarms down; return the checkpoint to go back to, if any.

        Raises:
            TrainingDiverged: nothing more can be learnt, and there is no going back.
        """
        step, broken = record["step"], self._watch.broken(record)
        if broken is not None:
            alarm = Alarm(step, "diverged", True, f"training diverged: {broken}")
            if (back := self._back(alarm)) is None:
                self._give_up(step, broken)
            return back
        self._write(record)
        back = None
        for alarm in self._watch.see(record):
            if alarm.name == "spike" and (back := self._back(alarm)) is not None:
                continue
            self._raise(alarm)
        return back

    def note_micro_batch(self, step: int) -> None:
        """Write down and tell if memory did not suffice for updates made in the way of before."""
        if (now := way_of(self._setup)) == self._way:
            return
        again = ", and activations are computed again" * (now[1] and not self._way[1])
        records = "one record goes" if now[0] == 1 else f"{now[0]} records go"
        self._way = now
        self._write({"step": step, "micro_batch": now[0], "checkpointing": now[1]})
        self._told.append(
            f"step {step}: out of memory; from here on {records} through the model at once{again}, "
            f"still {self._recipe.optimizer.batch_size} an update"
        )

    def measure(self, step: int) -> Work[None]:
        """Measure held-out records and draw samples, unless that was done before a stop."""
        if step and step not in self._measured:
            held_out = measure_held_out(self._setup)
            if held_out is not None:
                self._write({"step": step, "held_out": asdict(held_out)})
                self._measured.add(step)
        self._told += from_main(self._trackers.warnings)
        if self._setup.prompts is None or from_main(partial(_drawn, self._run, step)):
            return
        drawn = yield from draw_samples(self._setup, self._run, step)
        self._trackers.show(drawn.pictures, step)
        if step and drawn.changes is not None:
            self._write({"step": step, "pictures": drawn.document()})
            for alarm in self._watch.see_pictures(step, drawn.changes):
                self._raise(alarm)

    def go_back(self, step: int, target: Path) -> int:
        """Return to a checkpoint, to go on from there past the records of what is undone.

        Args:
            step: the last that is undone.
            target: the checkpoint.

        Returns:
            the step that the run is at now.
        """
        back = checkpoint.step_of(target)
        if is_main():
            for later in checkpoint.checkpoints(self._run):
                if checkpoint.step_of(later) > back:
                    shutil.rmtree(later)
            _forget_rounds(self._recipe, self._run, back)
            forget_samples(self._run, back)
            assert self._cause is not None
            append_line(
                self._run / "metrics.jsonl",
                {"step": step, "returned_to": back, "alarm": self._cause.document()},
            )
        wait()
        checkpoint.load(target, self._setup)
        self._take_up(from_main(partial(read_lines, self._run / "metrics.jsonl")))
        return back

    def close(self) -> None:
        """Send trackers what they still hold."""
        self._trackers.close()

    def _write(self, line: Mapping[str, Any]) -> None:
        if is_main():
            append_line(self._run / "metrics.jsonl", dict(line))
        self._trackers.log(line)

    def _raise(self, alarm: Alarm) -> None:
        self._write({"step": alarm.step, "alarm": alarm.document()})
        self._told.append(alarm.line)

    def _back(self, alarm: Alarm) -> Path | None:
        """Return the checkpoint that an alarm leads back to, if the recipe wants that.

        Raises:
            TrainingDiverged: there have been too many returns already.
        """
        if self._recipe.run.on_spike != "return":
            return None
        target = from_main(partial(last_good, self._recipe, self._run, alarm.step))
        if target is None:
            return None
        if self._returns >= RETURNS:
            self._give_up(alarm.step, f"{alarm.text}, after {RETURNS} returns to a checkpoint")
        self._cause = alarm
        back = checkpoint.step_of(target)
        self._told.append(
            f"step {alarm.step}: {alarm.text}; returned to step {back}, and going on past the "
            f"records of {alarm.step - back} steps"
        )
        return target

    def _give_up(self, step: int, seen: str) -> NoReturn:
        last = checkpoint.latest(self._run)
        raise TrainingDiverged(
            f"training diverged at step {step}: {seen}",
            hint=(f"the last checkpoint is `{last}`" if last else "no checkpoint was written yet")
            + "; try a lower optimizer.learning_rate or a higher objective.beta",
        )


def last_good(recipe: Recipe, run: Path, step: int) -> Path | None:
    """Return the newest checkpoint that healthy steps followed before a step went wrong.

    What a stopped run wrote on the way does not count, so that a run that was stopped and resumed
    goes back as far as one that was not.
    """
    every = recipe.run.checkpoint_every
    good = [
        folder
        for folder in checkpoint.checkpoints(run)
        if checkpoint.step_of(folder) % every == 0 and checkpoint.step_of(folder) + HEALTHY < step
    ]
    return good[-1] if good else None


def _forget_rounds(recipe: Recipe, run: Path, step: int) -> None:
    """Remove what rounds that begin after a step have sampled: their policy is undone."""
    if recipe.loop.kind == "offline":
        return
    for number in range(recipe.loop.rounds):
        if number * steps_per_round(recipe) > step:
            shutil.rmtree(run / "rounds" / f"round-{number + 1:02d}", ignore_errors=True)


def _drawn(run: Path, step: int) -> bool:
    return any(line["step"] == step for line in read_lines(run / "samples.jsonl"))
