import numpy as np
import pytest
from scipy.stats import spearmanr

from vipo_cli.analysis.agreement import (
    agreement,
    cohen_kappa,
    counted,
    fleiss_kappa,
    gwet_ac1,
    krippendorff_alpha,
    pair_ac1,
    pair_alpha,
    pair_entropy,
    pair_fleiss,
    pair_kappa,
    pair_matrices,
    pair_spearman,
    ranks_of,
)

NAN = np.nan

FOUR_BY_TWELVE = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
    [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
]
"""Krippendorff 2011, Computing Krippendorff's Alpha-Reliability: four observers, twelve units."""

FLEISS = [
    [0, 0, 0, 0, 14],
    [0, 2, 6, 4, 2],
    [0, 0, 3, 5, 6],
    [0, 3, 9, 2, 0],
    [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0],
    [3, 2, 6, 3, 0],
    [2, 5, 3, 2, 2],
    [6, 5, 2, 1, 0],
    [0, 2, 2, 3, 7],
]
"""The usual example of Fleiss' kappa: ten subjects, fourteen raters, five categories."""


def ratings(table):
    """Turn a table of counts into two lists of ratings."""
    rows, columns = np.nonzero(table)
    times = np.asarray(table)[rows, columns]
    return np.repeat(rows, times), np.repeat(columns, times)


def votes(seed=0, pairs=400, rewards=4, missing=0.1):
    rng = np.random.default_rng(seed)
    drawn = rng.integers(-1, 2, (pairs, rewards)).astype(float)
    drawn[:150, 1] = drawn[:150, 0]
    drawn[rng.random(drawn.shape) < missing] = np.nan
    return drawn


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


@pytest.mark.parametrize(
    ("level", "alpha"),
    [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849), ("ratio", 0.797)],
)
def test_krippendorffs_own_example(level, alpha):
    assert krippendorff_alpha(FOUR_BY_TWELVE, level) == pytest.approx(alpha, abs=5e-4)


def test_alpha_by_its_definition():
    """Pair by pair, as the definition has it, on ratings with many missing."""
    rng = np.random.default_rng(1)
    table = rng.integers(1, 5, (5, 40)).astype(float)
    table[rng.random(table.shape) < 0.4] = np.nan
    distances = {
        "nominal": lambda a, b: float(a != b),
        "interval": lambda a, b: (a - b) ** 2,
        "ratio": lambda a, b: ((a - b) / (a + b)) ** 2,
    }
    for level, distance in distances.items():
        units = [unit[~np.isnan(unit)] for unit in table.T]
        units = [unit for unit in units if len(unit) > 1]
        every = np.concatenate(units)
        observed = sum(
            distance(a, b) / (len(unit) - 1)
            for unit in units
            for i, a in enumerate(unit)
            for j, b in enumerate(unit)
            if i != j
        ) / len(every)
        expected = sum(
            distance(a, b) for i, a in enumerate(every) for j, b in enumerate(every) if i != j
        ) / (len(every) * (len(every) - 1))
        assert krippendorff_alpha(table, level) == pytest.approx(1 - observed / expected)


def test_ordinal_alpha_knows_only_the_order():
    stretched = np.where(np.isnan(FOUR_BY_TWELVE), np.nan, 10.0 ** np.array(FOUR_BY_TWELVE))
    alpha = krippendorff_alpha(stretched, "ordinal")
    assert alpha == pytest.approx(krippendorff_alpha(FOUR_BY_TWELVE, "ordinal"))
    assert krippendorff_alpha(stretched, "interval") > 0.99  # nearly all of it by the fives


def test_alpha_of_nothing_to_compare():
    assert np.isnan(krippendorff_alpha([[1, NAN], [NAN, 2]]))
    assert np.isnan(krippendorff_alpha([[1, 1], [1, 1]]))
    assert krippendorff_alpha([[1, 2], [1, 2]]) == 1


def test_fleiss_own_example():
    assert fleiss_kappa(FLEISS) == pytest.approx(0.210, abs=5e-4)
    with pytest.raises(ValueError, match="equally many"):
        fleiss_kappa([[2, 0], [1, 2]])
    assert np.isnan(fleiss_kappa([[3, 0], [3, 0]]))


