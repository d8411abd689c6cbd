"""Two evaluations side by side, paired on prompt and seed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vipo_cli.analysis.intervals import paired_difference, wilson
from vipo_cli.analysis.multiple import holm
from vipo_cli.benchmarks import Metric
from vipo_cli.benchmarks.suites import SUITES
from vipo_cli.errors import VipoError
from vipo_cli.evaluation.aggregate import (
    bounds,
    by_tag,
    missing_tags,
    of_metric,
    read_metrics,
    weights_of,
)
from vipo_cli.evaluation.plan import differing
from vipo_cli.evaluation.score import Sample, read_samples
from vipo_cli.evaluation.vbench_compare import WON_BY, paired_suite

OLDEST = 2
"""The schema of the oldest evaluations that can be read."""


def evaluation_folder(path: Path) -> Path:
    """Return the folder of an evaluation: itself, its results.json, or the latest of a run.

    Raises:
        VipoError: there is no finished evaluation.
    """
    folders = evaluation_folders(path).values()
    return max(folders, key=lambda folder: (folder / "results.json").stat().st_mtime_ns)


def evaluation_folders(path: Path) -> dict[str, Path]:
    """Return the latest and fullest evaluation of each benchmark in a run, or the one given.

    Raises:
        VipoError: there is no finished evaluation.
    """
    if path.name == "results.json" and path.is_file():
        path = path.parent
    if (path / "results.json").is_file():
        return {_task_of(path): path}
    places = [
        file.parent for file in (*path.glob("eval/*/results.json"), *path.glob("*/results.json"))
    ]
    places.sort(key=lambda place: (_step_of(place), -len(place.name)))
    if not places:
        raise VipoError(
            f"`{path}` holds no finished evaluation",
            hint=f"make one, for example: vipo eval geneval {path}",
        )
    return {_task_of(place): place for place in places}


def _task_of(folder: Path) -> str:
    return str(json.loads((folder / "results.json").read_text())["task"])


def _step_of(folder: Path) -> int:
    file = folder / "manifest.json"  # results that were added up alone may have none
    return int((json.loads(file.read_text()) if file.is_file() else {}).get("step") or 0)


def compare(a: Path, b: Path) -> dict[str, Any]:
    """Return how much better A is than B, paired; of two runs in all benchmarks that both have.

    Raises:
        VipoError: the two are not comparable, or have no picture in common.
    """
    ours, theirs = evaluation_folders(a), evaluation_folders(b)
    shared = [task for task in ours if task in theirs]
    if not shared:
        raise VipoError(
            f"`{a}` and `{b}` were not evaluated on the same benchmark",
            details=[f"{place}: {', '.join(of)}" for place, of in ((a, ours), (b, theirs))],
            hint=f"evaluate the other too: vipo eval {next(iter(ours))} {b}",
        )
    each = {task: compare_task(ours[task], theirs[task]) for task in shared}
    differences = {
        f"{task}/{name}" if len(shared) > 1 else name: difference
        for task, found in each.items()
        for name, difference in found["differences"].items()
    }
    corrected = holm([difference["p_value"] for difference in differences.values()])
    for difference, p_value in zip(differences.values(), corrected, strict=True):
        difference["p_holm"] = float(p_value)
    headline = each[shared[0]]["headline"]
    headline = f"{shared[0]}/{headline}" if len(shared) > 1 else headline
    return {
        "a": str(a),
        "b": str(b),
        "headline": headline if headline in differences else None,
        "differences": differences,
        "wins": {task: found["wins"] for task, found in each.items()},
        "unpaired": sum(found["unpaired"] for found in each.values()),
    }


def compare_task(a: Path, b: Path) -> dict[str, Any]:
    """Return how much better one evaluation is than another, with paired intervals.

    Wins count prompts: A wins one where the mean over its media is better in the headline metric.

    Raises:
        VipoError: the two are not comparable, or have no picture in common.
    """
    if (suite := SUITES.get(_task_of(a))) is not None:
        paired = paired_suite(suite, a, b)
        return {
            "headline": "total",
            "differences": paired.differences(),
            "wins": wins(WON_BY, paired.outcomes()),
            "unpaired": paired.unpaired,
        }
    metrics, samples, unpaired = paired_samples(a, b)
    tags = list(dict.fromkeys(sample["tag"] for sample in samples))
    parts = [(each.name, each, of_metric(each, samples)) for each in metrics]
    parts = [part for part in parts if part[2] and not missing_tags(part[1], samples)]
    return {
        "headline": metrics[0].name,
        "differences": {
            name: _difference(metric, rows)
            for name, metric, rows in [*parts, *by_tag(metrics, tags, samples)]
        },
        "wins": wins(metrics[0].name, outcomes(metrics[0], of_metric(metrics[0], samples))),
        "unpaired": unpaired,
    }


def prompt_outcomes(a: Path, b: Path) -> tuple[str, dict[Any, int]]:
    """Return the metric that prompts are won by, and for each whether A wins, 1, loses, or 0.

    Raises:
        VipoError: the two are not comparable, or have no picture in common.
    """
    if (suite := SUITES.get(_task_of(a))) is not None:
        return WON_BY, paired_suite(suite, a, b).outcomes()
    metrics, samples, _ = paired_samples(a, b)
    return metrics[0].name, outcomes(metrics[0], of_metric(metrics[0], samples))


def paired_samples(a: Path, b: Path) -> tuple[list[Metric], list[Sample], int]:
    """Return the metrics, A's samples with B's scores as `theirs`, and how many have no partner.

    Raises:
        VipoError: the two are not comparable, or have no picture in common.
    """
    manifests = [read_manifest(folder) for folder in (a, b)]
    refuse_unlike(a, b, *manifests)
    of_a, of_b = (
        {
            (sample["prompt"], sample["seed"], key): sample
            for key, sample in read_samples(folder / "samples.jsonl").items()
            if sample["scores"] is not None
        }
        for folder in (a, b)
    )
    shared = sorted(of_a.keys() & of_b.keys(), key=lambda pair: pair[2])
    if not shared:
        raise VipoError(f"`{a}` and `{b}` have no judged picture in common")
    samples: list[Sample] = [{**of_a[key], "theirs": of_b[key]["scores"]} for key in shared]
    return read_metrics(manifests[0]), samples, len(of_a) + len(of_b) - 2 * len(shared)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read what an evaluation was.

    Raises:
        VipoError: an older version wrote it.
    """
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    if manifest["schema_version"] >= OLDEST and "metrics" not in manifest:
        raise VipoError(
            f"the evaluation in `{folder}` keeps no verdict on each picture",
            hint="compare the intervals of the two results.json",
        )
    if manifest["schema_version"] < OLDEST:
        raise VipoError(
            f"the evaluation in `{folder}` was made by an older version",
            hint="make it again: its pictures are kept where the new one is told to find them",
        )
    return manifest


