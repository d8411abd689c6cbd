import json

import numpy as np
import pytest
from scipy.optimize import minimize

from vipo_cli.analysis.ranking import elo, rank

TRUE = np.array([0.8, 0.2, -0.3, -0.7])


def games(count, nu, seed=0, each=3, strength=TRUE):
    """Draw comparisons from Davidson's model, some of each prompt."""
    rng = np.random.default_rng(seed)
    first, second, outcomes, prompts = [], [], [], []
    for game in range(count):
        one, other = rng.choice(len(strength), 2, replace=False)
        half = (strength[one] - strength[other]) / 2
        weights = np.array([np.exp(half), nu, np.exp(-half)])
        first.append("abcdefgh"[one])
        second.append("abcdefgh"[other])
        outcomes.append(int(rng.choice([1, 0, -1], p=weights / weights.sum())))
        prompts.append(game // each)
    return first, second, outcomes, prompts


def likelihood(parameters, first, second, outcomes):
    """The negative log likelihood, game by game, as the model says."""
    *strength, log_nu = parameters
    total = 0.0
    for one, other, outcome in zip(first, second, outcomes, strict=True):
        half = (strength["abcd".index(one)] - strength["abcd".index(other)]) / 2
        terms = {1: half, 0: log_nu, -1: -half}
        total -= terms[outcome] - np.logaddexp.reduce(list(terms.values()))
    return total


def test_strengths_have_the_greatest_likelihood():
    first, second, outcomes, prompts = games(150, nu=0.6)
    found = rank(first, second, outcomes, prompts, resamples=10)
    best = minimize(likelihood, np.zeros(5), (first, second, outcomes), options={"gtol": 1e-8}).x
    centred = best[:4] - best[:4].mean()
    for name, strength in zip("abcd", centred, strict=True):
        assert found.strength[name].value == pytest.approx(strength, abs=1e-5)
    assert found.ties == pytest.approx(np.exp(best[4]), abs=1e-5)


def test_two_models_without_ties_are_their_odds():
    found = rank(["a"] * 10, ["b"] * 10, [1] * 7 + [-1] * 3, range(10), resamples=50)
    assert found.names == ("a", "b")
    assert found.ahead["a", "b"].value == pytest.approx(np.log(7 / 3))
    assert found.wins[0, 1] == pytest.approx(0.7)
    assert found.ties == 0


def test_ties_count_half_to_each():
    found = rank(["a"] * 10, ["b"] * 10, [1] * 5 + [0] * 2 + [-1] * 3, range(10), resamples=10)
    assert found.wins[0, 1] == pytest.approx(0.6)


def test_the_order_of_a_pair_does_not_matter():
    first, second, outcomes, prompts = games(120, nu=0.3)
    one = rank(first, second, outcomes, prompts, resamples=50)
    other = rank(second, first, np.negative(outcomes), prompts, resamples=50)
    assert one.names == other.names
    for name in one.names:
        assert one.strength[name].value == pytest.approx(other.strength[name].value, abs=1e-8)


def test_strong_models_come_first_with_intervals_about_the_truth():
    found = rank(*games(900, nu=0.5))
    assert found.names == ("a", "b", "c", "d")
    for name, true in zip("abcd", TRUE, strict=True):
        assert found.strength[name].low < true < found.strength[name].high
    assert found.ahead["a", "d"].low > 1
    assert found.wins[0, 3] > 0.7
    assert sum(each.value for each in found.strength.values()) == pytest.approx(0)


def test_repeating_the_comparisons_of_a_prompt_adds_no_certainty():
    first, second, outcomes, prompts = games(300, nu=0.5, each=1)
    once = rank(first, second, outcomes, prompts)
    often = rank(first * 4, second * 4, outcomes * 4, prompts * 4)
    assert often.strength["a"].stderr == pytest.approx(once.strength["a"].stderr, rel=0.05)
    assert often.strength["a"].value == pytest.approx(once.strength["a"].value, abs=1e-6)


def test_what_cannot_be_ranked_is_refused():
    with pytest.raises(ValueError, match="never compared: a, b; c, d"):
        rank(["a", "b", "c", "d"], ["b", "a", "d", "c"], [1, 1, 1, 1], range(4))
    with pytest.raises(ValueError, match="one side never won: b, c; a"):
        rank(["a", "a", "b", "c"], ["b", "c", "c", "b"], [1, 1, 1, 1], range(4))
    with pytest.raises(ValueError, match="one side never won: b; a"):  # ties do not bound its lead
        rank(["a"] * 3, ["b"] * 3, [1, 0, 0], range(3))
    with pytest.raises(ValueError, match="all comparisons are ties"):
        rank(["a"], ["b"], [0], [0])
    with pytest.raises(ValueError, match="each of two models"):
        rank(["a"], ["a"], [1], [0])


def test_resamples_in_which_a_model_wins_all_do_not_fail():
    outcomes = [1] * 11 + [-1]
    found = rank(["a"] * 12, ["b"] * 12, outcomes, range(12))
    assert found.ahead["a", "b"].high > 3
    assert np.isfinite(found.ahead["a", "b"].high)
    assert found.ahead["a", "b"].low < np.log(11)


def test_one_prompt_says_nothing_about_the_spread():
    found = rank(["a", "a", "a"], ["b", "b", "b"], [1, 1, -1], ["p", "p", "p"], resamples=20)
    assert found.strength["a"].high == np.inf


def test_document_is_json():
    document = json.loads(json.dumps(rank(*games(120, nu=0.3), resamples=20).document()))
    assert [model["name"] for model in document["models"]] == ["a", "b", "c", "d"]
    assert document["n"] == 120
    assert elo(0.0) == 1000
    assert elo(np.log(10)) == pytest.approx(1400)
