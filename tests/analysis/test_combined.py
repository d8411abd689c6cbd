import numpy as np
import pytest

from vipo_cli.analysis.combined import Part, combined, resample
from vipo_cli.analysis.intervals import clustered_mean


def clustered(rng, clusters, each, mean=0.5, between=0.2, within=0.1):
    effects = rng.normal(0, between, clusters)
    labels = np.repeat(np.arange(clusters), each)
    return mean + effects[labels] + rng.normal(0, within, len(labels)), labels, effects


def test_one_mean_has_the_standard_error_of_its_clusters():
    values, labels, _ = clustered(np.random.default_rng(0), 60, 5)
    found = combined(resample({"a": Part(values, labels)}, resamples=5_000), {"a": 1.0})
    expected = clustered_mean(values, labels)

    assert found.value == pytest.approx(expected.value)
    assert found.stderr == pytest.approx(expected.stderr, rel=0.06)
    assert (found.n, found.n_clusters) == (300, 60)


def test_weights_count():
    part = Part([0.0, 1.0], ["a", "b"], [3.0, 1.0])
    assert combined(resample({"a": part}), {"a": 2.0}).value == pytest.approx(0.5)


def test_a_value_that_is_known_better_moves_the_interval():
    values, labels, _ = clustered(np.random.default_rng(1), 20, 2)
    resampled = resample({"a": Part(values, labels)})
    one, other = combined(resampled, {"a": 1.0}), combined(resampled, {"a": 1.0}, value=7.0)

    assert other.value == 7.0
    assert other.high - other.low == pytest.approx(one.high - one.low)
    assert other.low < 7.0 < other.high


def test_means_of_the_same_prompts_vary_together():
    rng = np.random.default_rng(2)
    labels = np.arange(200)
    effects = rng.normal(0, 1, 200)
    same = resample({"a": Part(effects, labels), "b": Part(effects, labels)})
    apart = resample({"a": Part(effects, labels), "b": Part(effects, labels + 200)})

    assert combined(same, {"a": 1.0, "b": -1.0}).stderr == pytest.approx(0.0, abs=1e-12)
    one = combined(same, {"a": 1.0}).stderr
    assert combined(same, {"a": 1.0, "b": 1.0}).stderr == pytest.approx(2 * one, rel=1e-6)
    assert combined(apart, {"a": 1.0, "b": 1.0}).stderr == pytest.approx(2**0.5 * one, rel=0.08)
    assert combined(apart, {"a": 1.0, "b": 1.0}).n_clusters == 400


def test_one_cluster_says_nothing_about_the_spread():
    resampled = resample({"a": Part([0.5, 0.6], ["x", "x"]), "b": Part([0.1, 0.2], ["y", "z"])})
    for coefficients in ({"a": 1.0}, {"a": 1.0, "b": 1.0}):
        found = combined(resampled, coefficients)
        assert (found.stderr, found.low, found.high) == (np.inf, -np.inf, np.inf)
    assert np.isfinite(combined(resampled, {"b": 1.0}).stderr)


def test_the_same_parts_give_the_same_interval():
    values, labels, _ = clustered(np.random.default_rng(3), 30, 3)
    first, second = (combined(resample({"a": Part(values, labels)}), {"a": 1.0}) for _ in "ab")
    assert first == second


def test_nothing_is_no_mean():
    with pytest.raises(ValueError, match="at least one"):
        resample({"a": Part([], [])})


def coverage(trials):
    """Return how often the interval of a sum of means, two of the same prompts, holds the truth."""
    hits = 0
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        first, labels, effects = clustered(rng, 72, 5)
        second = 0.4 + 0.5 * effects[labels] + rng.normal(0, 0.3, len(labels))
        third, others, _ = clustered(rng, 10, 1, mean=0.2)
        parts = {
            "a": Part(first, labels),
            "b": Part(second, labels),
            "c": Part(third, others + 1000),
        }
        found = combined(resample(parts, resamples=400), {"a": 0.5, "b": 0.25, "c": 0.05})
        hits += found.low <= 0.5 * 0.5 + 0.25 * 0.4 + 0.05 * 0.2 <= found.high
    return hits / trials


def test_intervals_cover():
    assert 0.88 < coverage(100) < 0.995


@pytest.mark.slow
def test_intervals_cover_as_often_as_they_say():
    assert 0.93 < coverage(4000) < 0.97
