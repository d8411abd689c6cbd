"""GenEval against its public implementation: prompts, verdicts and result files."""

import json
import random
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.benchmarks.random_scenes import colour_of, identity, scenes
from vipo_cli.benchmarks import Detection, prompt_sets
from vipo_cli.benchmarks.geneval import GenEval, geneval, wrong
from vipo_cli.benchmarks.geneval_files import IMAGES_PER_PROMPT, read_official_results
from vipo_cli.data import geneval_prompts
from vipo_cli.errors import DataError, VipoError
from vipo_cli.evaluation.aggregate import aggregate

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def prompts():
    return dict(enumerate(prompt_sets["geneval"]()))


def test_the_prompts_are_the_published_ones(prompts):
    tags = [record["tag"] for record in prompts.values()]
    counts = {tag: tags.count(tag) for tag in dict.fromkeys(tags)}
    assert counts == {
        "single_object": 80,
        "two_object": 99,
        "counting": 80,
        "colors": 94,
        "position": 100,
        "color_attr": 100,
    }
    assert prompts[353] == {
        "tag": "position",
        "include": [
            {"class": "teddy bear", "count": 1},
            {"class": "dog", "count": 1, "position": ["right of", 0]},
        ],
        "prompt": "a photo of a dog right of a teddy bear",
    }


def test_other_prompts_than_the_published_ones_are_refused(monkeypatch):
    monkeypatch.setattr(geneval_prompts, "SEED", 44)
    geneval_prompts._lines.cache_clear()
    with pytest.raises(DataError, match="draws other prompts"):
        geneval_prompts.geneval()
    monkeypatch.undo()
    assert len(geneval_prompts.geneval()) == 553


def test_verdicts_are_those_of_the_public_implementation():
    golden = json.loads((GOLDEN / "geneval_verdicts.json").read_text())
    drawn = scenes(len(golden["right"]))
    assert identity(drawn) == golden["scenes"], "these are other scenes: draw the verdicts anew"
    ours = ""
    for asked, found in drawn:
        detections = [Detection(label, score, tuple(box)) for label, score, box in found]
        ours += str(int(not wrong(asked, detections, lambda each: colour_of(each.box))))
    assert ours == golden["right"]
    assert 50 < golden["right"].count("1") < 350


def test_options_reach_the_detector_or_are_refused():
    assert geneval(prompts="shapes").images_per_prompt == 2
    with pytest.raises(VipoError, match="the detector `shapes` has no weights"):
        geneval(detector="shapes", weights="x.pth")


def official_rows(prompts, images=IMAGES_PER_PROMPT):
    """Rows as the public script writes them, some pictures right, in the order of a directory."""
    rng = random.Random(0)
    rows = [
        {
            "filename": f"images/{prompt:05d}/samples/{image:04d}.png",
            "tag": record["tag"],
            "prompt": record["prompt"],
            "correct": rng.random() < 0.1 + 0.14 * list(TAG_ORDER).index(record["tag"]),
            "reason": "expected bench>=1, found 0\nno target",
            "metadata": json.dumps(record),
            "details": "{}",
        }
        for prompt, record in prompts.items()
        for image in range(images)
    ]
    rng.shuffle(rows)
    return rows


TAG_ORDER = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


def write(rows, file):
    file.write_text("".join(json.dumps(row).replace("/", "\\/") + "\n" for row in rows))
    return file


def results(samples, prompts, images=IMAGES_PER_PROMPT):
    task = GenEval(detector=None)
    manifest = {
        "title": "GenEval",
        "model": "somebody's",
        "fingerprint": "",
        "notes": [],
        "metrics": [asdict(metric) for metric in task.metrics],
        "comparable": {"task": "geneval", "task_version": "", "images_per_prompt": images},
    }
    return aggregate(manifest, prompts, samples, samples.keys(), len(prompts))


def test_official_results_give_the_official_summary(prompts, tmp_path):
    rows = official_rows(prompts)
    samples = read_official_results(write(rows, tmp_path / "results.jsonl"), prompts)
    assert len(samples) == 553 * 4
    assert samples[0, 0]["prompt"] == "a photo of a bench"
    found = results(samples, prompts)
    by_tag = {
        tag: [row["correct"] for row in rows if row["tag"] == tag]
        for tag in dict.fromkeys(row["tag"] for row in rows)
    }
    means = {tag: sum(right) / len(right) for tag, right in by_tag.items()}
    assert found["status"] == "complete"
    assert {tag: found["subtasks"][tag]["value"] for tag in means} == pytest.approx(means)
    assert found["metrics"]["overall"]["value"] == pytest.approx(sum(means.values()) / 6)
    assert found["metrics"]["overall"]["value"] != pytest.approx(
        sum(row["correct"] for row in rows) / len(rows), abs=1e-3
    )


def test_missing_prompts_show(prompts, tmp_path):
    rows = [row for row in official_rows(prompts) if "/0054" not in row["filename"]]
    samples = read_official_results(write(rows, tmp_path / "results.jsonl"), prompts)
    found = results(samples, prompts)
    assert found["status"] == "partial"
    assert found["warnings"] == ["40 of 2212 pictures are missing"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"filename": "images/bench.png"}, "not named NNNNN/samples/NNNN.png"),
        ({"metadata": "{}"}, "prompt 0 is not"),
        ({"correct": 0.5}, "neither true nor false"),
        ({"metadata": "x"}, "not a line that GenEval's evaluation writes"),
    ],
)
def test_lines_that_are_no_verdicts_are_named(prompts, tmp_path, change, problem):
    rows = official_rows({0: prompts[0]}, 2)
    place = next(i for i, row in enumerate(rows) if row["filename"].endswith("0000.png"))
    rows[place] |= change
    with pytest.raises(DataError) as error:
        read_official_results(write(rows, tmp_path / "results.jsonl"), prompts)
    assert f"line {place + 1}: " in error.value.details[0]
    assert problem in error.value.details[0]


def test_a_picture_that_is_judged_twice_is_named(prompts, tmp_path):
    rows = official_rows({0: prompts[0]}, 1) * 2
    with pytest.raises(DataError) as error:
        read_official_results(write(rows, tmp_path / "results.jsonl"), prompts)
    assert error.value.details == ("line 2: the picture 00000/0000 a second time",)


def test_an_empty_or_absent_file_is_no_results_file(prompts, tmp_path):
    (tmp_path / "results.jsonl").touch()
    with pytest.raises(DataError, match="no results file of GenEval"):
        read_official_results(tmp_path / "results.jsonl", prompts)
    with pytest.raises(DataError, match="cannot read"):
        read_official_results(tmp_path / "absent.jsonl", prompts)
