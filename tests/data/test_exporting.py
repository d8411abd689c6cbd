import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from vipo_cli.cli import app
from vipo_cli.data.entry import Entry
from vipo_cli.data.exporting import export_data, source_of_records, source_of_stored
from vipo_cli.data.importing import Wanted, import_data
from vipo_cli.data.record import PreferencePair
from vipo_cli.data.sources import open_pairs
from vipo_cli.data.store import Store
from vipo_cli.data.stored import entries_in
from vipo_cli.errors import DataError
from vipo_cli.media import media_bytes
from vipo_cli.run import finish

LAYOUTS = ("parquet", "csv", "jsonl", "webdataset")


def picture(number, form="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 255 - number, 7)).save(buffer, format=form)
    return buffer.getvalue()


def store(folder, entries):
    made = Store(folder, {"importer": "test"})
    for entry in entries:
        made.add(entry)
        made.passed()
    made.close()
    return folder


def plain(entry):
    """Return an entry whose media are bytes, as they are the same wherever they lie."""
    regions = entry.regions and tuple(each and media_bytes(each) for each in entry.regions)
    return replace(entry, media=tuple(map(media_bytes, entry.media)), regions=regions)


def pairs():
    said = Entry(
        'a "cat", on\r\na mat; ünï\u2028code',
        (picture(1), picture(2, "JPEG")),
        "b",
        probability=0.7,
        votes=(3.0, 7.0),
        weight=0.5,
        annotator="007",
        models=("one", None),
        dimensions={"colour": "a", "count": "tie"},
        scores={"pick score": (0.1, 1e-300), "x": (-1.0, 2.0)},
        category="animals, wild",
        seeds=(None, 2**63 - 1),
        noise_seeds=(0, 5),
        regions=(picture(9), None),
        id="a/b",
        source="here",
        split="train",
        metadata={"n": 1, "x": 1.5, "yes": True, "text": "1.0", "list": [1, {"deep": None}]},
    )
    bare = Entry("a dog", (picture(3), picture(4)), "a")
    return [
        said,
        bare,
        replace(bare, label="tie", prompt="tied"),
        replace(bare, label="none", prompt="unsaid", votes=(0.0, 1.5)),
        replace(bare, label="a", id="9", models=(None, "two")),
    ]


def lists():
    bare = Entry("three", tuple(map(picture, (1, 2, 3))), "ranked")
    return [
        bare,
        replace(bare, ranks=(2.0, 1.0, 2.0), models=("x", None, "z"), seeds=(1, None, 3)),
        replace(bare, media=bare.media[:2], scores={"r": (1.0, 2.0)}, votes=(1.0, 0.0)),
    ]


def samples():
    bare = Entry("one", (picture(1),), "liked")
    return [bare, replace(bare, label="disliked", models=("m",), seeds=(4,), scores={"r": (1.0,)})]


def candidates():
    bare = Entry("some", tuple(map(picture, (1, 2))), "candidates")
    return [replace(bare, seeds=(1, 2), noise_seeds=(3, 4)), replace(bare, prompt="other")]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("make", [pairs, lists, samples, candidates])
def test_what_is_exported_and_imported_is_the_same(tmp_path, layout, make):
    first = store(tmp_path / "first", make())
    exported = finish(export_data(source_of_stored(first), layout, tmp_path / "out"))
    finish(import_data(tmp_path / "out", tmp_path / "second", Wanted()))
    found = [plain(entry) for entry in entries_in(tmp_path / "second")]
    expected = [plain(entry) for entry in entries_in(first)]
    if layout == "webdataset":
        expected = [replace(entry, regions=None) for entry in expected]
    assert found == expected
    assert not exported.left_out
    assert dict(exported.lost) == (
        {"regions": 1} if (layout, make) == ("webdataset", pairs) else {}
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_second_round_writes_the_same_bytes(tmp_path, layout):
    entries = [replace(entry, regions=None) for entry in pairs()]
    place = store(tmp_path / "0", entries)
    for number in (1, 2):
        out = tmp_path / f"out{number}"
        finish(export_data(source_of_stored(place), layout, out))
        place = tmp_path / str(number)
        finish(import_data(out, place, Wanted()))
    one, other = (sorted((tmp_path / number).glob("*.parquet")) for number in "12")
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in other]
    for file in sorted((tmp_path / "out1").rglob("*")):
        if file.is_file():
            assert (
                file.read_bytes()
                == (tmp_path / "out2" / file.relative_to(tmp_path / "out1")).read_bytes()
            )


def test_folders_hold_prompts_media_and_ids(tmp_path):
    entries = [
        Entry("a cat", (picture(1), picture(2, "JPEG")), "a", id="animals/cat.v1"),
        Entry("a dog", (picture(3), picture(4)), "a", id="dog"),
    ]
    first = store(tmp_path / "first", entries)
    exported = finish(export_data(source_of_stored(first), "folders", tmp_path / "out"))
    assert (tmp_path / "out" / "loser" / "animals" / "cat.v1.jpg").is_file()
    finish(import_data(tmp_path / "out", tmp_path / "second", Wanted()))
    assert [plain(entry) for entry in entries_in(tmp_path / "second")] == entries
    assert (exported.entries, exported.lost) == (2, {})


def test_folders_say_what_they_cannot_hold(tmp_path):
    exported = finish(
        export_data(source_of_stored(store(tmp_path / "d", pairs())), "folders", tmp_path / "out")
    )
    assert exported.entries == 3
    assert exported.left_out == {
        "ties have no place in folders": 1,
        "pairs without a label have no place in folders": 1,
    }
    assert exported.lost["votes"] == 1
    assert exported.lost["models"] == 2
    assert exported.lost["the order in which the media were shown"] == 1
    winner, loser = pairs()[0].media[::-1]
    assert (tmp_path / "out" / "winner" / "a" / "b.jpg").read_bytes() == winner
    assert (tmp_path / "out" / "loser" / "a" / "b.png").read_bytes() == loser


@pytest.mark.parametrize(
    "id_", ["../x", "/etc/x", "..", "a/../b", "a\\b", "con:", ".x", "x.", "", "x\n", "a" * 300,
            "a//b", "pic.png", "x\0"]
)  # fmt: skip
def test_ids_that_are_no_names_never_leave_the_folder(tmp_path, id_):
    entries = [Entry("p", (picture(1), picture(2)), "a", id=id_)]
    first = store(tmp_path / "first", entries)
    finish(export_data(source_of_stored(first), "folders", tmp_path / "deep" / "out"))
    files = sorted(each.relative_to(tmp_path).as_posix() for each in tmp_path.rglob("*.png"))
    assert files == ["deep/out/loser/00000000.png", "deep/out/winner/00000000.png"]


def test_names_that_differ_in_case_alone_are_told_apart(tmp_path):
    entries = [Entry(p, (picture(1), picture(2)), "a", id=p) for p in ("x", "X")]
    finish(export_data(source_of_stored(store(tmp_path / "d", entries)), "folders", tmp_path / "o"))
    names = [file.stem.lower() for file in (tmp_path / "o" / "winner").iterdir()]
    assert len(set(names)) == 2


def test_media_stand_once_in_a_table(tmp_path):
    shared = picture(1)
    entries = [Entry(str(n), (shared, picture(n)), "a") for n in (2, 3, 4)]
    finish(export_data(source_of_stored(store(tmp_path / "d", entries)), "csv", tmp_path / "out"))
    assert len(list((tmp_path / "out" / "media").rglob("*.png"))) == 4


def test_columns_are_those_of_which_something_is_said(tmp_path):
    entries = [Entry("p", (picture(1), picture(2)), "a", category="x")]
    finish(export_data(source_of_stored(store(tmp_path / "d", entries)), "parquet", tmp_path / "o"))
    names = pq.read_schema(tmp_path / "o" / "part-00000.parquet").names
    assert names == ["prompt", "a", "b", "label", "category"]


def test_tar_members_carry_no_trace_of_when_and_by_whom(tmp_path):
    entries = [Entry("p", (picture(1), picture(2, "JPEG")), "b")]
    source = source_of_stored(store(tmp_path / "d", entries))
    finish(export_data(source, "webdataset", tmp_path / "o"))
    with tarfile.open(tmp_path / "o" / "shard-00000.tar") as tar:
        members = tar.getmembers()
        about = json.load(tar.extractfile("000000000.json"))
    assert [each.name for each in members] == [
        "000000000.a.png", "000000000.b.jpg", "000000000.json",
    ]  # fmt: skip
    assert {(each.mtime, each.uid, each.uname) for each in members} == {(0, 0, "")}
    assert about == {"prompt": "p", "label": "b", "id": None}


def test_shards_are_split_by_size(tmp_path, monkeypatch):
    monkeypatch.setattr("vipo_cli.data.exporting.SHARD_BYTES", 3000)
    monkeypatch.setattr("vipo_cli.data.exporting.GROUP_BYTES", 1000)
    noise = np.random.default_rng(0)
    entries = [
        Entry(str(n), (b"\xff\xd8\xff" + noise.bytes(500), b"\xff\xd8\xff" + noise.bytes(500)), "a")
        for n in range(9)
    ]
    first = store(tmp_path / "d", entries)
    for layout in ("parquet", "webdataset"):
        finish(export_data(source_of_stored(first), layout, tmp_path / layout))
        assert len(list((tmp_path / layout).iterdir())) > 2
        finish(import_data(tmp_path / layout, tmp_path / f"{layout}-again", Wanted()))
        assert [e.prompt for e in entries_in(tmp_path / f"{layout}-again")] == [*"012345678"]


def test_records_of_any_source_are_exported(tmp_path):
    (tmp_path / "set").mkdir()
    for name in "wl":
        (tmp_path / "set" / f"{name}.png").write_bytes(picture(ord(name)))
    table = tmp_path / "set" / "pairs.csv"
    table.write_text(
        "prompt,winner,loser,probability,kind\np,w.png,l.png,0.5,x\nq,w.png,l.png,0.9,y\n"
    )
    records = open_pairs(str(table), {"ties": "keep"})
    finish(export_data(source_of_records(records), "jsonl", tmp_path / "out"))
    rows = [json.loads(line) for line in (tmp_path / "out" / "data.jsonl").read_text().splitlines()]
    assert [row["label"] for row in rows] == ["tie", "a"]
    assert (rows[1]["probability"], rows[1]["metadata"]) == (0.9, {"kind": "y"})
    assert (tmp_path / "out" / rows[0]["b"]).read_bytes() == picture(ord("l"))


def test_media_that_are_gone_are_left_out_and_counted(tmp_path):
    whole = PreferencePair("p", picture(1), picture(2))
    gone = PreferencePair("q", Path("gone.png"), picture(2))
    exported = finish(export_data(source_of_records([whole, gone]), "csv", tmp_path / "out"))
    assert (exported.entries, exported.left_out) == (1, {"a medium cannot be read": 1})


def test_nothing_is_left_where_nothing_can_be_written(tmp_path):
    gone = PreferencePair("q", Path("gone.png"), picture(2))
    with pytest.raises(DataError, match="nothing to export"):
        finish(export_data(source_of_records([gone]), "csv", tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def test_a_folder_with_something_in_it_stays_as_it_is(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    pair = PreferencePair("p", picture(1), picture(2))
    with pytest.raises(DataError, match="there already"):
        finish(export_data(source_of_records([pair]), "csv", tmp_path / "out"))
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_lists_have_no_place_in_folders(tmp_path):
    source = source_of_stored(store(tmp_path / "d", lists()))
    with pytest.raises(DataError, match="folders hold pairs, and the data set holds ranked lists"):
        finish(export_data(source, "folders", tmp_path / "out"))


def test_the_command_says_what_is_lost(tmp_path):
    first = store(tmp_path / "d", pairs())
    out = tmp_path / "out"
    result = CliRunner().invoke(
        app, ["data", "export", str(first), "--to", "folders", "--out", str(out), "-q"]
    )
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{out}\n"
    assert "folders cannot hold votes: lost of 1 entries" in result.stderr
    assert "left out 1: ties have no place in folders" in result.stderr


def test_the_command_takes_the_first_so_many(tmp_path):
    first = store(tmp_path / "d", pairs())
    command = ["data", "export", str(first), "--to", "csv", "--out", str(tmp_path / "o"), "--json"]
    result = CliRunner().invoke(app, [*command, "--limit", "2"])
    assert json.loads(result.stdout)["entries"] == 2
