"""Bring preference data of any layout into the one that is kept: read, expand, check, write."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ValidationError

from vipo_cli.data.entry import Entry, Expansion, Found, Unusable, expand
from vipo_cli.data.hub_files import HUB_ID, HubFiles, hub_files
from vipo_cli.data.importers import Importer, importers
from vipo_cli.data.importers.files import looked_at_once, tables_in
from vipo_cli.data.importers.table import meaning_of
from vipo_cli.data.store import LOCK, MANIFEST, Link, Store
from vipo_cli.errors import DataError
from vipo_cli.registry import findings
from vipo_cli.run import Progress, Work, unwritable

SHOWN = 10
"""Reasons for which something is left out."""
LEFT_OUT = 0.5
"""Share above which what cannot be used is a misunderstanding of the whole source."""
NOTHING_WRITTEN = "nothing was written"
UNREADABLE = "a medium cannot be read"
ORDER = ("pickapic", "folders", "table")
"""Which importer is asked first whether a place is its own; the general ones come last."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import made of its source.

    Attributes:
        folder: where the data set lies.
        importer: that read the source.
        manifest: of the folder.
        lacking: files that would have been needed, and could not be read.
    """

    folder: Path
    importer: str
    manifest: dict[str, Any]
    lacking: Sequence[str]

    @property
    def examples(self) -> Mapping[str, Sequence[str]]:
        """For each reason, where in the source the first few stand that were left out."""
        found: Mapping[str, Sequence[str]] = self.manifest["examples"]
        return found


@dataclass(frozen=True)
class Wanted:
    """What a user asks of an import.

    Attributes:
        importer: name of one; None guesses.
        parameters: of the importer.
        pairs: which pairs of a ranked list become pairs of their own.
        link: leave media that are files where they are, named from the folder on or from the root.
        limit: deal with the first so many things in the source.
    """

    importer: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    pairs: Expansion = "none"
    link: Link = False
    limit: int | None = None


def import_data(place: Path | HubFiles, folder: Path, wanted: Wanted) -> Work[Imported]:
    """Import a place into a folder; one that was interrupted goes on where its last shard ended.

    Args:
        place: a file or folder, or files of the hub.
        folder: where the data set goes.
        wanted: how.

    Raises:
        DataError: an unknown or damaged layout, nothing that can be used, or mostly what cannot;
            a folder that holds something else, or that another process imports into.
        UnknownName: no importer of that name.
    """
    name, read = find_importer(place, wanted.importer)
    parameters = parameters_of(name, wanted.parameters)
    if isinstance(place, Path) and place.resolve() in (folder.resolve(), *folder.resolve().parents):
        raise DataError(
            f"`{folder}` lies in `{place}`, which is being imported",
            hint="choose a folder outside of it",
        )
    about = {
        "importer": name,
        "name": place.name if isinstance(place, Path) else place.repo,
        "parameters": parameters,
        "pairs": wanted.pairs,
        "link": wanted.link,
        "limit": wanted.limit,
    }
    state = state_of(place, beside(place, name, parameters))
    with alone(folder):
        store = Store(folder, about, state=state, link=wanted.link)
        yield from _fill(store, place, partial(read, **parameters), read.count, wanted)
        _refuse_mostly_unusable(place, store)
        store.close()
        manifest = json.loads((folder / MANIFEST).read_text())
        return Imported(folder, name, manifest, store.lacking)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes from importing into a folder; where nothing was written it goes again.

    Raises:
        DataError: one is at it.
        VipoError: the place cannot be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"`{folder}` is a file", hint="choose another name for the folder")
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise DataError(
            f"another process is importing into `{folder}`",
            hint="wait until it is done, or choose another folder",
        ) from None
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        lock.release()
        with suppress(OSError):  # something was written
            for each in made:
                each.rmdir()


def _fill(
    store: Store,
    place: Path | HubFiles,
    read: Callable[[Path], Iterator[Found]],
    count: Callable[[Path], int | None],
    wanted: Wanted,
) -> Work[None]:
    """Put into a store what it has not taken yet."""
    total = count(place) if isinstance(place, Path) else None
    if wanted.limit is not None and total is not None:
        total = min(total, wanted.limit)
    done = store.taken
    rest = None if wanted.limit is None else max(0, wanted.limit - done)
    yield Progress("importing", done, total or done)
    for each in islice(_remaining(place, read, store), rest):
        for part in _parts(each, wanted.pairs):
            _take(part, store)
        store.passed()
        done += 1
        if done % 100 == 0:
            yield Progress("importing", done, total or done)
    yield Progress("importing", done, done)


def _remaining(
    place: Path | HubFiles, read: Callable[[Path], Iterator[Found]], store: Store
) -> Iterator[Found]:
    """Yield what a store has not taken yet; files of the hub that it has are not fetched again."""
    if isinstance(place, Path):
        yield from islice(read(place), store.taken, None)
        return
    start = store.taken
    noted = {name: end for name, end in store.ends.items() if end <= start}
    skipped = max(noted.values(), default=0)
    for name in place.names:
        if name not in noted:
            with place.fetched(name) as file:
                yield from islice(read(file), start - skipped, None)
            start = skipped = 0
            store.ended(name)


def find_source(source: str) -> Path | HubFiles:
    """Return what a source names; of a hub data set that is not here its files, where possible.

    Raises:
        DataError: no such file or folder.
        MissingWeights: the hub data set is neither on this machine nor to be had.
    """
    place = Path(source).expanduser()
    if place.exists():
        return place
    if HUB_ID.fullmatch(source) and not Path(source).suffix:
        return hub_files(source)
    raise DataError(f"no such file or folder: `{source}`")


def describe_source(place: Path | HubFiles, name: str, parameters: Mapping[str, Any]) -> list[str]:
    """Return lines that say how an importer understands a source.

    Raises:
        DataError: columns that make no record.
    """
    lines = [f"importer  {name}: {importers.summary(name)}"]
    if name == "table":
        with _first_file(place) as file:
            meaning = meaning_of(file, parameters.get("columns", {}))
        lines.append(f"columns   {meaning.shown()}")
    return lines


@contextmanager
def _first_file(place: Path | HubFiles) -> Iterator[Path]:
    """Give what shows the layout of a place: itself, or the first of the hub's files."""
    if isinstance(place, Path):
        yield place
    else:
        with place.fetched(place.names[0]) as file:
            yield file


