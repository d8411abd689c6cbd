import io
import json
import sys

import pytest
from PIL import Image
from typer.testing import CliRunner

from vipo_cli.cli import app, main
from vipo_cli.data.entry import Entry
from vipo_cli.data.sources import open_pairs
from vipo_cli.data.store import Store
from vipo_cli.errors import DataError


def vipo(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def spoilt(tmp_path):
    Image.new("RGB", (64, 48), "red").save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_text("text")
    file = tmp_path / "pairs.csv"
    file.write_text("prompt,winner,loser\na cat,a.png,b.jpg\n")
    return file


def test_list_names_every_data_set():
    text = vipo("data", "list").stdout
    entries = json.loads(vipo("data", "list", "--json").stdout)
    assert {"shapes", "pickapic_v2", "files", "hub"} <= entries.keys()
    assert all(name in text and summary in text for name, summary in entries.items())
    assert vipo("data", "list", "--quiet").stdout.split() == sorted(entries)


def test_check_of_good_pairs():
    result = vipo("data", "check", "shapes", "--limit", 6)
    assert result.exit_code == 0
    assert "6 pairs looked at" in result.stdout
    assert "fit for training" in result.stdout


def test_check_of_spoilt_pairs_says_no(spoilt):
    result = vipo("data", "check", spoilt)
    assert result.exit_code == 3
    assert "SERIOUS: broken media, 1 of 1 pairs" in result.stdout
    document = json.loads(vipo("data", "check", spoilt, "--json").stdout)
    assert document["serious"] is True
    assert document["findings"][0]["problem"] == "broken media"
    assert vipo("data", "check", spoilt, "--quiet").stdout == "broken-media\n"


def test_stats(spoilt):
    document = json.loads(vipo("data", "stats", "shapes", "--set", "pairs=12", "--json").stdout)
    assert document["pairs"] == 12
    assert len(document["categories"]) == 6
    text = vipo("data", "stats", spoilt).stdout
    assert "64x48" in text
    assert max(map(len, text.splitlines())) <= 80 + len(str(spoilt))


@pytest.mark.parametrize(
    ("kind", "noun"), [("ranked", "ranked list"), ("labelled", "labelled sample")]
)
def test_looks_at_more_than_pairs(kind, noun, tmp_path):
    words = ("shapes", "--set", f"kind={kind}", "--set", "pairs=6")
    result = vipo("data", "check", *words)
    assert result.exit_code == 0
    assert f"6 {noun}s looked at" in result.stdout
    assert json.loads(vipo("data", "check", *words, "--json").stdout)["kind"] == noun
    text = vipo("data", "stats", *words).stdout
    assert f"{noun}s" in text
    assert "without a loser" not in text
    out = tmp_path / "sheet.png"
    assert vipo("data", "preview", *words, "--pairs", 2, "--out", out).exit_code == 0


def test_candidates_can_be_looked_at_before_anybody_judges_them(tmp_path):
    place = tmp_path / "candidates"
    store = Store(place, {"made": "candidates"})
    for number in range(3):
        media = []
        for colour in ("red", "blue"):
            buffer = io.BytesIO()
            Image.new("RGB", (64, 64 + number), colour).save(buffer, format="PNG")
            media.append(buffer.getvalue())
        store.add(Entry(f"a wall {number}", tuple(media), "candidates", models=("one", "two")))
    store.close()
    result = vipo("data", "check", place)
    assert "3 groups of candidates looked at" in result.stdout
    assert "for training" not in result.stdout
    assert "nobody has judged these candidates" in result.stderr
    assert json.loads(vipo("data", "check", place, "--json").stdout)["kind"] == "candidates"
    stats = vipo("data", "stats", place).stdout
    assert "groups of candidates 3" in stats
    assert "one" in stats
    for name in ("sheet.png", "page.html"):
        assert vipo("data", "preview", place, "--out", tmp_path / name).exit_code == 0
    assert "not judged" in (tmp_path / "page.html").read_text()
    with pytest.raises(DataError, match="no ranked lists in") as caught:
        open_pairs(str(place))
    assert f"vipo data build {place}" in caught.value.hint


def test_stats_tell_what_is_known_about_pairs(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    Image.new("RGB", (8, 8), "blue").save(tmp_path / "b.png")
    file = tmp_path / "pairs.csv"
    file.write_text("prompt,winner,loser,probability\na,a.png,b.png,0.5\na,a.png,b.png,0.7\n")
    kept = vipo("data", "stats", file, "--set", "ties=keep", "--json")
    assert json.loads(kept.stdout)["labels"] == {"tie": 1, "uncertain": 1}
    result = vipo("data", "stats", file)
    assert "left out 1 rows: a tie" in result.stderr
    assert "uncertain" in result.stdout


def test_preview_writes_a_picture_and_prints_its_path(tmp_path):
    out = tmp_path / "new" / "sheet.png"
    result = vipo("data", "preview", "shapes", "--pairs", 2, "--out", out, "--quiet")
    assert result.stdout == f"{out}\n"
    with Image.open(out) as sheet:
        assert sheet.height > 2 * 192


def test_a_setting_must_have_a_value():
    assert vipo("data", "stats", "shapes", "--set", "pairs").exit_code == 2


def test_errors_reach_the_user_as_status_1(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["vipo", "data", "check", "nothing.csv"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    error, _, hint = capsys.readouterr().err.partition("\n\nhint: ")
    assert error == "error: no such file or folder: `nothing.csv`"
    assert hint.startswith("vipo list importers names the layouts")


def test_cache_encodes_once_and_names_its_folder(tiny):
    command = ("data", "cache", "shapes", "--model", tiny, "--set", "data.pairs=4")
    document = json.loads(vipo(*command, "--json").stdout)
    again = vipo(*command)
    assert document["media"] == 8
    assert f"{document['folder']}: 8 media" in again.stdout
    assert "there already" in again.stdout
    assert "of 4 records" in again.stdout
