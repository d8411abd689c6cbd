import numpy as np
import pytest
from scipy.stats import kendalltau

from vipo_cli.analysis.accuracy import (
    NO_TIES,
    accuracy_with_ties,
    accuracy_with_ties_as_videoalign,
    calibrate_ties,
    kendall_by_list,
    pairwise_accuracy,
    pearson,
    pickscore_accuracy,
    pickscore_protocol,
    preference_probabilities,
    ranking_accuracy_by_list,
    ranking_accuracy_pooled,
    spearman,
)

MARGINS = [2.0, -1.0, 0.5, 0.2, -0.1, 0.0]
LABELS = [1, 1, 1, 0, 0, 1]


def test_accuracy_leaves_out_ties_of_people_and_counts_those_of_the_reward_as_wrong():
    assert pairwise_accuracy(MARGINS, LABELS) == 2 / 4
    assert np.isnan(pairwise_accuracy([1.0], [0]))


def test_accuracy_with_ties_by_hand():
    assert accuracy_with_ties(MARGINS, LABELS, 0.3) == 4 / 6  # two wins and both ties
    assert accuracy_with_ties(MARGINS, LABELS, NO_TIES) == 2 / 6
    assert accuracy_with_ties(MARGINS, LABELS, 9) == 2 / 6


def test_calibration_finds_the_best_threshold_there_is():
    assert calibrate_ties(MARGINS, LABELS) == (0.2, 4 / 6)
    rng = np.random.default_rng(0)
    for _ in range(50):
        margins = rng.normal(size=30).round(1)
        labels = rng.integers(-1, 2, 30)
        best = calibrate_ties(margins, labels)
        tried = [NO_TIES, *np.unique(np.abs(margins))]
        found = [accuracy_with_ties(margins, labels, threshold) for threshold in tried]
        assert best.accuracy == pytest.approx(max(found))
        assert best.threshold == tried[int(np.argmax(found))]  # the smallest of equally good ones
        assert accuracy_with_ties(margins, labels, best.threshold) == pytest.approx(best.accuracy)


def test_no_ties_may_be_best():
    assert calibrate_ties([1.0, 2.0, -1.0], [1, 1, -1]) == (NO_TIES, 1.0)
    assert accuracy_with_ties_as_videoalign([1.0, 2.0, -1.0], [1, 1, -1]) == pytest.approx(2 / 3)


def test_videoaligns_variant_reports_what_no_threshold_reaches():
    margins, labels = [0.5, 0.5, 2.0], [0, 1, 1]
    assert calibrate_ties(margins, labels).accuracy == pytest.approx(2 / 3)
    assert accuracy_with_ties_as_videoalign(margins, labels) == 1.0
    # and on the order of the pairs its value depends
    assert accuracy_with_ties_as_videoalign([0.5, 0.5, 2.0], [1, 0, 1]) == pytest.approx(2 / 3)


def _videoalign_by_its_description(margins, labels):
    """Move one pair after another to the ties, and remember the best share that is right."""
    right = {
        row: margin * label > 0
        for row, (margin, label) in enumerate(zip(margins, labels, strict=True))
    }
    best = 0.0
    for row in sorted(range(len(margins)), key=lambda row: abs(margins[row])):
        right[row] = labels[row] == 0
        best = max(best, sum(right.values()) / len(right))
    return best


def test_videoaligns_variant_follows_its_description():
    rng = np.random.default_rng(1)
    for _ in range(50):
        margins, labels = rng.normal(size=20).round(1), rng.integers(-1, 2, 20)
        found = accuracy_with_ties_as_videoalign(margins, labels)
        assert found == pytest.approx(_videoalign_by_its_description(margins, labels))


def test_pairs_without_a_margin_are_refused():
    with pytest.raises(ValueError, match="each with a margin"):
        calibrate_ties([np.nan], [1])


def test_pickscore_counts_half_for_a_tie_on_one_side():
    probabilities = [[0.9, 0.1], [0.52, 0.48], [0.3, 0.7], [0.5, 0.5]]
    assert pickscore_accuracy(probabilities, [1, 1, 1, 0], 0.1) == (1 + 0.5 + 0 + 1) / 4
    assert pickscore_accuracy(probabilities, [1, 1, 1, 0], 0.0) == (1 + 1 + 0 + 1) / 4


def test_pickscores_threshold_is_compared_as_floats_are():
    assert pickscore_accuracy([[0.55, 0.45]], [0], 0.1) == 0.5  # 0.10000000000000003 is no tie


def test_pickscores_protocol_chooses_on_one_split_and_reports_on_another():
    validation = [[0.55, 0.45], [0.9, 0.1]], [0, 1]
    test = [[0.6, 0.4], [0.2, 0.8]], [0, -1]
    found = pickscore_protocol(validation, test)
    assert found.threshold == 0.2
    assert found.accuracy == 1.0
    # all thresholds are as good: the smallest
    assert pickscore_protocol(([[0.9, 0.1]], [0]), test).threshold == 0.8


def test_probabilities_are_a_softmax():
    found = preference_probabilities([[21.0, 20.0], [1000.0, 1000.0]])
    assert found[0, 0] == pytest.approx(1 / (1 + np.exp(-1)))
    assert found[1].tolist() == [0.5, 0.5]


SCORES = [3.0, 2.0, 1.0, 30.0, 10.0, 20.0]
RANKS = [1, 2, 3, 1, 2, 3]
LISTS = ["a", "a", "a", "b", "b", "b"]


def test_tau_is_averaged_over_lists_not_pooled():
    found = kendall_by_list(SCORES, RANKS, LISTS)
    assert found.value == pytest.approx((1 + 1 / 3) / 2)
    assert (found.n, found.n_clusters) == (2, 2)
    assert kendalltau(SCORES, np.negative(RANKS)).statistic < 0.8
    constant = kendall_by_list([*SCORES, 5.0, 5.0], [*RANKS, 1, 2], [*LISTS, "c", "c"])
    assert constant.value == found.value


def test_tau_b_knows_ties():
    found = kendall_by_list([3.0, 2.0, 2.0, 1.0], [1, 2, 2, 3], ["a"] * 4)
    assert found.value == 1


def test_ranking_accuracy_of_the_two_protocols():
    scores, ranks = [*SCORES, 1.0, 2.0, 3.0], [*RANKS, 1, 1, 2]
    lists = [*LISTS, "c", "c", "c"]
    # list c: one pair of equal rank, and two in the wrong order
    assert ranking_accuracy_by_list(scores, ranks, lists) == pytest.approx((1 + 2 / 3 + 1 / 3) / 3)
    assert ranking_accuracy_pooled(scores, ranks, lists) == pytest.approx((3 + 2) / 8)


def test_correlations():
    a, b = [1.0, 2.0, 3.0, 4.0], [1.0, 4.0, 9.0, 16.0]
    assert spearman(a, b) == pytest.approx(1)
    assert pearson(a, b) == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert np.isnan(pearson(a, [1, 1, 1, 1]))
