import json
import sys
from pathlib import Path
from types import ModuleType
from zipfile import ZipFile

import numpy as np
import pytest

from vipo_cli.benchmarks import Task, paddle, tasks
from vipo_cli.benchmarks import cvtg as cvtg_module
from vipo_cli.benchmarks.cvtg import CVTG, compare, likeness, quoted_words, read_words
from vipo_cli.benchmarks.cvtg_prompts import PROMPTS, cvtg_prompts, read_prompts
from vipo_cli.errors import DataError, MissingWeights
from vipo_cli.media import encode_png

GOLDEN = json.loads((Path(__file__).parent / "golden" / "cvtg.json").read_text())["cases"]
PICTURE = encode_png(np.full((4, 4, 3), (10, 20, 30), np.uint8))


@pytest.mark.parametrize("case", GOLDEN, ids=range(len(GOLDEN)))
def test_words_matches_and_ned_are_those_of_the_public_script(case):
    words = quoted_words(case["prompt"])
    assert words == case["words"]
    if words:
        found = compare(words, read_words(case["lines"]))
        assert (found.right, list(found.ned)) == (case["right"], case["ned"])


def test_an_empty_reading_is_a_little_better_than_nothing():
    assert compare(["abc"], []).ned == (1 - 3 / (3 + 1e-5),)
    assert likeness("abc", "abc") == 1
    assert likeness("abc", "abd") == pytest.approx(2 / 3, abs=1e-5)


def test_of_equally_like_words_the_last_in_the_alphabet_counts():
    assert compare(["ab"], ["ax", "xb"]).ned == compare(["ab"], ["xb"]).ned
    near, far = likeness("abcd", "bcda"), likeness("abcd", "abcx")
    assert near != far  # of one ratio, but not of one distance
    assert compare(["abcd"], ["abcx", "bcda"]).ned == (near,)


def test_a_word_read_once_is_right_as_often_as_it_is_wanted():
    assert compare(["go", "go", "stop"], ["go"]).right == 2


def test_an_apostrophe_ends_what_is_quoted():
    assert quoted_words("a sign 'Men's Room' and 'Bar'") == ["men", "and"]


def cvtg(read, **options):
    return CVTG(lambda data: read, "rapidocr", "1.4", **options)


def test_the_benchmark_pools_over_words():
    task = cvtg(["NEW  books", "opn"])
    assert isinstance(task, Task)
    asked = {"prompt": "a shop with 'New Books' and 'Open'", "tag": "CVTG/2"}
    verdict = task.judge([PICTURE], [asked])[0]
    assert verdict.scores["word_accuracy"] == pytest.approx(2 / 3)
    assert verdict.scores["ned"] == pytest.approx((1 + 1 + likeness("open", "opn")) / 3)
    assert verdict.weights == {"word_accuracy": 3, "ned": 3}
    assert verdict.reason == "not read: open"
    assert "PaddleOCR" in task.notes[0]
    assert CVTG(task.lines, "paddleocr", "2.10.0").notes == ()


def test_a_prompt_that_quotes_nothing_says_nothing():
    verdict = cvtg(["a"]).judge([PICTURE], [{"prompt": 'a "b"', "tag": "all"}])[0]
    assert verdict.scores == {} and verdict.reason == "nothing is quoted"


def test_a_failed_reading_fails_the_picture_and_officially_counts_as_wrong():
    def fail(data):
        raise RuntimeError("out of memory")

    asked = [{"prompt": "'two words'", "tag": "CVTG/2"}]
    with pytest.raises(RuntimeError):
        CVTG(fail, "e", "1").judge([PICTURE], asked)
    verdict = CVTG(fail, "e", "1", "official").judge([PICTURE], asked)[0]
    assert verdict.scores == {"word_accuracy": 0, "ned": 0}
    assert verdict.weights == {"word_accuracy": 2, "ned": 2}
    assert "out of memory" in verdict.reason


def test_the_registered_benchmark_takes_the_engines_of_the_rewards(monkeypatch):
    from vipo_cli.rewards import ocr

    monkeypatch.setitem(ocr.INSTALLED, "rapidocr", lambda: True)
    monkeypatch.setitem(ocr.READERS, "rapidocr", lambda: lambda data: "Some Words")
    task = tasks["cvtg-2k"](engine="rapidocr")
    assert task.judge_fingerprint[0] == "rapidocr"
    verdict = task.judge([PICTURE], [{"prompt": "'some words'", "tag": "CVTG/2"}])[0]
    assert verdict.scores["word_accuracy"] == 1
    monkeypatch.setattr(paddle, "installed", lambda: None)
    with pytest.raises(MissingWeights, match="PaddleOCR is not installed"):
        tasks["cvtg-2k"](engine="paddleocr")


