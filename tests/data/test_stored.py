import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from vipo_cli.data import store as module
from vipo_cli.data.entry import Entry
from vipo_cli.data.record import PreferencePair
from vipo_cli.data.store import Store, schema
from vipo_cli.data.stored import entries_in, is_stored, open_stored
from vipo_cli.errors import DataError
from vipo_cli.media import content_hash

ABOUT = {"importer": "test"}


def pairs(count, label=lambda number: "ab"[number % 2]):
    noise = np.random.default_rng(0)
    return [
        Entry(f"prompt {n // 3}", (noise.bytes(400), noise.bytes(600)), label(n), id=str(n))
        for n in range(count)
    ]


def write(folder, entries, **known):
    store = Store(folder, ABOUT, **known)
    for entry in entries[store.taken :]:
        store.add(entry)
        store.passed()
    store.close()
    return folder


@pytest.fixture
def small(monkeypatch):
    """Let row groups hold three of the pairs, and shards two groups."""
    monkeypatch.setattr(module, "GROUP_BYTES", 2500)
    monkeypatch.setattr(module, "SHARD_BYTES", 5500)


def test_what_is_written_is_read(tmp_path, small):
    entries = pairs(20)
    records = open_stored(write(tmp_path / "d", entries))
    assert list(entries_in(tmp_path / "d")) == entries
    assert [records.entry(row) for row in range(20)] == entries
    assert [record.winner for record in records] == [e.media["ab".index(e.label)] for e in entries]
    assert records.prompts() == [entry.prompt for entry in entries]
    numbers = records.prompt_numbers()
    assert (numbers[:-1] == numbers[1:]).tolist() == [n % 3 != 2 for n in range(19)]
    assert isinstance(records[-1], PreferencePair)


@pytest.mark.parametrize("start", [0, 1, 3, 7, 19, 20, 21])
def test_entries_are_read_from_any_place(tmp_path, small, start):
    entries = pairs(20)
    assert list(entries_in(write(tmp_path / "d", entries), start)) == entries[start:]


def test_reading_anywhere_gives_the_same_as_in_order(tmp_path, small):
    records = open_stored(write(tmp_path / "d", pairs(50)))
    order = np.random.default_rng(1).permutation(50).tolist()
    again = pickle.loads(pickle.dumps(records))  # as a worker process gets it
    assert [again[row] for row in order] == [records[row] for row in order]
    assert [records[row].metadata["id"] for row in order] == [str(row) for row in order]


def test_ties_and_pairs_without_a_label_take_no_part(tmp_path):
    names = ("a", "tie", "none", "b", "tie")
    folder = write(tmp_path / "d", pairs(5, names.__getitem__))
    records = open_stored(folder)
    assert [record.metadata["id"] for record in records] == ["0", "3"]
    assert records.dropped == {"has no label": 1, "a tie": 2}
    kept = open_stored(folder, ties="keep")
    assert [record.probability for record in kept] == [1.0, 0.5, 1.0, 0.5]
    assert len(open_stored(folder, limit=1)) == 1
    assert kept.fingerprint != records.fingerprint


def test_only_ties_are_said_to_be_nothing(tmp_path):
    folder = write(tmp_path / "d", pairs(3, lambda _: "tie"))
    with pytest.raises(DataError, match="no pairs in") as caught:
        open_stored(folder)
    assert caught.value.details == ("3 rows: a tie",)


def test_the_manifest_names_the_shards_and_counts(tmp_path, small):
    folder = write(tmp_path / "d", pairs(20))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["entries"], manifest["kind"], manifest["from"]) == (20, "pair", ABOUT)
    assert manifest["labels"] == {"a": 10, "b": 10}
    assert len(manifest["shards"]) == 4
    for shard in manifest["shards"]:
        footer = pq.read_metadata(folder / shard["file"])
        groups = [footer.row_group(n).num_rows for n in range(footer.num_row_groups)]
        assert shard["groups"] == groups
        assert footer.schema.to_arrow_schema().equals(schema())


def test_media_have_their_names_by_content(tmp_path):
    (entry,) = pairs(1)
    table = pq.read_table(write(tmp_path / "d", [entry]) / "part-00000.parquet")
    assert table.column("media_hash").to_pylist() == [[content_hash(m) for m in entry.media]]


def test_the_same_entries_give_the_same_bytes(tmp_path, small):
    one, other = (write(tmp_path / name, pairs(20)) for name in "xy")
    for file in one.iterdir():
        assert file.read_bytes() == (other / file.name).read_bytes()


