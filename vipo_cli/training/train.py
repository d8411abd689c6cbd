"""The whole of `vipo train`: a recipe in, a run directory out."""

import json
import resource
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vipo_cli.analysis.history import alarm_of, standing, up_to
from vipo_cli.data.lazy import dropped
from vipo_cli.data.record import Record
from vipo_cli.data.sources import opening
from vipo_cli.data.usable import Broken
from vipo_cli.errors import DataError, VipoError
from vipo_cli.models.lora_files import START_FILE
from vipo_cli.models.parts import fingerprint_parts
from vipo_cli.recipe import Recipe, check_recipe, read_yaml
from vipo_cli.run import (
    Progress,
    Work,
    draws_clips,
    environment,
    read_lines,
    write_json,
    writing,
)
from vipo_cli.training import checkpoint, loop
from vipo_cli.training.adapters import named_start
from vipo_cli.training.devices import from_main, is_main, main_first, start_accelerator
from vipo_cli.training.launch import started_processes
from vipo_cli.training.prepare import prepare
from vipo_cli.training.reference import trainable
from vipo_cli.training.samples import forget_samples
from vipo_cli.training.setup import Setup
from vipo_cli.training.trackers import IDS, check_trackers, start_trackers

SMOOTHED = 50
"""Records that the final figures are means of."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to.

    Attributes:
        run, checkpoint: where it lies.
        broken: pairs left out because their media cannot be decoded.
        dropped: how many rows of the source are no pairs, by reason.
        final: means over the last records.
        held_out: the last measurement on held-out pairs, or None.
        steps: updates in total.
        seconds: time spent in updates, resumed stretches together.
        alarms: what went wrong on the way, each with its step.
        samples: where validation samples are shown, or None.
        clips: whether the model draws clips.
        peak_memory_bytes: of the device, or of the process on a CPU.
    """

    run: Path
    checkpoint: Path
    broken: tuple[Broken, ...]
    dropped: Mapping[str, int]
    final: dict[str, float | None]
    held_out: dict[str, Any] | None
    steps: int
    seconds: float
    alarms: tuple[dict[str, Any], ...]
    samples: Path | None
    clips: bool
    peak_memory_bytes: int


def new_run(recipe: Recipe, out: Path | None) -> Path:
    """Make the directory of a new run and write its recipe; the main process does.

    Raises:
        VipoError: the directory belongs to another run, or cannot be written.
    """
    if started_processes() > 1:
        start_accelerator(recipe)
    return from_main(partial(_make_run, recipe, out))


def _make_run(recipe: Recipe, out: Path | None) -> Path:
    run = out or _free_name(recipe)
    if (run / "recipe.yaml").exists():
        raise VipoError(
            f"`{run}` is the directory of another run",
            hint=f"go on with it: vipo train --resume {run}, or choose another --out",
        )
    if run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise VipoError(f"`{run}` exists and is not empty", hint="choose another --out")
    with writing(run / "recipe.yaml") as file:
        file.write_text(recipe.to_yaml())
    return run


def _free_name(recipe: Recipe) -> Path:
    stem = f"{Path(recipe.model.name).name}-{recipe.objective.method}"
    number = 1
    while (Path("runs") / f"{stem}-{number}").exists():
        number += 1
    return Path("runs") / f"{stem}-{number}"


def read_run(run: Path) -> Recipe:
    """Read the recipe of a run directory.

    Raises:
        VipoError: the directory holds no run.
    """
    file = run / "recipe.yaml"
    if not file.is_file():
        raise VipoError(
            f"`{run}` holds no run: `recipe.yaml` is missing", hint="vipo train starts a new one"
        )
    return check_recipe(read_yaml(file, f"`{file}`"), f"`{file}`")


def train(recipe: Recipe, run: Path, *, resume: bool = False) -> Work[Result]:
    """Train a recipe to its end in a run directory.

    Closing the work early writes a checkpoint to go on from. Where data or model are at fault, the
    directory of a new run is taken away again. Of several processes all yield the same progress,
    and all must be closed at the same one.
    """
    try:
        check_trackers(recipe)
        start_accelerator(recipe)
        pairs = yield from main_first(partial(opening, recipe.data.name, recipe.data.parameters))
        setup = yield from prepare(recipe, pairs, run)
        if resume and (said := from_main(partial(_changed, run, recipe, pairs, setup))):
            yield Progress("loading the model", 1, 1, warning=said)
        start = _resume(run, setup) if resume else 0
        trackers = start_trackers(recipe, run, start)
        if is_main():
            about = provenance(recipe, pairs, setup) | named_start(recipe, run)
            write_json(run / "provenance.json", about)
    except Exception:
        if not resume:
            _take_away(run)
        raise
    training = loop.steps(setup, run, start, trackers)
    try:
        for record in training:
            if isinstance(record, Progress):
                yield record
            else:
                yield Progress("training", record.step, recipe.run.steps, _note(record))
    finally:
        training.close()
    return from_main(partial(summarise, recipe, run, setup.encoded.broken, dropped(pairs)))


def _take_away(run: Path) -> None:
    """Remove the directory of a run that never began; what others put into it stays."""
    for name in ("recipe.yaml", "provenance.json", IDS, START_FILE):
        (run / name).unlink(missing_ok=True)
    shutil.rmtree(run / "rounds", ignore_errors=True)
    with suppress(OSError):
        run.rmdir()


