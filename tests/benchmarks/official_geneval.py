"""Judge random scenes with GenEval's public implementation, and compare it with ours.

    python tests/benchmarks/official_geneval.py PATH/TO/geneval/evaluation/evaluate_images.py 5000
    python tests/benchmarks/official_geneval.py PATH/TO/geneval/evaluation/evaluate_images.py 400 \
        tests/benchmarks/golden/geneval_verdicts.json

Its own `evaluate_image` is run, with only the neural networks replaced: the detector by the scene,
CLIP by a colour that depends on the box. The second form writes what the tests compare with.
"""

import importlib.util
import json
import sys
import types
from pathlib import Path
from unittest import mock

import numpy as np
from random_scenes import COLOURS, OBJECTS, colour_of, identity, scenes

from vipo_cli.benchmarks.detection import Detection
from vipo_cli.benchmarks.geneval import wrong

ABSENT = ("pandas", "mmdet", "mmdet.apis", "open_clip", "clip_benchmark", "clip_benchmark.metrics")


def load_official(file):
    """Import the public script without the packages that the rules do not need."""
    absent = {name: mock.MagicMock(name=name) for name in ABSENT}
    torch = types.ModuleType("torch")
    torch.cuda = types.SimpleNamespace(is_available=lambda: True)  # it asserts that
    torch.utils = types.SimpleNamespace(data=types.SimpleNamespace(Dataset=object))
    spec = importlib.util.spec_from_file_location("official", file)
    official = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, absent | {"torch": torch}):
        spec.loader.exec_module(official)
    settings = {
        "THRESHOLD": 0.3,
        "COUNTING_THRESHOLD": 0.9,
        "MAX_OBJECTS": 16,
        "NMS_THRESHOLD": 1.0,
        "POSITION_THRESHOLD": 0.1,
    }
    vars(official).update(settings, classnames=list(OBJECTS), object_detector=None)
    assert list(COLOURS) == official.COLORS
    official.Image = official.ImageOps = mock.MagicMock()
    official.color_classification = lambda image, boxes, name: [
        colour_of(box[:4]) for box, _ in boxes
    ]
    return official


def official_verdict(official, asked, found):
    rows = [[row for row in found if row[0] == name] for name in OBJECTS]
    boxes = [
        np.array([[*box, score] for _, score, box in of_class], np.float32).reshape(-1, 5)
        for of_class in rows
    ]
    masks = [[None] * len(of_class) for of_class in rows]
    official.inference_detector = lambda detector, file: (boxes, masks)
    return bool(official.evaluate_image("", asked)["correct"])


def our_verdict(asked, found):
    detections = [Detection(label, score, tuple(box)) for label, score, box in found]
    return not wrong(asked, detections, lambda detection: colour_of(detection.box))


def main(file, number, golden=None):
    official = load_official(file)
    drawn = scenes(int(number))
    theirs = [official_verdict(official, *scene) for scene in drawn]
    ours = [our_verdict(*scene) for scene in drawn]
    different = sum(a != b for a, b in zip(theirs, ours, strict=True))
    said = f"{number} scenes, {sum(theirs)} of them right; {different} verdicts differ\n"
    sys.stdout.write(said)
    if golden is not None:
        about = {
            "from": "github.com/djghosh13/geneval, evaluation/evaluate_images.py, af4902f",
            "numpy": np.__version__,
            "scenes": identity(drawn),
            "right": "".join(str(int(right)) for right in theirs),
        }
        Path(golden).write_text(json.dumps(about, indent=1) + "\n")
    return different


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) > 0)
