import math
from dataclasses import replace
from pathlib import Path

import pytest

from vipo_cli.data.entry import Entry, entry_of, expand, record_of, winner_probability
from vipo_cli.data.record import LabelledSample, PreferencePair, RankedList
from vipo_cli.errors import DataError

PAIR = Entry("p", (b"A", b"B"), "a")
LIST = Entry("p", (b"A", b"B", b"C"), "ranked", id="x", weight=6.0)


def test_the_winner_of_a_record_is_the_medium_that_the_label_names():
    said = replace(
        PAIR,
        models=("one", "two"),
        scores={"r": (1.0, 2.0)},
        noise_seeds=(None, 7),
        regions=(b"RA", b"RB"),
        category="c",
    )
    first, second = record_of(said), record_of(replace(said, label="b"))
    assert (first.winner, first.loser, second.winner, second.loser) == (b"A", b"B", b"B", b"A")
    assert second.metadata == {
        "category": "c", "model_w": "two", "model_l": "one", "r_w": 2.0, "r_l": 1.0,
    }  # fmt: skip
    assert (first.noise_seeds, second.noise_seeds) == ((-1, 7), (7, -1))
    assert (first.regions, second.regions) == ((b"RA", b"RB"), (b"RB", b"RA"))


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, 1.0),
        ({"label": "tie"}, 0.5),
        ({"label": "tie", "probability": 0.9}, 0.5),
        ({"probability": 0.7}, 0.7),
        ({"label": "b", "probability": 0.7}, 0.7),
        ({"votes": (3.0, 1.0)}, 0.75),
        ({"label": "b", "votes": (1.0, 3.0)}, 0.75),
        ({"votes": (0.0, 0.0)}, 1.0),
        ({"votes": (3.0, 1.0), "probability": 0.6}, 0.6),
    ],
)
def test_probability_is_that_of_the_label(said, expected):
    assert winner_probability(replace(PAIR, **said)) == expected
    assert record_of(replace(PAIR, **said)).probability == expected


def test_a_pair_without_a_label_makes_no_record():
    with pytest.raises(DataError, match="has no label"):
        record_of(replace(PAIR, label="none"))


def test_a_list_is_ordered_by_its_ranks_and_else_as_it_is():
    assert record_of(LIST).media == (b"A", b"B", b"C")
    assert record_of(replace(LIST, ranks=(3.0, 1.0, 2.0))).media == (b"B", b"C", b"A")


def test_samples_say_whether_they_were_liked():
    liked, disliked = (record_of(Entry("p", (b"A",), label)) for label in ("liked", "disliked"))
    assert (liked.liked, disliked.liked) == (True, False)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("all", [(b"B", b"C"), (b"B", b"A"), (b"C", b"A")]),
        ("adjacent", [(b"B", b"C"), (b"C", b"A")]),
        ("extremes", [(b"B", b"A")]),
    ],
)
def test_a_ranking_expands_to_pairs_that_share_its_weight(how, expected):
    ranked = replace(LIST, ranks=(3.0, 1.0, 2.0), scores={"r": (1.0, 2.0, 3.0)}, seeds=(1, 2, 3))
    found = list(expand(ranked, how))
    assert [entry.media for entry in found] == expected
    assert {entry.label for entry in found} == {"a"}
    assert sum(entry.weight for entry in found) == pytest.approx(6.0)
    assert [entry.id for entry in found] == [f"x.{n}" for n in range(len(expected))]
    places = {b"A": 0, b"B": 1, b"C": 2}
    for entry in found:
        one, other = (places[medium] for medium in entry.media)
        assert entry.scores == {"r": (one + 1.0, other + 1.0)}
        assert entry.seeds == (one + 1, other + 1)
        assert not entry.problem()


def test_equal_ranks_make_ties():
    found = list(expand(replace(LIST, ranks=(1.0, 2.0, 1.0)), "all"))
    assert [(entry.media, entry.label) for entry in found] == [
        ((b"A", b"C"), "tie"),
        ((b"A", b"B"), "a"),
        ((b"C", b"B"), "a"),
    ]


