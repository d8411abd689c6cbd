"""What a run did, from its own records: numbers in, levels and findings out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vipo_cli.analysis.findings import About, Case, Finding, findings
from vipo_cli.analysis.history import History, Level, Values

EARLY, LATE = 0.1, 0.2
"""Shares of the steps that count as early and late: long enough to average batches out."""

LEAST, MOST = 10, 100
"""Fewest and most steps in either: fewer are noise, more hide what happened last."""

NARROWEST = 4
"""Steps on either side that a moving mean takes in at least."""


@dataclass(frozen=True, slots=True)
class Dynamics:
    """What `examine` found.

    Attributes:
        history: the records.
        smooth: their centred moving means.
        window: steps in each of these.
        early, late: levels of what was recorded, by name.
        early_steps, late_steps: first and last step of either; those of the last round.
        findings: what is wrong, or one that says what is right.
    """

    history: History
    smooth: dict[str, Values]
    window: int
    early: dict[str, Level]
    late: dict[str, Level]
    early_steps: tuple[int, int]
    late_steps: tuple[int, int]
    findings: tuple[Finding, ...]

    def document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "steps": len(self.history),
            "last_step": int(self.history.step[-1]),
            "early": {"steps": self.early_steps, **_documented(self.early)},
            "late": {"steps": self.late_steps, **_documented(self.late)},
            "held_out": [each.document() for each in self.history.held_out],
            "pictures": [each.document() for each in self.history.pictures],
            "alarms": list(self.history.alarms),
            "findings": [each.document() for each in self.findings],
            "smoothing_window": self.window,
            "step": self.history.step.tolist(),
            "series": {
                name: {"raw": _listed(self.history.values[name]), "smooth": _listed(values)}
                for name, values in self.smooth.items()
            },
        }


def _documented(levels: Mapping[str, Level]) -> dict[str, Any]:
    return {
        name: {"mean": level.mean, "stderr": level.stderr if level.n > 1 else None}
        for name, level in levels.items()
    }


def _listed(values: Values) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def examine(history: History, about: About) -> Dynamics:
    """Smooth the records of a run, compare early with late, and say what that means.

    Where a loop has rounds, each of which starts from a reference of its own, the last is judged.

    Raises:
        ValueError: no records.
    """
    if not len(history):
        raise ValueError("no records")
    judged = history.last_round()
    n = len(judged)
    first, last = _stretch(EARLY, n), n - _stretch(LATE, n)
    early, late = judged.levels(slice(0, first)), judged.levels(slice(last, n))
    window = 2 * max(NARROWEST, len(history) // 25) + 1
    return Dynamics(
        history=history,
        smooth=history.smooth(window),
        window=window,
        early=early,
        late=late,
        early_steps=(int(judged.step[0]), int(judged.step[first - 1])),
        late_steps=(int(judged.step[last]), int(judged.step[-1])),
        findings=findings(Case(judged, early, late, about)),
    )


def _stretch(share: float, n: int) -> int:
    return min(n, max(LEAST, min(MOST, round(share * n))))
