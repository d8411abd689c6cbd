"""VBench's own package, run in an environment of its own, one dimension at a time.

    official/DIMENSION/results_eval_results.json    what the package wrote, once it has finished
    official/DIMENSION/request.json                 for which clips
    official/DIMENSION/log.txt                      all that it printed

A dimension whose results are there for these very clips is not run again.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from vipo_cli.benchmarks.vbench_files import ENDING, OFFICIAL
from vipo_cli.benchmarks.vbench_suite import Suite
from vipo_cli.errors import VipoError
from vipo_cli.rewards.environments import ENVIRONMENTS, interpreter, ready
from vipo_cli.rewards.worker import WORKERS
from vipo_cli.run import Progress, Work, cache_home, fingerprint, write_json

RESULTS = f"results{ENDING}"
REQUEST = "request.json"
LOG = "log.txt"
POLL_SECONDS = 0.2
PATIENCE_SECONDS = 10.0
"""How long a run that is stopped may take to end by itself."""
PICKLES = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
"""Lets torch read what it read when the package was written: AMT's checkpoint is a whole pickle."""


@dataclass(frozen=True, slots=True)
class Official:
    """How the package is run.

    Attributes:
        python: an interpreter that can import it.
        info: an info file instead of the package's own.
        weights: a folder laid out as the package's cache, which is used instead of it.
        device: where to run; auto: on a GPU if there is one.
    """

    python: Path
    info: Path | None = None
    weights: Path | None = None
    device: str = "auto"


def find_python(suite: Suite, python: str | None) -> Path:
    """Return the interpreter for a suite's package: one that was named, or that of its set-up.

    Raises:
        VipoError: there is none.
    """
    if python is not None:
        found = shutil.which(python)
        if found is None:
            raise VipoError(f"`{python}` is no program that can be run")
        return Path(found)
    environment = ENVIRONMENTS.get(suite.package)
    if environment is None:
        raise VipoError(
            f"no interpreter that can import `{suite.package}`",
            hint=f"name one: --python /path/to/{suite.package}-environment/bin/python; how to make "
            "such an environment says github.com/Vchitect/VBench",
        )
    if ready(environment) is None:
        raise VipoError(
            f"the official package `{environment.name}` is not set up on this machine",
            hint=f"vipo eval setup {environment.name}; or name an interpreter that can import it: "
            "--python PYTHON",
        )
    return interpreter(environment.folder)


def packaged_info(suite: Suite) -> Path | None:
    """Return the info file of the package that was set up, if it was."""
    environment = ENVIRONMENTS.get(suite.package)
    if environment is None or ready(environment) is None:
        return None
    name = f"site-packages/{suite.package}/{suite.info.files[0]}"
    return next(environment.folder.glob(f"lib/python*/{name}"), None)


def run_official(
    suite: Suite,
    official: Official,
    videos: Path,
    dimensions: Sequence[str],
    out: Path,
) -> Work[dict[str, str]]:
    """Run the package for each dimension that has no results yet; return why which ones failed.

    Args:
        suite: the benchmark.
        official: how its package is run.
        videos: a folder of clips, or of a folder for each dimension.
        dimensions: which ones.
        out: the folder in which `official/` appears.
    """
    failed = {}
    for number, name in enumerate(dimensions):
        stage = f"official {suite.title}"
        yield Progress(stage, number, len(dimensions), note=name)
        folder = out / OFFICIAL / name
        clips = folder_of(videos, name)
        request = {
            "package": suite.package,
            "runner": suite.runner,
            "info": None if official.info is None else str(official.info.resolve()),
            "info_name": suite.info.files[0],
            "weights": None if official.weights is None else str(official.weights.resolve()),
            "videos": str(clips.resolve()),
            "dimension": name,
            "device": official.device,
        }
        asked = {"request": request, "clips": _listing(clips)}
        if _is_done(folder, name, asked):
            continue
        for waited in _run(official.python, request, folder, name):
            yield Progress(stage, number, len(dimensions), note=f"{name}, {waited:.0f} s")
        if (reason := _reason(folder, name)) is None:
            write_json(folder / REQUEST, asked)
        else:
            failed[name] = reason
    yield Progress(f"official {suite.title}", len(dimensions), len(dimensions))
    return failed


def folder_of(videos: Path, dimension: str) -> Path:
    """Return the folder that holds a dimension's clips: one of its name, or the folder itself."""
    own = videos / dimension
    return own if own.is_dir() else videos


def _listing(folder: Path) -> str:
    """Name the clips in a folder by name, size and date."""
    states = [
        (file.name, file.stat().st_size, file.stat().st_mtime_ns)
        for file in sorted(folder.iterdir())
        if file.is_file()
    ]
    return fingerprint(states)


def _is_done(folder: Path, name: str, asked: dict[str, Any]) -> bool:
    file = folder / REQUEST
    with suppress(OSError, ValueError):
        return bool(json.loads(file.read_text()) == asked and _reason(folder, name) is None)
    return False


def _run(
    python: Path, request: dict[str, Any], folder: Path, name: str
) -> Generator[float, None, None]:
    """Run the package for one dimension, yielding the seconds that it takes; closing this ends it.

    It writes to a neighbour that takes the folder's place at the end, whether it went well or not.
    """
    begun = folder.with_name(f".{name}.begun")
    shutil.rmtree(begun, ignore_errors=True)
    begun.mkdir(parents=True)
    asked = json.dumps(request | {"output": str(begun.resolve())})
    alone = ["-I"] * python.is_relative_to(cache_home())  # one of a user's own may need PYTHONPATH
    command = [str(python), *alone, str(WORKERS / "serve.py"), str(WORKERS / "vbench.py"), asked]
    started = monotonic()
    with (begun / LOG).open("wb") as log:
        log.write(f"$ {shlex.join(command)}\n".encode())
        log.flush()
        try:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=os.environ | PICKLES,
                start_new_session=True,
            )
        except OSError as error:
            raise VipoError(f"cannot run `{python}`: {error.strerror}") from error
        try:
            while process.poll() is None:
                yield monotonic() - started
                sleep(POLL_SECONDS)
        finally:
            _end(process)
        log.write(f"# ended with status {process.returncode}\n".encode())
    if process.returncode:
        (begun / RESULTS).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    begun.replace(folder)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and those it started, if it has not ended by itself."""
    if process.poll() is not None:
        return
    for how in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE_SECONDS)
            return


def _reason(folder: Path, name: str) -> str | None:
    """Return why there are no results of a dimension; None where there are."""
    file = folder / RESULTS
    if file.is_file():
        with suppress(ValueError):
            found = json.loads(file.read_text())
            if isinstance(found, dict) and name in found:
                return None
        return f"`{file}` is damaged"
    lines = (folder / LOG).read_text(errors="replace").splitlines() if folder.is_dir() else []
    said = [line.strip() for line in lines if line.strip() and not line.startswith("# ended")]
    last = said[-1] if len(said) > 1 else "it printed nothing"
    return f"{last:.200} (all of it: {folder / LOG})"
