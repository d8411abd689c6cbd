"""Flow-Factory's offline records: JSON lines of its schema version 2, with preference supervision.

Checked against the public documentation and code of X-GenGroup/Flow-Factory: a record has
schema_version 2, input (prompt, negative_prompt, media), supervision and metadata, and no other
keys; supervision is of type preference with chosen and rejected, or demonstration with target, each
with a list of media (type image, video or audio, path, and for clips fps, for sound sample_rate);
relative paths start in the folder of the file. Its published examples could not be had. What has no
place in a record of ours: conditions, that is media in the input, and sound.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from vipo_cli.data.cells import name, text
from vipo_cli.data.entry import Entry, Found, Unusable
from vipo_cli.data.importers.files import Row, header, rows_of, tables_in
from vipo_cli.data.importers.importer import importer

VERSION = 2
RECORD = {"schema_version", "input", "supervision", "metadata"}
INPUT = {"prompt", "negative_prompt", "media"}
MEDIUM = {"type", "path", "fps", "sample_rate", "slot"}
CANDIDATES = {"preference": ("chosen", "rejected"), "demonstration": ("target",)}
"""By type of supervision, its candidates, the better one first."""
SUFFIXES = (".jsonl", ".ndjson")
LIFTED = ("annotator", "category", "id")
"""Metadata that entries have a field for."""


def _is_ours(file: Path) -> bool:
    return {"schema_version", "input", "supervision"} <= set(header(file))


def _fits(place: Path) -> bool:
    return any(map(_is_ours, tables_in(place, SUFFIXES)))


@importer(fits=_fits)
def flow_factory(
    place: Path,
    *,
    conditions: Annotated[
        Literal["refuse", "ignore"],
        Field(description="What to do with records whose input holds media besides the prompt."),
    ] = "refuse",
) -> Iterator[Found]:
    """Flow-Factory's offline JSON lines (schema_version 2): preferences or demonstrations.

    A demonstration becomes a sample that was liked. Lists of prompts beside it are passed over.
    """
    for file in filter(_is_ours, tables_in(place, SUFFIXES)):
        for where, row in rows_of(file):
            yield row if isinstance(row, Unusable) else _entry(where, row, file, conditions)


def _entry(where: str, row: Row, file: Path, conditions: str) -> Found:
    given, supervision = row.get("input"), row.get("supervision")
    if type(row.get("schema_version")) is not int or row["schema_version"] != VERSION:
        return Unusable(where, f"another schema_version than {VERSION}")
    if not isinstance(given, dict) or not isinstance(supervision, dict):
        return Unusable(where, "input or supervision is no object")
    names = CANDIDATES.get(text(supervision.get("type")))
    if names is None:
        return Unusable(where, "supervision is neither preference nor demonstration")
    if row.keys() - RECORD or given.keys() - INPUT or supervision.keys() - {"type", *names}:
        return Unusable(where, "keys that the schema does not have")
    if given.get("media") and conditions == "refuse":
        return Unusable(where, "its input holds media (--set conditions=ignore takes the prompt)")
    candidates = [_candidate(supervision.get(name)) for name in names]
    shown = [each[0] for each in candidates if each is not None]
    if len(shown) < len(names):
        return Unusable(where, f"{' or '.join(names)} holds other than one picture or clip")
    metadata = row.get("metadata") if isinstance(row.get("metadata"), dict) else {}
    assert isinstance(metadata, dict)
    return Entry(
        text(given.get("prompt")),
        tuple(_medium(each["path"], file.parent) for each in shown),
        "a" if len(shown) == 2 else "liked",
        annotator=name(metadata.get("annotator")),
        category=name(metadata.get("category")),
        id=name(metadata.get("id")),
        split=file.stem if file.stem in ("train", "test") else None,
        metadata={key: _flat(value) for key, value in metadata.items() if key not in LIFTED}
        | _facts(given, shown, [each[1] for each in candidates if each is not None]),
    )


def _candidate(candidate: Any) -> tuple[dict[str, Any], list[str]] | None:
    """Return what is seen of a candidate, and where its sound is; None if it is not one medium."""
    if not isinstance(candidate, dict) or candidate.keys() != {"media"}:
        return None
    media = candidate["media"] if isinstance(candidate["media"], list) else []
    if not all(isinstance(each, dict) and each.keys() <= MEDIUM for each in media):
        return None
    seen = [each for each in media if each.get("type") in ("image", "video")]
    heard = [text(each.get("path")) for each in media if each.get("type") == "audio"]
    if len(seen) != 1 or len(seen) + len(heard) < len(media) or not text(seen[0].get("path")):
        return None
    return seen[0], heard


def _medium(path: str, folder: Path) -> Path:
    return Path(path).expanduser() if path.startswith("~/") else folder / path


def _facts(given: Row, shown: list[dict[str, Any]], sounds: list[list[str]]) -> dict[str, Any]:
    """Return what entries have no field for."""
    said = given.get("media")
    media = said if isinstance(said, list) else []
    facts: dict[str, Any] = {
        "negative_prompt": text(given.get("negative_prompt")),
        "fps": [each.get("fps") for each in shown] if any("fps" in each for each in shown) else [],
        "sounds": sounds if any(sounds) else [],
        "conditions": [text(each.get("path")) for each in media if isinstance(each, dict)],
    }
    return {key: value for key, value in facts.items() if value}


def _flat(value: Any) -> str | int | float | bool | None:
    """Return a value as it is, or as JSON in a text if there is more than one in it."""
    return json.dumps(value) if isinstance(value, list | dict) else value
