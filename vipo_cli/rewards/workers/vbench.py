"""VBench and VBench-2.0: one dimension, judged by their class as their own script has it judged."""

from __future__ import annotations  # the interpreter may be as old as Python 3.8

import json
import math
import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

PACKAGE = "vbench"
BESIDE = ("decord", "opencv-python", "pyiqa", "timm")
DINO = "dino_model/dino_vitbase16_pretrain.pth"

STEP = 10
SIDE = 64


def run(request: dict[str, Any]) -> None:
    """Judge a folder of clips; the defaults are those of the package's own script."""
    import torch

    local = {}
    if (weights := request["weights"]) is not None:
        os.environ["VBENCH_CACHE_DIR"] = weights
        local = {"local": True}
        # it sees that this file of DINO's is there, and then fetches another all the same
        torch.hub.load_state_dict_from_url = lambda **_: torch.load(
            Path(weights, DINO), map_location="cpu"
        )
    package = import_module(request["package"])
    module = f"{request['package']}.{request['dimension']}"
    if find_spec(module) is not None:
        import_module(module)  # if it cannot be, then before gigabytes are downloaded for it
    device = request["device"]
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    info = request["info"] or str(Path(str(package.__file__)).parent / request["info_name"])
    judge = getattr(package, request["runner"])(torch.device(device), info, request["output"])
    judge.evaluate(
        videos_path=request["videos"],
        name="results",
        dimension_list=[request["dimension"]],
        mode="vbench_standard",
        imaging_quality_preprocessing_mode="longer",
        **local,
    )


def check() -> None:
    """Judge a clip that is made here, in the one dimension that needs no weights."""
    dimension, prompt = "temporal_flickering", "a grey wall"
    with TemporaryDirectory() as place:
        os.environ["VBENCH_CACHE_DIR"] = place
        clips, info = Path(place, "clips"), Path(place, "info.json")
        clips.mkdir()
        _write(clips / f"{prompt}-0.mp4")
        info.write_text(json.dumps([{"prompt_en": prompt, "dimension": [dimension]}]))
        run({
            "package": PACKAGE, "runner": "VBench", "info": str(info), "videos": str(clips),
            "dimension": dimension, "output": place, "weights": None, "device": "cpu",
        })  # fmt: skip
        found = json.loads(Path(place, "results_eval_results.json").read_text())[dimension][0]
        if not math.isclose(found, 1 - STEP / 255, abs_tol=0.01):
            raise RuntimeError(f"{dimension} of a clip is {found}, where {1 - STEP / 255} is right")
        frames = import_module("vbench.utils").load_video(str(clips / f"{prompt}-0.mp4"))
        if tuple(frames.shape) != (4, 3, SIDE, SIDE):
            raise RuntimeError(f"decord reads a clip of {tuple(frames.shape)}")


def _write(file: Path) -> None:
    """Write four frames, each of them brighter than the one before."""
    import numpy as np

    opencv = import_module("cv2")
    writer = opencv.VideoWriter(str(file), opencv.VideoWriter_fourcc(*"mp4v"), 8, (SIDE, SIDE))
    for number in range(4):
        writer.write(np.full((SIDE, SIDE, 3), 100 + STEP * number, np.uint8))
    writer.release()
