from dataclasses import asdict

import numpy as np
import pytest

from vipo_cli.benchmarks.geneval import TASKS, GenEval
from vipo_cli.evaluation.aggregate import aggregate

METADATA = {
    6 * number + place: {"tag": task, "prompt": f"{task} {number}"}
    for number in range(10)
    for place, task in enumerate(TASKS)
}
MANIFEST = {
    "model": "some-model",
    "title": "GenEval",
    "notes": [],
    "metrics": [asdict(metric) for metric in GenEval(None).metrics],
    "fingerprint": "0123456789abcdef",
    "comparable": {"task": "geneval", "task_version": "v", "images_per_prompt": 2},
}


def all_samples(right=lambda prompt, image: prompt % 2 == 0):
    return {
        (prompt, image): {
            "prompt_index": prompt,
            "image_index": image,
            "tag": record["tag"],
            "scores": {"correct": float(bool(right(prompt, image)))},
        }
        for prompt, record in METADATA.items()
        for image in range(2)
    }


def test_results_hold_what_the_contract_lists():
    samples = all_samples()
    results = aggregate(MANIFEST, METADATA, samples, samples, 60)
    assert set(results) == {
        "schema_version", "status", "task", "task_version", "model", "metrics", "subtasks",
        "n_samples", "fingerprint", "notes", "warnings",
    }  # fmt: skip
    assert (results["status"], results["warnings"]) == ("complete", [])
    assert list(results["subtasks"]) == list(TASKS)
    assert set(results["metrics"]["overall"]) == {
        "value", "stderr", "ci95", "n", "n_clusters", "method", "higher_is_better", "scale",
    }  # fmt: skip
    assert results["metrics"]["overall"]["n"] == 120
    assert results["metrics"]["overall"]["n_clusters"] == 60
    assert results["n_samples"] == {"expected": 120, "generated": 120, "scored": 120, "failed": 0}


def test_overall_is_the_unweighted_mean_of_the_tasks():
    samples = all_samples(lambda prompt, image: prompt % 6 == 0 or image)
    for prompt in range(6, 60, 6):  # all but one prompt of the first task are gone
        del samples[prompt, 0], samples[prompt, 1]
    results = aggregate(MANIFEST, METADATA, samples, samples, 60)
    assert results["metrics"]["overall"]["value"] == pytest.approx((1 + 5 * 0.5) / 6)
    assert results["status"] == "partial"
    assert results["warnings"] == ["18 of 120 pictures are missing"]


def test_a_failed_picture_counts_as_missing_not_as_wrong():
    samples = all_samples(lambda *_: True)
    samples[0, 0]["scores"] = None
    results = aggregate(MANIFEST, METADATA, samples, samples, 60)
    assert results["metrics"]["overall"]["value"] == 1
    assert results["n_samples"] == {"expected": 120, "generated": 120, "scored": 119, "failed": 1}
    assert results["status"] == "partial"


def test_all_right_still_has_an_interval():
    samples = all_samples(lambda *_: True)
    overall = aggregate(MANIFEST, METADATA, samples, samples, 60)["metrics"]["overall"]
    assert overall["method"] == "wilson"
    assert np.allclose(overall["ci95"], [60 / (60 + 1.96**2), 1], atol=1e-4)


def test_without_a_task_there_is_no_overall():
    samples = {key: one for key, one in all_samples().items() if one["tag"] != "counting"}
    results = aggregate(MANIFEST, METADATA, samples, samples, 60)
    assert results["metrics"] == {}
    assert "counting" in results["warnings"][-1]


def test_fewer_prompts_than_the_benchmark_has_are_partial():
    samples = all_samples()
    results = aggregate(MANIFEST, METADATA, samples, samples, 600)
    assert results["status"] == "partial"
    assert results["warnings"] == ["only 60 of the benchmark's 600 prompts were asked for"]


def test_nothing_judged_is_an_error():
    results = aggregate(MANIFEST, METADATA, {}, {}, 60)
    assert results["status"] == "error"


def test_the_share_of_one_kind_of_prompts_has_an_interval_for_few_prompts():
    few = {key: each for key, each in all_samples(lambda p, image: p == 6).items() if key[0] < 18}
    results = aggregate(MANIFEST, METADATA, few, few, 60)
    share = results["subtasks"][METADATA[6]["tag"]]  # both pictures of one of three prompts
    assert (share["value"], share["method"]) == (pytest.approx(1 / 3), "clustered-wilson")
    assert share["ci95"][0] < 0.04
    assert share["ci95"][1] > 0.85
    whole = results["metrics"]["overall"]
    assert whole["method"] == "stratified-cluster-bootstrap"
