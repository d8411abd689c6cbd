import json

import pytest

from tests.data.importers.test_archives import parts, put, tar_bytes
from tests.small_clips import found, shown
from tests.small_pictures import picture
from vipo_cli.data.importers.hpd import hpdv2, hpdv3
from vipo_cli.errors import DataError

TRAIN = [
    {"prompt": "a fox", "file_path": ["00001.jpg", "00002.jpg"], "human_preference": [1, 0],
     "user_hash": "u1"},
    {"prompt": "a dog", "file_path": ["00003.jpg", "00001.jpg"], "human_preference": [0, 1],
     "user_hash": "u2"},
    {"prompt": "a hen", "file_path": ["00002.jpg", "00003.jpg"], "human_preference": [1, 1],
     "user_hash": "u1"},
    {"prompt": "a cow", "file_path": ["00001.jpg", "00009.jpg"], "human_preference": [1, 0],
     "user_hash": "u1"},
    {"prompt": "a pig", "file_path": ["00001.jpg"], "human_preference": [1], "user_hash": "u1"},
]  # fmt: skip
TEST = [
    {"prompt": "a cat", "image_path": ["00001.jpg", "00002.jpg", "00003.jpg"], "rank": [2, 1, 2],
     "raw_annotations": [{"rank": [3, 1, 2], "user_hash": "u1"},
                         {"rank": [1, 2, 3], "user_hash": "u2"}]},
]  # fmt: skip
V3 = [
    {"prompt": "a fox", "choice_dist": [12, 7], "confidence": 0.9999907, "path1": "images/a.jpg",
     "path2": "images/b.jpg", "model1": "flux", "model2": "infinity"},
    {"prompt": "a dog", "choice_dist": None, "confidence": None, "path1": "images/b.jpg",
     "path2": "images/c.jpg", "model1": "midjourney", "model2": "midjourney"},
    {"prompt": "a hen", "choice_dist": [3, 9], "confidence": 0.97, "path1": "images/c.jpg",
     "path2": "images/a.jpg", "model1": "kolors", "model2": "sdxl"},
    {"prompt": "a cow", "path1": "images/c.jpg", "path2": "images/none.jpg", "model1": "kolors",
     "model2": "sdxl"},
]  # fmt: skip


def write(file, elements):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(elements))
    return file


@pytest.fixture(params=["folders", "archives", "archives of folders"])
def hpd(request, tmp_path):
    """HPDv2, its images in the folders of its README, or in the archives of the hub."""
    place = tmp_path / "HPD"
    write(place / "train.json", TRAIN)
    write(place / "test.json", TEST)
    for split, first in (("train", 0), ("test", 10)):
        images = {f"0000{number}.jpg": picture(first + number) for number in (1, 2, 3)}
        if request.param == "folders":
            (place / split).mkdir()
            for name, data in images.items():
                put(place / split / name, data)
        else:
            start = f"{split}/" if "of" in request.param else ""
            named = {start + name: data for name, data in images.items()}
            put(place / f"{split}.tar", tar_bytes(named))
    return place


def test_train_becomes_pairs(hpd):
    name, entries, reasons = found(hpd)
    assert name == "hpdv2"
    assert [each.label for each in entries] == ["a", "b", "tie"]
    assert shown(entries[1]) == [picture(3), picture(1)]
    first = entries[0]
    assert (first.prompt, first.annotator, first.split) == ("a fox", "u1", "train")
    assert first.id == "train-0"
    assert reasons == ["a medium is not there", "not two images with a preference each"]


def test_test_becomes_ranked_lists(hpd):
    _, (averaged,), reasons = found(hpd, split="test")
    assert (averaged.label, averaged.ranks, averaged.split) == ("ranked", (2, 1, 2), "test")
    assert shown(averaged) == [picture(11), picture(12), picture(13)]
    assert [each["user_hash"] for each in averaged.metadata["annotations"]] == ["u1", "u2"]
    _, (one, other), _ = found(hpd, split="test", each_annotator=True)
    assert (one.ranks, one.annotator, one.id) == ((3, 1, 2), "u1", "test-0.0")
    assert (other.ranks, other.annotator) == ((1, 2, 3), "u2")
    assert reasons == []


def test_images_of_the_other_split_are_never_taken(tmp_path):
    place = tmp_path / "HPD"
    write(place / "train.json", TRAIN)
    put(place / "test.tar", tar_bytes({f"test/0000{each}.jpg": picture(each) for each in (1, 2)}))
    (place / "test").mkdir()
    put(place / "test" / "00001.jpg", picture(1))
    _, entries, reasons = found(place)
    assert entries == []
    assert set(reasons) == {"a medium is not there"}


