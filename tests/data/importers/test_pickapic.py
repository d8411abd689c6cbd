import datetime
import math

import pytest

from vipo_cli.data.entry import Entry
from vipo_cli.data.importers.pickapic import pickapic, split_of
from vipo_cli.data.importing import Wanted, find_importer, import_data
from vipo_cli.data.stored import entries_in, open_stored
from vipo_cli.errors import DataError
from vipo_cli.run import finish


def read(file, **parameters):
    return list(pickapic(file.parent, **parameters))


def row(**changed):
    columns = {
        "caption": "p", "jpg_0": b"A", "jpg_1": b"B", "label_0": 1.0, "label_1": 0.0,
        "has_label": True,
    }  # fmt: skip
    return {name: [cell] for name, cell in (columns | changed).items()}


def test_reads_the_columns_of_pick_a_pic(write, columns):
    file = write(columns)
    found = read(file)
    assert find_importer(file.parent)[0] == "pickapic"
    assert [entry.label for entry in found] == ["a", "b", "a", "b", "a", "b", "tie", "none"]
    assert found[1].media == (columns["jpg_0"][1], columns["jpg_1"][1])
    assert found[1].models == ("first-1", "second-1")
    assert found[1].scores == {"pickscore": (20.0, 21.0)}
    assert (found[1].split, found[1].metadata) == ("train", {})


def test_the_stored_records_are_those_that_are_read_directly(write, columns, tmp_path):
    from vipo_cli.data.sources import open_pairs

    file = write(columns)
    finish(import_data(file.parent, tmp_path / "out", Wanted()))
    for ties in ("drop", "keep"):
        stored = open_stored(tmp_path / "out", ties=ties)
        direct = open_pairs(str(file.parent), {"ties": ties})
        assert [(r.prompt, r.winner, r.loser, r.probability) for r in stored] == [
            (r.prompt, r.winner, r.loser, r.probability) for r in direct
        ]


@pytest.mark.parametrize(
    ("first", "second", "label", "probability"),
    [(1, 0, "a", None), (0, 1, "b", None), (0.7, 0.3, "a", 0.7), (0.25, 0.75, "b", 0.75),
     (0.5, 0.5, "tie", None)],
)  # fmt: skip
def test_labels_are_shares(write, first, second, label, probability):
    (entry,) = read(write(row(label_0=float(first), label_1=float(second))))
    assert (entry.label, entry.probability) == (label, probability)


@pytest.mark.parametrize(
    ("first", "second"),
    [(1, 1), (0, 0), (2, -1), (math.nan, 0), (math.inf, -math.inf), (None, 1), (0.6, 0.6)],
)
def test_labels_that_contradict_each_other_are_unusable(write, first, second):
    (found,) = read(write(row(label_0=first, label_1=second)))
    assert not isinstance(found, Entry)


def test_rows_without_a_label_need_no_shares(write):
    (entry,) = read(write(row(has_label=False, label_0=math.nan)))
    assert (entry.label, entry.problem()) == ("none", "")


def test_further_columns_are_kept(write):
    moment = datetime.datetime(2023, 1, 1, tzinfo=datetime.UTC)
    said = row(
        ranking_id=7, user_id=12, weight=0.5, image_0_uid="x", created_at=moment, nan=math.nan,
        clip_0=1.0, clip_1=math.nan, hps_0=1.0, hps_1=2.0, odd_0=3.0, nothing=None,
    )  # fmt: skip
    (entry,) = read(write(said))
    assert (entry.id, entry.annotator, entry.weight) == ("7", "12", 0.5)
    assert entry.scores == {"hps": (1.0, 2.0)}
    assert entry.metadata == {
        "image_0_uid": "x", "clip_0": 1.0, "odd_0": 3.0, "created_at": moment.isoformat(),
    }  # fmt: skip
    assert not entry.problem()


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000-of-00012", "train"),
        ("test_unique-00000-of-00001-a1", "test_unique"),
        ("x", None),
    ],
)
def test_splits_are_told_by_names(write, columns, name, split):
    file = write(columns, f"{name}.parquet")
    assert split_of(file) == split
    assert {entry.split for entry in read(file)} == {split}


def test_one_split_is_read_where_it_is_asked_for(write, columns):
    write(columns, "test-00000-of-00001.parquet")
    file = write(columns)
    assert len(read(file)) == 16
    assert {entry.split for entry in read(file, split="test")} == {"test"}


def test_a_shard_that_is_cut_short_is_refused(write, columns, tmp_path):
    file = write(columns)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match="cannot read"):
        read(file)


def test_a_later_shard_without_labels_is_no_pair(write, columns, tmp_path):
    file = write(columns)
    lacking = {name: cells for name, cells in columns.items() if name != "label_0"}
    write(lacking, "train-00001-of-00002.parquet")
    found = read(file)
    assert [isinstance(each, Entry) for each in found] == [True] * 8 + [False] * 7 + [True]


def test_images_may_be_structs_of_the_hub(write, tmp_path):
    said = row(jpg_0={"bytes": b"A", "path": "x.jpg"}, jpg_1={"bytes": None, "path": "y.jpg"})
    file = write(said)
    (entry,) = read(file)
    assert entry.media == (b"A", file.parent / "y.jpg")


def test_a_list_of_entries_is_the_same_after_storing(write, columns, tmp_path):
    file = write(columns)
    finish(import_data(file, tmp_path / "out", Wanted()))
    assert list(entries_in(tmp_path / "out")) == read(file)