@pytest.fixture
def fake_paddle(monkeypatch):
    made = []

    class PaddleOCR:
        def __init__(self, **options):
            made.append(options)

        def ocr(self, pixels, cls):
            assert cls and pixels[0, 0].tolist() == [30, 20, 10]
            return [[[[[0, 0]], ("Old line", 0.9)]], None]

        def predict(self, pixels):
            assert pixels[0, 0].tolist() == [30, 20, 10]
            return [{"rec_texts": ["New line"], "rec_scores": [0.9]}]

    module = ModuleType("paddleocr")
    module.PaddleOCR = PaddleOCR
    monkeypatch.setitem(sys.modules, "paddleocr", module)
    return made


def test_paddle_is_asked_in_the_interface_of_its_version(fake_paddle, monkeypatch):
    monkeypatch.setattr(paddle, "installed", lambda: "2.10.0")
    assert paddle.load_paddle()(PICTURE) == ["Old line"]
    monkeypatch.setattr(paddle, "installed", lambda: "3.7.0")
    assert paddle.load_paddle()(PICTURE) == ["New line"]
    older, newer = fake_paddle
    assert older == {"use_angle_cls": True, "lang": "en", "show_log": False}
    assert newer["ocr_version"] == "PP-OCRv4" and "show_log" not in newer


WANTED = {"CVTG": {2: 2}, "CVTG-Style": {2: 1}}


def listed(*prompts):
    data = [
        {"index": index, "prompt": prompt, "carrier_list": ["a"], "sentence_list": ["b"]}
        for index, prompt in enumerate(prompts)
    ]
    return json.dumps({"data_list": data})


@pytest.fixture
def folder(tmp_path):
    for name, text in {
        "CVTG/2.json": listed("'a' and 'b'", "'c' or 'd'"),
        "CVTG/2_combined.json": "{}",
        "CVTG-style/2.json": listed("a red 'e'"),
    }.items():
        file = tmp_path / "CVTG-2K" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path / "CVTG-2K"


def test_folder_and_archive_give_the_same_prompts(folder, tmp_path):
    archive = tmp_path / "CVTG-2K.zip"
    with ZipFile(archive, "w") as target:
        for file in folder.rglob("*.json"):
            target.write(file, file.relative_to(tmp_path))
    records = read_prompts(folder, WANTED)
    assert records == read_prompts(archive, WANTED)
    assert records[1:] == [
        {"prompt": "'c' or 'd'", "tag": "CVTG/2", "index": 1, "texts": 2},
        {"prompt": "a red 'e'", "tag": "CVTG-Style/2", "index": 0, "texts": 2},
    ]


def test_incomplete_prompts_are_refused(folder, tmp_path):
    with pytest.raises(DataError, match="holds 2 prompts, CVTG-2K 200"):
        cvtg_prompts(path=str(folder))
    with pytest.raises(DataError, match=r"has no CVTG/3\.json"):
        read_prompts(folder, {"CVTG": {3: 1}})
    (folder / "CVTG" / "2.json").write_text("[]")
    with pytest.raises(DataError, match="holds no `data_list`"):
        read_prompts(folder, WANTED)
    broken = tmp_path / "CVTG-2K.zip"
    broken.write_bytes(b"PK")
    with pytest.raises(DataError, match="is no archive"):
        read_prompts(broken)


def test_there_are_two_thousand_prompts():
    assert sum(sum(counts.values()) for counts in PROMPTS.values()) == 2000


class Halves:
    """A score of one half for everything."""

    fingerprint = "halves"

    def score(self, media, prompts):
        assert [prompt for prompt in prompts if not prompt.startswith("a shop")] == []
        return np.full(len(media), 0.5)


def test_clipscore_is_a_mean_over_pictures_beside_the_words(monkeypatch):
    asked_for = []
    monkeypatch.setattr(cvtg_module, "find_cvtg", lambda engine, rules: cvtg(["open"], rules=rules))
    monkeypatch.setattr(
        cvtg_module,
        "scores",
        {"clipscore": lambda backbone: asked_for.append(backbone) or Halves()},
    )
    task = tasks["cvtg-2k"](clipscore=True)

    verdict = task.judge([PICTURE], [{"prompt": "a shop with 'Open'", "tag": "CVTG/2"}])[0]

    assert asked_for == ["vit-l-14"]
    assert verdict.scores == {"word_accuracy": 1.0, "ned": pytest.approx(1), "clipscore": 0.5}
    assert "clipscore" not in verdict.weights
    assert [metric.name for metric in task.metrics] == ["word_accuracy", "ned", "clipscore"]
    without = tasks["cvtg-2k"]()
    assert task.judge_fingerprint == [*without.judge_fingerprint, "halves"]