@pytest.mark.parametrize("stop", [1, 6, 7, 13, 19])
def test_going_on_gives_the_same_bytes(tmp_path, small, stop):
    entries = pairs(20, lambda n: ("a", "b", "tie", "none")[n % 4])
    whole = write(tmp_path / "whole", entries)
    begun = Store(tmp_path / "begun", ABOUT)
    for entry in entries[:stop]:
        begun.add(entry)
        begun.passed()
    again = Store(tmp_path / "begun", ABOUT)
    assert again.taken <= stop
    assert sum(again.labels.values()) == again.taken
    write(tmp_path / "begun", entries)
    assert {f.name for f in whole.iterdir()} == {f.name for f in (tmp_path / "begun").iterdir()}
    for file in whole.iterdir():
        assert file.read_bytes() == (tmp_path / "begun" / file.name).read_bytes()


def test_a_shard_that_was_written_but_not_noted_is_made_again(tmp_path, small):
    entries = pairs(20)
    begun = Store(tmp_path / "d", ABOUT)
    for entry in entries[:8]:
        begun.add(entry)
        begun.passed()
    (tmp_path / "d" / "part-00001.parquet").write_bytes(b"half")
    (tmp_path / "d" / ".part-00001.parquet.tmp").write_bytes(b"half")
    (tmp_path / "d" / ".import.json.0123abcd.tmp").write_bytes(b"{")
    write(tmp_path / "d", entries)
    assert list(entries_in(tmp_path / "d")) == entries
    assert not [file for file in (tmp_path / "d").iterdir() if file.name.startswith(".")]


def test_what_a_process_leaves_that_was_killed_at_once_is_no_obstacle(tmp_path):
    (tmp_path / ".part-00000.parquet.tmp").write_bytes(b"PAR1")
    write(tmp_path, pairs(2))
    assert len(open_stored(tmp_path)) == 2


def test_a_folder_that_holds_something_else_stays_as_it_is(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "mine.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="is not empty"):
        Store(tmp_path / "x", ABOUT)
    with pytest.raises(DataError, match="is a file"):
        Store(tmp_path / "file", ABOUT)
    write(tmp_path / "d", pairs(2))
    with pytest.raises(DataError, match="holds a data set already"):
        Store(tmp_path / "d", ABOUT)
    assert (tmp_path / "x" / "mine.txt").read_text() == (tmp_path / "file").read_text() == "mine"


def test_a_beginning_is_not_gone_on_with_for_another_source(tmp_path, small):
    begun = Store(tmp_path / "d", ABOUT, state="monday")
    for entry in pairs(8):
        begun.add(entry)
        begun.passed()
    for about, state in (({"importer": "other"}, "monday"), (ABOUT, "tuesday")):
        with pytest.raises(DataError, match="the source changed"):
            Store(tmp_path / "d", about, state=state)
    with pytest.raises(DataError, match="not complete"):
        is_stored(tmp_path / "d")
    shard = tmp_path / "d" / "part-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DataError, match="is damaged"):
        Store(tmp_path / "d", ABOUT, state="monday")
    (tmp_path / "d" / "import.json").write_text("[[[[")
    with pytest.raises(DataError, match="is damaged"):
        Store(tmp_path / "d", ABOUT, state="monday")


def test_a_complete_folder_is_one_even_if_its_note_was_not_removed(tmp_path):
    write(tmp_path / "d", pairs(2))
    (tmp_path / "d" / "import.json").write_text("{}")
    assert is_stored(tmp_path / "d")


def test_linked_media_are_read_from_where_they_are(tmp_path):
    (tmp_path / "media").mkdir()
    files = [tmp_path / "media" / name for name in ("w.png", "l.png")]
    for number, file in enumerate(files):
        file.write_bytes(b"x" * (number + 1))
    folder = write(tmp_path / "deep" / "d", [Entry("p", tuple(files), "a")], link=True)
    (tmp_path / "deep").rename(tmp_path / "moved")
    (tmp_path / "moved").rename(tmp_path / "deep")
    record = open_stored(folder)[0]
    assert (record.winner.read_bytes(), record.loser.read_bytes()) == (b"x", b"xx")
    assert record.winner.resolve() == files[0]
    assert sum(file.stat().st_size for file in folder.glob("*.parquet")) > 0


def test_links_lead_to_the_media_from_behind_a_symbolic_link(tmp_path):
    real = tmp_path / "very" / "deep"
    real.mkdir(parents=True)
    (tmp_path / "short").symlink_to(real)
    for name in "wl":
        (tmp_path / name).write_bytes(name.encode())
    write(tmp_path / "short" / "d", [Entry("p", (tmp_path / "w", tmp_path / "l"), "a")], link=True)
    record = open_stored(tmp_path / "short" / "d")[0]
    assert (record.winner.read_bytes(), record.loser.read_bytes()) == (b"w", b"l")


@pytest.mark.parametrize("name", ["gone.png", "x\0.png", "/dev/zero", "/"])
def test_what_cannot_be_a_medium_is_refused(tmp_path, name):
    store = Store(tmp_path / "d", ABOUT)
    with pytest.raises(DataError):
        store.add(Entry("p", (Path(name), b"x"), "a"))
    assert not store.labels


def test_empty_and_enormous_media_are_refused(tmp_path, monkeypatch):
    (tmp_path / "empty.png").touch()
    monkeypatch.setattr(module, "LARGEST", 10)
    store = Store(tmp_path / "d", ABOUT)
    with pytest.raises(DataError, match="is empty"):
        store.add(Entry("p", (tmp_path / "empty.png", b"x"), "a"))
    with pytest.raises(DataError, match="a medium of more than"):
        store.add(Entry("p", (b"x" * 11, b"x"), "a"))
    with pytest.raises(DataError, match="3 media of more than"):
        store.add(Entry("p", (b"x" * 9,) * 3, "ranked"))


def test_a_number_that_is_none_becomes_null_in_metadata(tmp_path):
    (entry,) = pairs(1)
    said = replace(entry, metadata={"x": float("nan"), "deep": [float("inf"), 1]})
    (found,) = entries_in(write(tmp_path / "d", [said]))
    assert found.metadata == {"x": None, "deep": [None, 1]}


def test_region_maps_are_kept(tmp_path):
    (entry,) = pairs(1)
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    folder = write(tmp_path / "d", [replace(entry, regions=(None, weights))])
    from vipo_cli.data.regions import read_region

    assert (read_region(open_stored(folder)[0].regions[1]) == weights).all()


def damage(file, change):
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: [],
        lambda m: m | {"entries": 4},
        lambda m: m | {"entries": "three"},
        lambda m: m | {"labels": {"a": 3, "b": 1}},
        lambda m: m | {"labels": {"x": 3}},
        lambda m: m | {"labels": []},
        lambda m: m | {"shards": ["part-00000.parquet"]},
        lambda m: m | {"shards": [m["shards"][0] | {"file": "../part-00000.parquet"}]},
        lambda m: m | {"shards": [m["shards"][0] | {"groups": [0, 3]}]},
        lambda m: m | {"shards": [m["shards"][0] | {"groups": [2]}]},
        lambda m: m | {"shards": [m["shards"][0] | {"bytes": 1}]},
        lambda m: m | {"schema": 99},
        lambda m: {},
    ],
)
def test_a_damaged_manifest_is_said_to_be(tmp_path, change):
    folder = write(tmp_path / "d", pairs(3))
    damage(folder / "manifest.json", change)
    with pytest.raises(DataError):
        open_stored(folder)
    with pytest.raises(DataError):
        list(entries_in(folder))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\0"])
