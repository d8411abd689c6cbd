"""What cells hold is understood alike in tables that are imported and in Parquet read in place."""

import math

import pytest

from vipo_cli.data.cells import blank, number, truth, whole
from vipo_cli.data.columns import read_number, read_seed, read_truth


@pytest.mark.parametrize(
    ("cell", "said"),
    [(True, True), ("yes", True), (" No ", False), ("1.0", True), (0, False), ("", None),
     (None, None), ("maybe", None), (2, None), (math.nan, None), ([], None)],
)  # fmt: skip
def test_truth(cell, said):
    assert truth(cell) is said
    assert same(read_truth(cell), math.nan if said is None else float(said))


@pytest.mark.parametrize(
    ("cell", "value"),
    [("1.5", 1.5), (" 2 ", 2), (3, 3), ("1e3", 1000), ("", None), (None, None), ("nan", None),
     (math.inf, None), ("x", None), (10**400, None), ([1], None)],
)  # fmt: skip
def test_numbers(cell, value):
    assert number(cell) == value
    assert same(read_number(cell), math.nan if value is None else value)


@pytest.mark.parametrize(
    ("cell", "value"),
    [("7", 7), (7.0, 7), ("7.0", 7), (2**63 - 1, 2**63 - 1), ("9007199254740993", 2**53 + 1)],
)
def test_seeds_are_exact(cell, value):
    assert whole(cell) == read_seed(cell) == value


@pytest.mark.parametrize("cell", ["-1", 0.5, "x", 2**63, True, "\N{SUPERSCRIPT TWO}", "1" * 5000])
def test_what_is_no_seed(cell):
    assert whole(cell) is None
    assert read_seed(cell) == -2


@pytest.mark.parametrize("cell", [None, "", "  ", "NaN", "null", "None", math.nan])
def test_cells_that_hold_nothing(cell):
    assert blank(cell)
    assert read_seed(cell) == -1
    assert not blank("0")
    assert not blank(False)
    assert not blank([])


def same(one, other):
    return one == other or (math.isnan(one) and math.isnan(other))
