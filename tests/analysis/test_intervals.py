import numpy as np
import pytest

from vipo_cli.analysis.intervals import (
    clustered_mean,
    paired_difference,
    sign_flip_p_value,
    stratified_mean,
    wilson,
)


def beta_prompts(rng, prompts, images, mean, strength=3.0):
    """Right and wrong images whose chance differs from prompt to prompt."""
    chance = rng.beta(mean * strength, (1 - mean) * strength, prompts)
    return (rng.random((prompts, images)) < chance[:, None]).astype(float)


def test_wilson_gives_the_textbook_interval():
    interval = wilson(134, 200)
    assert (round(interval.low, 3), round(interval.high, 3)) == (0.602, 0.731)


@pytest.mark.parametrize("successes", [0, 7, 10])
def test_wilson_stays_within_bounds_and_holds_its_value(successes):
    interval = wilson(successes, 10)
    assert -1e-12 <= interval.low <= interval.value <= interval.high <= 1 + 1e-12
    assert interval.low < interval.high


def test_clustered_mean_of_single_samples_is_the_students_interval():
    values = np.random.default_rng(0).normal(size=30)
    interval = clustered_mean(values, range(30))
    assert interval.stderr == pytest.approx(values.std(ddof=1) / 30**0.5)
    assert interval.high - interval.value == pytest.approx(2.045230 * interval.stderr, rel=1e-5)


def test_copies_within_a_cluster_add_no_certainty():
    values = np.random.default_rng(1).normal(size=20)
    once = clustered_mean(values, range(20))
    thrice = clustered_mean(np.repeat(values, 3), np.repeat(range(20), 3).tolist())
    assert thrice.stderr == pytest.approx(once.stderr)
    assert (thrice.n, thrice.n_clusters) == (60, 20)


def test_one_cluster_has_an_unbounded_interval():
    interval = clustered_mean([0.0, 1.0], ["a", "a"])
    assert interval.value == 0.5
    assert np.isinf(interval.stderr)


def test_bootstrap_agrees_with_the_analytic_error():
    values = beta_prompts(np.random.default_rng(2), 200, 2, 0.5)
    prompts = np.repeat(range(200), 2).tolist()
    bootstrap = stratified_mean(values.ravel(), prompts, ["all"] * 400)
    assert bootstrap.stderr == pytest.approx(
        clustered_mean(values.ravel(), prompts).stderr, rel=0.06
    )
    assert bootstrap == stratified_mean(values.ravel(), prompts, ["all"] * 400)


def test_strata_count_equally_whatever_their_size():
    interval = stratified_mean([1, 1, 1, 0], ["a", "b", "c", "d"], ["x", "x", "x", "y"])
    assert interval.value == 0.5
    assert interval.n_clusters == 4


def test_bootstrap_covers_the_truth_about_19_times_in_20():
    rng = np.random.default_rng(3)
    means = (0.9, 0.5, 0.2)
    prompts = [f"{task}-{prompt}" for task in range(3) for prompt in range(60) for _ in range(2)]
    tasks = [task for task in range(3) for _ in range(120)]
    hits = 0
    for trial in range(400):
        values = np.concatenate([beta_prompts(rng, 60, 2, mean).ravel() for mean in means])
        interval = stratified_mean(values, prompts, tasks, resamples=500, seed=trial)
        hits += interval.low <= np.mean(means) <= interval.high
    assert 0.92 <= hits / 400 <= 0.98


def test_pairing_beats_the_difference_of_two_separate_means():
    rng = np.random.default_rng(4)
    base = beta_prompts(rng, 100, 2, 0.5, strength=0.2)
    better = np.maximum(base, rng.random(base.shape) < 0.1)
    prompts, tasks = np.repeat(range(100), 2).tolist(), ["t"] * 200
    interval, p_value = paired_difference(better.ravel(), base.ravel(), prompts, tasks)
    assert interval.low > 0
    assert p_value < 0.01
    assert interval.stderr < 0.5 * stratified_mean(base.ravel(), prompts, tasks).stderr


def test_sign_flips_match_the_exact_distribution():
    # five clusters of equal weight, all up: 2 of 32 sign patterns are as extreme
    p_value = sign_flip_p_value([1.0] * 10, np.repeat(range(5), 2).tolist(), ["t"] * 10)
    assert p_value == pytest.approx(2 / 32, abs=0.01)


def test_no_difference_at_all_has_p_value_one():
    interval, p_value = paired_difference([0, 1, 1], [0, 1, 1], [0, 1, 2], ["t"] * 3)
    assert (interval.value, interval.low, interval.high, p_value) == (0, 0, 0, 1)


def test_p_values_are_uniform_when_nothing_differs():
    rng = np.random.default_rng(5)
    clusters, tasks = np.repeat(range(40), 2).tolist(), ["t"] * 80
    small = [
        sign_flip_p_value(rng.normal(size=80), clusters, tasks, flips=500, seed=trial) <= 0.05
        for trial in range(400)
    ]
    assert 0.02 <= np.mean(small) <= 0.09


def test_an_interval_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        clustered_mean([], [])
    with pytest.raises(ValueError, match="at least one"):
        wilson(0, 0)