def test_a_manifest_that_is_no_json_is_said_to_be_damaged(tmp_path, text):
    folder = write(tmp_path / "d", pairs(3))
    (folder / "manifest.json").write_text(text)
    with pytest.raises(DataError, match="is damaged"):
        open_stored(folder)


@pytest.mark.parametrize("letters", [b"", b"abx", b"aab", b"abab"])
def test_damaged_letters_are_said_to_be(tmp_path, letters):
    folder = write(tmp_path / "d", pairs(4))
    (folder / "labels.txt").write_bytes(letters)
    if letters == b"abab":
        assert len(open_stored(folder)) == 4
        return
    with pytest.raises(DataError, match=r"labels.txt` is damaged"):
        open_stored(folder)


def test_a_missing_shard_is_named(tmp_path, small):
    folder = write(tmp_path / "d", pairs(20))
    (folder / "part-00002.parquet").unlink()
    with pytest.raises(DataError, match="1 of 4 shards are missing") as caught:
        open_stored(folder)
    assert caught.value.details == ("part-00002.parquet",)


def test_a_flipped_bit_is_never_taken_for_another_pair(tmp_path):
    """Every byte of a shard, one at a time; what can still be read is what was written."""
    entries = pairs(3)
    folder = write(tmp_path / "d", entries)
    file = folder / "part-00000.parquet"
    data = file.read_bytes()
    refused = 0
    for place in range(4, len(data), 29):
        file.write_bytes(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
        try:
            found = [record_fields(record) for record in open_stored(folder)]
        except DataError:
            refused += 1
        else:
            assert found == [record_fields(record) for record in map(expected, entries)], place
    assert refused > 100


def record_fields(record):
    return (record.prompt, record.winner, record.loser, record.probability, record.weight)


def expected(entry):
    first, second = entry.media
    return PreferencePair(
        entry.prompt, *((first, second) if entry.label == "a" else (second, first))
    )


def test_a_copied_data_set_keeps_its_fingerprint(tmp_path):
    def make(name, prompt="a cat"):
        store = Store(tmp_path / name, {})
        store.add(Entry(prompt, (b"one", b"two"), "a"))
        store.close()
        return open_stored(tmp_path / name).fingerprint

    found = make("first")
    copied = shutil.copytree(tmp_path / "first", tmp_path / "copy")
    assert open_stored(copied).fingerprint == found
    assert make("same") == found
    assert make("other", "a dog") != found
