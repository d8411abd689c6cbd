"""Columns and records: which columns make which record, and what their cells must hold."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vipo_cli.data.cells import blank, number, truth, whole
from vipo_cli.data.prompts import listed
from vipo_cli.data.record import Kind, LabelledSample, PreferencePair, RankedList, Record
from vipo_cli.media import Media

Ties = Literal["drop", "keep"]
"""What becomes of pairs that nobody could decide on."""

Row = dict[str, Any]
Numbers = NDArray[Any]
"""A column that has a rule: int64 if it holds seeds, else float64."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Columns of one kind of record.

    Attributes:
        kind: what a row becomes.
        prompt: the column of prompts.
        media: winner and loser, the list, or the one medium.
        labels: what says which of two media won, or whether the one was liked.
        further: columns that say more about the record; those of a group come together.
    """

    kind: Kind
    prompt: str
    media: tuple[str, ...]
    labels: tuple[str, ...] = ()
    further: tuple[tuple[str, ...], ...] = (("weight",),)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that have to be there."""
        return (self.prompt, *self.media, *self.labels)

    def found(self, names: Collection[str]) -> list[str]:
        """Return the further columns that are there; where there is a probability, no votes."""
        groups = [group for group in self.further if set(group) <= set(names)]
        if PROBABILITY in groups and VOTES in groups:
            groups.remove(VOTES)
        return [name for group in groups for name in group]


PROBABILITY = ("probability",)
VOTES = ("votes_w", "votes_l")

LABELLED = (("weight",), ("liked",))

PAIRS = Layout(
    "pair",
    "prompt",
    ("winner", "loser"),
    further=(
        ("weight",),
        PROBABILITY,
        VOTES,
        *(("noise_seed_w",), ("noise_seed_l",), ("region_w",), ("region_l",)),
    ),
)
PICKAPIC = Layout(
    "pair",
    "caption",
    ("jpg_0", "jpg_1"),
    ("label_0", "label_1"),
    further=(
        ("weight",),
        *(("noise_seed_0",), ("noise_seed_1",), ("region_0",), ("region_1",)),
    ),
)
LAYOUTS = (
    PAIRS,
    PICKAPIC,
    Layout("ranked list", "prompt", ("media",)),
    Layout("labelled sample", "prompt", ("image",), ("liked",), LABELLED),
    Layout("labelled sample", "prompt", ("media",), ("liked",), LABELLED),
)


def guess_layout(names: Collection[str], layouts: Sequence[Layout] = LAYOUTS) -> Layout:
    """Return the layout of which all columns are there, the longest if several, or the nearest."""

    def fit(layout: Layout) -> tuple[bool, int]:
        there = len(set(layout.columns).intersection(names))
        return there == len(layout.columns), there

    return max(layouts, key=fit)


def read_number(cell: Any) -> float:
    """Read a finite number; NaN if the cell holds none."""
    value = number(cell)
    return math.nan if value is None else value


def read_seed(cell: Any) -> int:
    """Read a whole number of at least 0; -1 if the cell is empty, -2 if it holds none."""
    value = -1 if blank(cell) else whole(cell)
    return -2 if value is None else value


def read_truth(cell: Any) -> float:
    """Read what is true or false as 1 or 0; NaN if the cell says neither."""
    value = truth(cell)
    return math.nan if value is None else float(value)


@dataclass(frozen=True, slots=True)
class Rule:
    """How the cells of a column are read, which numbers are allowed, and what these are called."""

    read: Callable[[Any], float]
    allows: Callable[[Numbers], NDArray[np.bool_]]
    words: str


AMOUNT = Rule(
    read_number, lambda values: (values >= 0) & np.isfinite(values), "a number of at least 0"
)
RULES = {
    "weight": AMOUNT,
    "votes": AMOUNT,
    "probability": Rule(
        read_number, lambda values: (values >= 0) & (values <= 1), "a number from 0 to 1"
    ),
    "noise_seed": Rule(
        read_seed, lambda values: values >= -1, "a whole number of at least 0, or empty"
    ),
    "liked": Rule(read_truth, lambda values: np.isin(values, (0, 1)), "true or false"),
}
"""The rule of a column, by its name without the side."""


