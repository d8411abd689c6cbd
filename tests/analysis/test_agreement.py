import numpy as np
import pytest

from vipo_cli.analysis.agreement import agreement, cohen_kappa, pair_kappa


def ratings(table):
    """Turn a table of counts into two lists of ratings."""
    rows, columns = np.nonzero(table)
    times = np.asarray(table)[rows, columns]
    return np.repeat(rows, times), np.repeat(columns, times)


@pytest.mark.parametrize(
    ("table", "kappa"),
    [
        ([[20, 5], [10, 15]], 0.4),  # the standard worked example: 0.7 observed, 0.5 expected
        ([[45, 15], [25, 15]], (0.60 - 0.54) / (1 - 0.54)),
        ([[25, 35], [5, 35]], (0.60 - 0.46) / (1 - 0.46)),
        ([[88, 10, 2], [14, 40, 6], [18, 10, 12]], (0.70 - 0.41) / (1 - 0.41)),  # Cohen 1960
        ([[5, 0], [0, 5]], 1.0),
        ([[0, 5], [5, 0]], -1.0),
    ],
)
def test_cohen_kappa_of_published_tables(table, kappa):
    assert cohen_kappa(*ratings(table)) == pytest.approx(kappa, abs=1e-12)


def test_missing_ratings_are_left_out():
    a, b = [1, 0, np.nan, 1], [1, 1, 1, np.nan]
    assert agreement(a, b) == 0.5
    assert np.isnan(cohen_kappa([np.nan], [1.0]))
    assert np.isnan(cohen_kappa([1, 1], [1, 1]))


def test_pair_kappa_is_cohens_over_both_orders():
    rng = np.random.default_rng(0)
    a, b = rng.integers(-1, 2, (2, 500)).astype(float)
    a[:200] = b[:200]
    both = cohen_kappa(np.concatenate([a, -a]), np.concatenate([b, -b]))
    assert pair_kappa(a, b) == pytest.approx(both, abs=1e-12)


def test_pair_kappa_without_ties_is_twice_the_agreement_minus_one():
    a, b = [1, 1, 1, -1], [1, 1, -1, -1]
    assert pair_kappa(a, b) == pytest.approx(2 * 0.75 - 1)
    assert pair_kappa(a, a) == 1
