"""Environments of upstream packages: their pinned requirements, how they are made and checked.

An upstream package lives in a virtual environment of its own below vipo's cache, because none of
them can be installed together with a current stack. The environment's folder is named by its pins,
and counts only with the note that is written into it last, after the package answered a question.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from vipo_cli.errors import UnknownName, VipoError
from vipo_cli.rewards.worker import WORKERS, Worker
from vipo_cli.run import Progress, Work, cache_home, fingerprint, write_json

NOTE = "ready.json"
"""Name of the file that says that an environment is whole."""

CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
"""Where PyTorch publishes its builds without CUDA for Linux."""

CUDA_BYTES = 5_000_000_000
"""About how much larger torch is with CUDA and what comes with it."""

Torch = Literal["auto", "cpu", "default"]


@dataclass(frozen=True, slots=True)
class Supplement:
    """A file that a package forgets to bring, and a package that brings the same one.

    Attributes:
        source, target: paths in site-packages.
        sha256: of the file.
        reason: why it is needed.
    """

    source: str
    target: str
    sha256: str
    reason: str


@dataclass(frozen=True, slots=True)
class Environment:
    """An upstream package and what it takes to run it.

    Attributes:
        name: what `vipo eval setup` calls it.
        rewards: the rewards of which it is the official backend.
        licence: the package's.
        bytes: about how large it is, with a torch for CPUs.
        supplements: what is put right after the installation.
        benchmarks: the benchmarks of which it is the official backend.
        terms: what in it has a stricter licence, and which.
        notes: what else is to be done or known.
    """

    name: str
    rewards: tuple[str, ...]
    licence: str
    bytes: int
    supplements: tuple[Supplement, ...] = ()
    benchmarks: tuple[str, ...] = ()
    terms: str = ""
    notes: tuple[str, ...] = ()

    @property
    def serves(self) -> tuple[str, ...]:
        """Return the names of all of which it is the official backend."""
        return (*self.rewards, *self.benchmarks)

    @property
    def script(self) -> Path:
        """Return the adapter that the worker runs."""
        return WORKERS / f"{self.name.replace('-', '_')}.py"

    @property
    def requirements(self) -> str:
        """Return the pinned requirements, as pip reads them."""
        return self.script.with_suffix(".txt").read_text()

    @property
    def pins(self) -> list[str]:
        """Return every requirement, such as `torch==2.13.0`."""
        return [line for line in self.requirements.splitlines() if not line.startswith("#")]

    @property
    def identity(self) -> str:
        """Return what changes with any pin."""
        return fingerprint([self.pins, [each.target for each in self.supplements]])

    @property
    def folder(self) -> Path:
        """Return where it is, or would be."""
        return cache_home() / "environments" / f"{self.name}-{self.identity}"


ENVIRONMENTS: dict[str, Environment] = {
    environment.name: environment
    for environment in (
        Environment("image-reward", ("imagereward",), "Apache-2.0", 1_480_000_000),
        Environment(
            "hpsv2",
            ("hpsv2.0", "hpsv2.1"),
            "Apache-2.0",
            1_450_000_000,
            (
                Supplement(
                    "clip/bpe_simple_vocab_16e6.txt.gz",
                    "hpsv2/src/open_clip/bpe_simple_vocab_16e6.txt.gz",
                    "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a",
                    "the wheel of hpsv2 1.2.0 lacks the vocabulary that its repository has; "
                    "OpenAI's CLIP brings the same file",
                ),
            ),
        ),
        Environment(
            "clip",
            ("aesthetic", "aesthetic-linear", "clip", "clipscore", "pickscore"),
            "MIT",
            1_300_000_000,
        ),
        Environment(
            "vbench",
            (),
            "Apache-2.0",
            2_100_000_000,
            benchmarks=("vbench",),
            terms="imaging_quality and motion_smoothness are not for commercial use: pyiqa is "
            "under CC-BY-NC-SA-4.0, AMT under CC-BY-NC-4.0",
            notes=(
                "color, multiple_objects, object_class and spatial_relationship need detectron2 "
                "too, which is in no package index: PYTHON -m pip install --no-build-isolation "
                "git+https://github.com/facebookresearch/detectron2.git",
                "it fetches the weights of a dimension, some 10 GB in all, when it first judges it",
            ),
        ),
    )
}


def find_environment(name: str) -> Environment:
    """Return the environment of that name, or the official backend of what has that name.

    Raises:
        UnknownName: there is none.
    """
    for environment in ENVIRONMENTS.values():
        if name == environment.name or name in environment.serves:
            return environment
    raise UnknownName("environment", name, ENVIRONMENTS)


def ready(environment: Environment) -> dict[str, Any] | None:
    """Return what is known about a finished environment; None if it is not there."""
    note = environment.folder / NOTE
    if not (note.is_file() and interpreter(environment.folder).exists()):
        return None
    known: dict[str, Any] = json.loads(note.read_text())
    return known


def start(environment: Environment) -> Worker:
    """Start a worker in an environment.

    Raises:
        VipoError: the environment is not there.
    """
    if ready(environment) is None:
        raise VipoError(
            f"the official package `{environment.name}` is not set up on this machine",
            hint=f"vipo eval setup {environment.name}",
        )
    return Worker(environment.name, interpreter(environment.folder), environment.script)


def interpreter(folder: Path) -> Path:
    """Return the Python of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def set_up(
    environment: Environment,
    *,
    python: str | None = None,
    torch: Torch = "auto",
    recreate: bool = False,
) -> Work[dict[str, Any]]:
    """Make an environment and return what is known about it.

    What an earlier, killed attempt left is thrown away; what it downloaded is still in pip's cache.

    Args:
        environment: which one.
        python: interpreter to make it with; by default the one that runs vipo.
        torch: `cpu` for the build without CUDA, `default` for what the package index has; `auto`
            decides by whether there is a GPU.
        recreate: make it anew even if it is there.

    Raises:
        VipoError: no room on the disk, another process is at it, or something does not install.
    """
    from filelock import FileLock, Timeout

    folder = environment.folder
    if not recreate and (known := ready(environment)) is not None:
        return known
    folder.parent.mkdir(parents=True, exist_ok=True)
    cpu = wants_cpu_build(torch)
    _see_that_it_fits(environment, cuda=_has_two_builds() and not cpu)
    try:
        with FileLock(folder.with_suffix(".lock"), timeout=0):
            began = time.monotonic()
            (folder / NOTE).unlink(missing_ok=True)
            yield Progress("making the environment", 0, 1)
            shutil.rmtree(folder, ignore_errors=True)
            _finish(_run([python or sys.executable, "-I", "-m", "venv", str(folder)], environment))
            yield Progress("making the environment", 1, 1)
            yield from _install(environment, cpu=cpu)
            yield Progress("trying it", 0, 1)
            _supplement(environment)
            with Worker(environment.name, interpreter(folder), environment.script) as worker:
                hello = worker.ask({"do": "hello"}, seconds=600)
            found = hello | {
                "environment": environment.name,
                "identity": environment.identity,
                "seconds": round(time.monotonic() - began),
                "bytes": _size(folder),
            }
            write_json(folder / NOTE, found)
            yield Progress("trying it", 1, 1)
            return found
    except Timeout as error:
        raise VipoError(
            f"another process is setting up `{environment.name}`", hint="wait for it to finish"
        ) from error


