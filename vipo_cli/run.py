"""Files that appear whole or not at all, caches, long work, and where a result came from."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from vipo_cli.errors import VipoError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far long work has come; engines yield it, the command line draws it.

    Attributes:
        stage: what is being done; empty where there is only a warning to tell.
        done, total: how much of it.
        note: how it goes.
        warning: what the user should know at once; told on a line of its own.
    """

    stage: str
    done: int
    total: int
    note: str = ""
    warning: str = ""


Work = Generator[Progress, None, T]
"""Long work: yields its progress, returns its result."""


def finish(work: Work[T], watch: Callable[[Progress], None] = lambda _: None) -> T:
    """Run long work to its end and return its result; `watch` sees the progress.

    Whatever `watch` raises closes the work, so that it can save what it has.
    """
    try:
        while True:
            watch(next(work))
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        work.close()


@dataclass(frozen=True, slots=True)
class Team:
    """The processes that run a command together, each doing its share; by default one alone.

    Attributes:
        rank: of this process, from 0, which is the one that speaks.
        count: how many there are.
        wait: returns when all have called it.
    """

    rank: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None

    @property
    def leads(self) -> bool:
        """Tell whether this process does what only one may do."""
        return self.rank == 0

    def mine(self, number: int) -> bool:
        """Tell whether a piece of work, by a number that is always its own, is for this process."""
        return number % self.count == self.rank


ALONE = Team()

LIBRARIES = ("vipo", "torch", "diffusers", "transformers", "peft", "accelerate", "numpy")


def cache_home() -> Path:
    """Return the folder of caches: $VIPO_CACHE, else $XDG_CACHE_HOME/vipo, else ~/.cache/vipo."""
    if chosen := os.environ.get("VIPO_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vipo"


def fingerprint(value: Any) -> str:
    """Return 16 hexadecimal digits that name a JSON value whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def folder_fingerprint(folder: Path) -> str:
    """Return 16 hexadecimal digits that name the contents of all files below a folder."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(file.relative_to(folder).as_posix().encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def remembered_fingerprint(folder: Path) -> str:
    """Return `folder_fingerprint`, remembered for as long as no file's size or date changes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    state = [
        (file.relative_to(folder).as_posix(), file.stat().st_size, file.stat().st_mtime_ns)
        for file in files
    ]
    note = cache_home() / "fingerprints" / fingerprint([str(folder.resolve()), state])
    if note.is_file() and len(known := note.read_text()) == 16:
        return known
    found = folder_fingerprint(folder)
    with writing(note) as temporary:
        temporary.write_text(found)
    return found


@contextmanager
def writing(target: Path) -> Iterator[Path]:
    """Give a neighbour to write a file or folder to; it takes the target's place at the end.

    A reader sees the old target or the whole new one. A failure leaves the target as it was.

    Raises:
        VipoError: the disk is full or the place cannot be written to.
    """
    temporary = target.with_name(f".{target.name}.{uuid4().hex[:8]}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        if target.is_dir():
            shutil.rmtree(target)
        temporary.replace(target)
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            with suppress(OSError):  # a read-only place refuses even to remove what is not there
                temporary.unlink()


def unwritable(target: Path, error: OSError) -> VipoError:
    """Turn the operating system's refusal to write into the error a user sees."""
    return VipoError(
        f"cannot write `{target}`: {error.strerror or error}",
        hint="nothing that was there before is lost; free some space or choose another place, "
        "then run the same command again",
    )


def _sync(path: Path) -> None:
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())


def write_json(target: Path, value: Any) -> None:
    """Write a JSON file whole or not at all."""
    with writing(target) as temporary:
        temporary.write_text(json.dumps(value, indent=2, default=str) + "\n")


def append_line(target: Path, record: dict[str, Any]) -> None:
    """Append one record to a JSON-lines file."""
    try:
        with target.open("a") as stream:
            stream.write(json.dumps(record) + "\n")
    except OSError as error:
        raise unwritable(target, error) from error


def end_last_line(file: Path) -> None:
    """Cut off what a killed process left of the last line, so that the next one starts afresh."""
    if not file.is_file():
        return
    data = file.read_bytes()
    if not data.endswith(b"\n"):
        with file.open("r+b") as stream:
            stream.truncate(data.rfind(b"\n") + 1)


def read_lines(source: Path) -> list[dict[str, Any]]:
    """Read a JSON-lines file; a last line that a killed process left unfinished is left out."""
    if not source.exists():
        return []
    lines = source.read_text().splitlines()
    records = [json.loads(line) for line in lines[:-1]]
    for last in lines[-1:]:
        try:
            records.append(json.loads(last))
        except json.JSONDecodeError:
            break
    return records


def environment() -> dict[str, Any]:
    """Return versions, interpreter and machine: what else a number may depend on."""
    import platform  # here and below: --help must not wait for these
    from importlib.metadata import PackageNotFoundError, version

    versions: dict[str, str | None] = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "libraries": versions,
        "commit": _commit(),
    }


def _commit() -> str | None:
    """Return the commit of the source tree this package is imported from, if it is one."""
    import subprocess

    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    found = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or None


def draws_clips(run: Path) -> bool:
    """Tell whether the model of a run draws clips; pictures where its provenance does not say."""
    file = run / "provenance.json"
    about = json.loads(file.read_text()) if file.is_file() else {}
    return int(about.get("model", {}).get("frames", 1)) > 1