def refuse_unlike(a: Path, b: Path, one: dict[str, Any], other: dict[str, Any]) -> None:
    """Refuse evaluations that differ in anything but the model.

    Raises:
        VipoError: they do; tells in what.
    """
    if one["fingerprint"] == other["fingerprint"]:
        return
    names = differing(one["comparable"], other["comparable"])
    raise VipoError(
        f"`{a}` and `{b}` cannot be compared: they differ in {', '.join(names)}",
        details=[f"{name}: {_nested(one, name)} and {_nested(other, name)}" for name in names],
        hint="evaluate both with the same version and options of the same benchmark",
    )


def _difference(metric: Metric, samples: Sequence[Sample]) -> dict[str, Any]:
    samples = [sample for sample in samples if metric.key in sample["theirs"]]
    interval, p_value = paired_difference(
        [sample["scores"][metric.key] for sample in samples],
        [sample["theirs"][metric.key] for sample in samples],
        [sample["prompt_index"] for sample in samples],
        [sample["tag"] for sample in samples],
        weights=weights_of(metric, samples),
        pooled=metric.over == "samples",
    )
    return {
        "value": interval.value,
        "ci95": bounds(interval),
        "p_value": p_value,
        "n": interval.n,
        "n_clusters": interval.n_clusters,
    }


def outcomes(metric: Metric, samples: Sequence[Sample]) -> dict[int, int]:
    """Return for each prompt whether A's media are better on average, 1, worse, -1, or alike, 0."""
    margins: dict[int, list[float]] = {}
    for sample in samples:
        theirs = sample["theirs"].get(metric.key)
        if theirs is not None:
            margin = sample["scores"][metric.key] - theirs
            margins.setdefault(sample["prompt_index"], []).append(margin)
    sign = 1 if metric.higher_is_better else -1
    return {prompt: sign * int(np.sign(np.mean(of))) for prompt, of in margins.items()}


def wins(metric: str, outcomes: Mapping[Any, int]) -> dict[str, Any]:
    """Count the prompts that A wins, ties and loses; a tie counts half in the rate."""
    found = list(outcomes.values())
    won, tied, lost = (found.count(outcome) for outcome in (1, 0, -1))
    rate = wilson(won + tied / 2, len(found))
    return {
        "metric": metric,
        "won": won,
        "tied": tied,
        "lost": lost,
        "rate": rate.value,
        "ci95": [rate.low, rate.high],
    }


def _nested(manifest: dict[str, Any], name: str) -> Any:
    comparable = manifest["comparable"]
    return comparable[name] if name in comparable else comparable["sampling"].get(name)
