"""SimpleTuner's paired sets: a dataloader configuration that names a preferred and a rejected set.

Checked against the public documentation of bghira/SimpleTuner (Flow-DPO, dataloader): a JSON list
of sets; the preferred one is of dataset_type image or video and names the rejected one in
conditioning_data, or is named by its source_dataset_id; the rejected one is of dataset_type
conditioning and conditioning_type reference_strict; files are matched by their paths below
instance_data_dir; a further set of conditioning_type mask says where the pair counts; captions
follow caption_strategy: textfile (NAME.txt beside the winner, one caption a line), filename,
instanceprompt, or parquet with filename_column and caption_column. The same configuration serves
training of editing models, whose references are no losers; only distillation_method=flow_dpo in
config.json tells, so that a folder whose config.json lacks it is not recognised by itself.
SimpleTuner matches files with their endings; here NAME.png and NAME.jpg match as well. Only files
on this machine are read, not S3, hub or Webshart sets. Not checked on data of a user.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from vipo_cli.data.cells import name, text
from vipo_cli.data.entry import Entry, Found, Unusable
from vipo_cli.data.importers.arrays import document
from vipo_cli.data.importers.files import MEDIA, header, rows_of
from vipo_cli.data.importers.importer import importer
from vipo_cli.data.importers.paths import is_file, is_folder
from vipo_cli.errors import DataError

NAMES = "multidatabackend*.json"
LARGEST = 2**24
"""Bytes of a configuration."""
METHOD = "distillation_method"
CAPTIONS = ("textfile", "filename", "instanceprompt", "parquet")

Set = Mapping[str, Any]
"""One set of a configuration."""


@dataclass(frozen=True, slots=True)
class _Pairing:
    """A preferred set, the folders of its winners, losers and masks, and where they start."""

    preferred: Set
    winners: Path
    losers: Path
    masks: Path | None
    base: Path


def _configurations(place: Path) -> list[Path]:
    if place.is_dir():
        return sorted(place.glob(NAMES))
    return [place] if place.suffix.lower() == ".json" else []


def _fits(place: Path) -> bool:
    try:
        found = [each for each in _configurations(place) if _paired(_sets(each))]
    except DataError:
        return False
    return bool(found) and _is_preference(found[0].with_name("config.json"))


def _beside(place: Path, **_: Any) -> list[Path]:
    """Return the folders that the configurations pair."""
    found = []
    for file in _configurations(place):
        with suppress(DataError):  # which will be told where it is read
            for preferred, losers in _paired(_sets(file)):
                found += [_folder(each, file) for each in (preferred, *losers)]
    return found


def _is_preference(config: Path) -> bool:
    """Tell whether a training configuration, if there is one, is about preferences."""
    try:
        options = _read(config) if config.is_file() else {METHOD: "flow_dpo"}
    except DataError:
        return False
    known = options if isinstance(options, dict) else {}
    return "flow_dpo" in (known.get(METHOD), known.get(f"--{METHOD}"))


@importer(fits=_fits, beside=_beside)
def simpletuner(
    place: Path,
    *,
    rejected: Annotated[
        str | None, Field(description="Id of the rejected set, where there are several.")
    ] = None,
) -> Iterator[Found]:
    """SimpleTuner's paired sets: multidatabackend.json with a reference_strict rejected set."""
    configurations = _configurations(place)
    if not configurations:
        raise DataError(f"`{place}` holds no {NAMES}")
    pairings = [
        _pairing(preferred, losers, sets, file)
        for file in configurations
        if (sets := _sets(file)) is not None
        for preferred, losers in _paired(sets, rejected)
    ]
    if not pairings:
        raise DataError(
            f"`{configurations[0]}` pairs no image or video set with a reference_strict one",
            hint='the preferred set names the rejected one: "conditioning_data": ["rejected"]',
        )
    for pairing in pairings:
        yield from _pairs(pairing)


def _sets(file: Path) -> list[Set]:
    """Return the sets of a configuration that are not disabled; none if it is something else.

    Raises:
        DataError: it cannot be read.
    """
    listed = _read(file)
    sets = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
    return [each for each in sets if not each.get("disabled") and not each.get("disable")]


