import json

import pytest

from tests.painter import Painter, write_base
from vipo_cli.building import drawing


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "load_target", lambda target, precision: Painter(0.6))
    return [write_base(tmp_path / name) for name in ("good", "bad")]


def test_from_prompts_to_pairs(vipo, models, tmp_path):
    prompts = tmp_path / "prompts.txt"
    shapes = ("circle", "square", "triangle", "cross")
    prompts.write_text("\n".join(f"a red {one} and a blue {other}" for one in shapes
                                 for other in shapes if one != other))  # fmt: skip
    made, pairs = tmp_path / "made", tmp_path / "pairs"
    status, out, err = vipo(
        "data", "generate", prompts, "--model", models[0], "--model", models[1],
        "--steps", 1, "--out", made,
    )  # fmt: skip
    assert status == 0, err
    assert out.startswith(f"{made}: 24 candidates for 12 prompts\n")
    assert "prompts  12" in err

    status, out, err = vipo("data", "score", made, "--rewards", "shapes-alignment")
    assert status == 0, err
    assert "24 media, 24 distinct" in out
    assert out.endswith(f"scores {made / 'scores'}\n")
    status, out, err = vipo("data", "score", made, "--rewards", "shapes-alignment", "--json")
    document = json.loads(out)
    assert document["rewards"]["shapes-alignment"]["known"] == 24
    assert document["rewards"]["shapes-alignment"]["new"] == 0

    status, out, err = vipo(
        "data", "build", made, "--by", "reward:shapes-alignment", "--min-margin", "0.2",
        "--out", pairs, "--json",
    )  # fmt: skip
    assert status == 0, err
    document = json.loads(out)
    assert document["pairs"] + sum(document["left_out"].values()) == 12
    assert document["median_margin"] >= 0.2
    status, out, err = vipo("data", "check", pairs)
    assert status == 0, out + err
    status, out, err = vipo("data", "stats", pairs)
    assert status == 0, err


def test_candidates_alone_cannot_be_trained_on(vipo, models, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cross\n")
    vipo("data", "generate", prompts, "--model", models[0], "--out", tmp_path / "made", "--quiet")
    status, _, err = vipo("train", "--data", tmp_path / "made", "--dry-run")
    assert status == 1
    assert "vipo data build" in err


def test_quiet_prints_the_folder(vipo, models, tmp_path):
    status, out, err = vipo(
        "data", "build", "shapes", "--set", "pairs=6", "--set", "kind=captions", "--category",
        "alignment", "--model", models[0], "--steps", 1, "--out", tmp_path / "pairs", "-q",
    )  # fmt: skip
    assert (status, out, err) == (0, f"{tmp_path / 'pairs'}\n", "")


def test_data_that_vipo_does_not_keep_needs_a_place_for_scores(vipo, tmp_path):
    words = ("data", "score", "shapes", "--set", "pairs=3", "--rewards", "shapes-sharpness")
    status, _, err = vipo(*words)
    assert status == 1
    assert "--out DIR" in err
    status, out, err = vipo(*words, "--out", tmp_path / "scores")
    assert status == 0, err
    assert "6 media" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["score", "x", "--rewards", ","], "names no reward"),
        (["score", "x", "--rewards", "clip", "--reward-set", "dtype=bf16"], "is not REWARD.KEY"),
        (["score", "x", "--rewards", "clip", "--reward-set", "clap.dtype=bf16"], "not among"),
        (["generate", "p.txt", "--precision", "fp8", "--out", "o"], "fp32, bf16, fp16"),
        (["build", "c", "--by", "reward:clip", "--processes", "2", "--out", "o"], "share out"),
    ],
)
def test_wrong_usage(vipo, words, said):
    status, _, err = vipo("data", *words)
    assert status == 2
    assert said in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["generate", "shapes", "--out", "o"], "no model to draw with"),
        (["generate", "no.txt", "--model", "shapes-sd", "--out", "o"], "no such file: `no.txt`"),
        (["build", "nowhere", "--by", "judge", "--judge", "m", "--out", "o"], "no such folder"),
        (["build", "shapes", "--out", "o"], "nothing says who is better"),
        (["build", "shapes", "--category", "beauty", "--out", "o"], "unknown category `beauty`"),
    ],
)
def test_mistakes_are_told_in_a_line(vipo, words, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = vipo("data", *words)
    assert (status, out) == (1, "")
    assert said in err
    assert list(tmp_path.iterdir()) == []
