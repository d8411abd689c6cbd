"""WebDataset shards: tar files in which the files of a sample follow each other and share a key.

A key is all of a path up to the first dot of its last part; what follows tells the files of a
sample apart. This much is the convention of the webdataset library. Which files a preference has,
nobody has laid down. Understood are key.a.EXT and key.b.EXT, key.winner.EXT and key.loser.EXT (or
another pair of names that folders may have), key.0.EXT, key.1.EXT and so on, and key.EXT alone for
a single sample; the prompt in key.txt or key.prompt.txt; and key.json with what an entry has:
prompt, label, probability, votes, ranks, weight, annotator, models, dimensions, scores, category,
seeds, noise_seeds, id (by default the shard's name with the key), source, split, metadata. Shards
are read from their beginning to their end, one sample at a time, and nothing is unpacked to disk.
"""

import math
import posixpath
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from vipo_cli.data.cells import name, number, text, truth, whole
from vipo_cli.data.entry import Entry, Found, Label, Unusable
from vipo_cli.data.importers.archives import archive_kind, archives_in, open_archive
from vipo_cli.data.importers.arrays import document
from vipo_cli.data.importers.files import MEDIA
from vipo_cli.data.importers.folders import SIDES
from vipo_cli.data.importers.importer import importer
from vipo_cli.errors import DataError

LOOKED_AT = 32
"""Members of the first shard by which it is recognised."""
MOST_FILES = 64
"""Of one sample."""
MOST_BYTES = 2**29
"""Of one sample."""
PROMPTS = ("txt", "prompt.txt", "caption.txt", "prompt", "caption")
FIELDS = ("annotator", "category", "source", "split")
WORDS: dict[str, Label] = {
    "a": "a",
    "b": "b",
    "tie": "tie",
    "same": "tie",
    "equal": "tie",
    "none": "none",
    "": "none",
}
"""What a label may say of two media."""
NUMBERS: dict[str, Label] = {"0": "a", "1": "b", "0.5": "tie"}
"""What it may say where the media are numbered as well."""
KNOWN = {
    "prompt", "caption", "label", "liked", "probability", "votes", "ranks", "weight", "annotator",
    "models", "dimensions", "scores", "category", "seeds", "noise_seeds", "id", "source", "split",
    "metadata",
}  # fmt: skip

Value = TypeVar("Value")

Files = dict[str, bytes | Unusable]
"""Of one sample, by what follows the key in their names."""


def _shards(place: Path) -> list[Path]:
    """Return the tar files of a place in the order of their names; of one in parts, the first."""
    return [file for file in archives_in(place) if archive_kind(file) != "zip"]


def _fits(place: Path) -> bool:
    ends: dict[str, set[str]] = {}
    with suppress(DataError, OSError):  # what was read before a fault tells as well
        shards = _shards(place)
        members = open_archive(shards[0]).members() if shards else iter(())
        for member, _ in islice(members, LOOKED_AT):
            key, end = _split(member)
            ends.setdefault(key, set()).add(end)
    return any(_is_sample(found) for found in ends.values())


def _is_sample(ends: set[str]) -> bool:
    """Tell whether the files of a key are those of a preference or of a labelled sample."""
    roles = {role for end in ends if (role := _role(end)) is not None}
    pair = any({*pair} <= roles for pair in (("a", "b"), *SIDES))
    return pair or sum(map(str.isdecimal, roles)) > 1 or ("" in roles and "json" in ends)


@importer(fits=_fits)
def webdataset(place: Path) -> Iterator[Found]:
    """WebDataset tar shards: key.a.jpg, key.b.jpg, key.json, or key.winner.jpg, key.loser.jpg."""
    shards = _shards(place)
    if not shards:
        raise DataError(f"`{place}` holds no tar files")
    for shard in shards:
        named = shard.relative_to(place).as_posix() if place.is_dir() else shard.name
        for where, files in _samples(shard, named):
            yield files if isinstance(files, Unusable) else _entry(where, files)


def _samples(shard: Path, named: str) -> Iterator[tuple[str, Files | Unusable]]:
    """Yield the samples of a shard, each with where it stands.

    A sample at which the shard turns out to be damaged may lack files, and is none.
    """
    key, where, files, size = "", named, Files(), 0
    try:
        for member, data in open_archive(shard).members():
            own, end = _split(member)
            if own != key:
                yield from _whole(where, files, size)
                key, where, files, size = own, f"{named}/{own}", Files(), 0
            size += len(data) if isinstance(data, bytes) else 0
            if len(files) >= MOST_FILES or size > MOST_BYTES:
                files, size = {end: b""}, MOST_BYTES + 1
            elif own:
                files[end] = Unusable(where, "two files of one name") if end in files else data
    except DataError:
        yield where, Unusable(where, "the shard is damaged here; the rest of it is lost")
        return
    yield from _whole(where, files, size)


def _whole(where: str, files: Files, size: int) -> Iterator[tuple[str, Files | Unusable]]:
    """Yield a sample, if it has files and not too many of them."""
    if size > MOST_BYTES:
        reason = f"a sample of more than {MOST_FILES} files or {MOST_BYTES:,} bytes"
        yield where, Unusable(where, reason)
    elif files:
        yield where, files


def _split(member: str) -> tuple[str, str]:
    """Return the key of a file and what follows it; a hidden file has no key."""
    folder, base = posixpath.split(member)
    stem, _, end = base.partition(".")
    return (posixpath.join(folder, stem) if stem else ""), end


