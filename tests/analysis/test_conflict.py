import json
import time

import numpy as np
import pytest

from vipo_cli.analysis.agreement import pair_alpha
from vipo_cli.analysis.conflict import CLASSES, About, classify, conflict
from vipo_cli.analysis.strata import Stratum

VOTES = np.array(
    [[1, 1, 1], [1, 1, -1], [-1, -1, -1], [1, 0, 1], [2, 3, 4], [-1, 1, 1], [1, -1, -1], [1, 1, 1]],
    float,
)
NAMES = ["a", "b", "c"]


def measure(votes=VOTES, labels=None, **more):
    labels = np.ones(len(votes)) if labels is None else labels
    return conflict(votes, labels, NAMES[: votes.shape[1]], range(len(votes)), **more)


def test_counts_by_hand():
    found = measure()
    assert found.unanimous.share.value == 4 / 8
    assert found.unanimous_with_label.share.value == 3 / 8
    assert found.votes == (1, 1, 3, 3)
    assert found.outvoted.value == 2 / 8
    assert found.classes == {
        "unanimous-right": 3, "unanimous-wrong": 1, "mixed": 4, "unjudged": 0
    }  # fmt: skip
    assert found.accuracy["b"].share.value == (5 + 0.5) / 8
    assert found.accuracy["b"].decided.value == 5 / 7
    assert {name: each.ties for name, each in found.accuracy.items()} == {
        "a": 0,
        "b": 1 / 8,
        "c": 0,
    }
    assert found.agreement.share[0, 1] == 5 / 8
    assert found.agreement.share[1, 2] == 6 / 8
    assert found.agreement.alpha == pytest.approx(pair_alpha(np.sign(VOTES)))


def test_levels_to_compare_with():
    found = measure()
    assert (found.unanimous.chance, found.unanimous_with_label.chance) == (2 / 8, 1 / 8)
    right = 6 / 8 * 5 / 8 * 5 / 8
    assert found.unanimous_with_label.independent == pytest.approx(right)
    assert found.unanimous.independent == pytest.approx(right + 2 / 8 * 2 / 8 * 3 / 8)


def test_published_accuracies_give_the_published_independent_level():
    rng = np.random.default_rng(0)
    rates = np.array([0.80, 0.69, 0.61, 0.55, 0.61])
    votes = np.where(rng.random((200_000, 5)) < rates, 1.0, -1.0)
    found = conflict(votes, np.ones(len(votes)), list("abcde"), np.arange(len(votes)))
    assert found.unanimous_with_label.independent == pytest.approx(0.113, abs=0.001)
    assert found.unanimous.independent == pytest.approx(0.117, abs=0.001)
    low, high = found.unanimous.share.low, found.unanimous.share.high
    assert low < found.unanimous.independent < high
    assert np.abs(found.agreement.kappa[0, 1] - (2 * found.agreement.share[0, 1] - 1)) < 1e-9


def test_labels_turn_margins_round():
    signs = np.array([1, -1] * 4, float)
    turned = measure(VOTES * signs[:, None], signs)
    assert turned.document() == measure().document()


def test_pairs_that_a_reward_cannot_judge_count_for_the_others():
    votes = VOTES.copy()
    votes[0, 0] = np.nan
    found = measure(votes)
    assert (found.n_pairs, found.n_complete) == (8, 7)
    assert found.unanimous.share.n == 7
    assert found.accuracy["a"].share.n == 7
    assert found.accuracy["b"].share.n == 8
    assert found.classes["unjudged"] == 1
    with pytest.raises(ValueError, match="two rewards"):
        measure(VOTES[:, :1])


def test_dominance_adds_up():
    found = measure().dominance.document()
    assert {
        "winner_dominates": 4 / 8,
        "winner_dominated": 1 / 8,
        "mixed": 3 / 8,
        "indistinguishable": 0,
        "across_dimensions": None,
    }.items() <= found.items()


def test_small_margins_do_not_dominate():
    margins = np.array([[1.0, 1.0], [1.0, -0.05], [1.0, -0.2], [-1.0, -1.0], [0.01, 0.01]])
    found = conflict(margins, np.ones(5), ["a", "b"], range(5)).dominance.rewards
    assert (found.dominates, found.dominated, found.mixed, found.equal) == (
        1 / 5,
        1 / 5,
        2 / 5,
        1 / 5,
    )
    wide = conflict(margins, np.ones(5), ["a", "b"], range(5), About(indifference=0.5))
    assert wide.dominance.rewards.dominates == 2 / 5


def test_rewards_about_one_thing_are_one_opinion():
    """Two of three are about the same; their mean decides against the third."""
    margins = np.array([[1.0, -0.4, 1.0], [1.0, 1.0, -1.0], [-0.6, -1.0, 1.0], [1.0, 1.0, 1.0]])
    about = About(dimensions={"a": "overall", "b": "overall", "c": "looks"})
    found = conflict(margins, np.ones(4), NAMES, range(4), about).dominance
    assert found.rewards.dominates == 1 / 4
    assert found.dimensions.dominates == 2 / 4
    assert found.dimensions.mixed == 2 / 4
    assert found.within["looks"].dominates == 3 / 4
    assert found.within["overall"].mixed == 1 / 4


