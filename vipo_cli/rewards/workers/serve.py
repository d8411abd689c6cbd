"""Answer requests on standard input with JSON lines: the loop around an upstream package.

    python -I serve.py ADAPTER.py
    python serve.py ADAPTER.py REQUEST

Runs on the interpreter of the package's own environment, so it imports nothing of vipo. A request
is a line `{"do": "hello" | "load" | "score" | "random", ...}`; an answer is a line `{"ok": ...}` or
`{"error": "..."}`. An adapter has a function for each but the first; every picture is answered
with a number or with what is wrong with it. Whatever the package prints goes to standard error.
A request on the command line is handed to the adapter's `run`, which may say what it likes.
"""

from __future__ import annotations  # the interpreter may be as old as Python 3.8

import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType


def main(script: Path) -> None:
    """Answer until the other side hangs up."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a package prints must not run into the answers
    adapter: ModuleType | None = None
    for line in sys.stdin:
        try:
            adapter = adapter or _load(script)
            answer = {"ok": _answer(adapter, json.loads(line))}
        except Exception as error:  # noqa: BLE001, the other side tells the user
            traceback.print_exc()
            answer = {"error": describe(error)}
        _send(answers, answer)


def run(script: Path, request: str) -> None:
    """Let the adapter do what is asked, once."""
    _load(script).run(json.loads(request))


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, even in the middle of a long request."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _answer(adapter: ModuleType, request: dict[str, Any]) -> Any:
    if request["do"] == "hello":
        return _hello(adapter)
    if request["do"] == "load":
        return adapter.load(request["reward"], request["files"], _device(request["device"]))
    if request["do"] == "random":
        return _random(adapter, request)
    return [
        {"score": found} if isinstance(found, float) else {"error": found}
        for found in score(adapter.score, request["pictures"], request["prompts"])
    ]


def _hello(adapter: ModuleType) -> dict[str, Any]:
    if hasattr(adapter, "check"):
        adapter.check()
    beside = getattr(adapter, "BESIDE", ())
    common = ("torch", "torchvision", "transformers", "pillow", "numpy")
    names = (adapter.PACKAGE, *beside, *common)
    versions = {}
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "package": adapter.PACKAGE,
        "version": versions[adapter.PACKAGE],
        "versions": versions,
        "python": platform.python_version(),
    }


def _device(name: str) -> str:
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _random(adapter: ModuleType, request: dict[str, Any]) -> str:
    """Let the adapter write a checkpoint, with weights that pass signals on as trained ones do."""

    def randomise(model: Any) -> None:
        import torch

        generator = torch.Generator().manual_seed(request["seed"])
        with torch.no_grad():
            for name, value in model.named_parameters():
                drawn = torch.randn(value.shape, generator=generator)
                if value.ndim == 4 or (value.ndim >= 2 and "embed" not in name):
                    drawn *= (value.numel() / value.shape[0]) ** -0.5
                elif value.ndim == 1 and name.endswith("weight"):
                    drawn = 1 + 0.1 * drawn  # of a normalisation
                else:
                    drawn *= 0.1
                value.copy_(drawn)

    file: str = adapter.random_weights(request["folder"], randomise, request["reward"])
    return file


def score(
    many: Callable[[list[str], str], list[float]], pictures: list[str], prompts: list[str]
) -> list[float | str]:
    """Score pictures in runs of one prompt, as the packages take them.

    If a run fails, its pictures are scored one by one, so that only the culprit has no score.
    """
    found: list[float | str] = []
    for run, prompt in _runs(pictures, prompts):
        try:
            found += [float(value) for value in many(run, prompt)]
        except Exception as error:  # noqa: BLE001, any picture may upset a package in its own way
            if len(run) == 1:
                found.append(describe(error))
            else:
                found += [value for one in run for value in score(many, [one], [prompt])]
    return found


def _runs(pictures: list[str], prompts: list[str]) -> Iterator[tuple[list[str], str]]:
    start = 0
    for end in range(1, len(prompts) + 1):
        if end == len(prompts) or prompts[end] != prompts[start]:
            yield pictures[start:end], prompts[start]
            start = end


def describe(error: BaseException) -> str:
    """Return an error in one line."""
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _send(answers: TextIO, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _load(script: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("adapter", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    _make_torchvision_importable()
    spec.loader.exec_module(module)
    return module


def _make_torchvision_importable() -> None:
    """Declare two operators where torchvision's compiled part cannot be loaded.

    PyPI's torchvision for Linux is linked against CUDA. Beside a torch for CPUs its compiled part
    does not load, and the import fails because these two operators, which nothing here calls, are
    unknown. Its transforms need none of the compiled part.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    import ctypes

    import torch

    try:
        for library in Path(spec.origin).parent.glob("_C*.so"):
            ctypes.CDLL(str(library))
    except OSError:
        operators = torch.library.Library("torchvision", "DEF")
        operators.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        operators.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        sys.modules["vipo_torchvision_operators"] = operators  # type: ignore[assignment]


if __name__ == "__main__":
    # without -I this folder comes first, and its adapters are named like the packages
    sys.path[:] = [place for place in sys.path if place != str(Path(__file__).parent)]
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    if sys.argv[2:]:
        run(Path(sys.argv[1]), sys.argv[2])
    else:
        main(Path(sys.argv[1]))
