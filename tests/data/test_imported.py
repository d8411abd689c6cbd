"""Data in any layout, opened where they lie: imported once, and again as soon as they change."""

import json
import os
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.damaged import ELSEWHERE, SOURCES
from vipo_cli.data import importing, sources
from vipo_cli.data.importers import importers
from vipo_cli.data.lazy import data_fingerprint, decided, dropped
from vipo_cli.data.sources import open_pairs, opening
from vipo_cli.errors import DataError, VipoError
from vipo_cli.run import finish


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own for each test."""
    monkeypatch.setenv("VIPO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "imported"


@pytest.fixture
def place(tmp_path):
    """A folder with some media, a.png to f.png."""
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in "abcdef":
        (folder / f"{name}.png").write_bytes(name.encode() * 9)
    return folder


def opened(place, **parameters):
    """Open a place; return its records and all that was told on the way."""
    told = []
    return finish(opening(str(place), parameters), told.append), told


def stages(told):
    return {each.stage for each in told}


def refused(place):
    with pytest.raises(DataError) as caught:
        open_pairs(str(place))
    return caught.value


def test_reads_csv_with_paths_beside_it(place, tmp_path):
    (tmp_path / "far.png").write_bytes(b"far")
    file = place / "pairs.csv"
    file.write_text(f"prompt,winner,loser,category\na cat,a.png,{tmp_path}/far.png,animal\n")
    (pair,) = open_pairs(str(file))
    assert (pair.prompt, pair.metadata) == ("a cat", {"category": "animal"})
    assert pair.media == (place / "a.png", tmp_path / "far.png")


def test_reads_json_lines(place):
    rows = [{"prompt": f"p{row}", "winner": "a.png", "loser": "b.png"} for row in range(3)]
    (place / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pairs = open_pairs(str(place), {"limit": 2})  # the only table in the folder
    assert [pair.prompt for pair in pairs] == ["p0", "p1"]


def test_says_how_it_understands_columns_that_have_other_names(place):
    file = place / "votes.tsv"
    file.write_text("caption\tleft\tright\tvote\na cat\ta.png\tb.png\tright\n")
    (pair,), told = opened(file)
    assert pair.media == (place / "b.png", place / "a.png")
    assert stages(told) == {"importing votes.tsv (table: prompt=caption,a=left,b=right,label=vote)"}


def test_names_missing_columns(place):
    file = place / "pairs.csv"
    file.write_text("prompt,chosen\na,b\n")
    error = refused(file)
    assert error.message == f"`{file}`: no columns of media among `prompt`, `chosen`"
    assert error.details == ("`chosen` is there, and no `rejected` beside it",)
    assert f"vipo data import {file} --out DIR" in error.hint
    for names, lacking in (
        ("prompt,image_a,image_b", "`image_a` and `image_b` are there, and no `label` beside them"),
        ("prompt,images", "`images` is there, and neither `ranks` nor a word that the best is "),
    ):
        file.write_text(f"{names}\n{names}\n")
        assert refused(file).details[0].startswith(lacking)
    file.write_text("winner,loser\na.png,b.png\n")
    assert "no column of prompts among `winner`, `loser`" in refused(place).message


def test_tells_all_problems_of_a_table_at_once(place):
    file = place / "pairs.csv"
    file.write_text(f"prompt,winner,loser\n,a.png,b.png\nx,,b.png\n{'y' * 10_000},a.png,b.png\n")
    assert sorted(refused(file).details) == [
        "1: empty prompt (line 2 of pairs.csv)",
        "1: missing medium (line 3 of pairs.csv)",
        "1: prompt of 10,000 characters or more (line 4 of pairs.csv)",
    ]


def test_names_lines_that_are_no_json(place):
    file = place / "pairs.jsonl"
    file.write_text('{"prompt": "a"\n[1]\n')
    error = refused(file)
    assert error.message == f"`{file}`: no row can be read"
    assert error.details == (
        "line 1 of pairs.jsonl: not JSON, or a key stands there twice",
        "line 2 of pairs.jsonl: JSON, but no object",
    )
    file.write_text('{"prompt": "a", "winner": "a.png", "loser": "b.png"}\n[1]\n{"prompt": 1\n')
    assert sorted(refused(file).details) == [
        "1: JSON, but no object (line 2 of pairs.jsonl)",
        "1: not JSON, or a key stands there twice (line 3 of pairs.jsonl)",
    ]


def test_an_empty_table_is_an_error(place):
    file = place / "pairs.csv"
    file.write_text("")
    assert refused(file).message == f"`{file}`: no row can be read"
    file.write_text("prompt,winner,loser\n")
    assert refused(file).message == f"no entries in `{file}`"


@pytest.fixture
def folders(tmp_path):
    for side in ("winner", "loser"):
        (tmp_path / "photos" / side).mkdir(parents=True)
        for name in ("a", "b"):
            (tmp_path / "photos" / side / f"{name}.png").write_bytes(f"{side}{name}".encode())
    return tmp_path / "photos"


def test_reads_folders_with_a_table_of_prompts(folders):
    (folders / "prompts.csv").write_text("name,prompt\na,a cat\nb.png,a dog\n")
    pairs = open_pairs(str(folders))
    assert [pair.prompt for pair in pairs] == ["a cat", "a dog"]
    assert pairs[1].loser == folders / "loser" / "b.png"


def test_reads_folders_with_text_files(folders):
    (folders / "a.txt").write_text("a cat\n")
    (folders / "winner" / "b.txt").write_text("a dog")
    assert [pair.prompt for pair in open_pairs(str(folders))] == ["a cat", "a dog"]


def test_names_media_without_partner_and_prompt(folders):
    (folders / "winner" / "lonely.png").write_bytes(b"x")
    (folders / "a.txt").write_text("a cat")
    assert sorted(refused(folders).details) == [
        "1: no loser of that name (lonely)",
        "1: no prompt: neither in prompts.csv nor in NAME.txt (b)",
    ]


@pytest.mark.parametrize("layout", [name for name in SOURCES if name not in ELSEWHERE])
def test_every_layout_that_is_imported_opens_as_it_is(layout, tmp_path, monkeypatch):
    place = tmp_path / "source"
    SOURCES[layout](place)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    before = sorted(place.rglob("*"))
    records = open_pairs(str(place), {"ties": "keep"})
    assert len(records) >= 3
    assert sum(len(record.media) for record in records) >= 5
    assert len(open_pairs(str(place), {"ties": "keep"})) == len(records)
    assert (sorted(place.rglob("*")), list(elsewhere.iterdir())) == (before, [])


def table(place, rows):
    file = place / "pairs.csv"
    lines = [",".join(map(str, row)) for row in [("prompt", "winner", "loser"), *rows]]
    file.write_text("\n".join(lines) + "\n")
    return file


GOOD = [(f"a cat {number}", "a.png", "b.png") for number in range(40)]


def test_a_few_rows_that_cannot_be_used_are_warned_about_each_time(place):
    file = table(place, [*GOOD, ("", "a.png", "b.png"), ("a dog", "gone.png", "b.png")])
    for _ in range(2):
        records, told = opened(file)
        assert len(records) == 40
        (warning,) = [each.warning for each in told if each.warning]
        first, *reasons = sorted(warning.split("\n  "), key=lambda line: line[:8], reverse=True)
        assert first == f"2 of 42 entries in `{file}` cannot be used and are left out"
        assert reasons[0] == "1: empty prompt (line 42 of pairs.csv)"
        assert reasons[1].startswith(
            "1: a medium cannot be read (line 43 of pairs.csv: cannot read `"
        )
        assert "gone.png`: No such file" in reasons[1]
        assert dropped(records) == {"a medium cannot be read": 1, "empty prompt": 1}
        assert decided(records) == {}
        assert dropped(records[:5]) == dropped(records)


def test_more_of_them_are_refused_each_time(place):
    file = table(place, [*GOOD, *[("", "a.png", "b.png")] * 3])
    for _ in range(2):
        error = refused(file)
        assert error.message == f"3 of 43 entries in `{file}` cannot be used, more than 5%"
        assert error.details == (
            "3: empty prompt (line 42 of pairs.csv, line 43 of pairs.csv, line 44 of pairs.csv)",
        )
        assert f"vipo data import {file} --out DIR" in error.hint


def test_ties_are_dropped_or_kept_of_one_import(place, cache):
    file = place / "pairs.csv"
    file.write_text("prompt,a,b,label\np,a.png,b.png,tie\nq,a.png,b.png,a\nr,c.png,d.png,\n")
    records, told = opened(file)
    assert [record.prompt for record in records] == ["q"]
    assert dropped(records) == decided(records) == {"a tie": 1, "has no label": 1}
    assert not [each for each in told if each.warning]
    kept, told = opened(file, ties="keep")
    assert ([record.probability for record in kept], told) == ([0.5, 1], [])
    assert len(list(cache.iterdir())) == 1


def test_what_was_imported_is_opened_at_once(place, cache, monkeypatch):
    file = table(place, GOOD)
    records, told = opened(file)
    assert stages(told) == {"importing pairs.csv (table: prompt=prompt,winner=winner,loser=loser)"}
    monkeypatch.setattr(importing, "_fill", None)  # nothing is read
    again, told = opened(file)
    assert told == []
    assert data_fingerprint(again) == data_fingerprint(records)
    (home,) = cache.iterdir()
    assert home.name.startswith("pairs.csv-")


def test_the_same_data_have_the_same_fingerprint_from_another_cache(place, tmp_path, monkeypatch):
    file = table(place, GOOD)
    before = data_fingerprint(open_pairs(str(file)))
    monkeypatch.setenv("VIPO_CACHE", str(tmp_path / "deep" / "other"))
    assert data_fingerprint(open_pairs(str(file))) == before


def test_a_table_that_changed_is_imported_again(place):
    file = table(place, GOOD)
    before = open_pairs(str(file))
    table(place, GOOD[:7])
    after = open_pairs(str(file))
    assert (len(before), len(after)) == (40, 7)
    assert before[39].prompt == "a cat 39"  # who has it open keeps it


def test_a_medium_that_changed_is_another_one(place):
    file = table(place, GOOD)
    before = data_fingerprint(open_pairs(str(file)))
    (place / "a.png").write_bytes(b"something else")
    assert data_fingerprint(open_pairs(str(file))) != before


def test_a_medium_that_appears_is_taken_on(place):
    file = table(place, [*GOOD, ("a dog", "late.png", "b.png")])
    assert len(open_pairs(str(file))) == 40
    (place / "late.png").write_bytes(b"late")
    records, told = opened(file)
    assert len(records) == 41
    assert not [each for each in told if each.warning]
    (place / "late.png").unlink()
    assert len(open_pairs(str(file))) == 40


def test_a_folder_whose_prompt_changed_is_imported_again(folders):
    (folders / "prompts.csv").write_text("name,prompt\na,a cat\nb,a dog\n")
    assert open_pairs(str(folders))[0].prompt == "a cat"
    (folders / "prompts.csv").write_text("name,prompt\na,a hen\nb,a dog\n")
    assert open_pairs(str(folders))[0].prompt == "a hen"


def test_what_was_made_of_it_before_goes_after_a_while(place, cache):
    file, other = table(place, GOOD), place / "other.csv"
    other.write_text(file.read_text())
    for each in (file, other):
        open_pairs(str(each))
    for lock in cache.glob("*/.lock"):
        os.utime(lock, (1, 1))
    table(place, GOOD[:9])
    open_pairs(str(file))
    assert len(list(cache.iterdir())) == 2  # of the other one, and the newest of this one
    table(place, GOOD[:8])
    open_pairs(str(file))
    assert len(list(cache.iterdir())) == 3  # opened a moment ago


def test_another_version_of_an_importer_imports_again(place, cache, monkeypatch):
    file = table(place, GOOD)
    open_pairs(str(file))
    monkeypatch.setattr(importers["table"], "version", 2)
    told = opened(file)[1]
    assert stages(told) == {"importing pairs.csv (table: prompt=prompt,winner=winner,loser=loser)"}
    assert opened(file)[1] == []
    (note,) = cache.glob("*/note.json")
    assert json.loads(note.read_text())["version"] == 2


def test_what_was_begun_is_gone_on_with(place, cache, monkeypatch):
    monkeypatch.setattr("vipo_cli.data.store.GROUP_BYTES", 100)
    monkeypatch.setattr("vipo_cli.data.store.SHARD_BYTES", 400)
    rows = [("", "a.png", "b.png"), *GOOD * 5, ("a dog", "gone.png", "b.png"), *GOOD * 5]
    file = table(place, rows)
    work = opening(str(file))
    while next(work).done < 300:
        pass
    work.close()
    _, told = opened(file)
    assert told[0].done >= 200
    (warning,) = [each.warning for each in told if each.warning]
    assert "2 of 402 entries" in warning
    assert "line 2 of pairs.csv" in warning
    (place / "gone.png").write_bytes(b"there")  # noted before the interruption
    assert len(open_pairs(str(file))) == 401


@pytest.mark.parametrize("harm", ["note.json", "data/manifest.json", "data/part-00000.parquet"])
def test_what_was_damaged_or_removed_is_made_again_or_told(place, cache, harm):
    file = table(place, GOOD)
    open_pairs(str(file))
    (found,) = cache.glob(f"*/{harm}")
    found.unlink()
    assert len(open_pairs(str(file))) == 40
    found.write_bytes(b"{}")
    assert len(open_pairs(str(file))) == 40


TWO = """
import sys, time
from vipo_cli.data import importing
from vipo_cli.data.sources import opening
from vipo_cli.run import finish
take = importing._take
def slowly(found, store):
    time.sleep(0.01)
    take(found, store)
