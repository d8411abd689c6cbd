import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.small_clips import found, shown
from tests.small_pictures import picture
from vipo_cli.data.importers.rapidata import rapidata
from vipo_cli.errors import DataError


def image(number):
    return {"bytes": picture(number), "path": f"{number}.jpg"}


COMMON = {
    "prompt": ["a fox", "a dog", "a hen", "a cow"],
    "image1": [image(number) for number in (0, 2, 4, 6)],
    "image2": [image(number) for number in (1, 3, 5, 7)],
    "model1": ["flux", "mj", "dalle3", "std"],
    "model2": ["mj", "dalle3", "std", "flux"],
}
FIRST = COMMON | {
    "votes_image1": [20, 3, 13, 0],
    "votes_image2": [6, 23, 13, 0],
    "detailed_results": ["[]"] * 4,
    "image1_path": ["raw_data/images/0.jpg"] * 4,
    "image2_path": ["raw_data/images/1.jpg"] * 4,
}
LATER = COMMON | {
    "weighted_results_image1_preference": [4.5, 0.25, 1.0, None],
    "weighted_results_image2_preference": [1.5, 0.75, 1.0, 1.0],
    "weighted_results_image1_coherence": [1.0, 2.0, 3.0, 1.0],
    "weighted_results_image2_coherence": [3.0, 2.0, 1.0, 1.0],
    "weighted_results_image1_alignment": [0.0, 2.0, None, 1.0],
    "weighted_results_image2_alignment": [0.0, 1.0, 1.0, 1.0],
    "detailed_results_preference": ["[]"] * 4,
}


def write(folder, columns, name="train_0001-00000-of-00001.parquet"):
    file = folder / "data" / name
    file.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), file)
    return folder


def test_votes_decide(tmp_path):
    name, entries, reasons = found(write(tmp_path, FIRST))
    assert (name, reasons) == ("rapidata", [])
    assert [each.label for each in entries] == ["a", "b", "tie", "none"]
    first = entries[0]
    assert (first.votes, first.models) == ((20, 6), ("flux", "mj"))
    assert shown(first) == [picture(0), picture(1)]
    assert (first.split, first.id) == ("train_0001", "train_0001-00000-of-00001-0")
    assert first.dimensions == {}
    assert first.metadata == {}


def test_weighted_votes_have_dimensions(tmp_path):
    _, entries, reasons = found(write(tmp_path, LATER))
    assert [each.label for each in entries] == ["a", "b", "tie"]
    assert [each.dimensions for each in entries] == [
        {"coherence": "b"},  # nobody voted on its alignment
        {"coherence": "tie", "alignment": "a"},
        {"coherence": "a"},
    ]
    assert entries[1].scores == {
        "preference": (0.25, 0.75),
        "coherence": (2, 2),
        "alignment": (2, 1),
    }
    assert reasons == ["votes on preference that are no numbers of at least 0"]


def test_another_axis_can_decide(tmp_path):
    write(tmp_path, LATER)
    _, entries, _ = found(tmp_path, by="coherence")
    assert [each.label for each in entries] == ["b", "tie", "a", "tie"]
    assert entries[0].dimensions == {"preference": "a"}
    assert entries[0].votes == (1, 3)


def test_the_only_axis_decides(tmp_path):
    columns = {name: cells for name, cells in LATER.items() if not name.endswith("_preference")}
    columns = {name: cells for name, cells in columns.items() if not name.endswith("coherence")}
    _, entries, _ = found(write(tmp_path, columns))
    assert [each.label for each in entries] == ["none", "a", "tie"]
    with pytest.raises(DataError, match="no votes on coherence"):
        list(rapidata(tmp_path, by="coherence"))


def test_every_file_is_read(tmp_path):
    write(tmp_path, FIRST)
    write(tmp_path, LATER, "train_0002-00000-of-00001.parquet")
    write(tmp_path, {"country": ["CH"]}, "users.parquet")
    _, entries, _ = found(tmp_path)
    assert [each.split for each in entries] == ["train_0001"] * 4 + ["train_0002"] * 3
    assert rapidata.count(tmp_path) == 9
