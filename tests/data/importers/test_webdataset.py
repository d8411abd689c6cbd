import io
import json
import tarfile

import pytest

from tests.small_clips import clip, found, shown
from vipo_cli.data.importers import webdataset


@pytest.fixture
def pack(tmp_path):
    """Write a shard of files in the order given."""

    def pack(files, name="00000.tar", mode="w"):
        with tarfile.open(tmp_path / name, mode) as shard:
            for each, data in files.items():
                info = tarfile.TarInfo(each)
                data = data if isinstance(data, bytes) else json.dumps(data).encode()
                info.size = len(data)
                shard.addfile(info, io.BytesIO(data))
        return tmp_path

    return pack


def shown_pair(key, first, second, **said):
    return {
        f"{key}.a.mp4": clip(first),
        f"{key}.b.mp4": clip(second),
        f"{key}.json": {"prompt": "a fox", **said},
    }


def test_shards_of_a_folder_are_read_in_order(pack):
    pack(
        shown_pair("0002", 4, 5, label="tie", id=None) | shown_pair("0003", 6, 7),
        "00001.tar.gz",
        "w:gz",
    )
    place = pack(
        shown_pair(
            "0000",
            0,
            1,
            label="b",
            votes=[1, 3],
            models=["x", None],
            scores={"quality": [0.5, 0.75]},
            dimensions={"motion": "a"},
            seeds=[3, 4],
            annotator=17,
            id="first",
            split="train",
            note="n",
            metadata={"more": 1},
        )
        | {"readme.md": b"not a sample", "0001.winner.mp4": clip(2), "0001.loser.mp4": clip(3)}
        | {"0001.txt": b"a dog\n"}
    )
    name, entries, reasons = found(place)
    assert name == "webdataset"
    assert [each.label for each in entries] == ["b", "a", "tie", "none"]
    assert [each.id for each in entries] == ["first", "00000.tar/0001", None, "00001.tar.gz/0003"]
    assert [shown(each) for each in entries] == [[clip(n), clip(n + 1)] for n in (0, 2, 4, 6)]
    first, second, *_ = entries
    assert (first.votes, first.models, first.seeds) == ((1, 3), ("x", None), (3, 4))
    assert (first.scores, first.dimensions) == ({"quality": (0.5, 0.75)}, {"motion": "a"})
    assert (first.annotator, first.split) == ("17", "train")
    assert first.metadata == {"note": "n", "more": 1}
    assert second.prompt == "a dog"
    assert reasons == ["no media by whose names a preference is known"]


def test_shards_may_lie_in_folders_and_in_parts(pack, tmp_path):
    for number, folder in enumerate(("train", "val")):
        (tmp_path / folder).mkdir()
        pack(shown_pair("0", number, 9, label="a"), f"{folder}/0.tar")
    whole = (tmp_path / "val/0.tar").read_bytes()
    (tmp_path / "val/0.tar").unlink()
    for part, data in (("aa", whole[:700]), ("ab", whole[700:])):
        (tmp_path / f"val/0.tar.{part}").write_bytes(data)
    _, entries, reasons = found(tmp_path)
    assert [each.id for each in entries] == ["train/0.tar/0", "val/0.tar.aa/0"]
    assert shown(entries[1]) == [clip(1), clip(9)]
    assert reasons == []


def test_files_of_a_sample_may_lie_in_folders(pack):
    place = pack(
        {
            "one/0.w.mp4": clip(0),
            "one/0.l.mp4": clip(1),
            "one/0.txt": b"a fox",
            "two/0.w.mp4": clip(2),
            "two/0.l.mp4": clip(3),
            "two/0.txt": b"a dog",
            "two/._0.w.mp4": b"of another system",
        }
    )
    _, entries, reasons = found(place / "00000.tar")
    assert [each.id for each in entries] == ["00000.tar/one/0", "00000.tar/two/0"]
    assert reasons == []


