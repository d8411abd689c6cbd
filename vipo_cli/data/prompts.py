"""What a prompt must be before anything is built on it."""

from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

import numpy as np
from numpy.typing import ArrayLike

from vipo_cli.errors import DataError

LONGEST = 10_000
"""Characters at which a prompt is taken for a fault of the file: no text encoder reads that far."""

SHOWN = 5
"""How many offenders an error names."""


def listed(rows: Sequence[int], name_row: Callable[[int], str]) -> str:
    """Name the first few rows, and say how many more there are."""
    shown = ", ".join(name_row(int(row)) for row in rows[:SHOWN])
    return shown if len(rows) <= SHOWN else f"{shown} and {len(rows) - SHOWN:,} more"


def prompt_problems(lengths: ArrayLike, name_row: Callable[[int], str]) -> list[str]:
    """Return a line for each kind of unusable prompt, naming its rows.

    Args:
        lengths: characters of each prompt without blanks around it; below 0 where it is missing.
        name_row: turns a position into the words by which the user finds the row.
    """
    sizes = np.asarray(lengths)
    empty = np.flatnonzero(sizes <= 0).tolist()
    endless = np.flatnonzero(sizes >= LONGEST).tolist()
    problems = []
    if empty:
        problems.append(f"empty prompt in {len(empty):,} rows: {listed(empty, name_row)}")
    if endless:
        problems.append(
            f"prompt of {LONGEST:,} characters or more in {len(endless):,} rows: "
            f"{listed(endless, name_row)}"
        )
    return problems


def refuse(source: object, problems: Sequence[str], hint: str | None = None) -> None:
    """Raise one error for all problems of a source.

    Raises:
        DataError: there are any.
    """
    if problems:
        raise DataError(f"`{source}` is not usable preference data", details=problems, hint=hint)


def refuse_nothing(
    source: object, kind: str, rows: int, dropped: Mapping[str, int], hint: str | None = None
) -> NoReturn:
    """Say that no row of a source is left, and what became of them.

    Args:
        source: the file.
        kind: what its rows should be.
        rows: how many it has.
        dropped: how many of them were left out, by reason.
        hint: how to have them.

    Raises:
        DataError: always.
    """
    raise DataError(
        f"no {kind}s in `{source}`: {rows:,} rows",
        details=[f"{count:,} rows: {reason}" for reason, count in dropped.items()],
        hint=hint
        or (
            "all rows were left out; ties stay with the parameter ties=keep of the data set"
            if dropped
            else f"write a row for each {kind} under the names of the columns"
        ),
    )
