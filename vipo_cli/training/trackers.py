"""Records sent to trackers besides `metrics.jsonl`: accelerate's for W&B, TensorBoard, trackio.

A tracker is a convenience. One that cannot be used is told before the first step; one that fails
later is told once and left out, and the run goes on. A resumed run goes on in the same place of its
tracker: W&B and trackio by an id that the run directory keeps, TensorBoard by its files there.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from uuid import uuid4

from vipo_cli.errors import VipoError
from vipo_cli.media import Pixels
from vipo_cli.recipe import Recipe
from vipo_cli.run import write_json
from vipo_cli.training.devices import from_main

PROJECT = "vipo"
"""What runs are listed under where a tracker has projects."""
PACKAGES = {"wandb": "wandb", "tensorboard": "tensorboard", "trackio": "trackio"}
"""What each tracker needs to be installed."""
IDS = "trackers.json"
"""Names of the run in its trackers."""
LEFT_OUT = ("step", "round")
"""What of a record is no measurement."""


class Trackers:
    """The trackers of a run; other processes than the main one have none.

    Args:
        trackers: accelerate's, by name, started.
    """

    def __init__(self, trackers: Mapping[str, Any] | None = None) -> None:
        self._trackers = dict(trackers or {})
        self._failed: list[str] = []

    def log(self, line: Mapping[str, Any]) -> None:
        """Send a line of `metrics.jsonl`."""
        values, step = as_scalars(line), int(line["step"])
        for name in list(self._trackers):
            self._try(name, lambda tracker: _log(tracker, values, step))

    def show(self, samples: Sequence[Pixels], step: int) -> None:
        """Send validation samples, of clips the middle frames, to the trackers that show any."""
        frames = [each if each.ndim == 3 else each[len(each) // 2] for each in samples]
        for name in list(self._trackers):
            self._try(name, lambda tracker: _show(tracker, frames, step))

    def warnings(self) -> list[str]:
        """Return what failed since this was asked last."""
        failed, self._failed = self._failed, []
        return failed

    def close(self) -> None:
        """Let trackers send what they still hold."""
        for name in list(self._trackers):
            self._try(name, lambda tracker: tracker.finish())
        self._trackers = {}

    def _try(self, name: str, action: Callable[[Any], None]) -> None:
        """Let a tracker do something; one that fails is not asked again."""
        try:
            with redirect_stdout(sys.stderr):
                action(self._trackers[name])
        except Exception as error:  # noqa: BLE001  # whatever a service raises, the run goes on
            del self._trackers[name]
            said = (str(error).splitlines() or [type(error).__name__])[0]
            self._failed.append(
                f"the tracker {name} failed and gets no more records: {said}; "
                "metrics.jsonl holds all of them"
            )


def check_trackers(recipe: Recipe) -> None:
    """Refuse trackers whose packages are not installed.

    Raises:
        VipoError: names them and what brings them.
    """
    missing = [name for name in recipe.run.trackers if find_spec(PACKAGES[name]) is None]
    if missing:
        packages = ", ".join(PACKAGES[name] for name in missing)
        raise VipoError(
            f"run.trackers: not installed: `{packages}`",
            hint='pip install "vipo[trackers]"; without trackers, metrics.jsonl holds all records',
        )


def start_trackers(recipe: Recipe, run: Path, start: int) -> Trackers:
    """Start the trackers that a recipe asks for, or go on with them.

    Args:
        recipe: of the run.
        run: its directory.
        start: updates that were made before.

    Raises:
        VipoError: one cannot be started.
    """
    started: dict[str, Any] = {}
    if recipe.run.trackers:
        from_main(partial(_start, recipe, run, start, started))
    return Trackers(started)


def _start(recipe: Recipe, run: Path, start: int, started: dict[str, Any]) -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    name = _remembered_name(run)
    for kind in recipe.run.trackers:
        project, options = _options(kind, run, name, start)
        tracker = LOGGER_TYPE_TO_CLASS[kind](project, **options)
        try:
            with redirect_stdout(sys.stderr):
                tracker.start()
                if kind == "wandb":
                    tracker.tracker.define_metric("*", step_metric="step")
                if start == 0:
                    tracker.store_init_configuration(settings(recipe))
        except Exception as error:  # whatever a service raises
            said = (str(error).splitlines() or [type(error).__name__])[0]
            raise VipoError(
                f"run.trackers: {kind} cannot be started: {said}",
                hint="log in or set it up as its own documentation says; or do without: "
                "--set run.trackers=[]",
            ) from error
        started[kind] = tracker


def _remembered_name(run: Path) -> str:
    """Return the run's name in trackers: that of its directory, and what makes it unique."""
    file = run / IDS
    if not file.is_file():
        write_json(file, {"name": f"{run.resolve().name}-{uuid4().hex[:8]}"})
    return str(json.loads(file.read_text())["name"])


def _options(kind: str, run: Path, name: str, start: int) -> tuple[str, dict[str, Any]]:
    """Return the project of a tracker and what else it is made with."""
    if kind == "tensorboard":
        # events of steps that are made again are left out
        return "tensorboard", {"logging_dir": str(run), "purge_step": start + 1 if start else None}
    if kind == "wandb":
        shown = run.resolve().name
        return PROJECT, {"id": name, "name": shown, "resume": "allow", "dir": str(run)}
    return PROJECT, {"name": name, "resume": "allow"}


def settings(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as flat settings that are numbers, words or truths."""
    flat = {}
    for section, keys in recipe.model_dump().items():
        for key, value in keys.items():
            plain = isinstance(value, (bool, int, float, str))
            flat[f"{section}.{key}"] = value if plain else json.dumps(value)
    return flat


def as_scalars(line: Mapping[str, Any]) -> dict[str, float | str]:
    """Return what a line of `metrics.jsonl` says as numbers by name; alarms are words."""
    values: dict[str, float | str] = {}
    if "alarm" in line:
        alarm = line["alarm"]
        values["alarm"] = f"{alarm['name']}: {alarm['text']}"
    elif "held_out" in line:
        found = line["held_out"]
        values[f"held_out/{found['metric']}"] = found["value"]
        values["held_out/winner_gain"] = found["winner_gain"]
    elif "pictures" in line:
        for name, change in line["pictures"]["statistics"].items():
            values[f"pictures/{name}"] = change["value"]
    else:
        values = {
            f"train/{name}": value
            for name, value in line.items()
            if value is not None and name not in LEFT_OUT
        }
    return values


def _log(tracker: Any, values: Mapping[str, Any], step: int) -> None:
    if tracker.name == "wandb":  # whose own steps only rise, and a run may go back
        tracker.log({"step": step, **values})
    else:
        tracker.log(values, step=step)


def _show(tracker: Any, samples: Sequence[Pixels], step: int) -> None:
    named = {f"samples/{number:02d}": picture for number, picture in enumerate(samples)}
    if tracker.name == "tensorboard":
        pictures = {name: picture[None] for name, picture in named.items()}
        tracker.log_images(pictures, step, dataformats="NHWC")
    elif tracker.name in ("wandb", "trackio"):
        shown = import_module(tracker.name).Image
        _log(tracker, {name: shown(picture) for name, picture in named.items()}, step)