def test_ac1_of_published_tables():
    # with nearly all in one cell Cohen's kappa is below 0 and AC1 0.941: Gwet's paradox
    paradox = ratings([[118, 5], [2, 0]])
    assert cohen_kappa(*paradox) == pytest.approx(-0.0234, abs=5e-5)
    assert gwet_ac1(counted(np.stack(paradox))) == pytest.approx(0.9408, abs=5e-5)
    # abstractors of ectopic, abnormal and normal pregnancies (Gwet 2014); kappa is 0.7964094
    abstractors = ratings([[13, 0, 0], [0, 20, 7], [0, 4, 56]])
    assert cohen_kappa(*abstractors) == pytest.approx(0.7964094, abs=5e-8)
    assert gwet_ac1(counted(np.stack(abstractors))) == pytest.approx(0.8493305, abs=5e-8)
    # four raters with missing ratings, where percent agreement is 0.8181818 (Gwet 2014)
    assert gwet_ac1(counted(FOUR_BY_TWELVE)) == pytest.approx(0.77544, abs=5e-6)


def test_ac1_of_one_category_says_nothing():
    assert np.isnan(gwet_ac1([[3], [3]]))
    assert np.isnan(gwet_ac1([[1, 0], [0, 1]]))


def test_weighted_rows_are_repeated_rows():
    times = np.random.default_rng(2).integers(0, 4, len(FLEISS))
    repeated = np.repeat(FLEISS, times, axis=0)
    assert fleiss_kappa(FLEISS, times) == pytest.approx(fleiss_kappa(repeated))
    assert gwet_ac1(FLEISS, times) == pytest.approx(gwet_ac1(repeated))
    cast = votes(3, 50)
    times = np.random.default_rng(3).integers(0, 4, len(cast))
    for measure in (pair_alpha, pair_fleiss, pair_ac1, pair_entropy):
        assert measure(cast, times) == pytest.approx(measure(np.repeat(cast, times, axis=0)))
    for one, other in zip(
        pair_matrices(cast, times), pair_matrices(np.repeat(cast, times, axis=0)), strict=True
    ):
        assert one == pytest.approx(other)


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


def test_matrices_hold_agreement_and_kappa_of_each_two():
    cast = votes()
    shares, kappas = pair_matrices(cast)
    for row in range(4):
        for column in range(4):
            one, other = cast[:, row], cast[:, column]
            assert shares[row, column] == pytest.approx(agreement(one, other))
            assert kappas[row, column] == pytest.approx(pair_kappa(one, other))


@pytest.mark.parametrize("missing", [0, 0.2])
def test_measures_of_pairs_are_those_of_both_orders(missing):
    cast = votes(missing=missing)
    both = np.concatenate([cast, -cast])
    assert pair_alpha(cast) == pytest.approx(krippendorff_alpha(both.T))
    complete = both[~np.isnan(both).any(1)]
    assert pair_fleiss(cast) == pytest.approx(fleiss_kappa(counted(complete.T)))
    assert pair_ac1(cast) == pytest.approx(gwet_ac1(counted(complete.T)))


def test_turning_pairs_round_changes_no_measure_of_pairs():
    cast = votes()
    turned = cast * np.random.default_rng(4).choice([-1, 1], len(cast))[:, None]
    for measure in (pair_alpha, pair_fleiss, pair_ac1, pair_entropy):
        assert measure(cast) == pytest.approx(measure(turned))
    assert pair_matrices(cast)[1] == pytest.approx(pair_matrices(turned)[1])


def test_entropy_of_votes():
    assert pair_entropy([[1, 1], [-1, -1]]) == 0
    assert pair_entropy([[1, -1]]) == 1
    assert pair_entropy([[1, 0, -1]]) == pytest.approx(np.log2(3))
    assert pair_entropy([[1, 1], [1, -1]]) == 0.5
    assert np.isnan(pair_entropy([[1, NAN]]))


def test_spearman_is_scipys_over_both_orders():
    rng = np.random.default_rng(5)
    margins = rng.normal(size=(300, 3)).round(1)  # with ties, and zeros
    margins[:, 1] += margins[:, 0]
    found = pair_spearman(margins)
    for row in range(3):
        for column in range(3):
            one, other = (np.concatenate([m, -m]) for m in margins[:, [row, column]].T)
            assert found[row, column] == pytest.approx(spearmanr(one, other).statistic)


def test_spearman_leaves_out_pairs_with_a_gap_and_constant_rewards():
    rng = np.random.default_rng(6)
    margins = rng.normal(size=(50, 3))
    margins[:, 2] = 0
    gappy = np.concatenate([margins, [[NAN, 1, 1]]])
    assert pair_spearman(gappy)[:2, :2] == pytest.approx(pair_spearman(margins)[:2, :2])
    assert np.isnan(pair_spearman(margins)[2]).all()


def test_ranks():
    assert ranks_of(np.array([5.0, 1.0, 5.0, 7.0])).tolist() == [2.0, 0.5, 2.0, 3.5]
    assert ranks_of(np.zeros(0)).tolist() == []
