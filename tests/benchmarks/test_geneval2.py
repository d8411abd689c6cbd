import json
import math

import numpy as np
import pytest

from tests.tiny.qwen2vl import build
from vipo_cli.benchmarks import Task, prompt_sets, tasks
from vipo_cli.benchmarks.geneval2 import GenEval2, geneval2_prompts, graded, spellings
from vipo_cli.errors import DataError, MissingWeights
from vipo_cli.media import decode, encode_png

LINES = [
    {
        "prompt": "two tin owls under a chair",
        "atom_count": 4,
        "vqa_list": [
            ["How many owls are there?", "two"],
            ["Are the owls tin?", "Yes"],
            ["Is there an owl?", "Yes"],
            ["Are the owls under the chair?", "Yes"],
        ],
        "skills": ["count", "attribute", "object", "position"],
    },
    {
        "prompt": "an owl that sings",
        "atom_count": 3,
        "vqa_list": [["Is there an owl?", "Yes"], ["Does the owl sing?", "Yes"]],
        "skills": ["object", "verb"],
    },
]


@pytest.fixture
def file(tmp_path):
    found = tmp_path / "geneval2_data.jsonl"
    found.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return found


@pytest.fixture
def records(file, monkeypatch):
    monkeypatch.setattr("vipo_cli.benchmarks.sources._verify", lambda *_: None)
    return geneval2_prompts(path=str(file))


class Oracle:
    """Tells the chances that it was given, one for each question in turn."""

    name = "org/Qwen3-VL-8B-Instruct"

    def __init__(self, chances):
        self.chances = list(chances)
        self.asked = []

    def chances_of(self, questions, words):
        self.asked += [
            (parts[1], tuple(spelled)) for (_, parts), spelled in zip(questions, words, strict=True)
        ]
        return [[self.chances.pop(0) / len(spelled)] * len(spelled) for spelled in words]


def picture():
    return encode_png(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))


def test_prompts_come_with_their_questions(records):
    assert [record["tag"] for record in records] == ["4", "3"]
    assert records[0]["questions"][0] == {"question": "How many owls are there?", "answer": "two"}
    assert records[1]["skills"] == ["object", "verb"]
    assert "geneval2" in prompt_sets


def test_a_file_that_is_not_what_was_published_is_refused(file):
    with pytest.raises(DataError):
        geneval2_prompts(path=str(file))
    with pytest.raises(MissingWeights, match="GenEval 2"):
        geneval2_prompts()


@pytest.mark.parametrize(
    "change",
    [
        {"vqa_list": []},
        {"skills": ["object"]},
        {"skills": ["object", "taste"]},
        {"atom_count": "x"},
    ],
)
def test_lines_without_questions_and_skills_are_refused(file, monkeypatch, change):
    monkeypatch.setattr("vipo_cli.benchmarks.sources._verify", lambda *_: None)
    file.write_text(json.dumps(LINES[1] | change))
    with pytest.raises(DataError, match="an owl that sings"):
        geneval2_prompts(path=str(file))


def test_right_answers_may_be_spelled_in_several_ways():
    assert set(spellings("Is it red?", "Yes")) == {"Yes", "yes", " yes", " Yes"}
    assert sorted(spellings("How many?", "two")) == sorted(
        ["two", "Two", " two", " Two", "2", " 2"]
    )
    assert "10" in spellings("How many?", "ten")
    assert "other" in spellings("How many?", "twelve")


def test_soft_tifa_is_both_means_of_the_chances(records):
    oracle = Oracle([0.5, 1.0, 0.25, 0.8, 0.9, 0.4])
    task = GenEval2(oracle, "id", batch=3)
    assert isinstance(task, Task)
    first, second = task.judge([picture(), picture()], records)
    assert first.scores["soft_tifa_am"] == pytest.approx(63.75)
    assert first.scores["soft_tifa_gm"] == pytest.approx(100 * (0.5 * 0.25 * 0.8) ** 0.25)
    assert second.scores["soft_tifa_gm"] == pytest.approx(60)
    assert second.scores["verb"] == pytest.approx(40)
    assert "count" not in second.scores
    assert second.weights == {"object": 1, "verb": 1}
    assert "Does the owl sing? Yes: 40%" in second.reason
    assert oracle.asked[0][0] == "How many owls are there? Answer in one word."
    assert task.metrics[0].name == "soft_tifa_gm"
    assert task.name == "geneval2"
    assert "CC BY-NC" in task.notes[0]


def test_one_answer_that_cannot_be_makes_the_geometric_mean_zero():
    verdict = graded([("a", "Yes"), ("b", "Yes"), ("c", "Yes")], [0.5, 0.0, 1.0], ["object"] * 3)
    assert verdict.scores["soft_tifa_gm"] == 0
    assert verdict.scores["object"] == pytest.approx(50)
    assert verdict.weights == {"object": 3}
    assert math.isfinite(verdict.scores["soft_tifa_am"])


def test_a_model_in_this_process_answers(tmp_path, records):
    task = tasks["geneval2"](judge=str(build(tmp_path / "tiny")), device="cpu", batch_size=2)
    (verdict,) = task.judge([picture()], records[:1])
    (chance,) = task.chat.chances_of(
        [("", [decode(picture()), "Are the owls tin? Answer in one word."])],
        [["Yes", "yes", " yes", " Yes"]],
    )
    assert verdict.details["chances"][1] == pytest.approx(sum(chance), rel=1e-4)
    assert task.name == "geneval2.tiny"
    assert "do not compare" in task.notes[0]
    assert (
        task.judge_fingerprint
        == tasks["geneval2"](
            judge=str(tmp_path / "tiny"), device="cpu", batch_size=2
        ).judge_fingerprint
    )