def _read(file: Path) -> Any:
    try:
        if file.stat().st_size > LARGEST:
            raise DataError(f"`{file}` is too large for a configuration")
        return document(file.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read `{file}`: {error}") from error


def _paired(sets: list[Set], rejected: str | None = None) -> list[tuple[Set, list[Set]]]:
    """Return the sets of winners, each with the sets of losers that belong to it."""
    winners = [each for each in sets if each.get("dataset_type", "image") in ("image", "video")]
    pairs = [(each, _belonging(each, sets, "reference_strict")) for each in winners]
    wanted = [
        (each, [loser for loser in losers if rejected in (None, loser.get("id"))])
        for each, losers in pairs
    ]
    return [(each, losers) for each, losers in wanted if losers]


def _belonging(preferred: Set, sets: list[Set], kind: str) -> list[Set]:
    """Return the conditioning sets of a kind that belong to a preferred one."""
    said = preferred.get("conditioning_data")
    names = said if isinstance(said, list) else [said]
    own = preferred.get("id")
    return [
        each
        for each in sets
        if each.get("dataset_type") == "conditioning" and each.get("conditioning_type") == kind
        if each.get("id") in names or (own is not None and each.get("source_dataset_id") == own)
    ]


def _pairing(preferred: Set, losers: list[Set], sets: list[Set], file: Path) -> _Pairing:
    """Return what a preferred set is paired with.

    Raises:
        DataError: it cannot be read from here, or it is not clear what.
    """
    if len(losers) > 1:
        raise DataError(
            f"`{file}` pairs set `{preferred.get('id')}` with {len(losers)} sets",
            hint=f"say which one holds the losers: --set rejected={losers[0].get('id')} (of "
            f"{', '.join(str(each.get('id')) for each in losers)})",
        )
    masks = _belonging(preferred, sets, "mask")
    strategy = preferred.get("caption_strategy", "filename")
    if strategy not in CAPTIONS:
        raise DataError(
            f"captions of strategy `{strategy}` cannot be read",
            hint=f"known: {', '.join(CAPTIONS)}",
        )
    return _Pairing(
        preferred,
        _folder(preferred, file),
        _folder(losers[0], file),
        _folder(masks[0], file) if masks else None,
        file.parent,
    )


def _folder(one: Set, file: Path) -> Path:
    """Return the folder of a set: as written from here, or from its configuration.

    Raises:
        DataError: it is not on this machine.
    """
    written = one.get("instance_data_dir")
    if one.get("type", "local") != "local" or not isinstance(written, str) or not written:
        raise DataError(
            f"set `{one.get('id')}` of `{file}` is not a local folder",
            hint="download it, and name its folder as instance_data_dir with type local",
        )
    # a path starts where the trainer is run, which is often one or two folders above
    starts = (file.parent, Path(), *list(file.resolve().parents)[1:3])
    places = (start / Path(written) for start in starts)
    found = next((place for place in places if is_folder(place)), None)
    if found is None:
        raise DataError(
            f"no folder `{written}` of set `{one.get('id')}`",
            hint=f"correct instance_data_dir in `{file}`",
        )
    return found


def _pairs(pairing: _Pairing) -> Iterator[Found]:
    captions = _captions(pairing)
    for where, files in _matched([pairing.winners, pairing.losers, pairing.masks]):
        if isinstance(files, str):
            yield Unusable(where, files)
            continue
        winner, loser, mask = files
        if winner is None or loser is None:
            if winner is not loser:  # a mask alone is nothing
                yield Unusable(where, f"no {'winner' if winner is None else 'loser'} of that name")
            continue
        found = _caption(pairing.preferred, winner, pairing.winners, captions)
        if isinstance(found, str):
            yield Unusable(where, found)
            continue
        yield Entry(
            found[0] if found else "",
            (winner, loser),
            "a",
            regions=None if mask is None else (mask, mask),
            id=where,
            source=name(pairing.preferred.get("id")),
            metadata={"captions": found[1:]} if found[1:] else {},
        )


def _matched(roots: list[Path | None]) -> Iterator[tuple[str, list[Path | None] | str]]:
    """Yield the files of equal names in folders, folder by folder, or why there are none."""
    below = [""]
    while below:
        folder = below.pop()
        places = [None if root is None else root / folder for root in roots]
        listed = [_listed(place) for place in places]
        for stem in sorted(set().union(*(files for files, _ in listed))):
            names = [files.get(stem) for files, _ in listed]
            yield (
                f"{folder}{stem}",
                "several files of one name"
                if "" in names
                else [
                    place / each if place and each else None
                    for place, each in zip(places, names, strict=True)
                ],
            )
        deeper = set().union(*(folders for _, folders in listed))
        below += sorted((f"{folder}{each}/" for each in deeper), reverse=True)


def _listed(folder: Path | None) -> tuple[dict[str, str], set[str]]:
    """Return the media of a folder by their names without endings, and its folders.

    A name that several files have stands for none.
    """
    files: dict[str, str] = {}
    folders: set[str] = set()
    if folder is None or not folder.is_dir():
        return files, folders
    with os.scandir(folder) as found:
        for each in found:
            stem, suffix = os.path.splitext(each.name)  # noqa: PTH122  # a Path costs ten times it
            if each.name.startswith("."):
                continue
            if each.is_dir(follow_symlinks=False):
                folders.add(each.name)
            elif suffix.lower() in MEDIA and each.is_file():
                files[stem] = "" if stem in files else each.name
    return files, folders


def _captions(pairing: _Pairing) -> dict[str, str]:
    """Return the captions of a table by the names of files.

    Raises:
        DataError: it is not there, or lacks a column.
    """
    if pairing.preferred.get("caption_strategy", "filename") != "parquet":
        return {}
    said = pairing.preferred.get("parquet")
    options: Mapping[str, Any] = said if isinstance(said, dict) else {}
    written = text(options.get("path"))
    starts = (pairing.base, Path(), pairing.winners)
    file = next((place for start in starts if is_file(place := start / written)), None)
    if not written or file is None:
        raise DataError(f"no table of captions `{written}` of set `{pairing.preferred.get('id')}`")
    key = text(options.get("filename_column")) or "id"
    columns = [text(options.get(each)) for each in ("caption_column", "fallback_caption_column")]
    columns = [columns[0] or "caption", *filter(None, columns[1:])]
    if missing := {key, columns[0]} - set(header(file)):
        raise DataError(f"`{file}` has no column `{min(missing)}`")
    found = {}
    for _, row in rows_of(file, [key, *columns]):
        if isinstance(row, dict) and (own := name(row.get(key))):
            found[own] = next(filter(None, (_first(row.get(each)) for each in columns)), "")
    return found


def _first(cell: Any) -> str:
    """Return a caption, or the first of several."""
    return text(cell[0]) if isinstance(cell, list) and cell else text(cell)


def _caption(preferred: Set, winner: Path, root: Path, table: Mapping[str, str]) -> list[str] | str:
    """Return the captions of a winner, the first of which is its prompt, or why there is none."""
    strategy = preferred.get("caption_strategy", "filename")
    instance = text(preferred.get("instance_prompt"))
    if strategy == "instanceprompt" or preferred.get("only_instance_prompt"):
        return [instance]
    captions = [winner.stem.replace("_", " ").strip()]
    if strategy == "textfile":
        file = winner.with_suffix(".txt")
        if not file.is_file():
            return "no text file with its caption"
        try:
            written = file.read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError):
            return "no text file with its caption"
        whole = preferred.get("disable_multiline_split")
        captions = [written] if whole else [line.strip() for line in written.splitlines()]
    elif strategy == "parquet":
        relative = winner.relative_to(root)
        names = (relative.as_posix(), winner.name, relative.with_suffix("").as_posix(), winner.stem)
        captions = [next((table[each] for each in names if each in table), "")]
    prefix = f"{instance} " if instance and preferred.get("prepend_instance_prompt") else ""
    return [prefix + caption for caption in captions if caption]
