import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from vipo_cli.analysis.calibration import BINS, calibrate


def judged(pairs, slope, seed=0, scale=1.0):
    """Margins of a reward that is right with probability sigmoid(slope * size)."""
    rng = np.random.default_rng(seed)
    size = np.abs(rng.normal(size=pairs)) * scale
    right = rng.random(pairs) < 1 / (1 + np.exp(-slope * size))
    return np.where(right, size, -size)


def best_slope(won):
    return minimize_scalar(lambda b: np.logaddexp(0, -b * won).sum(), bracket=(0, 1)).x


@pytest.mark.parametrize("pairs", [200, 20_000])
def test_slope_has_the_greatest_likelihood(pairs):
    won = judged(pairs, 1.3)
    found = calibrate(won, np.arange(pairs))
    assert found.slope == pytest.approx(best_slope(won), rel=1e-5 if pairs < 4096 else 1e-3)
    assert abs(found.slope - 1.3) < 3 * found.stderr


def test_slope_is_in_the_reward_s_own_units():
    one, other = (calibrate(judged(500, 1.0) * scale, np.arange(500)) for scale in (1, 1000))
    assert other.slope == pytest.approx(one.slope / 1000)
    assert other.scale == pytest.approx(1000 * one.scale)
    assert other.slope * other.scale == pytest.approx(one.slope * one.scale)


def test_standard_error_counts_prompts():
    won = judged(400, 1.0)
    once = calibrate(won, np.arange(400))
    often = calibrate(np.repeat(won, 5), np.repeat(np.arange(400), 5))
    assert often.slope == pytest.approx(once.slope)
    assert often.stderr == pytest.approx(once.stderr)
    assert calibrate(won, np.zeros(400, int)).stderr is None


def test_standard_error_is_that_of_repetition():
    slopes = [calibrate(judged(300, 1.0, seed), np.arange(300)).slope for seed in range(200)]
    assert calibrate(judged(300, 1.0), np.arange(300)).stderr == pytest.approx(
        np.std(slopes), rel=0.2
    )


def test_bins_hold_equally_many_pairs_and_follow_the_fit():
    found = calibrate(judged(20_000, 1.5), np.arange(20_000))
    assert len(found.bins) == BINS
    assert [bin_.accuracy.n for bin_ in found.bins] == [2000] * BINS
    for one, other in zip(found.bins, found.bins[1:], strict=False):
        assert one.low <= one.margin <= one.high < other.low
    inside = [bin_.accuracy.low < bin_.fitted < bin_.accuracy.high for bin_ in found.bins]
    assert sum(inside) >= BINS - 2


def test_equal_margins_share_a_bin():
    won = np.concatenate([np.zeros(600), judged(400, 1.0)])
    found = calibrate(won, np.arange(1000))
    assert found.bins[0].accuracy.n == 600
    assert found.bins[0].accuracy.value == 0.5  # ties count half
    assert sum(bin_.accuracy.n for bin_ in found.bins) == 1000


def test_what_cannot_be_fitted():
    always = calibrate(np.linspace(0.1, 1, 500), np.arange(500))
    assert always.slope is None
    assert always.bins[0].fitted is None
    nothing = calibrate(np.full(5, np.nan), np.arange(5))
    assert nothing.bins == ()
    few = calibrate(np.array([1.0, -1.0]), np.arange(2))
    assert (few.bins, few.slope) == ((), pytest.approx(0))