def wants_cpu_build(torch: Torch) -> bool:
    """Tell whether the build without CUDA is to be installed, which only Linux has apart."""
    if not _has_two_builds():
        return False
    if torch != "auto":
        return torch == "cpu"
    from torch import cuda

    return not cuda.is_available()


def _has_two_builds() -> bool:
    import platform

    return sys.platform == "linux" and platform.machine() == "x86_64"


def _see_that_it_fits(environment: Environment, *, cuda: bool) -> None:
    free = shutil.disk_usage(environment.folder.parent).free
    needed = 1.4 * (environment.bytes + CUDA_BYTES * cuda)  # with what pip unpacks on the way
    if free < needed:
        raise VipoError(
            f"`{environment.name}` needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free "
            f"in `{environment.folder.parent}`",
            hint="free some space, or choose another place with VIPO_CACHE",
        )


def _install(environment: Environment, *, cpu: bool) -> Iterator[Progress]:
    """Install the pinned requirements with pip, as its configuration says."""
    python = str(interpreter(environment.folder))
    pip = [python, "-I", "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    pins = environment.pins
    if cpu:
        # apart from the rest, so that only these two are looked for in PyTorch's index
        yield Progress("installing torch", 0, 1)
        heavy = [
            f"{pin}+cpu" if pin.startswith("torch==") else pin
            for pin in pins
            if pin.startswith(("torch==", "torchvision=="))
        ]
        index = ["--retries", "1", "--extra-index-url", CPU_WHEELS]
        _finish(_run([*pip, "--no-deps", *index, *heavy], environment))
        yield Progress("installing torch", 1, 1)
    with TemporaryDirectory() as place:
        listed = Path(place, "requirements.txt")
        listed.write_text(environment.requirements)
        met: set[str] = set()
        for line in _run([*pip, "-r", str(listed)], environment):
            if line.startswith(("Collecting ", "Requirement already satisfied: ")):
                met.add(line.removeprefix("Requirement already satisfied: ").split()[-1])
                yield Progress("collecting packages", min(len(met), len(pins)), len(pins))
            elif line.startswith("Installing collected packages"):
                yield Progress("installing them", 0, 1)
    yield Progress("installing them", 1, 1)


def _run(command: list[str], environment: Environment) -> Iterator[str]:
    """Run a command and yield what it prints, line by line; closing this ends it.

    Raises:
        VipoError: it fails.
    """
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    last: deque[str] = deque(maxlen=8)
    try:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=inherited
        )
    except OSError as error:
        raise VipoError(f"cannot run `{command[0]}`: {error.strerror}") from error
    with process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                last.append(line.rstrip())
                yield line.strip()
            status = process.wait()
        finally:
            process.kill()
    if status:
        raise VipoError(
            f"cannot set up `{environment.name}`: {_what(command)} failed with status {status}",
            details=[line for line in last if line],
            hint="what was downloaded is kept: run the same command again; "
            f"vipo eval setup {environment.name} --dry-run prints what is installed",
        )


def _what(command: list[str]) -> str:
    return "making a virtual environment" if "venv" in command else "pip"


def _finish(lines: Iterator[str]) -> None:
    deque(lines, maxlen=0)


def _supplement(environment: Environment) -> None:
    import hashlib

    ask = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    command = [str(interpreter(environment.folder)), "-I", "-c", ask]
    for each in environment.supplements:
        packages = Path(list(_run(command, environment))[-1])
        data = (packages / each.source).read_bytes()
        found = hashlib.sha256(data).hexdigest()
        if found != each.sha256:
            raise VipoError(f"`{each.source}` is not the published file: its SHA-256 is {found}")
        (packages / each.target).write_bytes(data)


def _size(folder: Path) -> int:
    files: Mapping[int, int] = {
        state.st_ino: state.st_size
        for path in folder.rglob("*")
        if not path.is_symlink() and (state := path.stat())
    }
    return sum(files.values())
