"""From VBench's result files to results.json: totals with intervals, and what they lack."""

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from vipo_cli.analysis.combined import Part, Resampled, combined, resample
from vipo_cli.analysis.intervals import Interval, wilson
from vipo_cli.benchmarks.vbench_files import Measured, Results
from vipo_cli.benchmarks.vbench_suite import Dimension, Suite, coefficients, totals
from vipo_cli.run import fingerprint


def aggregate(
    suite: Suite,
    found: Results,
    *,
    model: str,
    backends: Mapping[str, str] | None = None,
    official_quirks: bool = False,
) -> dict[str, Any]:
    """Return the results of a suite, without `environment` and `timing`.

    A category or total one of whose dimensions is missing is left out.

    Args:
        suite: the benchmark.
        found: what was measured.
        model: how reports call what was measured.
        backends: who measured each dimension, where that is known.
        official_quirks: take missing dimensions for a raw 0, as the public script does.
    """
    missing = [name for name in suite.names if name not in found.measured]
    raw = found.values
    values = (dict.fromkeys(missing, 0.0) if official_quirks else {}) | raw
    judged = {name: one for name, one in found.measured.items() if one.results}
    resampled = resample({name: _part(one) for name, one in judged.items()})
    metrics = {
        name: _total(suite, name, value, raw, resampled)
        for name, value in reversed(totals(suite, values).items())
    }
    subtasks = {
        name: _dimension(suite.dimension(name), one, resampled) | _by((backends or {}).get(name))
        for name, one in found.measured.items()
    }
    comparable = {
        "task": suite.name,
        "task_version": suite.version,
        "dimensions": list(found.measured),
        "backends": dict(sorted((backends or {}).items())),
        "official_quirks": official_quirks,
    }
    warnings = [*_missing(suite, missing, official_quirks), *_counts(suite, found)]
    return {
        "schema_version": 2,
        "status": "partial" if warnings else "complete",
        "task": suite.name,
        "task_version": suite.version,
        "model": model,
        "metrics": metrics,
        "subtasks": subtasks,
        "missing": missing,
        "n_samples": {
            "expected": sum(each.prompts * each.results for each in suite.dimensions),
            "generated": sum(len(one.results) + one.left_out for one in found.measured.values()),
            "scored": sum(len(one.results) for one in found.measured.values()),
            "failed": 0,
            "left_out": sum(one.left_out for one in found.measured.values()),
        },
        "fingerprint": fingerprint(comparable),
        "warnings": [*warnings, *found.warnings],
    }


def _part(one: Measured) -> Part:
    return Part(
        [each.value for each in one.results],
        [each.prompt for each in one.results],
        [each.weight for each in one.results],
    )


def _total(
    suite: Suite, name: str, value: float, raw: Mapping[str, float], resampled: Resampled
) -> dict[str, Any]:
    """Return a category or the total; without an interval where a dimension has no clips."""
    own = coefficients(suite, name)
    if not all(each in resampled.means for each in own if each in raw) or not own.keys() & raw:
        return _metric(value, None)
    return _metric(
        value,
        combined(resampled, {each: own[each] for each in own if each in raw}, value=value),
    )


def _dimension(dimension: Dimension, one: Measured, resampled: Resampled) -> dict[str, Any]:
    """Return a dimension's raw value, which lies between 0 and 1, and what it is in the totals."""
    interval = None
    if dimension.name in resampled.means:
        interval = combined(resampled, {dimension.name: 1.0}, value=one.value)
        if interval.stderr == 0 and 0 <= one.value <= 1:
            # resampling sees no spread where a few prompts prove little
            bounds = wilson(one.value * interval.n_clusters, interval.n_clusters)
            interval = replace(interval, low=bounds.low, high=bounds.high, method="wilson")
        if interval.n_clusters > 1:
            low, high = (
                max(interval.low, min(0.0, one.value)),
                min(interval.high, max(1.0, one.value)),
            )
            interval = replace(interval, low=low, high=high)
    return _metric(one.value, interval) | {
        "normalised": dimension.normalised(one.value),
        "source": one.source,
    }


def _metric(value: float, interval: Interval | None) -> dict[str, Any]:
    """Return a number as results.json has it; what is not known of it is null."""
    found = {
        "value": value,
        "stderr": None,
        "ci95": None,
        "n": 0,
        "n_clusters": 0,
        "method": "none",
        "higher_is_better": True,
        "scale": [0.0, 1.0],
    }
    if interval is not None:
        found |= {key: asdict(interval)[key] for key in ("n", "n_clusters", "method")}
        if math.isfinite(interval.stderr):
            found |= {"stderr": interval.stderr, "ci95": [interval.low, interval.high]}
    return found


def _by(backend: str | None) -> dict[str, str]:
    return {} if backend is None else {"backend": backend}


def _missing(suite: Suite, missing: list[str], official_quirks: bool) -> list[str]:
    if not missing:
        return []
    names = (
        f"{len(missing)} of {len(suite.dimensions)} dimensions are missing: {', '.join(missing)}"
    )
    if official_quirks:
        return [
            f"{names}; they count as a raw 0, as in the public script: no total of {suite.title}"
        ]
    return [f"no total: {names}"]


def _counts(suite: Suite, found: Results) -> list[str]:
    """Say which dimensions have fewer results than the benchmark's, or more."""
    warnings = []
    for name, one in found.measured.items():
        dimension = suite.dimension(name)
        expected, here = dimension.prompts * dimension.results, len(one.results) + one.left_out
        fewer = here < expected and not dimension.leaves_out
        if here and (fewer or here > expected):
            warnings.append(f"{name} has the results of {here} clips instead of {expected}")
    return warnings
