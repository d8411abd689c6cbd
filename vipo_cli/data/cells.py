"""Reading the cells of tables, wherever they are read: what they hold, or None."""

import math
from typing import Any

BLANK = ("", "nan", "none", "null")
"""How tools write that a cell holds nothing."""
TRUE, FALSE = ("true", "1", "1.0", "yes"), ("false", "0", "0.0", "no")


def text(cell: Any) -> str:
    """Return a cell's text without blanks around it; anything but text counts as empty."""
    return cell.strip() if isinstance(cell, str) else ""


def blank(cell: Any) -> bool:
    """Tell whether a cell says that it holds nothing."""
    if isinstance(cell, str):
        return cell.strip().lower() in BLANK
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def name(cell: Any) -> str | None:
    """Return a text or number as a name; None where there is neither."""
    if isinstance(cell, bool) or cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return None
    if not isinstance(cell, str | int | float):
        return None
    try:
        return str(cell).strip() or None
    except ValueError:  # a number of thousands of digits
        return None


def number(cell: Any) -> float | None:
    """Return a finite number; None where the cell holds none."""
    try:
        value = float(cell)
    except (TypeError, ValueError, OverflowError):
        return None
    return value if math.isfinite(value) else None


def whole(cell: Any) -> int | None:
    """Return a whole number of at least 0 and at most 63 bits; None where the cell holds none."""
    written = (name(cell) or "").removesuffix(".0")  # as tools write numbers with gaps between them
    if not (written.isascii() and written.isdecimal()):
        return None
    return int(written) if len(written) < 20 and int(written) < 2**63 else None


def truth(cell: Any) -> bool | None:
    """Return what a cell says is true or false; None where it says neither."""
    word = str(cell if isinstance(cell, bool) else name(cell)).lower()
    return True if word in TRUE else False if word in FALSE else None


def each(*cells: Any) -> tuple[str | None, ...] | None:
    """Return what is said of each medium as names; None where nothing is said of any."""
    found = tuple(name(cell) for cell in cells)
    return found if any(found) else None
