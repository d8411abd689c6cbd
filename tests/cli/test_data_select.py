import json

import pytest

from vipo_cli.data.entry import Entry
from vipo_cli.data.store import Store
from vipo_cli.data.stored import entries_in
from vipo_cli.shapes.source import shapes

PAIRS = shapes(pairs=8, seed=9)


@pytest.fixture
def data(tmp_path):
    """Eight pairs with scores of two rewards, of which one repeats, and one is GenEval's."""
    store = Store(tmp_path / "data", {})
    for number, pair in enumerate([*PAIRS, PAIRS[2]]):
        prompt = "a photo of a bench" if number == 5 else pair.prompt
        scores = {"x": (1.0, number % 3 - 1.0), "y": (0.5, 0.0)}
        category = "one" if number < 6 else "other"
        store.add(Entry(prompt, pair.media, "a", scores=scores, category=category, id=f"r{number}"))
        store.passed()
    store.close()
    return tmp_path / "data"


def test_what_check_says_is_what_mends(vipo, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = vipo("data", "check", data)
    assert status == 3
    assert "SERIOUS: GenEval prompt, 1 of 9 pairs" in out
    command = f"vipo data filter {data} --drop geneval-prompt --out mended"
    assert f"  mend: {command}" in out
    assert vipo(*command.split()[1:])[0] == 0
    status, out, _ = vipo("data", "check", "mended", "--json")
    document = json.loads(out)
    assert (status, document["serious"]) == (0, False)
    findings = {finding["problem"]: finding for finding in document["findings"]}
    assert findings["duplicate pair"]["mend"].endswith("--drop duplicate-pair --out mended")
    assert findings["left out"]["examples"] == ["1: GenEval prompt"]


def test_one_command_mends_all_that_is_serious(vipo, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    held = tmp_path / "held back.txt"
    held.write_text(PAIRS[0].prompt.upper())
    status, out, _ = vipo("data", "check", data, "--against", held)
    assert status == 3
    command = f"vipo data filter {data} '--against={held}' --drop leaked-prompt,geneval-prompt"
    assert out.rstrip().endswith(f"{command} --out mended")
    words = command.replace("'", "").split(" --against=")[0].split()[1:]
    more = (f"--against={held}", "--drop", "leaked-prompt,geneval-prompt", "--out", "mended")
    assert vipo(*words, *more)[0] == 0
    assert [entry.id for entry in entries_in(tmp_path / "mended")][:2] == ["r1", "r2"]


def test_filter_tells_what_it_dropped(vipo, data, tmp_path):
    out = tmp_path / "out"
    status, text, _ = vipo(
        "data", "filter", data, "--agree", 2, "--drop", "duplicates", "--out", out
    )
    assert status == 0
    assert f"{out}: kept 6 of 9 entries of {data}" in text
    assert "fewer than 2 of 2 rewards prefer the winner" in text
    assert f"vipo data check {out}" in text
    lines = [json.loads(line) for line in (out / "dropped.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["r2", "r5", "r8"]


def test_filter_as_json_and_quiet(vipo, data, tmp_path):
    words = ("data", "filter", data, "--min-margin", "x=0.5", "--balance", "category")
    document = json.loads(vipo(*words, "--out", tmp_path / "1", "--json")[1])
    assert document["kept"] == sum(document["groups"].values()) == 4
    assert document["groups"] == {"one": 2, "other": 2}
    assert document["dropped"]["margin of x below 0.5"] == 3
    assert vipo(*words, "--out", tmp_path / "2", "--quiet")[1] == f"{tmp_path / '2'}\n"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ((), 2, "no condition is given"),
        (("--at-most", 3), 2, "goes with --balance"),
        (("--min-margin", "x"), 2, "is not REWARD=X"),
        (("--min-margin", "x=much"), 2, "is not REWARD=X"),
        (("--drop", "dupes"), 1, "unknown problem `dupes`"),
        (("--agree", 3), 1, "3 rewards cannot agree"),
        (("--min-side", 1000), 1, "nothing is left of 9 pairs"),
        (("--against", "nowhere.txt", "--drop", "leaked"), 1, "cannot read `nowhere.txt`"),
    ],
)
def test_filter_refuses(vipo, data, tmp_path, words, status, said):
    found, out, err = vipo("data", "filter", data, *words, "--out", tmp_path / "out")
    assert (found, out) == (status, "")
    assert said in " ".join(err.split())
    assert not (tmp_path / "out").exists()


def test_filter_takes_any_data(vipo, tmp_path):
    out = tmp_path / "out"
    words = ("data", "filter", "shapes", "--set", "pairs=6", "--drop", "broken", "--out", out)
    assert vipo(*words)[0] == 0
    assert len(list(entries_in(out))) == 6
    status, _, err = vipo(*words)
    assert (status, "holds a data set already" in err) == (1, True)


def test_split(vipo, data, tmp_path):
    out = tmp_path / "parts"
    status, text, _ = vipo("data", "split", data, "--held-out", 0.3, "--out", out)
    assert status == 0
    assert f"{out / 'held-out'}: 3 pairs" in text
    sides = [{e.prompt for e in entries_in(out / name)} for name in ("train", "held-out")]
    assert not sides[0] & sides[1]
    again = tmp_path / "again"
    document = json.loads(
        vipo("data", "split", data, "--held-out", 0.3, "--out", again, "--json")[1]
    )
    assert document["parts"]["held-out"]["entries"] == 3
    assert {e.prompt for e in entries_in(again / "held-out")} == sides[1]
    for share in (0, 1):
        assert vipo("data", "split", data, "--held-out", share, "--out", again)[0] == 2


def test_mix(vipo, data, tmp_path):
    out = tmp_path / "both"
    status, text, _ = vipo("data", "mix", f"{data}=0.75", "shapes=0.25", "--out", out)
    assert status == 0
    assert f"{out}: 12 entries" in text
    assert "75.0% of entries, 75.0% of weight" in text
    document = json.loads(
        vipo("data", "mix", f"{data}=1", f"{out}=1", "--weigh", "--out", tmp_path / "w", "--json")[
            1
        ]
    )
    assert [part["entries"] for part in document["parts"]] == [9, 12]
    assert [part["weight"] for part in document["parts"]] == pytest.approx([10.5, 10.5])


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("shapes=1",), 2, "two data sets or more"),
        (("shapes", "shapes-clips=1"), 2, "`shapes` is not DATA=SHARE"),
        (("shapes=0", "shapes-clips=1"), 2, "the share of `shapes` is not above 0"),
        (("shapes=1", "shapes-clips=1", "--weigh", "--pairs", 3), 2, "goes without --weigh"),
        (("shapes=1", "shapes-clips=1", "--pairs", 9999), 1, "too few entries for 9,999"),
        (("shapes=1", "nothing=1"), 1, "unknown data set `nothing`"),
    ],
)
def test_mix_refuses(vipo, tmp_path, words, status, said):
    found, out, err = vipo("data", "mix", *words, "--out", tmp_path / "out")
    assert (found, out) == (status, "")
    assert said in " ".join(err.split())


def test_preview_as_a_page(vipo, data, tmp_path):
    out = tmp_path / "page.html"
    assert vipo("data", "preview", data, "--out", out)[1] == f"{out}\n"
    text = out.read_text()
    assert text.count("<article") == 8
    assert "r0" in text


def test_stats_know_scores_and_categories(vipo, data):
    document = json.loads(vipo("data", "stats", data, "--json")[1])
    assert document["scores"]["y"]["prefers_winner"]["value"] == 1
    assert document["scores"]["x"]["ties"] == 3
    text = vipo("data", "stats", data)[1]
    assert "prefers the winner in 100%" in text
