import base64

import pyarrow as pa
import pyarrow.parquet as pq

from tests.data.importers.test_archives import put
from tests.small_clips import found, shown
from tests.small_pictures import picture

START = "https://huggingface.co/datasets/data-is-better-together/open-image-preferences-v1/resolve/"


def write(folder, rows):
    file = folder / "data" / "train-00000-of-00001.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file)
    return folder


def answered(number, responses, states=None, **changed):
    return {
        "id": str(number),
        "status": "completed",
        "_server_id": "x",
        "images": {
            "image_1": f"{START}main/image_quality_dev/{number}.png",
            "image_2": f"{START}main/image_quality_sd/{number}.png?download=true",
            "prompt": f"the prompt {number}",
        },
        "model_1": "dev",
        "model_2": "sd",
        "evolution": "quality",
        "category": "Animation",
        "sub_category": "mythological",
        "preference.responses": responses,
        "preference.responses.users": [f"u{each}" for each in range(len(responses or []))],
        "preference.responses.status": states or ["submitted"] * len(responses or []),
        "prompt": [0.1, 0.2],  # a vector of the same name as the field
    } | changed


def pictures(folder, numbers):
    for place, kind in enumerate(("image_quality_dev", "image_quality_sd")):
        (folder / kind).mkdir(parents=True)
        for number in numbers:
            put(folder / kind / f"{number}.png", picture(2 * number + place))
    return folder


def test_binarized_pairs(tmp_path):
    def image(number):
        return {"bytes": picture(number), "path": f"{number}.png"}

    rows = [
        {"id": "7", "prompt": "a fox", "chosen": image(0), "rejected": image(1),
         "chosen_model": "dev", "rejected_model": "sd", "evolution": "simplified",
         "category": "Animation", "sub_category": "mythological"},
    ]  # fmt: skip
    name, (entry,), reasons = found(write(tmp_path, rows))
    assert (name, reasons) == ("open_image_preferences", [])
    assert (entry.label, entry.prompt, entry.models) == ("a", "a fox", ("dev", "sd"))
    assert (entry.category, entry.id, entry.split) == ("Animation", "7", "train")
    assert entry.metadata == {"evolution": "simplified", "sub_category": "mythological"}
    assert shown(entry) == [picture(0), picture(1)]


def test_answers_are_votes(tmp_path):
    place = write(tmp_path / "results", [
        answered(0, ["image_1", "image_2", "image_1"]),
        answered(1, ["Image 2", "both_good"]),
        answered(2, ["both_good", "both_bad"]),
        answered(3, []),
        answered(4, ["image_1", "image_2"], ["discarded", "submitted"]),
        answered(5, ["image_3"]),
        answered(6, ["image_1"]),
    ])  # fmt: skip
    folder = pictures(tmp_path / "images", range(6))
    name, entries, reasons = found(place, images=str(folder))
    assert name == "open_image_preferences"
    assert [each.label for each in entries] == ["a", "b", "tie", "none", "b"]
    assert [each.votes for each in entries] == [(2, 1), (0.5, 1.5), (1, 1), None, (0, 1)]
    assert entries[0].prompt == "the prompt 0"
    assert entries[0].models == ("dev", "sd")
    assert entries[1].metadata["answers"] == {"both_good": 1, "image_2": 1}
    assert shown(entries[1]) == [picture(2), picture(3)]
    assert reasons == [
        "an answer that names neither image, nor both",
        "a medium is not there",
    ]


def test_images_may_lie_beside_the_answers_or_in_them(tmp_path):
    place = write(pictures(tmp_path, [0]), [
        answered(0, ["image_1"]),
        answered(1, ["image_2"], images={
            "image_1": "data:image/png;base64," + base64.b64encode(picture(5)).decode(),
            "image_2": "image_quality_sd/0.png",
            "prompt": "a fox",
        }),
        answered(2, ["image_2"], images={
            "image_1": "data:image/png;base64,!", "image_2": None, "prompt": "a fox",
        }),
    ])  # fmt: skip
    _, entries, reasons = found(place)
    assert shown(entries[0]) == [picture(0), picture(1)]
    assert shown(entries[1]) == [picture(5), picture(1)]
    assert reasons == ["an image written as text that cannot be read"]
