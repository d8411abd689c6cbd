import numpy as np
import pytest
from scipy.stats import t

from vipo_cli.analysis.intervals import clustered_mean, wilson
from vipo_cli.analysis.shares import STUDENT, cells_of, clustered_share, student


def test_independent_samples_have_wilsons_interval():
    values = np.repeat([1.0, 0.0], [30, 170])
    found, plain = clustered_share(values, np.arange(200)), wilson(30, 200)
    assert found.value == plain.value == 0.15
    # but for Student's quantile and the n - 1 of a variance
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=0.001)
    assert (found.n, found.n_clusters) == (200, 200)


def test_standard_error_is_the_cluster_robust_one():
    rng = np.random.default_rng(0)
    clusters = rng.integers(0, 40, 300)
    values = (rng.random(300) < rng.random(40)[clusters]).astype(float)
    found, robust = clustered_share(values, clusters), clustered_mean(values, clusters)
    assert found.value == pytest.approx(robust.value)
    assert found.stderr == pytest.approx(robust.stderr)
    assert found.n_clusters == robust.n_clusters


def test_repeating_samples_of_a_cluster_adds_no_certainty():
    values = (np.random.default_rng(1).random(200) < 0.4).astype(float)
    once = clustered_share(values, np.arange(200))
    often = clustered_share(np.repeat(values, 10), np.repeat(np.arange(200), 10))
    assert (often.low, often.high) == pytest.approx((once.low, once.high))


def test_certainty_is_never_claimed_from_few_clusters():
    nothing = clustered_share(np.zeros(20), np.arange(20))
    assert nothing.low == 0
    assert nothing.high > 0.1
    same = clustered_share(np.zeros(2000), np.repeat(np.arange(20), 100))
    assert same.high == nothing.high
    alone = clustered_share(np.array([0.0, 1.0]), np.zeros(2, int))
    assert (alone.low, alone.high) == (0, 1)
    balanced = clustered_share(np.tile([0.0, 1.0], 10), np.repeat(np.arange(10), 2))
    assert balanced.low < 0.45


def test_missing_values_are_left_out_and_nothing_has_no_share():
    found = clustered_share(np.array([1.0, np.nan, 0.0, 1.0]), np.array([0, 1, 2, 3]))
    assert (found.value, found.n) == (pytest.approx(2 / 3), 3)
    nothing = clustered_share(np.array([np.nan]), np.array([0]))
    assert (nothing.n, nothing.method) == (0, "none")
    assert np.isnan(nothing.value)


@pytest.mark.parametrize("groups", [3, 2000])
def test_groups_are_as_if_each_stood_alone(groups):
    """For few groups, which are counted in a table, and for many, which are sorted."""
    rng = np.random.default_rng(2)
    clusters, of = rng.integers(0, 50, 400), rng.integers(0, groups, 400)
    values = (rng.random(400) < 0.3).astype(float)
    values[rng.random(400) < 0.1] = np.nan
    found = cells_of(clusters, of, groups).shares(values)
    for group in rng.permutation(groups)[:20].tolist():
        one = found.interval(group)
        alone = clustered_share(values[of == group], clusters[of == group])
        assert (one.n, one.n_clusters) == (alone.n, alone.n_clusters)
        ends = [(each.value, each.low, each.high) for each in (one, alone)]
        assert ends[0] == pytest.approx(ends[1], nan_ok=True)


def test_half_values_count_half():
    assert clustered_share(np.array([0.5, 0.5, 1.0]), np.arange(3)).value == pytest.approx(2 / 3)


def test_students_quantile():
    freedom = np.array([1, 2, 5, 19, 20, 21, 30, 100, 5000, 1e6])
    assert student(freedom) == pytest.approx(t.ppf(0.975, freedom), abs=2e-6)
    assert student(np.array([0.0])) == STUDENT[0]
