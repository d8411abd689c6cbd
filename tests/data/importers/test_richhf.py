import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.importers.test_tfrecord import example, record
from tests.small_clips import found, shown
from tests.small_pictures import heat, picture
from vipo_cli.data.importers.richhf import richhf
from vipo_cli.errors import DataError

PROMPTS = ["a red fox, jumping", "a dog: two dogs", "a hen"]
UIDS = ["11a0", "22b0", "33c0"]


def labels(number, overall, words):
    return {
        "filename": [f"train/{UIDS[number]}.png".encode()],
        "aesthetics_score": [0.5],
        "artifact_score": [0.25],
        "misalignment_score": [0.75],
        "overall_score": [overall],
        "artifact_map": [heat(10 + number)],
        "misalignment_map": [heat(20 + number)],
        "prompt_misalignment_label": [words],
    }


@pytest.fixture
def place(tmp_path):
    """Three records in two files, as the repository has them."""
    folder = tmp_path / "richhf-18k"
    folder.mkdir()
    first = labels(0, 0.75, b"1 0 1 1"), labels(1, 0.25, b"1 1 0 0")
    (folder / "train.tfrecord").write_bytes(b"".join(record(example(each)) for each in first))
    (folder / "test.tfrecord").write_bytes(record(example(labels(2, 0.5, b"1 1 1"))))
    return folder


@pytest.fixture
def pickapic(tmp_path):
    """A copy of Pick-a-Pic v1; the picture of the last record is in none of its rows."""
    folder = tmp_path / "pickapic_v1"
    folder.mkdir()
    columns = {
        "caption": ["something else", PROMPTS[1], PROMPTS[0], PROMPTS[0]],
        "image_0_uid": ["99", UIDS[1], "98", UIDS[0]],
        "image_1_uid": ["97", "96", UIDS[0], "95"],
        "jpg_0": [picture(9), picture(1), picture(8), picture(0)],
        "jpg_1": [picture(7), picture(6), picture(0), picture(5)],
        "label_0": [1.0, 0.0, 0.5, 1.0],
        "label_1": [0.0, 1.0, 0.5, 0.0],
    }
    file = folder / "train-00000-of-00387-abc6ee61d758327b.parquet"
    pq.write_table(pa.table(columns), file, row_group_size=1)
    return folder


def test_images_and_prompts_come_from_pickapic(place, pickapic):
    name, entries, reasons = found(place, pickapic=str(pickapic))
    assert name == "richhf"
    assert richhf.count(place) == 3
    assert reasons == ["no image of that name in the Pick-a-Pic copy"]
    second, first = entries  # in the order of Pick-a-Pic, each once
    assert (first.prompt, first.label, first.id) == (PROMPTS[0], "liked", "11a0")
    assert (second.prompt, second.label, second.split) == (PROMPTS[1], "disliked", "train")
    assert shown(first) == [picture(0)]
    assert first.scores == {
        "overall": (0.75,),
        "aesthetics": (0.5,),
        "artifact": (0.25,),
        "misalignment": (0.75,),
    }
    assert first.regions == (heat(10),)
    assert first.metadata == {"word_labels": "1 0 1 1", "misaligned": ["red"]}
    assert second.metadata["misaligned"] == ["two", "dogs"]


def test_images_and_prompts_come_from_a_folder(place, tmp_path):
    folder = tmp_path / "pictures"
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "11a0.png").write_bytes(picture(0))
    (folder / "train" / "11a0.txt").write_text(PROMPTS[0])
    (folder / "22b0.jpg").write_bytes(picture(1))  # of another kind, in no folder of its own
    (folder / "22b0.txt").write_text(PROMPTS[1])
    (folder / "33c0.png").write_bytes(picture(2))
    _, entries, reasons = found(place, images=str(folder))
    assert [each.id for each in entries] == ["11a0", "22b0"]
    assert [each.prompt for each in entries] == PROMPTS[:2]
    assert [shown(each) for each in entries] == [[picture(0)], [picture(1)]]
    assert reasons == ["no prompt in a .txt file beside the image"]


def test_without_images_it_says_what_to_give(place):
    _, entries, reasons = found(place)
    assert entries == []
    assert set(reasons) == {"no image of that name (give pickapic=DIR or images=DIR)"}


def test_another_score_and_heat_map_can_be_chosen(place, pickapic):
    def first(**parameters):
        return found(place, pickapic=str(pickapic), **parameters)[1][0]

    assert first().label == "disliked"
    assert first(score="misalignment").label == "liked"
    assert first(liked_from=0.25).label == "liked"
    assert first(regions="misalignment").regions == (heat(21),)
    assert first(regions="none").regions is None
    _, entries, _ = found(place, pickapic=str(pickapic), split="test")
    assert entries == []


def test_labels_of_another_number_of_words_are_kept_as_they_are(place, pickapic):
    wrong = example(labels(0, 0.75, b"1 0"))
    (place / "train.tfrecord").write_bytes(record(wrong))
    _, entries, _ = found(place, pickapic=str(pickapic))
    assert entries[0].metadata == {"word_labels": "1 0"}


def test_what_is_no_example_is_left_out(place, pickapic):
    good = record(example(labels(0, 0.75, b"1 0 1 1")))
    poor = record(example({"filename": [b"train/22b0.png"]}))
    again = record(example(labels(0, 0.25, b"1 0 1 1")))
    nan = record(example(labels(1, float("nan"), b"1 1 1 1")))
    (place / "train.tfrecord").write_bytes(good + record(b"\xff\xff") + poor + again + nan)
    _, entries, reasons = found(place, pickapic=str(pickapic), split="train")
    assert [each.id for each in entries] == ["11a0"]
    assert sorted(reasons) == [
        "a record that is no tf.train.Example",
        "a record without the fields of RichHF-18K",
        "an image that was described before",
        "the overall score is no number",
    ]


def test_a_folder_without_pickapic_is_refused(place, tmp_path):
    with pytest.raises(DataError, match="holds no Pick-a-Pic with images"):
        list(richhf(place, pickapic=str(tmp_path)))