@pytest.mark.parametrize("how", ["all", "adjacent", "extremes"])
@pytest.mark.parametrize(
    "said",
    [
        {"media": ()},
        {"media": (b"A",)},
        {"ranks": (1.0,)},
        {"seeds": (1, 2)},
        {"scores": {"r": ()}},
    ],
)
def test_a_list_that_cannot_be_used_stays_whole(how, said):
    broken = replace(LIST, **said)
    assert list(expand(broken, how)) == [broken]


def test_only_rankings_expand():
    judged_by_nobody = replace(LIST, label="candidates")
    for entry in (PAIR, judged_by_nobody):
        assert list(expand(entry, "all")) == [entry]
    assert list(expand(LIST, "none")) == [LIST]


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"prompt": " \n"}, "empty prompt"),
        ({"prompt": "x" * 10_000}, "prompt of 10,000 characters or more"),
        ({"prompt": "\ud800"}, "text that is not Unicode"),
        ({"prompt": "a\0b"}, "prompt with a NUL in it"),
        ({"id": "\udfff"}, "text that is not Unicode"),
        ({"models": ("\ud800", None)}, "text that is not Unicode"),
        ({"dimensions": {"\ud800": "a"}}, "text that is not Unicode"),
        ({"scores": {"\ud800": (1.0, 2.0)}}, "text that is not Unicode"),
        ({"media": (b"A", b"")}, "missing medium"),
        ({"media": (b"A",)}, "wrong number of media for a pair"),
        ({"media": (b"A", b"B", b"C")}, "wrong number of media for a pair"),
        ({"votes": (1.0,)}, "what is said of the media is not said of each"),
        ({"scores": {"r": (1.0,)}}, "what is said of the media is not said of each"),
        ({"probability": 1.5}, "probability outside 0 to 1"),
        ({"probability": math.nan}, "probability outside 0 to 1"),
        ({"weight": -1.0}, "weight that is no number of at least 0"),
        ({"weight": math.inf}, "weight that is no number of at least 0"),
        ({"votes": (math.nan, 1.0)}, "votes that are no numbers of at least 0"),
        ({"scores": {"r": (1.0, math.inf)}}, "scores that are no finite numbers"),
        ({"seeds": (-1, 2)}, "seeds that are no whole numbers of 63 bits"),
        ({"noise_seeds": (None, 2**63)}, "seeds that are no whole numbers of 63 bits"),
        ({"media": (b"A", b"A")}, "winner and loser are the same file"),
    ],
)
def test_each_problem_has_its_words(said, problem):
    assert PAIR.problem() == ""
    assert replace(PAIR, **said).problem() == problem


@pytest.mark.parametrize("rank", [math.nan, math.inf])
def test_ranks_are_finite(rank):
    assert replace(LIST, ranks=(1.0, 2.0, rank)).problem() == "ranks that are no finite numbers"


def test_a_tie_of_one_file_with_itself_is_no_problem():
    assert not replace(PAIR, media=(b"A", b"A"), label="tie").problem()


@pytest.mark.parametrize(
    "record",
    [
        PreferencePair("p", b"W", b"L", {"id": "7", "note": "x"}, 0.5, 0.75),
        PreferencePair("p", b"W", b"L", probability=0.5),
        PreferencePair("p", b"W", b"L", noise_seeds=(-1, 3), regions=(None, b"R")),
        RankedList("p", (b"A", b"B", b"C"), {"source": "s"}),
        LabelledSample("p", b"A", False, {"category": "c"}, 2.0),
        LabelledSample("p", Path("x.png"), True),
    ],
)
def test_a_record_survives_as_an_entry(record):
    entry = entry_of(record)
    assert not entry.problem()
    assert record_of(entry) == record


def test_dimensions_of_a_record_name_winner_and_loser():
    shown = Entry("p", (b"one", b"two"), "b", dimensions={"motion": "a", "text": "b", "x": "tie"})
    said = record_of(shown).metadata["dimensions"]
    assert said == {"motion": "loser", "text": "winner", "x": "tie"}
    turned = record_of(replace(shown, label="a")).metadata["dimensions"]
    assert turned == {"motion": "winner", "text": "loser", "x": "tie"}