importing._take = slowly
told = []
records = finish(opening(sys.argv[1]), told.append)
print(len(records), any("waiting" in each.stage for each in told), len(told))
"""


def test_two_processes_import_once_and_both_open_it(place, cache):
    file = table(place, GOOD)
    command = [sys.executable, "-c", TWO, str(file)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found = [child.communicate(timeout=120)[0].split() for child in children]
    assert [each[0] for each in found] == ["40", "40"]
    assert [child.returncode for child in children] == [0, 0]
    assert len(list(cache.iterdir())) == 1


def test_two_imports_into_one_folder_are_refused(place, tmp_path):
    file = table(place, GOOD)
    work = importing.import_data(file, tmp_path / "out", importing.Wanted())
    next(work)
    with pytest.raises(DataError, match="another process is importing into") as caught:
        next(importing.import_data(file, tmp_path / "out", importing.Wanted()))
    assert "wait until it is done" in caught.value.hint
    finish(work)
    assert not (tmp_path / "out" / ".lock").exists()
    with pytest.raises(DataError, match="holds a data set already"):
        next(importing.import_data(file, tmp_path / "out", importing.Wanted()))


def test_a_source_that_is_refused_leaves_no_folders(place, tmp_path):
    file = table(place, [("p", "gone.png", "b.png")])
    with pytest.raises(DataError):
        finish(importing.import_data(file, tmp_path / "x" / "y", importing.Wanted()))
    assert not (tmp_path / "x").exists()


def test_a_cache_that_cannot_be_written_is_told(place, tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("VIPO_CACHE", str(tmp_path / "taken"))
    with pytest.raises(VipoError, match="cannot write"):
        open_pairs(str(table(place, GOOD)))


def with_splits(place):
    rows = [{"prompt": name, "winner": "a.png", "loser": "b.png"} for name in "uvwxyz"]
    splits = ["train", "train", "test", "validation", "odd", None]
    rows = [row | {"split": split} for row, split in zip(rows, splits, strict=True)]
    (place / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return place / "t.jsonl"


def test_only_the_split_that_is_wanted_is_trained_on(place):
    file = with_splits(place)
    records = open_pairs(str(file))
    assert [record.prompt for record in records] == ["u", "v", "y", "z"]
    assert decided(records) == {"of the split test": 1, "of the split validation": 1}
    assert [each.prompt for each in open_pairs(str(file), {"split": "test"})] == ["w", "y", "z"]
    (place / "t.jsonl").write_text(
        json.dumps({"prompt": "p", "winner": "a.png", "loser": "b.png", "split": "test"})
    )
    error = refused(file)
    assert error.message == f"no pairs in `{file}`: 1 rows"
    assert error.details == ("1 rows: of the split test",)
    assert "split=test" in error.hint


def test_parquet_of_another_layout_goes_through_its_importer(place, cache):
    columns = {
        "text": ["a cat", "a dog"],
        "img_a": [b"1" * 9, b"2" * 9],
        "img_b": [b"3" * 9, b"4" * 9],
        "label": ["a", "b"],
    }
    pq.write_table(pa.table(columns), place / "t.parquet")
    for name in (place, place / "t.parquet"):
        records = open_pairs(str(name))
        assert [record.winner for record in records] == [b"1" * 9, b"4" * 9]
    plain = {"prompt": ["a cat"], "winner": [b"w"], "loser": [b"l"]}
    pq.write_table(pa.table(plain), place / "t.parquet")
    before = list(cache.iterdir())
    assert open_pairs(str(place / "t.parquet"))[0].loser == b"l"
    assert list(cache.iterdir()) == before  # read where it is


def test_a_hub_id_is_whatever_can_be_imported(place, monkeypatch):
    asked = []
    monkeypatch.setattr(sources, "hub_folder", lambda *words: asked.append(words) or place)
    table(place, GOOD)
    records, told = opened("owner/name", revision="v2")
    assert (len(records), asked) == (40, [("owner/name", "v2", None)])
    assert stages(told) == {"importing mine (table: prompt=prompt,winner=winner,loser=loser)"}


def test_names_that_lead_elsewhere_read_no_more_than_media(place):
    file = table(place, [*GOOD, ("p", "/dev/zero", "b.png"), ("q", "x\0.png", "b.png")])
    records, told = opened(file)
    assert len(records) == 40
    assert "2: a medium cannot be read" in told[-1].warning
    assert os.fspath(place) in told[-1].warning
