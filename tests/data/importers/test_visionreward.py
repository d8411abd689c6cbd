import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.small_clips import clip, found, put, shown
from vipo_cli.data.importers.visionreward import RANGES

BEST = {dimension: high for dimension, (_, high) in RANGES.items()}


@pytest.fixture
def place(tmp_path):
    """The tables of the hub in its folders, and three clips."""
    for number in range(3):
        put(tmp_path / "videos" / f"{number}.mp4", number)
    pairs = {
        "internal_id": ["x1", "x2", "x3", "x4"],
        "prompt": ["a fox", "a dog", "a cat", "a hen"],
        "standard_answer": ["video1", "video2", "tie", "neither"],
        "video1_path": [f"videos/{number}.mp4" for number in (0, 1, 2, 0)],
        "video2_path": [f"videos/{number}.mp4" for number in (1, 2, 0, 1)],
    }
    ratings = [
        BEST,
        BEST | {"clear": 2},
        BEST | {"clear": 3, "focus": 2},
        BEST | {"unsafe type": 1},
    ]
    clips = {
        "video_path": [f"videos/{number}.mp4" for number in (0, 1, 2, 0)],
        "internal_id": ["y0", "y1", "y2", "y3"],
        "prompt": ["a fox", "a fox", "a fox", "a dog"],
        "url": ["https://example.org/0.mp4"] * 4,
        "annotation": ratings,
        "meta_result": [[1, 0, 1]] * 4,
        "meta_mask": [[1, 1, 0]] * 4,
    }
    for name, columns in (
        ("monetbench/test-00000-of-00001", pairs),
        ("train/train-00000-of-00001", clips),
    ):
        file = tmp_path / f"{name}.parquet"
        file.parent.mkdir()
        pq.write_table(pa.table(columns), file)
    return tmp_path


def test_labelled_pairs_are_what_is_read(place):
    name, entries, reasons = found(place)
    assert name == "visionreward"
    assert [each.label for each in entries] == ["a", "b", "tie"]
    assert shown(entries[1]) == [clip(1), clip(2)]
    assert (entries[0].id, entries[0].prompt, entries[0].split) == ("x1", "a fox", "monetbench")
    assert reasons == ["standard_answer says neither video1 nor video2 nor tie"]


def test_ratings_are_compared_within_a_prompt(place):
    _, entries, reasons = found(place, source="ratings")
    # of the last pair, one lacks 3/4 of the way in one dimension, the other 1/2 in each of two
    assert [each.label for each in entries] == ["a", "a", "a"]
    assert [each.label for each in found(place, source="ratings", by="clear")[1]] == ["a", "a", "b"]
    assert entries[2].dimensions["clear"] == "b"
    assert entries[2].dimensions["focus"] == "a"
    assert entries[0].scores["clear"] == (5.0, 2.0)
    assert reasons == ["1 clips that are the only ones of their prompts, counted as one"]
    undecided = found(place, source="ratings", by="dominance")[1]
    assert [each.label for each in undecided] == ["a", "a", "none"]


def test_the_kind_of_danger_says_nothing_about_how_good_a_clip_is(place):
    _, entries, _ = found(place, source="ratings", form="samples", liked=1)
    assert [each.label for each in entries] == ["liked", "disliked", "disliked", "liked"]
    assert entries[3].scores["unsafe type"] == (1.0,)


def test_ratings_alone_are_recognised_and_found_from_the_folder_above(place):
    train = place / "train"
    (place / "videos").rename(train / "videos")
    name, entries, _ = found(train)
    assert name == "visionreward"
    assert len(entries) == 3


@pytest.mark.parametrize(
    ("changed", "reason"),
    [({"clear": 9}, "a rating outside its range"), ({"clear": None}, "a rating is missing")],
)
def test_ratings_that_make_no_sense_are_told(place, changed, reason):
    file = place / "train/train-00000-of-00001.parquet"
    columns = pq.read_table(file).to_pydict()
    columns["annotation"][0] = BEST | changed
    pq.write_table(pa.table(columns), file)
    _, entries, reasons = found(place, source="ratings")
    assert len(entries) == 1
    assert reason in reasons
