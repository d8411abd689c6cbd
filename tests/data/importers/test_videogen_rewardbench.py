import csv
import zipfile

import pytest

from tests.small_clips import clip, found, put, shown
from vipo_cli.errors import DataError

HEADER = [
    "path_A", "path_B", "A_model", "B_model", "prompt", "VQ", "MQ", "TA", "Overall",
    "fps_A", "num_frames_A", "fps_B", "num_frames_B",
]  # fmt: skip
MODELS = ("kling1.5", "minimax")
PROMPT = "Static camera, a metal ball rolls on a smooth tabletop."


def row(number, *labels):
    paths = [f"videos/{model}/{model}_{number:05}.mp4" for model in MODELS]
    return [*paths, *MODELS, PROMPT, *labels, "30.0", "153", "25.0", "141"]


@pytest.fixture
def place(tmp_path):
    """The CSV file of the hub with three pairs, and no clips."""
    rows = [
        row(1, "A", "B", "same", "A"),
        row(2, "same", "same", "same", "same"),
        row(3, "B", "B", "", "B"),
        row(4, "A", "A", "A", "?"),
    ]
    with (tmp_path / "videogen-rewardbench.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([HEADER, *rows])
    return tmp_path


def test_pairs_with_labels_in_three_dimensions(place):
    for number in (1, 2, 3):
        for other, model in enumerate(MODELS):
            put(place / "videos" / model / f"{model}_{number:05}.mp4", 2 * number + other)
    name, entries, reasons = found(place)
    assert name == "videogen_rewardbench"
    assert [each.label for each in entries] == ["a", "tie", "b"]
    assert entries[0].dimensions == {"VQ": "a", "MQ": "b", "TA": "tie"}
    assert entries[2].dimensions == {"VQ": "b", "MQ": "b"}
    assert entries[0].models == MODELS
    assert entries[0].prompt == PROMPT
    assert entries[0].metadata["num_frames_B"] == 141
    assert shown(entries[1]) == [clip(4), clip(5)]
    assert reasons == ["Overall is neither A nor B nor same"]
    assert [each.label for each in found(place, label="MQ")[1]] == ["b", "tie", "b"]


@pytest.mark.parametrize("top", ["videos/", ""])
def test_clips_are_read_from_the_zip_file(place, top):
    with zipfile.ZipFile(place / "videos.zip", "w") as archive:
        for other, model in enumerate(MODELS):
            archive.writestr(f"{top}{model}/{model}_00001.mp4", clip(other))
    _, entries, reasons = found(place)
    assert shown(entries[0]) == [clip(0), clip(1)]
    assert reasons.count("a medium is not there") == 2


def test_without_a_label_of_the_whole_one_has_to_be_chosen(place):
    file = place / "videogen-rewardbench.csv"
    file.write_text(file.read_text().replace("Overall", "whole"))
    with pytest.raises(DataError, match="no column `Overall`") as caught:
        found(place)
    assert "--set label=VQ" in caught.value.hint
    file.write_text(file.read_text().replace("whole", "ALL"))
    assert found(place)[0] == "videogen_rewardbench"
