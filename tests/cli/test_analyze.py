import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from vipo_cli.cli import app
from vipo_cli.errors import DataError, UnknownName

SHAPES = ("analyze", "conflict", "shapes", "--limit", "24")


def vipo(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def scored(tmp_path):
    """A Pick-a-Pic folder with the scores of three rewards, and media that nobody could decode."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 400).astype(float)
    columns = {"caption": [f"prompt {row // 4}" for row in range(400)], "label_0": label}
    columns |= {"label_1": 1 - label, "jpg_0": [b"x"] * 400, "jpg_1": [b"y"] * 400}
    for name in ("pickscore", "hps_v2", "aesthetic"):
        columns[f"{name}_0"] = label + rng.normal(size=400)
        columns[f"{name}_1"] = 1 - label + rng.normal(size=400)
    pq.write_table(pa.table(columns), tmp_path / "train-0.parquet")
    return tmp_path


def test_conflict_of_shapes_in_words():
    result = vipo(*SHAPES, "--set", "kind=noisy")
    assert result.exit_code == 0
    words = ("the first 24 of 2,000 pairs", "all rewards agree", "chance", "agreement", "advice")
    assert all(word in result.stdout for word in words)
    assert "pickscore" in result.stdout  # and how to get it
    lines = [line for line in result.stdout.splitlines() if "hf download" not in line]
    assert max(map(len, lines)) <= 80


def test_conflict_of_shapes_as_json():
    result = vipo(*SHAPES, "--set", "kind=noisy", "--json")
    document = json.loads(result.stdout)
    assert document["data"] == "shapes (kind=noisy)"
    assert document["n_pairs"] == 24
    assert {"unanimous", "votes", "agreement", "kappa", "dominance", "strata", "advice"} <= set(
        document
    )
    assert sum(document["votes"].values()) == 24
    assert {each["reward"] for each in document["missing"]} >= {"pickscore", "clip"}
    chance = 2 / 2 ** len(document["rewards"])
    assert document["unanimous"]["chance"] == chance


def test_the_choice_of_rewards():
    chosen = "shapes-sharpness,shapes-vividness"
    document = json.loads(vipo(*SHAPES, "--rewards", chosen, "--json").stdout)
    assert document["rewards"] == chosen.split(",")
    assert document["missing"] == []
    assert isinstance(vipo(*SHAPES, "--rewards", "sharpness").exception, UnknownName)


def test_fewer_than_two_rewards_say_how_to_get_more():
    error = vipo(*SHAPES, "--rewards", "pickscore,shapes-sharpness").exception
    assert isinstance(error, DataError)
    assert "pickscore" in error.details[0]
    assert "hf download" in error.hint


def test_a_reward_that_never_tells_two_media_apart_is_left_out():
    document = json.loads(vipo(*SHAPES, "--set", "kind=clean", "--json").stdout)
    reasons = {each["reward"]: each["reason"] for each in document["missing"]}
    assert "alike" in reasons["shapes-cleanliness"]


def test_pairs_without_a_loser_cannot_conflict():
    error = vipo(*SHAPES, "--set", "kind=captions").exception
    assert isinstance(error, DataError)
    assert error.details == ("24 pairs: no loser",)


@pytest.mark.parametrize("kind", ["ranked", "labelled"])
def test_only_pairs_can_conflict(kind):
    error = vipo(*SHAPES, "--set", f"kind={kind}").exception
    assert isinstance(error, DataError)
    assert f"the data set holds {kind}" in error.message
    assert "kind=clean" in error.hint


def test_scores_in_the_data_are_used(scored):
    result = vipo("analyze", "conflict", "pickapic_v2", "--path", scored, "--json")
    document = json.loads(result.stdout)
    assert document["rewards"] == ["pickscore", "hps-v2", "aesthetic"]
    assert document["n_pairs"] == 400
    assert 0.7 < document["accuracy"]["hps-v2"]["value"] < 1
    low, high = document["unanimous_with_label"]["ci95"]
    assert low < document["unanimous_with_label"]["independent"] < high


def test_foreign_captions_are_told_from_missing_rewards(scored):
    chosen = "pickscore,aesthetic,shapes-alignment"
    words = ("analyze", "conflict", scored, "--rewards", chosen)
    error = vipo(*words).exception  # its media are broken, so nothing can be computed from them
    assert isinstance(error, DataError)


def test_from_analysis_to_fewer_pairs(tmp_path, monkeypatch):
    """As a user types it: keep pairs, score them, look, filter by what was seen, look again."""
    monkeypatch.chdir(tmp_path)
    source = ("shapes", "--set", "kind=noisy", "--set", "pairs=30", "--drop", "broken")
    assert vipo("data", "filter", *source, "--out", "pairs").exit_code == 0
    chosen = "shapes-alignment,shapes-sharpness,shapes-vividness"
    assert vipo("data", "score", "pairs", "--rewards", chosen).exit_code == 0
    words = ("analyze", "conflict", "pairs", "--tie", "shapes-vividness=0.02")
    before = json.loads(vipo(*words, "--pairs", "seen.parquet", "--json").stdout)
    assert before["files"] == {"pairs": "seen.parquet"}
    assert set(before["stored_scores"]) == set(chosen.split(","))
    said = vipo(*words, "--pairs", "seen.parquet").stdout.splitlines()[-1]
    assert said == "next: vipo data filter pairs --scores seen.parquet --agree 2 --out DIR"
    kept = vipo(*said.removeprefix("next: vipo ").replace("DIR", "kept").split())
    assert kept.exit_code == 0
    agreed = before["votes"]["2"] + before["votes"]["3"]
    assert 0 < agreed < 30
    assert f"kept {agreed} of 30 entries" in kept.stdout
    vipo("data", "score", "kept", "--rewards", chosen)
    after = json.loads(vipo("analyze", "conflict", "kept", *words[3:], "--json").stdout)
    assert after["n_pairs"] == agreed
    assert after["votes"]["0"] == after["votes"]["1"] == 0
    assert after["unanimous_with_label"]["value"] > before["unanimous_with_label"]["value"]


def test_a_report_is_one_page_with_pictures(tmp_path):
    out = tmp_path / "report"
    words = ("--set", "kind=noisy", "--rewards", "shapes-sharpness,shapes-vividness")
    result = vipo(*SHAPES, *words, "--out", out, "--quiet")
    names = ["conflict.html", "conflict.json", "conflict.svg", "conflict.png", "pairs.parquet"]
    assert result.stdout.split() == [str(out / name) for name in names]
    page = (out / "conflict.html").read_text()
    assert "data:image/svg+xml;base64," in page
    assert "Most contested" in page
    assert page.count('alt="winner"') == page.count('alt="loser"') > 1
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    document = json.loads((out / "conflict.json").read_text())
    assert f"{100 * document['unanimous']['value']:.1f} %" in page
    assert pq.read_table(out / "pairs.parquet").num_rows == 24


@pytest.mark.parametrize("tie", ["sharpness", "shapes-sharpness=", "=1", "shapes-sharpness=-1"])
def test_bands_that_are_none(tie):
    result = vipo(*SHAPES, "--tie", tie)
    assert result.exit_code == 2
    assert "is not REWARD=X" in " ".join(result.output.split())


def test_a_missing_data_set_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    error = vipo("analyze", "conflict", "pickapic_v2").exception
    assert "not on this machine" in error.message
    assert "--path DIR" in error.hint


def test_quiet_prints_the_share_alone(scored):
    result = vipo("analyze", "conflict", scored, "--quiet")
    assert 0 < float(result.stdout) < 1


def test_help_imports_nothing_heavy():
    code = (
        "import sys, vipo_cli.cli.analyze, vipo_cli.cli.data;"
        "sys.exit(bool({'numpy', 'torch', 'PIL', 'pyarrow', 'pydantic'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