def test_lists_and_single_samples(pack):
    listed = {f"x.{number}.mp4": clip(number) for number in (0, 2, 10)}
    place = pack(listed | {"x.json": {"prompt": "a fox", "ranks": [2, 1, 3]}})
    _, (entry,), _ = found(place)
    assert (entry.label, entry.ranks) == ("ranked", (2, 1, 3))
    assert shown(entry) == [clip(0), clip(2), clip(10)]
    place = pack(listed | {"x.json": {"prompt": "a fox", "label": "candidates"}})
    assert found(place)[1][0].label == "candidates"
    place = pack(
        {
            "x.mp4": clip(0),
            "x.json": {"prompt": "a fox", "label": "disliked"},
            "y.mp4": clip(1),
            "y.json": {"prompt": "a fox", "liked": True},
            "z.mp4": clip(2),
            "z.json": {"prompt": "a fox"},
        }
    )
    _, entries, reasons = found(place)
    assert [each.label for each in entries] == ["disliked", "liked"]
    assert reasons == ["neither liked nor disliked"]


@pytest.mark.parametrize(("label", "meant"), [(0, "a"), (1, "b"), (0.5, "tie"), ("b", "b")])
def test_a_number_is_a_label_where_the_media_are_numbered(pack, label, meant):
    numbered = {"x.0.mp4": clip(0), "x.1.mp4": clip(1)}
    place = pack(numbered | {"x.json": {"prompt": "a fox", "label": label}})
    assert found(place)[1][0].label == meant


ONE = "one of two media is missing"
NO_LABEL = "label says neither a nor b nor tie"


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"x.a.mp4": clip(0), "x.json": {"label": "a"}}, ONE),
        (shown_pair("x", 0, 1, label="a") | {"x.b.png": clip(2)}, "two media of one name"),
        ({"x.winner.mp4": clip(0)}, "a winner without a loser, or a loser without a winner"),
        (shown_pair("x", 0, 1, label=1), NO_LABEL),
        (shown_pair("x", 0, 1, label="ranked"), NO_LABEL),
        (shown_pair("x", 0, 1) | {"x.json": b"{"}, "its JSON is damaged"),
        (shown_pair("x", 0, 1) | {"x.json": b'{"n": ' + b"1" * 5000}, "its JSON is damaged"),
        (shown_pair("x", 0, 1) | {"x.json": b"[" * 100_000}, "its JSON is damaged"),
        (shown_pair("x", 0, 1) | {"x.json": b'{"id": 1, "id": 2}'}, "its JSON is damaged"),
        (shown_pair("x", 0, 1) | {"x.json": []}, "its JSON is no object"),
        (
            {"x.w.mp4": clip(0), "x.l.mp4": clip(1), "x.json": {"label": "b"}},
            "label says otherwise than the names",
        ),
        (
            {"x.w.mp4": clip(0), "x.l.mp4": clip(1), "x.txt": b"\xff"},
            "a prompt that is not UTF-8",
        ),
    ],
)
def test_what_cannot_be_used_is_told(pack, files, reason):
    _, entries, reasons = found(pack(shown_pair("good", 8, 9, label="a") | files))
    assert len(entries) == 1
    assert reasons == [reason]


def test_a_damaged_shard_does_not_cost_the_others(pack, tmp_path):
    pack(shown_pair("0", 0, 1, label="a") | shown_pair("1", 2, 3, label="a"), "0.tar")
    pack(shown_pair("2", 4, 5, label="a"), "1.tar")
    shard = tmp_path / "0.tar"
    shard.write_bytes(shard.read_bytes()[: 4 * 1024 + 512 * 2])
    _, entries, reasons = found(tmp_path)
    assert entries[-1].id == "1.tar/2"
    assert len(reasons) == 1
    assert all(each.label == "a" for each in entries)


def test_a_sample_without_measure_is_refused(pack, monkeypatch):
    monkeypatch.setattr(webdataset, "MOST_FILES", 5)
    many = {f"x.{number}.mp4": clip(number) for number in range(9)}
    place = pack(many | shown_pair("y", 0, 1, label="a"))
    _, entries, reasons = found(place)
    assert [each.id for each in entries] == ["00000.tar/y"]
    assert len(reasons) == 1
    monkeypatch.setattr(webdataset, "MOST_BYTES", len(clip(0)) + len(clip(1)) - 1)
    assert found(place)[1] == []


def test_tar_files_of_something_else_are_not_taken_for_shards(pack):
    place = pack({"images/1.jpg": b"x", "images/2.jpg": b"y", "info.json": {}})
    assert not webdataset.webdataset.fits(place)
    (place / "00000.tar").write_bytes(b"no tar file at all")
    assert not webdataset.webdataset.fits(place)
