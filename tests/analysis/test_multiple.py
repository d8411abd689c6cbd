import numpy as np
import pytest

from vipo_cli.analysis.multiple import holm


def test_a_worked_example():
    # sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1, and never below the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_one_test_is_not_adjusted_and_none_exceeds_one():
    assert holm([0.04]) == pytest.approx([0.04])
    assert holm([0.6, 0.7]).tolist() == [1, 1]
    assert holm([]).tolist() == []


def test_tests_that_were_not_made_do_not_count():
    adjusted = holm([np.nan, 0.01, 0.02])
    assert np.isnan(adjusted[0])
    assert adjusted[1:] == pytest.approx([0.02, 0.02])


def test_false_alarms_of_a_family_stay_at_five_percent():
    rng = np.random.default_rng(0)
    common = rng.normal(size=(4000, 1))
    z = 0.5**0.5 * common + 0.5**0.5 * rng.normal(size=(4000, 8))  # tests that go together
    from scipy.stats import norm

    values = 2 * norm.sf(np.abs(z))
    alarms = np.mean([(holm(row) < 0.05).any() for row in values])
    assert (values < 0.05).any(1).mean() > 0.15
    assert alarms < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 4000)