def find_importer(place: Path | HubFiles, name: str | None = None) -> tuple[str, Importer]:
    """Return the importer of a name, or the first whose layout a place is in.

    Raises:
        UnknownName: no importer of that name.
        DataError: the place is not there, or in no layout that is known.
    """
    if isinstance(place, Path) and not place.exists():
        raise DataError(f"no such file or folder: `{place}`")
    if name is not None:
        return name, importers[name]
    names = importers.names()
    with _first_file(place) as file, looked_at_once():
        for candidate in sorted(names, key=lambda each: ORDER.index(each) if each in ORDER else -1):
            if importers[candidate].fits(file):
                return candidate, importers[candidate]
    if isinstance(place, Path) and tables_in(place):
        meaning_of(place, {})  # says what is wrong with its columns
    raise DataError(
        f"`{place if isinstance(place, Path) else place.repo}` is in no layout that is known",
        details=[f"{each}: {importers.summary(each)}" for each in names],
        hint="name the importer: --from NAME",
    )


def parameters_of(name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of an importer with its defaults.

    Raises:
        DataError: it does not take them.
    """
    try:
        return importers.parameters(name)(**parameters).model_dump(mode="json")
    except ValidationError as error:
        raise DataError(
            f"the parameters of importer `{name}` are not valid",
            details=[
                f"{key}: {words or 'unknown parameter'}" for key, words in findings(error).items()
            ],
        ) from error


def _parts(found: Found, pairs: Expansion) -> Iterator[Found]:
    if isinstance(found, Unusable):
        yield found
    else:
        yield from expand(found, pairs)


def _take(found: Found, store: Store) -> None:
    """Take an entry on, or count why not.

    Raises:
        DataError: it is of another kind than those before.
    """
    if isinstance(found, Entry):
        problem, lacking = found.problem(), []
        where = found.where or found.id or f"`{found.prompt[:40]}`"
        if not problem:
            if kinds := store.kinds - {found.kind}:
                raise DataError(
                    f"the source holds {found.kind}s as well as {', '.join(kinds)}s",
                    hint="a data set holds records of one kind; see the importer's parameters, "
                    "or --pairs",
                )
            try:
                store.add(found)
            except DataError as error:
                problem = UNREADABLE
                where = f"{found.where}: {error.message}" if found.where else error.message
                lacking = [medium for medium in found.media if isinstance(medium, Path)]
            else:
                return
        found = Unusable(where, problem, tuple(lacking))
    store.leave_out(found.reason, found.where)
    store.lack(found.lacking)


def _refuse_mostly_unusable(place: Path | HubFiles, store: Store) -> None:
    left_out, taken = sum(store.left_out.values()), sum(store.labels.values())
    if taken and left_out <= LEFT_OUT * (left_out + taken):
        return
    store.discard()
    source = place if isinstance(place, Path) else place.repo
    if not left_out:
        raise DataError(f"no entries in `{source}`", hint=NOTHING_WRITTEN)
    raise DataError(
        f"{left_out:,} of {left_out + taken:,} entries in `{source}` cannot be used",
        details=why_left_out(store.left_out, store.examples),
        hint=f"{NOTHING_WRITTEN}; "
        + (
            "paths of media start beside the file that names them"
            if UNREADABLE in store.left_out
            else "name the importer with --from, or the columns with --columns"
        ),
    )


def why_left_out(left_out: Mapping[str, int], examples: Mapping[str, Sequence[str]]) -> list[str]:
    """Return a line for each reason for which something was left out, and where that is."""
    lines = []
    for reason, count in Counter(left_out).most_common(SHOWN):
        where = ", ".join(examples.get(reason, ()))
        lines.append(f"{count:,}: {reason}" + (f" ({where})" if where else ""))
    return lines


def beside(place: Path | HubFiles, name: str, parameters: Mapping[str, Any]) -> Sequence[Path]:
    """Return what an importer reads besides the place itself."""
    own = place if isinstance(place, Path) else Path()
    return importers[name].beside(own, **parameters)


def state_of(place: Path | HubFiles, others: Sequence[Path] = ()) -> str:
    """Return what changes whenever a source does: a name for the size and date of each file."""
    digest = hashlib.sha256()
    if isinstance(place, HubFiles):
        digest.update(json.dumps([place.repo, place.revision, place.names]).encode())
    else:
        _digest_files(place, digest.update)
    for other in others:
        digest.update(str(other.resolve()).encode())
        _digest_files(other, digest.update)
    return digest.hexdigest()[:16]


def _digest_files(place: Path, update: Callable[[bytes], None]) -> None:
    root = len(str(place if place.is_dir() else place.parent))
    for file in _files_below(str(place)) if place.is_dir() else [str(place)]:
        with suppress(OSError):  # it went just now
            state = os.stat(file)  # noqa: PTH116  # a Path costs as much again
            said = f"{file[root:]}\0{state.st_size} {state.st_mtime_ns}\0"
            update(said.encode(errors="surrogateescape"))


def _files_below(folder: str) -> Iterator[str]:
    """Yield the files below a folder in order; of millions no more is held than one folder's."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        paths = (f"{parent}/{name}" for name in sorted(names))
        yield from filter(os.path.isfile, paths)