def _role(end: str) -> str | None:
    """Return which of the media of a sample a file is; None if it is none."""
    head, _, suffix = end.lower().rpartition(".")
    return head if f".{suffix}" in MEDIA else None


def _entry(where: str, files: Files) -> Found:
    said = _said(where, files)
    if isinstance(said, Unusable):
        return said
    media_files = [(role, data) for end, data in files.items() if (role := _role(end)) is not None]
    roles = dict(media_files)
    if len(roles) < len(media_files):
        return Unusable(where, "two media of one name")
    found = _labelled(roles, said)
    if isinstance(found, str):
        return Unusable(where, found)
    wanted, label = found
    media = [roles[role] for role in wanted]
    broken = next((each for each in media if isinstance(each, Unusable)), None)
    if broken is not None:
        return Unusable(where, broken.reason)
    prompt = text(said.get("prompt")) or text(said.get("caption")) or _prompt(files)
    if prompt is None:
        return Unusable(where, "a prompt that is not UTF-8")
    known: dict[str, Any] = {field: name(said.get(field)) for field in FIELDS}
    return Entry(
        prompt,
        tuple(each for each in media if isinstance(each, bytes)),
        label,
        id=name(said.get("id", where)),
        probability=None if said.get("probability") is None else _number(said["probability"]),
        weight=1.0 if said.get("weight") is None else _number(said["weight"]),
        votes=_numbers(said.get("votes")),
        ranks=_numbers(said.get("ranks")) if label == "ranked" else None,
        models=_each(said.get("models"), name),
        seeds=_each(said.get("seeds"), whole),
        noise_seeds=_each(said.get("noise_seeds"), whole),
        dimensions=_named(said.get("dimensions"), name),
        scores=_named(said.get("scores"), _numbers),
        metadata=_metadata(said),
        **known,
    )


def _labelled(roles: Mapping[str, Any], said: Mapping[str, Any]) -> tuple[list[str], Label] | str:
    """Return the media of a sample in order and what is said of them, or why there is nothing."""
    word = _word(said.get("label"))
    for sides in SIDES:
        if {*sides} & roles.keys():
            label = WORDS.get(word or "a")
            if not {*sides} <= roles.keys():
                return "a winner without a loser, or a loser without a winner"
            return (
                "label says otherwise than the names"
                if label in (None, "b")
                else ([*sides], label or "a")
            )
    if {"a", "b"} & roles.keys():
        label = WORDS.get(word)
        if not {"a", "b"} <= roles.keys():
            return "one of two media is missing"
        return (["a", "b"], label) if label else "label says neither a nor b nor tie"
    numbered = sorted((role for role in roles if role.isascii() and role.isdecimal()), key=int)
    if numbered:
        if word == "candidates":
            return numbered, "candidates"
        if word in ("", "ranked") and (len(numbered) != 2 or word or "ranks" in said):
            return numbered, "ranked"
        label = (WORDS | NUMBERS).get(word) if len(numbered) == 2 else None
        return (numbered, label) if label else "label does not say which of the media is better"
    if "" not in roles:
        return "no media by whose names a preference is known"
    liked = {"liked": True, "disliked": False}.get(word, truth(said.get("liked")))
    return (
        "neither liked nor disliked" if liked is None else ([""], "liked" if liked else "disliked")
    )


def _word(label: Any) -> str:
    """Return what a label says, in small letters; nothing if it is none."""
    return "" if label is None else str(label).strip().lower().removesuffix(".0")


def _said(where: str, files: Files) -> dict[str, Any] | Unusable:
    """Return what the JSON of a sample says; nothing if there is none."""
    data = files.get("json", b"{}")
    if isinstance(data, Unusable):
        return Unusable(where, data.reason)
    try:
        said = document(data)
    except ValueError:
        return Unusable(where, "its JSON is damaged")
    return said if isinstance(said, dict) else Unusable(where, "its JSON is no object")


def _prompt(files: Files) -> str | None:
    """Return the prompt in a file of its own; None if it cannot be read."""
    for end in PROMPTS:
        if end in files:
            data = files[end]
            try:
                return None if isinstance(data, Unusable) else data.decode("utf-8-sig").strip()
            except UnicodeDecodeError:
                return None
    return ""


def _number(cell: Any) -> float:
    """Return a number; what is none becomes one that no entry may have."""
    value = number(cell)
    return math.nan if value is None else value


def _numbers(cells: Any) -> tuple[float, ...] | None:
    return tuple(map(_number, cells)) if isinstance(cells, list) else None


def _each(cells: Any, read: Callable[[Any], Value | None]) -> tuple[Value | None, ...] | None:
    found = tuple(map(read, cells)) if isinstance(cells, list) else ()
    return found if any(each is not None for each in found) else None


def _named(cells: Any, read: Callable[[Any], Value | None]) -> dict[str, Value]:
    items = cells.items() if isinstance(cells, dict) else ()
    return {key: value for key, cell in items if (value := read(cell)) is not None}


def _metadata(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata, and whatever no entry has a field for, if it is a single value."""
    inner = said.get("metadata") if isinstance(said.get("metadata"), dict) else {}
    rest = {
        key: cell
        for key, cell in said.items()
        if key not in KNOWN and isinstance(cell, str | int | float | bool)
    }
    return rest | dict(inner or {})