def _changed(run: Path, recipe: Recipe, pairs: Sequence[Record], setup: Setup) -> str:
    """Return what is to be said of data that are not what they were when a run began.

    Raises:
        DataError: there are more or fewer of them, so that no step would see what it would have.
    """
    file = run / "provenance.json"
    before = json.loads(file.read_text()).get("data", {}) if file.is_file() else {}
    now = provenance(recipe, pairs, setup)["data"]
    names = ("pairs", "trained_on", "held_out", "broken")
    if changes := [
        f"{name.replace('_', ' ')}: {before[name]:,} then, {now[name]:,} now"
        for name in names
        if name in before and before[name] != now[name]
    ]:
        raise DataError(
            f"the data are not those that `{run}` began with",
            details=changes,
            hint="bring them back to what they were, or begin anew: "
            f"vipo train --recipe {run / 'recipe.yaml'}",
        )
    if before.get("fingerprint", now["fingerprint"]) == now["fingerprint"]:
        return ""
    return (
        f"as many records as when `{run}` began, but they, or what encodes them, have another "
        "fingerprint;\n  it goes on with them as they are now"
    )


def _resume(run: Path, setup: Setup) -> int:
    """Restore the newest checkpoint; without one the run starts over."""
    newest = from_main(partial(_newest, run))
    step = 0
    if newest is not None:
        step = checkpoint.load(newest, setup)
    if is_main():
        kept = up_to(read_lines(run / "metrics.jsonl"), step)
        with writing(run / "metrics.jsonl") as file:
            file.write_text("".join(f"{json.dumps(record)}\n" for record in kept))
        forget_samples(run, step)
    return step


def _newest(run: Path) -> Path | None:
    checkpoint.clear_leftovers(run)
    return checkpoint.latest(run)


def _note(record: loop.StepRecord) -> str:
    note = f"loss {record.loss:.4f}"
    if record.implicit_accuracy is not None:
        note += f", accuracy {record.implicit_accuracy:.2f}"
    return note


def provenance(recipe: Recipe, pairs: Sequence[Record], setup: Setup) -> dict[str, Any]:
    """Return where a run's numbers come from: versions, device, data, seeds."""
    return {
        **environment(),
        "device": str(setup.accelerator.device),
        "processes": setup.accelerator.num_processes,
        "threads": torch.get_num_threads(),
        "seed": recipe.run.seed,
        "model": {
            "name": recipe.model.name,
            "fingerprint": fingerprint_parts(setup.family, [setup.family.denoiser_name]),
            "frames": setup.family.size.frames,
        },
        "data": {
            "name": recipe.data.name,
            "fingerprint": setup.encoded.fingerprint,
            "pairs": len(pairs),
            "trained_on": len(setup.train),
            "held_out": len(setup.held_out.records) if setup.held_out else 0,
            "broken": len(setup.encoded.broken),
        },
        "trained_parameters": sum(v.numel() for v in trainable(setup.family).values()),
        "command": sys.argv,
    }


def summarise(
    recipe: Recipe, run: Path, broken: Sequence[Broken], dropped: Mapping[str, int]
) -> Result:
    """Read the outcome of a finished run from its own files."""
    written = read_lines(run / "metrics.jsonl")
    lines = standing(written)
    records = [line for line in lines if "loss" in line]
    measured = [line["held_out"] for line in lines if "held_out" in line]
    last = records[-SMOOTHED:]
    final: dict[str, float | None] = {}
    for key in ("loss", "implicit_accuracy"):
        values = [record[key] for record in last if record[key] is not None]
        final[key] = sum(values) / len(values) if values else None
    newest = checkpoint.latest(run)
    assert newest is not None
    return Result(
        run=run,
        checkpoint=newest,
        broken=tuple(broken),
        dropped=dropped,
        final=final,
        held_out=measured[-1] if measured else None,
        steps=recipe.run.steps,
        seconds=sum(record["seconds"] for record in records),
        alarms=tuple(alarm_of(line) for line in written if "alarm" in line),
        samples=run / "samples.png" if (run / "samples.png").is_file() else None,
        clips=draws_clips(run),
        peak_memory_bytes=peak_memory_bytes(),
    )


def peak_memory_bytes() -> int:
    """Return the most memory used so far: of the device, or of the process on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def document(recipe: Recipe, result: Result) -> dict[str, Any]:
    """Return the JSON document of `vipo train --json`."""
    held_out = dict(result.held_out or {})
    if held_out:
        held_out[held_out.pop("metric")] = held_out.pop("value")
    seen = result.steps * recipe.optimizer.batch_size
    return {
        "status": "complete",
        "run": str(result.run),
        "checkpoint": str(result.checkpoint),
        "method": recipe.objective.method,
        "model": recipe.model.name,
        "data": recipe.data.name,
        "steps": result.steps,
        "pairs_seen": seen,
        "broken_pairs": len(result.broken),
        "dropped_rows": dict(result.dropped),
        "final": result.final,
        "held_out": held_out or None,
        "alarms": list(result.alarms),
        "samples": str(result.samples) if result.samples else None,
        "throughput": {
            "pairs_per_second": seen / result.seconds,
            "seconds": result.seconds,
            "peak_memory_bytes": result.peak_memory_bytes,
        },
    }
