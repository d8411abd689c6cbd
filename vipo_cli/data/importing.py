"""Bring preference data of any layout into the one that is kept: read, expand, check, write."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vipo_cli.data.entry import Entry, Expansion, Found, Unusable, expand
from vipo_cli.data.hub_files import HUB_ID, HubFiles, hub_files
from vipo_cli.data.importers import Importer, importers
from vipo_cli.data.importers.table import meaning_of
from vipo_cli.data.store import MANIFEST, Store
from vipo_cli.errors import DataError
from vipo_cli.registry import findings
from vipo_cli.run import Progress, Work, fingerprint

SHOWN = 3
"""Examples of each reason for which something is left out."""
LEFT_OUT = 0.5
"""Share above which what cannot be used is a misunderstanding of the whole source."""
UNREADABLE = "a medium cannot be read"
ORDER = ("pickapic", "folders", "table")
"""Which importer is asked first whether a place is its own; the general ones come last."""


@dataclass
class Imported:
    """What an import made of its source.

    Attributes:
        folder: where the data set lies.
        importer: that read the source.
        manifest: of the folder.
        examples: for each reason, where in the source the first few stand that were left out.
    """

    folder: Path
    importer: str
    manifest: dict[str, Any] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Wanted:
    """What a user asks of an import.

    Attributes:
        importer: name of one; None guesses.
        parameters: of the importer.
        pairs: which pairs of a ranked list become pairs of their own.
        link: leave media that are files where they are.
        limit: deal with the first so many things in the source.
    """

    importer: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    pairs: Expansion = "none"
    link: bool = False
    limit: int | None = None


def import_data(place: Path | HubFiles, folder: Path, wanted: Wanted) -> Work[Imported]:
    """Import a place into a folder; one that was interrupted goes on where its last shard ended.

    Args:
        place: a file or folder, or files of the hub.
        folder: where the data set goes.
        wanted: how.

    Raises:
        DataError: an unknown or damaged layout, nothing that can be used, or mostly what cannot.
        UnknownName: no importer of that name.
    """
    name, read = find_importer(place, wanted.importer)
    parameters = _checked(name, wanted.parameters)
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
    imported = Imported(folder, name)
    store = Store(folder, about, state=_state(place), link=wanted.link)
    total = read.count(place) if isinstance(place, Path) else None
    if wanted.limit is not None and total is not None:
        total = min(total, wanted.limit)
    done = store.taken
    rest = None if wanted.limit is None else max(0, wanted.limit - done)
    found = islice(_remaining(place, partial(read, **parameters), store), rest)
    yield Progress("importing", done, total or done)
    for each in found:
        for part in _parts(each, wanted.pairs):
            _take(part, store, imported)
        store.passed()
        done += 1
        if done % 100 == 0:
            yield Progress("importing", done, total or done)
    yield Progress("importing", done, done)
    _refuse_mostly_unusable(place, store, imported)
    store.close()
    imported.manifest = json.loads((folder / MANIFEST).read_text())
    return imported


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
    with _first_file(place) as file:
        for candidate in sorted(names, key=lambda each: ORDER.index(each) if each in ORDER else -1):
            if importers[candidate].fits(file):
                return candidate, importers[candidate]
    raise DataError(
        f"`{place if isinstance(place, Path) else place.repo}` is in no layout that is known",
        details=[f"{each}: {importers.summary(each)}" for each in names],
        hint="name the importer: --from NAME",
    )


def _checked(name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
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


def _take(found: Found, store: Store, imported: Imported) -> None:
    """Take an entry on, or count why not.

    Raises:
        DataError: it is of another kind than those before.
    """
    if isinstance(found, Entry):
        problem, where = found.problem(), found.id or f"`{found.prompt[:40]}`"
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
                problem, where = UNREADABLE, error.message
            else:
                return
        found = Unusable(where, problem)
    store.leave_out(found.reason)
    examples = imported.examples.setdefault(found.reason, [])
    if len(examples) < SHOWN and found.where:
        examples.append(found.where)


def _refuse_mostly_unusable(place: Path | HubFiles, store: Store, imported: Imported) -> None:
    left_out, taken = sum(store.left_out.values()), sum(store.labels.values())
    if taken and left_out <= LEFT_OUT * (left_out + taken):
        return
    details = []
    for reason, count in store.left_out.most_common(SHOWN):
        where = ", ".join(imported.examples.get(reason, ()))
        details.append(f"{count:,}: {reason}" + (f" ({where})" if where else ""))
    store.discard()
    raise DataError(
        f"{left_out:,} of {left_out + taken:,} entries in "
        f"`{place if isinstance(place, Path) else place.repo}` cannot be used",
        details=details,
        hint="nothing was written; "
        + (
            "paths of media start beside the file that names them"
            if UNREADABLE in store.left_out
            else "name the importer with --from, or the columns with --columns"
        ),
    )


def _state(place: Path | HubFiles) -> str:
    """Return what changes whenever the source does: a name for the size and date of each file."""
    if isinstance(place, HubFiles):
        return fingerprint([place.repo, place.revision, place.names])
    root = place if place.is_dir() else place.parent
    files = _files_below(str(place)) if place.is_dir() else [str(place)]
    digest = hashlib.sha256()
    for file in files:
        state = Path(file).stat()
        line = [os.path.relpath(file, root), state.st_size, state.st_mtime_ns]
        digest.update(json.dumps(line).encode())
    return digest.hexdigest()[:16]


def _files_below(folder: str) -> Iterator[str]:
    """Yield the files below a folder in order; of millions no more is held than one folder's."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (path for name in sorted(names) if Path(path := f"{parent}/{name}").is_file())
