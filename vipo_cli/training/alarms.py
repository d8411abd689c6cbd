"""What goes wrong while a run trains, told once when it begins and once when it is over.

Everything is judged from the run's own records, which are read anyway: nothing here asks the device
for anything. The rules are those of `vipo analyze dynamics`, looking back on the last steps instead
of a finished run. The same records always give the same alarms, so a run that goes on from a
checkpoint reads its records again and knows what it knew.
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from vipo_cli.analysis.findings import (
    CHANCE,
    COLLAPSED,
    SATURATED,
    SHORT,
    SPIKE,
    SPOILT,
    SURE,
    About,
    Advice,
    displaced,
    times_worse,
)
from vipo_cli.analysis.history import Level, standing
from vipo_cli.analysis.pictures import Change, drift_text, drifted
from vipo_cli.objectives import PolicyPairErrors, has_logit, has_reference, record_of
from vipo_cli.recipe import Recipe

WINDOW, EVERY = 50, 5
"""Steps that are looked back on, enough to average batches of eight pairs out, and how often."""

NORMS, FEWEST = 100, 20
"""Most and fewest gradient norms that the next one is compared with."""

SURPRISE = 8.0
"""Robust standard deviations of the log of the norm beyond which there is a spike.

Norms are heavy-tailed, and more so with some objectives: with eight pairs a step, sound runs of IPO
and SIPO have norms 15 times the median. In 31 runs of twenty objectives, 26,000 steps, the largest
deviation on this scale was 6.1.
"""

NARROWEST, TINY = 0.1, 1e-30
"""Spread of the log of the norm, and norm, that are taken at least."""

CALM = 25
"""Steps without a spike after which the next one is told again."""

STUCK, STILL = 100, 0.005
"""Steps, after warm-up, whose loss differs by less than this share from the first step's."""

FIRST_STEPS, EXPLODED = 20, 10.0
"""An error this many times the largest of the first steps is the end of a model."""

TITLES = {
    "collapse": "collapse",
    "displacement": "likelihood displacement",
    "saturation": "saturation",
    "stuck": "loss at its start",
    "drift": "drift of the samples",
}
"""What alarms that last are called when they are over."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that went wrong, or is over.

    Attributes:
        step: at which it was seen.
        name: one word for programs.
        begins: False where it is over.
        text: what was seen, with numbers.
        advice: what to try.
    """

    step: int
    name: str
    begins: bool
    text: str
    advice: Advice = ()

    def document(self) -> dict[str, Any]:
        """Return the JSON form, without the step."""
        advice = [{"what": what, "command": command} for what, command in self.advice]
        return {"name": self.name, "begins": self.begins, "text": self.text, "advice": advice}

    @property
    def line(self) -> str:
        """What is told, in one line."""
        tries = "".join(f"; to {what}: {command}" for what, command in self.advice[:1])
        return f"step {self.step}: {self.text}{tries}"


@dataclass(frozen=True, slots=True)
class Seen:
    """What a check says: whether something is wrong, whether it surely is not, and the words."""

    wrong: bool
    over: bool
    text: str = ""
    advice: Advice = ()


FINE = Seen(wrong=False, over=True)


