"""The records of a run as columns, smoothed and averaged: numbers in, numbers out.

displacement  policy error - reference error on winners (or losers): positive where the policy
              denoises them worse than the model it started from

A run that returned to a checkpoint says so in a line of its own, {"step": s, "returned_to": c}: the
steps from c on that were recorded before it are undone, and the records that they learnt from are
passed over, so that from there on step t learns from what would have been step t + s - c's.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vipo_cli.analysis.pictures import Change

Values = NDArray[np.float64]

RECORDED = (
    "loss",
    "implicit_accuracy",
    "margin",
    "margin_std",
    "policy_w",
    "policy_l",
    "reference_w",
    "reference_l",
    "kept_fraction",
    "saturated",
    "beta",
    "gradient_norm",
    "learning_rate",
    "seconds",
)
"""Numbers of a step's record; older runs lack some, and what winners alone give is None."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """A measurement on held-out pairs, with its 95 % interval.

    `winner_gain` is how much lower the policy's error on held-out winners is than the reference's,
    `winner_gain_ci95` the interval of that; older runs did not measure it.
    """

    step: int
    metric: str
    value: float
    low: float
    high: float
    n: int
    winner_gain: float | None = None
    winner_gain_ci95: tuple[float, float] | None = None

    def document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "step": self.step,
            "metric": self.metric,
            "value": self.value,
            "ci95": [self.low, self.high],
            "n": self.n,
            "winner_gain": self.winner_gain,
            "winner_gain_ci95": self.winner_gain_ci95,
        }


@dataclass(frozen=True, slots=True)
class Pictures:
    """How validation samples differ from those that the base drew, as a run recorded it."""

    step: int
    n: int
    changes: dict[str, Change]

    def document(self) -> dict[str, Any]:
        """Return the JSON form."""
        changes = {name: change.document() for name, change in self.changes.items()}
        return {"step": self.step, "n": self.n, "statistics": changes}


@dataclass(frozen=True, slots=True)
class Level:
    """A mean over some steps, with the standard error that their spread gives."""

    mean: float
    stderr: float
    n: int

    @classmethod
    def of(cls, values: Values) -> "Level | None":
        """Return the level of the values that were recorded, or None where there is none."""
        known = values[np.isfinite(values)]
        if not len(known):
            return None
        spread = float(known.std(ddof=1)) if len(known) > 1 else float("inf")
        return cls(float(known.mean()), spread / len(known) ** 0.5, len(known))


@dataclass(frozen=True, slots=True)
class History:
    """The records of a run as columns.

    Attributes:
        step: number of each step.
        values: what was recorded at each, and the displacements; NaN where it was not.
        rounds: number of each step's round, for loops that have rounds.
        held_out: measurements on held-out pairs, oldest first.
        pictures: how validation samples differed from the base's, oldest first.
        alarms: what was told while the run trained, with its step, oldest first.
    """

    step: NDArray[np.int64]
    values: dict[str, Values]
    rounds: NDArray[np.int64]
    held_out: tuple[Measurement, ...]
    pictures: tuple[Pictures, ...] = ()
    alarms: tuple[dict[str, Any], ...] = ()

    def __len__(self) -> int:
        return len(self.step)

    def last_round(self) -> "History":
        """Return the records of the last round; all where there are no rounds."""
        chosen = self.rounds == self.rounds[-1]
        first = self.step[chosen][0]
        return History(
            step=self.step[chosen],
            values={name: values[chosen] for name, values in self.values.items()},
            rounds=self.rounds[chosen],
            held_out=tuple(each for each in self.held_out if each.step >= first),
            pictures=tuple(each for each in self.pictures if each.step >= first),
            alarms=self.alarms,
        )

    def levels(self, rows: slice) -> dict[str, Level]:
        """Return the mean over some steps of everything that was recorded there."""
        found = {name: Level.of(column[rows]) for name, column in self.values.items()}
        return {name: level for name, level in found.items() if level is not None}

    def smooth(self, window: int) -> dict[str, Values]:
        """Return the moving means of everything that was recorded."""
        return {
            name: moving_mean(values, window)
            for name, values in self.values.items()
            if np.isfinite(values).any()
        }


def read_history(lines: Sequence[Mapping[str, Any]]) -> History:
    """Turn the lines of `metrics.jsonl` into columns; keys that are missing become NaN."""
    alarms = tuple(alarm_of(line) for line in lines if "alarm" in line)
    lines = standing(lines)
    records = [line for line in lines if "loss" in line]
    values = {name: _column(records, name) for name in RECORDED}
    for side in ("w", "l"):
        values[f"displacement_{side}"] = values[f"policy_{side}"] - values[f"reference_{side}"]
    return History(
        step=np.array([record["step"] for record in records], np.int64),
        values=values,
        rounds=np.array([record.get("round") or 0 for record in records], np.int64),
        held_out=tuple(_measurement(line) for line in lines if "held_out" in line),
        pictures=tuple(_pictures(line) for line in lines if "pictures" in line),
        alarms=alarms,
    )


def standing(lines: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the lines that no return to an earlier checkpoint has undone, and all returns."""
    kept: list[Mapping[str, Any]] = []
    for line in lines:
        if (checkpoint := line.get("returned_to")) is not None:
            kept = [each for each in kept if each["step"] <= checkpoint or "returned_to" in each]
        kept.append(line)
    return kept


