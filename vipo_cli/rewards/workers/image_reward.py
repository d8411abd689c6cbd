"""ImageReward: `ImageReward.load` and `model.score`, as they are in image-reward 1.5."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

PACKAGE = "image-reward"
_package: Any = import_module("ImageReward")
_model: Any = None


def random_weights(folder: str, randomise: Any, _: str) -> str:
    """Write a checkpoint of the package's own shape and return its path."""
    import torch

    with _vocabulary(folder):
        model = _package.ImageReward(med_config=str(Path(folder, "med_config.json")))
    randomise(model)
    file = Path(folder, "ImageReward.pt")
    torch.save(model.state_dict(), file)
    return str(file)


@contextmanager
def _vocabulary(folder: str) -> Iterator[None]:
    """Let the package find the vocabulary without a network.

    It asks for "bert-base-uncased" by name, and a folder of that name in the working directory goes
    before the hub.
    """
    with tempfile.TemporaryDirectory(prefix="vipo-official-") as place:
        Path(place, "bert-base-uncased").symlink_to(folder)
        os.chdir(place)
        try:
            yield
        finally:
            os.chdir("/")


def load(_: str, files: dict[str, str], device: str) -> dict[str, Any]:
    """Load the published files; `vocabulary` is a folder with vocab.txt."""
    global _model
    with _vocabulary(files["vocabulary"]):
        _model = _package.load(files["checkpoint"], device, med_config=files["med_config"])
    return {"device": device, "dtype": "float32"}


def score(pictures: list[str], prompt: str) -> list[float]:
    """Score pictures of one prompt."""
    import torch

    with torch.no_grad():
        if len(pictures) == 1:
            return [_model.score(prompt, pictures[0])]
        found: list[float] = _model.score(prompt, pictures)
        return found
