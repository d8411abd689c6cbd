"""From verdicts to results.json: a pure function that can be run again without a model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from vipo_cli.analysis.intervals import Interval, stratified_mean, wilson
from vipo_cli.benchmarks.geneval import TASKS
from vipo_cli.evaluation.score import Key

Sample = Mapping[str, Any]


def aggregate(
    manifest: Mapping[str, Any],
    metadata: Mapping[int, Mapping[str, Any]],
    samples: Mapping[Key, Sample],
    generated: Iterable[Key],
    all_prompts: int,
) -> dict[str, Any]:
    """Return the results of GenEval, without `environment` and `timing`.

    The overall score is the unweighted mean of the six tasks' shares of right pictures; without a
    verdict in each task there is none. Failed pictures count as missing, not as wrong.
    """
    comparable = manifest["comparable"]
    expected = {
        (prompt, image) for prompt in metadata for image in range(comparable["images_per_prompt"])
    }
    known = [samples[key] for key in sorted(expected & samples.keys())]
    judged = [sample for sample in known if sample["correct"] is not None]
    subtasks = {task: share_right(_of(judged, task)) for task in TASKS if _of(judged, task)}
    counts = {
        "expected": len(expected),
        "generated": len(expected & set(generated)),
        "scored": len(judged),
        "failed": len(known) - len(judged),
    }
    warnings = _warnings(counts, len(metadata), all_prompts, subtasks)
    overall = {"overall": share_right(judged)} if len(subtasks) == len(TASKS) else {}
    return {
        "schema_version": 1,
        "status": ("partial" if warnings else "complete") if judged else "error",
        "task": comparable["task"],
        "task_version": comparable["task_version"],
        "model": manifest["model"],
        "metrics": {name: as_metric(interval) for name, interval in overall.items()},
        "subtasks": {name: as_metric(interval) for name, interval in subtasks.items()},
        "n_samples": counts,
        "fingerprint": manifest["fingerprint"],
        "warnings": warnings,
    }


def share_right(samples: Sequence[Sample]) -> Interval:
    """Return the mean over tasks of the share of right pictures, prompts being the clusters."""
    interval = stratified_mean(
        [sample["correct"] for sample in samples],
        [sample["prompt_index"] for sample in samples],
        [sample["tag"] for sample in samples],
    )
    if interval.stderr > 0:
        return interval
    # all right or all wrong: resampling sees no spread where a few prompts prove little
    bounds = wilson(interval.value * interval.n_clusters, interval.n_clusters)
    return replace(interval, low=bounds.low, high=bounds.high, method="wilson")


def as_metric(interval: Interval) -> dict[str, Any]:
    """Return an interval as results.json has it."""
    return {
        "value": interval.value,
        "stderr": interval.stderr,
        "ci95": [interval.low, interval.high],
        "n": interval.n,
        "n_clusters": interval.n_clusters,
        "method": interval.method,
        "higher_is_better": True,
        "scale": [0.0, 1.0],
    }


def _of(samples: Sequence[Sample], task: str) -> list[Sample]:
    return [sample for sample in samples if sample["tag"] == task]


def _warnings(
    counts: Mapping[str, int], prompts: int, all_prompts: int, subtasks: Mapping[str, Interval]
) -> list[str]:
    """Say everything that makes these results less than the whole benchmark."""
    warnings = []
    if prompts < all_prompts:
        warnings.append(f"only {prompts} of the benchmark's {all_prompts} prompts were asked for")
    if missing := counts["expected"] - counts["generated"]:
        warnings.append(f"{missing} of {counts['expected']} pictures are missing")
    if counts["failed"]:
        warnings.append(f"the detector failed on {counts['failed']} pictures; see samples.jsonl")
    if without := [task for task in TASKS if task not in subtasks]:
        warnings.append(f"no overall score: nothing was judged in {', '.join(without)}")
    return warnings