def test_a_test_set_alone_needs_no_parameter(tmp_path):
    write(tmp_path / "test.json", TEST)
    put(tmp_path / "test.tar", tar_bytes({f"0000{each}.jpg": picture(each) for each in (1, 2, 3)}))
    assert [each.label for each in found(tmp_path)[1]] == ["ranked"]
    assert [each.label for each in found(tmp_path / "test.json")[1]] == ["ranked"]
    with pytest.raises(DataError, match="no train split"):
        list(hpdv2(tmp_path, split="train"))


@pytest.fixture
def v3(tmp_path):
    """HPDv3 with its images in parts, as the hub has them."""
    for name in ("train.json", "test.json", "all.json", "pickapic.json"):
        write(tmp_path / name, V3)
    write(tmp_path / "benchmark" / "benchmark_Arts.json", [{"id": 0, "prompt": "a fox"}])
    images = {f"images/{name}.jpg": picture(ord(name)) for name in "abc"}
    parts(tmp_path, "images.tar", tar_bytes(images), [".00", ".01", ".02"])
    return tmp_path


def test_hpdv3_has_votes_and_confidence(v3):
    name, entries, reasons = found(v3)
    assert name == "hpdv3"
    assert [each.split for each in entries] == ["test"] * 3 + ["train"] * 3
    assert {each.label for each in entries} == {"a"}
    first, second, third = entries[3:]
    assert (first.votes, first.probability) == ((12, 7), 0.9999907)
    assert (first.models, first.id, first.dimensions) == (("flux", "infinity"), "train-0", {})
    assert (second.votes, second.probability) == (None, None)
    assert third.votes == (9, 3)  # the preferred one has more
    assert shown(first) == [picture(ord("a")), picture(ord("b"))]
    assert reasons == ["a medium is not there"] * 2


def test_files_can_be_chosen(v3):
    _, entries, _ = found(v3, files="all")
    assert [each.id for each in entries] == ["all-0", "all-1", "all-2"]
    assert entries[0].split is None
    with pytest.raises(DataError, match="no such files of pairs: all, train_aes") as raised:
        list(hpdv3(v3, files="all,train_aes"))
    assert raised.value.hint == "there are all, pickapic, test, train"


def test_a_confidence_that_is_none_is_refused(v3):
    write(v3 / "train.json", [V3[0] | {"confidence": "high"}, V3[0] | {"confidence": 1.5}])
    _, entries, _ = found(v3, files="train")
    assert [each.problem() for each in entries] == ["probability outside 0 to 1"] * 2


def test_the_two_axes_of_hpdv3_plus_plus_become_dimensions(tmp_path):
    def pair(prompt, first, second):
        start = "images/qwen_image/"
        return {"path1": f"{start}{first}.png", "path2": f"{start}{second}.png", "prompt": prompt}

    both, against = pair("a fox", "a", "b"), pair("a dog", "b", "c")
    write(tmp_path / "train" / "train_aes.json", [both, against, pair("a hen", "a", "c")])
    write(tmp_path / "train" / "train_tf.json", [
        both, pair("a dog", "c", "b"), pair("a cow", "c", "a"),
    ])  # fmt: skip
    write(tmp_path / "test" / "test_aes.json", [both])
    write(tmp_path / "train" / "stage1_ref.json", [pair("a fox", "x", "y")])
    write(tmp_path / "train" / "rollout.json", [{"group_id": 1, "prompt": "a fox"}])
    images = {f"images/qwen_image/{name}.png": picture(ord(name)) for name in "abc"}
    parts(tmp_path, "images.tar", tar_bytes(images), [".partaa", ".partab"])
    name, entries, reasons = found(tmp_path)
    assert (name, reasons) == ("hpdv3", [])
    assert [(each.prompt, each.split, each.dimensions) for each in entries] == [
        ("a fox", "train", {"aesthetics": "a", "text following": "a"}),
        ("a dog", "train", {"aesthetics": "a", "text following": "b"}),
        ("a hen", "train", {"aesthetics": "a"}),
        ("a cow", "train", {"text following": "a"}),
        ("a fox", "test", {"aesthetics": "a"}),
    ]
    assert {each.source for each in entries} == {"HPDv3++"}
    _, (alone, *_), _ = found(tmp_path / "train" / "train_tf.json")  # a file finds its images too
    assert (alone.dimensions, shown(alone)) == (
        {"text following": "a"},
        [picture(ord("a")), picture(ord("b"))],
    )


def test_a_name_that_leaves_the_data_set_reaches_nothing(tmp_path):
    put(tmp_path / "secret.jpg", picture(0))
    place = tmp_path / "set"
    outside = ["../secret.jpg", str(tmp_path / "secret.jpg"), "images/../../secret.jpg"]
    write(place / "train.json", [
        {"prompt": "a fox", "path1": "a.jpg", "path2": name} for name in outside
    ])  # fmt: skip
    put(place / "a.jpg", picture(1))
    _, entries, reasons = found(place)
    assert entries == []
    assert reasons == ["a medium is not there"] * 3
