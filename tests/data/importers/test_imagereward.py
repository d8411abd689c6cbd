import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.importers.test_archives import put, zip_bytes
from tests.small_clips import found, shown
from tests.small_pictures import picture
from vipo_cli.data.importers.imagereward import imagereward
from vipo_cli.errors import DataError


def row(part, prompt_id, number, rank, overall=4, fidelity=6):
    split = part.partition("_")[0]
    return {
        "image_path": f"images/{split}/{part}/{number:08d}.webp",
        "prompt_id": prompt_id,
        "prompt": f"the prompt of {prompt_id}",
        "classification": "People",
        "image_amount_in_total": 3,
        "rank": rank,
        "overall_rating": overall,
        "image_text_alignment_rating": 5,
        "fidelity_rating": fidelity,
    }


PARTS = {
    "train_1": [
        row("train_1", "001-1", 1, 2),
        row("train_1", "001-1", 2, 1, overall=7),
        row("train_1", "001-1", 3, 2, overall=2),
        row("train_1", "001-2", 4, 1),
        row("train_1", "001-2", 5, 2, fidelity=None),
    ],
    "train_2": [row("train_2", "002-1", 6, 1), row("train_2", "002-1", 7, 1)],
    "train_10": [row("train_10", "010-1", 8, 2), row("train_10", "010-1", 9, 1)],
    "test_1": [row("test_1", "003-1", 10, 1), row("test_1", "003-1", 11, 2)],
}


def members(part, *, described=True):
    names = (each["image_path"].rpartition("/")[2] for each in PARTS[part])
    images = {name: picture(int(name.partition(".")[0])) for name in names}
    return images | ({f"{part}.json": json.dumps(PARTS[part]).encode()} if described else {})


def table(place, split):
    rows = [each for part, rows in PARTS.items() if part.startswith(split) for each in rows]
    rows.append(row(f"{split}_32", "032-1", 99, 1))  # of a part that is not there
    place.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), place / f"metadata-{split}.parquet")


@pytest.fixture
def place(tmp_path):
    """The hub's folders, with four of the 36 parts."""
    for part in PARTS:
        folder = tmp_path / "images" / part.partition("_")[0]
        folder.mkdir(parents=True, exist_ok=True)
        put(folder / f"{part}.zip", zip_bytes(members(part)))
    table(tmp_path, "train")
    table(tmp_path, "test")
    return tmp_path


def test_the_images_of_a_prompt_become_a_ranked_list(place):
    name, entries, reasons = found(place)
    assert (name, reasons) == ("imagereward", [])
    assert [each.id for each in entries] == ["001-1", "001-2", "002-1", "010-1", "003-1"]
    assert [each.split for each in entries] == ["train"] * 4 + ["test"]
    first = entries[0]
    assert (first.label, first.ranks, first.category) == ("ranked", (2, 1, 2), "People")
    assert first.prompt == "the prompt of 001-1"
    assert first.scores == {"overall": (4, 7, 2), "alignment": (5, 5, 5), "fidelity": (6, 6, 6)}
    assert shown(first) == [picture(1), picture(2), picture(3)]
    assert entries[1].scores.keys() == {"overall", "alignment"}  # one fidelity was not rated


def test_a_split_can_be_chosen(place):
    assert [each.id for each in found(place, split="test")[1]] == ["003-1"]
    with pytest.raises(DataError, match="no images of validation"):
        list(imagereward(place, split="validation"))


def test_one_zip_file_alone_is_enough(place):
    name, entries, _ = found(place / "images" / "train" / "train_10.zip")
    assert name == "imagereward"
    assert [each.id for each in entries] == ["010-1"]


def test_parts_without_json_are_described_by_the_table(place):
    put(place / "images" / "train" / "train_2.zip", zip_bytes(members("train_2", described=False)))
    _, entries, reasons = found(place, split="train")
    assert ([each.id for each in entries][2], reasons) == ("002-1", [])
    assert shown(entries[2]) == [picture(6), picture(7)]


def test_parts_that_were_unpacked_are_read_as_folders(place):
    folder = place / "images" / "train" / "train_1"
    folder.mkdir()
    for name, data in members("train_1").items():
        put(folder / name, data)
    (place / "images" / "train" / "train_1.zip").unlink()
    _, entries, _ = found(place)
    assert [each.id for each in entries[:2]] == ["001-1", "001-2"]
    assert entries[0].media[0] == folder / "00000001.webp"  # which --link can leave where it is


def test_what_is_missing_or_wrong_is_said(place):
    rows = [
        row("train_1", "001-1", 1, None),
        row("train_1", "001-1", 2, 1),
        row("train_1", "001-2", 3, 1),
        row("train_1", "001-2", 77, 2),
        row("train_1", None, 4, 1),
        row("train_1", "001-4", 4, 1),
        row("train_1", "001-4", 5, 2) | {"prompt": "another prompt"},
    ]
    data = members("train_1") | {"train_1.json": json.dumps(rows).encode()}
    put(place / "images" / "train" / "train_1.zip", zip_bytes(data))
    _, entries, reasons = found(place / "images" / "train" / "train_1.zip")
    assert entries == []
    assert reasons == [
        "a rank that is no number",
        "a medium is not there",
        "no prompt_id",
        "several prompts with the same prompt_id",
    ]


def test_a_part_that_was_not_fetched_completely_is_an_error(place):
    file = place / "images" / "train" / "train_2.zip"
    put(file, file.read_bytes()[:200])
    with pytest.raises(DataError, match=r"cannot read the archive .*train_2\.zip"):
        list(imagereward(place))


def test_damaged_json_is_an_error(place):
    file = place / "images" / "train" / "train_1.zip"
    for data, words in ((b"[{", "is not JSON"), (b"[1]", "no array of objects")):
        put(file, zip_bytes(members("train_1") | {"train_1.json": data}))
        with pytest.raises(DataError, match=words):
            list(imagereward(place))
