"""A page of preference data to look through: media side by side with all that is said of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vipo_cli.data.census import format_of, role_of, standings_of
from vipo_cli.data.entry import Entry, winner_probability
from vipo_cli.errors import DataError
from vipo_cli.media import Media, is_clip, media_bytes, probe, stills
from vipo_cli.reporting.pages import data_uri, page_template
from vipo_cli.run import writing

SMALL = 128
"""Longer side up to which a picture is kept without loss."""
GOOD, BAD = ("winner", "liked", "rank 1"), ("loser", "disliked")
LISTED = 200
"""Characters of a value of the metadata."""


def write_pairs_page(
    target: Path, name: str, kind: str, total: int, entries: Sequence[tuple[int, Entry]]
) -> None:
    """Write an HTML file that needs no network.

    Args:
        target: the file.
        name: of the data set.
        kind: of its records.
        total: how many it has.
        entries: those to show, with their numbers.
    """
    page = page_template("pairs.html").render(
        name=name,
        kind=kind,
        total=total,
        cards=[_card(number, entry) for number, entry in entries],
    )
    with writing(target) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")


def _card(number: int, entry: Entry) -> dict[str, Any]:
    standings = standings_of(entry)
    order = sorted(range(len(entry.media)), key=lambda place: standings[place])
    return {
        "number": number,
        "prompt": entry.prompt,
        "verdict": _verdict(entry),
        "media": [_medium(entry, place) for place in order],
        "scores": _scores(entry, order),
        "facts": _facts(entry),
    }


def _verdict(entry: Entry) -> str:
    """Return what the label says, where that is more than who won for certain."""
    said = {"tie": "a tie", "none": "no label", "candidates": "not judged"}.get(entry.label, "")
    if entry.label in ("a", "b") and (probability := winner_probability(entry)) < 1:
        said = f"certain to {probability:.0%}"
    return said


def _medium(entry: Entry, place: int) -> dict[str, Any]:
    role = role_of(entry, place)
    said: dict[str, Any] = {
        "role": role,
        "tone": "good" if role in GOOD else "bad" if role in BAD else "",
        "model": entry.models[place] if entry.models else None,
        "votes": f"{entry.votes[place]:g} votes" if entry.votes else None,
        "seed": entry.seeds[place] if entry.seeds else None,
    }
    try:
        return said | _shown(entry.media[place]) | {"problem": None}
    except DataError as error:
        return said | {"sources": [], "about": "", "clip": False, "problem": error.message}


def _shown(medium: Media) -> dict[str, Any]:
    """Return the pictures that show a medium, and its size and format."""
    data = media_bytes(medium)
    clip = is_clip(data)
    pictures = stills(data)
    found = probe(data)
    sources = [data_uri(picture, SMALL) for picture in pictures]
    rate = f" at {found.frames_per_second:g}/s" if found.frames_per_second else ""
    about = f"{found}{rate}, {format_of(data)}, {max(1, len(data) // 1024):,} KiB"
    return {"sources": sources, "about": about, "clip": clip}


def _scores(entry: Entry, order: Sequence[int]) -> list[dict[str, Any]]:
    """Return a line for each reward; the better of two scores is marked."""
    lines = []
    for reward, values in sorted(entry.scores.items()):
        best = max(values)
        several = len(set(values)) > 1
        cells = [
            {"value": f"{values[place]:.4g}", "best": several and values[place] == best}
            for place in order
        ]
        lines.append({"reward": reward, "cells": cells})
    return lines


def _facts(entry: Entry) -> list[tuple[str, str]]:
    """Return what else is known, in words."""
    known: list[tuple[str, Any]] = [
        ("id", entry.id),
        ("category", entry.category),
        ("annotator", entry.annotator),
        ("weight", f"{entry.weight:g}" if entry.weight != 1 else None),
        ("source", entry.source),
        ("split", entry.split),
        *((f"{name} (dimension)", label) for name, label in sorted(entry.dimensions.items())),
        ("noise seeds", ", ".join(map(str, entry.noise_seeds)) if entry.noise_seeds else None),
        ("region maps", "yes" if entry.regions else None),
        *sorted(entry.metadata.items()),
    ]
    return [(name, _cut(str(value))) for name, value in known if value not in (None, "")]


def _cut(text: str) -> str:
    return text if len(text) <= LISTED else text[: LISTED - 4] + " ..."