class Watch:
    """The records of a run as they come in, and what was told of them.

    Args:
        recipe: of the run.
        run: its directory.
        lines: what the run has recorded so far.
    """

    def __init__(self, recipe: Recipe, run: Path, lines: Iterable[Mapping[str, Any]] = ()) -> None:
        self._recipe = recipe
        self._about = _about(recipe, run)
        self._kind = record_of(recipe.objective.method)
        self._has_logit = has_logit(self._kind, recipe.objective.parameters)
        self._active: set[str] = set()
        self._round: int | None = None
        self._largest = 0.0
        self._steps = 0
        self._begin()
        lines = list(lines)
        stand = set(map(id, standing(lines)))
        for line in lines:
            if id(line) not in stand:
                self._remember(line)
            elif "loss" in line:
                self.see(line)
            elif "pictures" in line:
                statistics = line["pictures"]["statistics"]
                changes = {name: Change.read(each) for name, each in statistics.items()}
                self.see_pictures(line["step"], changes)

    def _begin(self) -> None:
        """Forget what was before: a round has data and often a reference of its own."""
        self._recent: deque[Mapping[str, Any]] = deque(maxlen=WINDOW)
        self._early: list[float] = []
        self._logs: deque[float] = deque(maxlen=NORMS)
        self._since_spike: int | None = None
        self._first_loss: float | None = None
        self._still = 0

    def see(self, record: Mapping[str, Any]) -> list[Alarm]:
        """Take a step's record in and return what is to be told of it.

        A record that `broken` has words for is not one of them.
        """
        if record["round"] != self._round:
            self._round = record["round"]
            self._begin()
        if self._steps < FIRST_STEPS:
            self._largest = max(self._largest, abs(record["policy_w"]))
        self._steps += 1
        step = int(record["step"])
        spike = self._spike(record["gradient_norm"])
        self._note(record)
        told = [Alarm(step, "spike", True, *spike)] if spike else []
        if self._steps % EVERY == 0 and len(self._recent) >= SHORT:
            late = self._levels()
            for name, seen in {
                "stuck": self._stuck(step, late),
                "displacement": self._displacement(late),
                "collapse": self._collapse(late),
                "saturation": self._saturation(late),
            }.items():
                told += self._told(step, name, seen)
        return told

    def _remember(self, line: Mapping[str, Any]) -> None:
        """Know the gradient norm of a step that is undone: most were healthy, up to the spike.

        Else a run that returned to an early checkpoint would know too few to tell the next spike.
        """
        if "loss" in line and line["round"] == self._round:
            log = _log(line["gradient_norm"])
            if self._surprise(log) is None:
                self._logs.append(log)

    def see_pictures(self, step: int, changes: Mapping[str, Change]) -> list[Alarm]:
        """Take in how validation samples differ from the base's; return what is to be told."""
        far = drifted(changes)
        text = (
            f"drift: the samples are far from the base's for the same prompts and noise: "
            f"{drift_text(far)}; look at {self._about.run}/samples.png"
        )
        advice = self._about.other_rate(1 / 3) + self._about.other_beta(2)
        return self._told(step, "drift", Seen(bool(far), not far, text, advice))

    def broken(self, record: Mapping[str, Any]) -> str | None:
        """Say what is wrong with a record after which nothing more can be learnt; None if fine."""
        loss, norm, error = (record[name] for name in ("loss", "gradient_norm", "policy_w"))
        if not math.isfinite(loss) or not math.isfinite(norm):
            return f"loss {loss:g}, gradient norm {norm:g}"
        if self._largest and error > EXPLODED * self._largest:
            times = error / self._largest
            return f"prediction error {error:.3g}, {times:.0f} times that of the first steps"
        return None

    def _told(self, step: int, name: str, seen: Seen) -> list[Alarm]:
        """Return an alarm where something has begun or is over since it was looked at last."""
        if seen.wrong and name not in self._active:
            self._active.add(name)
            return [Alarm(step, name, True, seen.text, seen.advice)]
        if seen.over and name in self._active:
            self._active.remove(name)
            return [Alarm(step, name, False, f"{TITLES[name]} is over")]
        return []

    def _note(self, record: Mapping[str, Any]) -> None:
        if self._first_loss is None:
            self._first_loss = record["loss"]
        if len(self._early) < SHORT:
            self._early.append(record["policy_w"])
        warm = record["step"] > self._recipe.optimizer.warmup_steps
        still = abs(record["loss"] - self._first_loss) <= STILL * abs(self._first_loss)
        self._still = self._still + warm if still else 0
        self._recent.append(record)

    def _levels(self) -> dict[str, Level]:
        names = ("policy_w", "reference_w", "implicit_accuracy", "saturated", "loss")
        columns = {name: self._column(name) for name in names}
        columns["displacement_w"] = columns["policy_w"] - columns["reference_w"]
        found = {name: Level.of(column) for name, column in columns.items()}
        return {name: level for name, level in found.items() if level is not None}

    def _column(self, name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        values = [record[name] for record in self._recent]
        return np.array([math.nan if value is None else value for value in values])

    def _spike(self, norm: float) -> tuple[str, Advice] | None:
        """Compare a gradient's norm, before clipping, with those before; tell the first of many."""
        known, log = len(self._logs), _log(norm)
        times = self._surprise(log)
        self._logs.append(log)
        if self._since_spike is not None:
            self._since_spike += 1
        if times is None:
            return None
        again = self._since_spike is not None and self._since_spike <= CALM
        self._since_spike = 0
        if again and self._recipe.run.on_spike == "warn":
            return None
        text = (
            f"gradient spike: a norm of {norm:.3g}, {times:,.0f} times the median of the "
            f"{known} steps before"
        )
        return text, self._about.other_rate(1 / 3)

    def _surprise(self, log: float) -> float | None:
        """Return how many times the median a spike's norm is, given its log; None for others."""
        if len(self._logs) < FEWEST:
            return None
        middle = median(self._logs)
        spread = 1.4826 * median(abs(each - middle) for each in self._logs)  # a normal's deviation
        times = math.exp(min(log - middle, 700.0))
        spikes = times > SPIKE and log - middle > SURPRISE * max(spread, NARROWEST)
        return times if spikes else None

    def _stuck(self, step: int, late: Mapping[str, Level]) -> Seen:
        if not self._has_logit or self._still < STUCK:
            return Seen(wrong=False, over=self._still == 0)
        accuracy = late["implicit_accuracy"].mean if "implicit_accuracy" in late else 0.5
        text = f"nothing learnt: after {step} steps the loss is {late['loss'].mean:.4f}, as before"
        if accuracy > CHANCE:
            text += f", at an implicit accuracy of {accuracy:.2f}: margins are too small to matter"
            return Seen(True, False, text, self._about.other_beta(10))
        return Seen(True, False, text, self._about.other_rate(10))

    def _displacement(self, late: Mapping[str, Level]) -> Seen:
        share, accuracy = displaced(late), late.get("implicit_accuracy")
        if share is None or accuracy is None:
            return FINE
        text = (
            f"likelihood displacement: over {len(self._recent)} steps the error on winners is "
            f"{share:+.1%} against the reference at an implicit accuracy of {accuracy.mean:.2f}: "
            "losers get worse faster, winners no better"
        )
        guard: Advice = ()
        pairs = issubclass(self._kind, PolicyPairErrors)
        if pairs and self._recipe.objective.safeguard is None:
            words = "let no step raise the winner's error"
            guard = ((words, self._about.again("objective.safeguard", 0.9)),)
        wrong = share >= SPOILT and accuracy.mean > CHANCE
        return Seen(wrong, share < SPOILT / 2, text, guard + self._about.other_beta(2))

    def _collapse(self, late: Mapping[str, Level]) -> Seen:
        early = Level.of(np.array(self._early))
        assert early is not None
        found = times_worse({"policy_w": early}, late)
        if found is None:
            return FINE
        times, against = found
        now = late["policy_w"]
        sure = now.mean - SURE * now.stderr > now.mean / times
        text = (
            f"collapse: over {len(self._recent)} steps the error on winners is {times:.1f} times "
            f"{against}; the pictures will show it"
        )
        advice = self._about.other_rate(1 / 3) + self._about.other_beta(2)
        return Seen(sure and times > COLLAPSED, times < (1 + COLLAPSED) / 2, text, advice)

    def _saturation(self, late: Mapping[str, Level]) -> Seen:
        if "saturated" not in late:
            return FINE
        share = late["saturated"]
        text = (
            f"saturation: {share.mean:.0%} of the pairs of {len(self._recent)} steps have an "
            "implicit probability outside [0.01, 0.99] and teach next to nothing"
        )
        advice = self._about.other_rate(1 / 3)
        if self._recipe.objective.typical_logit is None:
            words = "let beta follow the margin"
            advice = ((words, self._about.again("objective.typical_logit", 1)), *advice)
        wrong = share.mean - SURE * share.stderr > SATURATED
        return Seen(wrong, share.mean < SATURATED, text, advice)


def _log(norm: float) -> float:
    return math.log(max(norm, TINY))


def _about(recipe: Recipe, run: Path) -> About:
    return About(
        run=str(run),
        method=recipe.objective.method,
        data=recipe.data.name,
        parameters=recipe.objective.model_dump(),
        learning_rate=recipe.optimizer.learning_rate,
        steps=recipe.run.steps,
        has_reference=has_reference(record_of(recipe.objective.method)),
    )