def has_rule(column: str) -> bool:
    """Tell whether the cells of a column are numbers or truth values."""
    return _base(column) in RULES


def is_seed(column: str) -> bool:
    """Tell whether a column holds seeds, which are exact in all their digits."""
    return _base(column) == "noise_seed"


def read_column(name: str, cells: Sequence[Any]) -> Numbers:
    """Read all cells of a column that has a rule."""
    read = RULES[_base(name)].read
    return np.array([read(cell) for cell in cells], np.int64 if is_seed(name) else np.float64)


def number_problems(columns: Mapping[str, Numbers], name_row: Callable[[int], str]) -> list[str]:
    """Return a line for each kind of number that is not allowed, naming its rows."""
    bad = {
        f"{name} is not {rule.words}": ~rule.allows(values)
        for name, values in columns.items()
        for rule in [RULES[_base(name)]]
    }
    if VOTES[0] in columns:
        bad["no votes"] = (columns[VOTES[0]] == 0) & (columns[VOTES[1]] == 0)
    return [
        f"{what} in {len(rows):,} rows: {listed(rows, name_row)}"
        for what, where in bad.items()
        if (rows := np.flatnonzero(where).tolist())
    ]


def find_ties(columns: Mapping[str, Numbers]) -> tuple[NDArray[np.bool_], str] | None:
    """Return which rows are ties and how one knows them; None if no column could say so."""
    if PROBABILITY[0] in columns:
        return columns[PROBABILITY[0]] == 0.5, "probability is 0.5"
    if VOTES[0] in columns:
        votes_w, votes_l = (columns[name] for name in VOTES)
        return (votes_w == votes_l) & (votes_w > 0), "votes_w equals votes_l"
    return None


def make_record(
    kind: Kind,
    prompt: str,
    media: Sequence[Media | None],
    row: Row,
    found: Sequence[str],
    place: Callable[[Any], Media | None],
) -> Record:
    """Make a record of a row whose cells follow the rules.

    Args:
        kind: what to make.
        prompt: what the media were made for.
        media: in their order; None where a cell is empty.
        row: its other cells, those of a pair ending in _w and _l.
        found: which of these say more about the record; the rest becomes metadata.
        place: turns a cell into a medium.
    """
    known: Row = {name: row.get(name) for name in found}
    metadata = {name: cell for name, cell in row.items() if name not in known}
    weight = float(known["weight"]) if "weight" in known else 1.0
    if kind == "ranked list":
        return RankedList(prompt, tuple(medium or b"" for medium in media), metadata, weight)
    if kind == "labelled sample":
        liked = read_truth(known["liked"]) == 1
        return LabelledSample(prompt, media[0] or b"", liked, metadata, weight)
    seed_w, seed_l = (read_seed(known.get(f"noise_seed_{side}")) for side in "wl")
    region_w, region_l = (place(known.get(f"region_{side}")) for side in "wl")
    return PreferencePair(
        prompt,
        media[0] or b"",
        media[1],
        metadata,
        weight,
        _probability(known),
        noise_seeds=None if seed_w == seed_l == -1 else (seed_w, seed_l),
        regions=None if region_w is region_l is None else (region_w, region_l),
    )


def _probability(known: Row) -> float:
    if VOTES[0] in known:
        votes_w, votes_l = (float(known[name]) for name in VOTES)
        return votes_w / (votes_w + votes_l)
    return float(known[PROBABILITY[0]]) if PROBABILITY[0] in known else 1.0


def _base(column: str) -> str:
    """Return a column's name without its side."""
    return column[:-2] if column[-2:] in ("_w", "_l", "_0", "_1") else column
