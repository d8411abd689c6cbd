"""HPSv2: `hpsv2.score`, as it is in hpsv2 1.2.0."""

import json
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = "hpsv2"
SPECIALS = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
"""How the package spells the first and last word, and how files of the hub do."""

if find_spec("_tkinter") is None:
    # its model factory has a stray `from turtle import forward`, which is never used
    turtle: Any = ModuleType("turtle")
    turtle.forward = None
    sys.modules["turtle"] = turtle

_scoring: Any = import_module("hpsv2.img_score")
_create = _scoring.create_model_and_transforms
_checkpoint = ""
_undo: list[Callable[[], None]] = []


def load(_: str, files: dict[str, str], device: str) -> dict[str, Any]:
    """Build the model as the package does, without LAION's weights, which it would overwrite.

    With `reread` among the files, the package goes on to read its checkpoint in every call.
    """
    global _checkpoint
    while _undo:
        _undo.pop()()
    _scoring.device = device
    _scoring.create_model_and_transforms = _without_base_weights
    _scoring.initialize_model()
    _checkpoint = files["checkpoint"]
    if "reread" not in files:
        _read_once(device)
    half = device != "cpu"  # it runs under autocast, which does nothing on a CPU
    return {"device": device, "dtype": "float16 autocast" if half else "float32"}


def _read_once(device: str) -> None:
    """Fill the model, and keep the package from doing so again."""
    import torch

    model, read = _scoring.model_dict["model"], torch.load
    try:
        found = read(_checkpoint, map_location=device, mmap=True)
    except RuntimeError:  # a pickle of the old layout cannot be mapped
        found = read(_checkpoint, map_location=device)
    model.load_state_dict(found["state_dict"])
    torch.load = lambda *_, **__: {"state_dict": {}}
    model.load_state_dict = lambda _: None

    def undo() -> None:
        torch.load = read
        del model.load_state_dict

    _undo.append(undo)


def _without_base_weights(name: str, _: str, **settings: Any) -> Any:
    return _create(name, None, **settings)


def random_weights(folder: str, randomise: Any, reward: str) -> str:
    """Write a checkpoint of the package's own shape and return its path.

    It is in half precision, to be half as large. Beside it goes CLIP's vocabulary, as the hub
    lays it out.
    """
    import torch

    model, *_ = _create("ViT-H-14", None)
    randomise(model.half())
    version = {"hpsv2.0": "v2.0", "hpsv2.1": "v2.1"}[reward]
    file = Path(folder, import_module("hpsv2.utils").hps_version_map[version])
    torch.save({"state_dict": model.state_dict()}, file)
    words = import_module("hpsv2.src.open_clip.tokenizer")._tokenizer
    encoder = dict(words.encoder)
    for here, there in SPECIALS.items():
        encoder[there] = encoder.pop(here)
    merges = [" ".join(pair) for pair in sorted(words.bpe_ranks, key=words.bpe_ranks.get)]
    model_ = {"type": "BPE", "vocab": encoder, "merges": merges}
    Path(folder, "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model_}))
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        Path(folder, name).write_text("{}")
    return str(file)


def score(pictures: list[str], prompt: str) -> list[float]:
    """Score pictures of one prompt."""
    return [float(value) for value in _scoring.score(pictures, prompt, cp=_checkpoint)]