def up_to(lines: Sequence[Mapping[str, Any]], step: int) -> list[Mapping[str, Any]]:
    """Return the lines, undone ones included, that led to the checkpoint of a step.

    A return to that step or an earlier one came before it; after the last of these, what is of
    later steps is not part of it.
    """
    first = 0
    for place, line in enumerate(lines):
        if "returned_to" in line and line["returned_to"] <= step:
            first = place + 1
    return [*lines[:first], *(line for line in lines[first:] if line["step"] <= step)]


def skipped_steps(lines: Iterable[Mapping[str, Any]]) -> int:
    """Return how many steps' records were passed over by returns to earlier checkpoints."""
    return sum(line["step"] - line["returned_to"] for line in lines if "returned_to" in line)


def alarm_of(line: Mapping[str, Any]) -> dict[str, Any]:
    """Return an alarm with its step and, where there was one, the return that followed."""
    back = {"returned_to": line["returned_to"]} if "returned_to" in line else {}
    return {"step": line["step"], **line["alarm"], **back}


def _column(records: Sequence[Mapping[str, Any]], name: str) -> Values:
    found = [record.get(name) for record in records]
    return np.array([np.nan if value is None else value for value in found], float)


def _measurement(line: Mapping[str, Any]) -> Measurement:
    held_out = line["held_out"]
    low, high = held_out["ci95"]
    gain_ci95 = held_out.get("winner_gain_ci95")
    return Measurement(
        step=line["step"],
        metric=held_out["metric"],
        value=held_out["value"],
        low=low,
        high=high,
        n=held_out["n"],
        winner_gain=held_out.get("winner_gain"),
        winner_gain_ci95=tuple(gain_ci95) if gain_ci95 else None,
    )


def _pictures(line: Mapping[str, Any]) -> Pictures:
    found = line["pictures"]
    changes = {name: Change.read(each) for name, each in found["statistics"].items()}
    return Pictures(line["step"], found["n"], changes)


def moving_mean(values: Values, window: int) -> Values:
    """Return the centred mean over an odd number of values; at the ends over what is there."""
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    places, reach = np.arange(len(values)), window // 2
    low, high = np.maximum(places - reach, 0), np.minimum(places + reach + 1, len(values))
    number = counts[high] - counts[low]
    return np.where(number > 0, (sums[high] - sums[low]) / np.maximum(number, 1), np.nan)


def moving_median(values: Values, window: int) -> Values:
    """Return the centred median over an odd number of values; at the ends over what is there."""
    reach = window // 2
    padded = np.pad(values, reach, constant_values=np.nan)
    return np.asarray(np.nanmedian(np.lib.stride_tricks.sliding_window_view(padded, window), 1))
