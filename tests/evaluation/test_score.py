import json

import pytest
from PIL import Image

from vipo_cli.benchmarks import Detection
from vipo_cli.benchmarks.geneval import GenEval
from vipo_cli.errors import DataError
from vipo_cli.evaluation.score import find_pictures, read_samples, score
from vipo_cli.run import finish

METADATA = {
    index: {
        "tag": "single_object",
        "include": [{"class": "cat", "count": 1}],
        "prompt": f"cat {index}",
    }
    for index in range(3)
}


class CatDetector:
    """Finds a cat in every bright picture, and breaks on a black one."""

    name = "cats"
    fingerprint = "1"

    def __init__(self):
        self.seen = 0

    def detect(self, picture):
        self.seen += 1
        level = picture.getpixel((0, 0))[0]
        if level == 0:
            raise RuntimeError("out of light")
        return [Detection("cat" if level > 128 else "dog", 0.9, (0, 0, 4, 4))]

    def colour(self, picture, detection):
        return "grey"


@pytest.fixture
def pictures(tmp_path):
    for prompt in range(3):
        for image in range(2):
            file = tmp_path / "made" / f"{prompt:05d}" / "samples" / f"{image:04d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (255 if image else 60,) * 3).save(file)
    return find_pictures(tmp_path / "made")


def run(pictures, file):
    detector = CatDetector()
    finish(score(pictures, METADATA, {(0, 0): 7}, GenEval(detector), file))
    return detector.seen, read_samples(file)


def test_each_picture_gets_one_line(pictures, tmp_path):
    seen, samples = run(pictures, tmp_path / "samples.jsonl")
    assert seen == 6
    line = samples[0, 0]
    assert (line["prompt_index"], line["image_index"], line["seed"]) == (0, 0, 7)
    assert (line["tag"], line["prompt"]) == ("single_object", "cat 0")
    assert line["scores"] == {"correct": 0}
    assert "cat" in line["reason"]
    assert samples[2, 1]["scores"] == {"correct": 1}


def test_verdicts_are_kept_and_lost_ones_made_again(pictures, tmp_path):
    file = tmp_path / "samples.jsonl"
    _, whole = run(pictures, file)
    assert run(pictures, file) == (0, whole)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:2] + lines[4:5]) + lines[5][:30])
    assert run(pictures, file) == (3, whole)
    assert all(json.loads(line) for line in file.read_text().splitlines())


def test_another_picture_gets_another_verdict(pictures, tmp_path):
    file = tmp_path / "samples.jsonl"
    run(pictures, file)
    Image.new("RGB", (8, 8), "white").save(pictures[0, 0])
    seen, samples = run(pictures, file)
    assert (seen, samples[0, 0]["scores"]) == (1, {"correct": 1})


def test_a_detector_that_breaks_marks_the_picture_failed(pictures, tmp_path):
    file = tmp_path / "samples.jsonl"
    Image.new("RGB", (8, 8), "black").save(pictures[1, 1])
    pictures[2, 0].write_bytes(pictures[2, 0].read_bytes()[:50])
    _, samples = run(pictures, file)
    assert samples[1, 1]["scores"] is None
    assert "out of light" in samples[1, 1]["reason"]
    assert samples[2, 0]["scores"] is None
    Image.new("RGB", (8, 8), "white").save(pictures[1, 1])
    seen, samples = run(pictures, file)
    assert (seen, samples[1, 1]["scores"]) == (1, {"correct": 1})  # the broken file cannot be seen


def test_a_damaged_line_in_the_middle_is_reported(pictures, tmp_path):
    file = tmp_path / "samples.jsonl"
    run(pictures, file)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text(lines[0] + "{oops\n" + lines[1])
    with pytest.raises(DataError, match="damaged"):
        read_samples(file)