def test_strata_split_by_category():
    by = Stratum(("x", "y", "nowhere"), np.array([0, 0, 0, 0, 1, 1, 1, -1]))
    strata = measure(
        about=About({"category": by, "same": Stratum(("one",), np.zeros(8, int))})
    ).strata
    assert list(strata) == ["category"]  # what does not divide is no stratum
    parts = strata["category"]
    assert {name: (part.pairs, part.unanimous.value) for name, part in parts.items()} == {
        "x": (4, 2 / 4),
        "y": (3, 1 / 3),
    }
    assert parts["x"].unanimous_with_label.value == 1 / 4
    assert parts["y"].outvoted.value == 1 / 3


def test_labels_that_are_ties_count_for_agreement_alone():
    labels = np.array([1, 1, 1, 1, 0, 0, 1, 1], float)
    found = measure(labels=labels)
    assert (found.n_pairs, found.n_complete, found.n_tied) == (8, 8, 2)
    assert found.unanimous.share.n == 8
    assert found.unanimous_with_label.share.n == sum(found.votes) == 6
    assert found.unanimous_with_label.share.value == 2 / 6
    assert found.accuracy["a"].share.n == 6
    # at best five of six wins are told, and no tie: those have large margins
    assert found.accuracy["a"].with_ties == (-1, 5 / 8)
    assert measure().accuracy["a"].with_ties is None
    nobody = measure(labels=np.zeros(8))
    assert nobody.unanimous_with_label.share.n == 0
    assert json.loads(json.dumps(nobody.document(), allow_nan=False))["votes"]["3"] == 0


def test_a_wider_band_makes_more_ties():
    found = measure(about=About(ties={"c": 3.0}))
    assert found.accuracy["c"].ties == 7 / 8
    assert found.unanimous.share.value == 1 / 8
    assert found.tie_bands == {"a": 1e-6, "b": 1e-6, "c": 3.0}


def test_classes():
    votes = np.array([[1, 1], [-1, -1], [1, -1], [1, 0], [1, np.nan], [1, 1]])
    kinds = classify(votes, np.array([True] * 5 + [False]))
    assert [CLASSES[kind] for kind in kinds] == [
        "unanimous-right", "unanimous-wrong", "mixed", "mixed", "unjudged", "unjudged"
    ]  # fmt: skip


def test_many_rewards_are_counted_as_few_are():
    """Beyond a number of rewards, ways to vote are sorted, not laid out in a table."""
    rng = np.random.default_rng(7)
    margins = rng.normal(size=(60, 12))
    margins[rng.random(margins.shape) < 0.02] = np.nan
    few = conflict(margins[:, :3], np.ones(60), NAMES, range(60))
    many = conflict(margins, np.ones(60), [f"r{n}" for n in range(12)], range(60))
    assert many.agreement.share[:3, :3] == pytest.approx(few.agreement.share)
    siding = (margins[~np.isnan(margins).any(1)] > 0).sum(1)
    assert many.votes == tuple(np.bincount(siding, minlength=13).tolist())


def test_document_has_the_promised_keys_and_is_json():
    document = json.loads(json.dumps(measure().document()))
    assert {
        "n_pairs", "rewards", "unanimous", "unanimous_with_label", "votes", "agreement", "kappa",
        "accuracy", "dominance", "strata", "alpha", "advice", "outvoted", "vote_entropy", "classes",
        "spearman", "reliability", "tie_bands",
    } <= document.keys()  # fmt: skip
    for key in ("unanimous", "unanimous_with_label"):
        assert {"value", "ci95", "chance"} <= document[key].keys()
    assert len(document["accuracy"]["a"]["ci95"]) == 2
    assert document["votes"] == {"0": 1, "1": 1, "2": 3, "3": 3}


@pytest.mark.parametrize(
    ("accuracy", "words", "alpha"),
    [
        ((0.65, 0.65, 0.65), "conflict-heavy", 4.0),
        ((0.5, 0.5, 0.5), "no reward predicts", 4.0),
        ((0.75, 0.75, 0.5), "mostly consistent", 1.0),
        ((0.9, 0.9, 0.5), "mostly consistent", 0.0),
        ((0.99, 0.5, 0.5), "consistent pairs", 0.0),
        ((0.995, 0.995, 0.5), "trivially separable", -0.5),
    ],
)
def test_advice(accuracy, words, alpha):
    rng = np.random.default_rng(4)
    votes = np.where(rng.permutation(4000)[:, None] / 4000 < np.array(accuracy), 1.0, -1.0)
    votes = np.stack([rng.permutation(column) for column in votes.T], 1)
    found = measure(votes)
    assert words in found.advice
    assert f"{alpha:g}" in found.advice
    assert found.alpha == alpha


def test_a_million_pairs_take_seconds():
    rng = np.random.default_rng(5)
    margins = rng.normal(size=(1_000_000, 5)).astype(np.float32)
    prompts = rng.integers(0, 60_000, 1_000_000)
    start = time.process_time()
    found = conflict(margins, np.ones(1_000_000), list("abcde"), prompts)
    assert time.process_time() - start < 5
    assert found.n_pairs == 1_000_000
