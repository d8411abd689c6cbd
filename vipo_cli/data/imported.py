"""Data in any layout that can be imported, read where they lie: imported once, then opened.

What was imported lies among the caches, and media that are files stay where they are. It is opened
for as long as neither the source nor these media change, and made anew as soon as they do.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from vipo_cli.data.importers import importers
from vipo_cli.data.importers.table import meaning_of
from vipo_cli.data.importing import (
    NOTHING_WRITTEN,
    Wanted,
    beside,
    find_importer,
    import_data,
    parameters_of,
    state_of,
    why_left_out,
)
from vipo_cli.data.row_groups import read_columns
from vipo_cli.data.store import LOCK, MANIFEST, SCHEMA, STATE
from vipo_cli.data.stored import read_manifest
from vipo_cli.errors import DataError, VipoError
from vipo_cli.run import Progress, Work, cache_home, fingerprint, unwritable, write_json

LEFT_OUT = 0.05
"""Share above which what cannot be used is refused, as training does with broken pairs."""
WAITED_SECONDS = 0.5
"""For another process that imports the same, between two tellings."""
KEPT_SECONDS = 30 * 24 * 3600
"""For which what was made of a place that has changed is kept: a run may still read it."""
NAMED = 40
"""Characters of a place's name by which its folder can be told."""
NOTE = "note.json"
"""What has to be as it was for the data set beside it to be opened."""


def imported(place: Path) -> Work[Path]:
    """Return the folder of the data set that was made of a place, or make it now.

    Args:
        place: a file or folder in a layout that can be imported.

    Raises:
        DataError: an unknown or damaged layout, or too much in it that cannot be used.
        VipoError: the cache cannot be written to.
    """
    try:
        home = yield from _made(place)
    except DataError as error:
        raise _with_way_out(error, place) from error
    manifest = read_manifest(home / "data")
    if warning := _warning(place, manifest):
        yield Progress("", 1, 1, warning=warning)
    return home / "data"


def _made(place: Path) -> Work[Path]:
    real = place.resolve()
    key = f"{real.name[:NAMED]}-{fingerprint(str(real))}"
    about = [state_of(place), importers.names(), SCHEMA]
    home = cache_home() / "imported" / f"{key}-{fingerprint(about)}"
    if not _is_current(place, home):
        with (yield from _alone(home)):
            if not _is_current(place, home):  # nobody made it in the meantime
                yield from _make(place, home)
                _tidy(home, key)
    with suppress(OSError):
        os.utime(home / LOCK)  # tells when it was opened last
    return home


def _make(place: Path, home: Path) -> Work[None]:
    """Import a place, and note what must stay as it is."""
    name, read = find_importer(place)
    folder = home / "data"
    if (folder / MANIFEST).is_file() or not (folder / STATE).is_file():
        shutil.rmtree(folder, ignore_errors=True)  # only what was begun is gone on with
    stage = f"importing {place.name} ({_understood(place, name)})"
    work = import_data(place, folder, Wanted(name, link="absolute"))
    try:
        while True:
            told = next(work)
            yield Progress(stage, told.done, told.total, told.note)
    except StopIteration as end:
        made = end.value
    finally:
        work.close()
    note = {
        "importer": name,
        "version": read.version,
        "beside": _beside(place, name),
        "lacking": list(made.lacking),
        "media": _media_state(folder, made.lacking),
    }
    write_json(home / NOTE, note)


def _tidy(home: Path, key: str) -> None:
    """Remove what was made of the same place before, and has not been opened for long."""
    for other in home.parent.iterdir():
        lock = other / LOCK
        with suppress(OSError):
            if other.name.startswith(key) and time.time() - lock.stat().st_mtime > KEPT_SECONDS:
                shutil.rmtree(other)


def _understood(place: Path, name: str) -> str:
    """Return the importer, and what it takes the columns of a table for."""
    return f"{name}: {meaning_of(place, {}).shown()}" if name == "table" else name


def _with_way_out(error: DataError, place: Path) -> DataError:
    """Say where the options stand that a hint names; nobody asked for a folder to be written."""
    hint = (error.hint or "").removeprefix(NOTHING_WRITTEN).removeprefix("; ") or None
    if hint and any(option in hint for option in ("--columns", "--from", "--set", "--pairs")):
        hint += f"\nin: vipo data import {place} --out DIR; DIR is the data set then"
    return DataError(error.message, details=error.details, hint=hint)


def _warning(place: Path, manifest: dict[str, Any]) -> str:
    """Return what is to be said of what was left out, if anything was.

    Raises:
        DataError: it is too much to go on without a decision of the user's.
    """
    left_out, taken = sum(manifest["left_out"].values()), manifest["entries"]
    if not left_out:
        return ""
    what = f"{left_out:,} of {left_out + taken:,} entries in `{place}` cannot be used"
    lines = why_left_out(manifest["left_out"], manifest["examples"])
    if left_out > LEFT_OUT * (left_out + taken):
        raise DataError(
            f"{what}, more than {LEFT_OUT:.0%}",
            details=lines,
            hint="mend them; or leave them out knowingly, and train on the folder DIR:\n"
            f"vipo data import {place} --out DIR",
        )
    return "\n  ".join([f"{what} and are left out", *lines])


def _is_current(place: Path, home: Path) -> bool:
    """Tell whether what was made of a place is whole, and all that it was made of as it was."""
    folder = home / "data"
    try:
        note = json.loads((home / NOTE).read_text())
        name = note["importer"]
        return bool(
            (folder / MANIFEST).is_file()
            and importers[name].version == note["version"]
            and _beside(place, name) == note["beside"]
            and _media_state(folder, note["lacking"]) == note["media"]
        )
    except (OSError, ValueError, KeyError, TypeError, VipoError):
        return False


def _beside(place: Path, name: str) -> list[str]:
    """Name the state of what an importer reads besides a place."""
    return [state_of(other) for other in beside(place, name, parameters_of(name, {}))]


def _media_state(folder: Path, lacking: Sequence[str]) -> str:
    """Name the size and date of all media that stay files, and of those that are needed as well."""
    digest = hashlib.sha256()
    for file in (*_linked(folder), *lacking):
        digest.update(f"{file}\0".encode(errors="backslashreplace"))
        with suppress(OSError, ValueError):  # ValueError: a name with a NUL in it
            state = os.stat(file)  # noqa: PTH116  # a Path costs as much again
            digest.update(f"{state.st_size} {state.st_mtime_ns}".encode())
    return digest.hexdigest()[:16]


def _linked(folder: Path) -> Iterator[str]:
    """Yield the media that stay files, those of a shard once each."""
    for shard in read_manifest(folder)["shards"]:
        table = read_columns([folder / shard["file"]], ["media.list.element.path"])
        paths = table.column("media").combine_chunks().flatten().field("path").unique()
        yield from filter(None, paths.to_pylist())


def _alone(home: Path) -> Work[BaseFileLock]:
    """Return a held lock, having waited for another process that imports the same.

    Raises:
        VipoError: the cache cannot be written to.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = FileLock(home / LOCK)
        while True:
            try:
                return lock.acquire(timeout=WAITED_SECONDS).lock
            except Timeout:
                yield Progress("waiting for another process that imports the same", 0, 1)
    except OSError as error:
        raise unwritable(home, error) from error
