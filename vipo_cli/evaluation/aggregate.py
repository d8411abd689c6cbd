"""From verdicts to results.json: a pure function that can be run again without a model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vipo_cli.analysis.intervals import Interval, stratified_mean, wilson
from vipo_cli.analysis.shares import clustered_share
from vipo_cli.benchmarks import Metric
from vipo_cli.evaluation.score import Key, Sample


def aggregate(
    manifest: Mapping[str, Any],
    metadata: Mapping[int, Mapping[str, Any]],
    samples: Mapping[Key, Sample],
    generated: Iterable[Key],
    all_prompts: int,
) -> dict[str, Any]:
    """Return the results of a benchmark, without `environment` and `timing`.

    A metric that is a mean over tags does not exist without a verdict in each of them. Failed media
    count as missing, not as wrong.
    """
    comparable = manifest["comparable"]
    expected = {
        (prompt, image) for prompt in metadata for image in range(comparable["images_per_prompt"])
    }
    known = [samples[key] for key in sorted(expected & samples.keys())]
    judged = [sample for sample in known if sample["scores"] is not None]
    metrics = read_metrics(manifest)
    tags = list(dict.fromkeys(record["tag"] for record in metadata.values()))
    counts = {
        "expected": len(expected),
        "generated": len(expected & set(generated)),
        "scored": len(judged),
        "failed": len(known) - len(judged),
    }
    warnings = _warnings(counts, len(metadata), all_prompts, manifest["title"])
    warnings += [
        f"no {metric.name} score: nothing was judged in {', '.join(without)}"
        for metric in metrics
        if (without := missing_tags(metric, judged))
    ]
    return {
        "schema_version": 2,
        "status": ("partial" if warnings else "complete") if judged else "error",
        "task": comparable["task"],
        "task_version": comparable["task_version"],
        "model": manifest["model"],
        "metrics": {
            metric.name: as_metric(mean(metric, rows), metric)
            for metric in metrics
            if (rows := of_metric(metric, judged)) and not missing_tags(metric, judged)
        },
        "subtasks": {
            name: as_metric(mean(metric, rows), metric)
            for name, metric, rows in by_tag(metrics, tags, judged)
        },
        "n_samples": counts,
        "fingerprint": manifest["fingerprint"],
        "notes": manifest["notes"],
        "warnings": warnings,
    }


def read_metrics(manifest: Mapping[str, Any]) -> list[Metric]:
    """Return the metrics of an evaluation, the headline first."""
    return [Metric(**(each | {"tags": tuple(each["tags"])})) for each in manifest["metrics"]]


def of_metric(metric: Metric, samples: Iterable[Sample]) -> list[Sample]:
    """Return the samples that say something about a metric."""
    return [sample for sample in samples if metric.key in (sample["scores"] or {})]


def by_tag(
    metrics: Sequence[Metric], tags: Sequence[str], samples: Sequence[Sample]
) -> list[tuple[str, Metric, list[Sample]]]:
    """Return name, metric and samples of each subtask: the headline's have the tag's own name."""
    found = []
    for place, metric in enumerate(metrics):
        if not metric.by_tag or (len(tags) == 1 and metric.over == "samples"):
            continue
        for tag in tags:
            rows = of_metric(metric, (sample for sample in samples if sample["tag"] == tag))
            if rows:
                found.append((f"{tag}/{metric.name}" if place else tag, metric, rows))
    return found


def missing_tags(metric: Metric, samples: Iterable[Sample]) -> list[str]:
    """Return the tags that a metric lacks, so that its value would be comparable to no other."""
    seen = {sample["tag"] for sample in of_metric(metric, samples)}
    return [tag for tag in metric.tags if tag not in seen]


def weights_of(metric: Metric, samples: Sequence[Sample]) -> list[float]:
    """Return how much each sample counts."""
    return [float(sample.get("weights", {}).get(metric.key, 1)) for sample in samples]


def mean(metric: Metric, samples: Sequence[Sample]) -> Interval:
    """Return the mean of a metric, prompts being the clusters and tags the strata.

    Of a share in one stratum the interval is Wilson's, which holds up for few prompts.
    """
    values = [sample["scores"][metric.key] for sample in samples]
    prompts = [sample["prompt_index"] for sample in samples]
    tags, weights = [sample["tag"] for sample in samples], weights_of(metric, samples)
    share = (metric.lowest, metric.highest) == (0, 1)
    if share and len(set(tags)) == 1 and set(weights) == {1.0}:
        return clustered_share(values, np.array(prompts))
    interval = stratified_mean(
        values, prompts, tags, weights=weights, pooled=metric.over == "samples"
    )
    if interval.stderr > 0:
        return interval
    if not share:  # equal scores, or one prompt alone, say nothing about the spread
        return replace(interval, low=np.nan, high=np.nan, method="none")
    # all right or all wrong: resampling sees no spread where a few prompts prove little
    ends = wilson(interval.value * interval.n_clusters, interval.n_clusters)
    return replace(interval, low=ends.low, high=ends.high, method="wilson")


def as_metric(interval: Interval, metric: Metric) -> dict[str, Any]:
    """Return an interval as results.json has it."""
    bounded = metric.lowest is not None or metric.highest is not None
    return {
        "value": interval.value,
        "stderr": interval.stderr,
        "ci95": bounds(interval),
        "n": interval.n,
        "n_clusters": interval.n_clusters,
        "method": interval.method,
        "higher_is_better": metric.higher_is_better,
        "scale": [metric.lowest, metric.highest] if bounded else None,
    }


def bounds(interval: Interval) -> list[float] | None:
    """Return the ends of an interval; None where nothing is known about them."""
    return [interval.low, interval.high] if np.isfinite(interval.low) else None


def _warnings(counts: Mapping[str, int], prompts: int, all_prompts: int, title: str) -> list[str]:
    """Say everything that makes these results less than the whole benchmark."""
    warnings = []
    if prompts < all_prompts:
        warnings.append(f"only {prompts} of the benchmark's {all_prompts} prompts were asked for")
    if missing := counts["expected"] - counts["generated"]:
        warnings.append(f"{missing} of {counts['expected']} pictures are missing")
    if counts["failed"]:
        warnings.append(f"{title} failed on {counts['failed']} pictures; see samples.jsonl")
    return warnings
