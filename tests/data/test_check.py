import pytest

from vipo_cli.data import LabelledSample, PreferencePair, RankedList
from vipo_cli.data.check import check
from vipo_cli.data.preview import preview
from vipo_cli.data.stats import statistics
from vipo_cli.errors import DataError
from vipo_cli.media import decode, encode_png
from vipo_cli.run import finish
from vipo_cli.shapes.source import shapes


def found(pairs):
    return {finding.problem: finding for finding in finish(check(pairs)).found}


def test_good_pairs_have_no_findings():
    findings = finish(check(shapes(pairs=12)))
    assert findings.found == ()
    assert not findings.serious


@pytest.fixture
def sides(columns):
    return columns["jpg_0"][0], columns["jpg_1"][0]


@pytest.mark.parametrize(
    ("problem", "serious"),
    [
        ("broken media", True),
        ("broken region map", True),
        ("winner equals loser", True),
        ("repeated in a list", True),
        ("improbable winner", True),
        ("contradicting labels", True),
        ("duplicate pair", False),
        ("empty prompt", True),
        ("endless prompt", True),
        ("long prompt", False),
        ("different sizes", False),
    ],
)
def test_finds_each_problem(sides, problem, serious):
    import numpy as np

    w, l = sides  # noqa: E741
    pairs = {
        "broken media": [PreferencePair("p", w[:200], l)],
        "broken region map": [PreferencePair("p", w, l, regions=(None, b"m"))],
        "winner equals loser": [PreferencePair("p", w, w)],
        "repeated in a list": [RankedList("p", (w, l, w))],
        "improbable winner": [PreferencePair("p", w, l, probability=0.25)],
        "contradicting labels": [PreferencePair("p", w, l), PreferencePair("p", l, w)],
        "duplicate pair": [PreferencePair("p", w, l), PreferencePair("p", w, l)],
        "empty prompt": [PreferencePair(" ", w, l)],
        "endless prompt": [PreferencePair("x" * 10_000, w, l)],
        "long prompt": [PreferencePair("x" * 400, w, l)],
        "different sizes": [
            PreferencePair("p", w, encode_png(np.asarray(decode(l).resize((48, 40)))))
        ],
    }[problem]
    findings = found(pairs)
    assert list(findings) == [problem]
    assert findings[problem].count == 1
    assert findings[problem].serious is serious
    assert " 0" in findings[problem].examples[0]
    assert findings[problem].meaning


def test_the_same_media_for_another_prompt_are_another_pair(sides):
    w, l = sides  # noqa: E741
    assert found([PreferencePair("p", w, l), PreferencePair("q", l, w)]) == {}


def test_lists_and_labels_are_compared_with_their_like(sides):
    w, l = sides  # noqa: E741
    lists = [RankedList("p", (w, l)), RankedList("p", (l, w)), RankedList("p", (w, l))]
    assert {key: finding.count for key, finding in found(lists).items()} == {
        "contradicting labels": 1,
        "duplicate pair": 1,
    }
    labels = [LabelledSample("p", w, liked=liked) for liked in (True, False)]
    (finding,) = found(labels).values()
    assert finding.examples == ["labelled sample 1 and labelled sample 0"]
    (short,) = found([RankedList("p", (w,))]).values()
    assert short.examples == ["ranked list 0, a ranked list of 1: two or more are needed"]


def test_no_pairs_are_an_error():
    for look in (check, statistics):
        with pytest.raises(DataError):
            finish(look([]))


def test_statistics_count():
    counts = finish(statistics(shapes(pairs=12)))
    assert counts.pairs == 12
    assert sum(counts.sizes.values()) == 24
    assert counts.formats == {"PNG": 24}
    assert len(counts.categories) == 6
    assert counts.unreadable == 0


def test_statistics_count_labels(sides):
    w, l = sides  # noqa: E741
    pairs = [
        PreferencePair("p", w, l, probability=0.5, noise_seeds=(1, 2)),
        PreferencePair("p", w, l, probability=0.75, weight=2, regions=(b"m", None)),
        PreferencePair("p", w),
    ]
    counts = finish(statistics(pairs))
    assert (counts.kind, counts.singles) == ("pair", 1)
    assert counts.labels == dict.fromkeys(
        ("tie", "noise seeds", "weighted", "uncertain", "region maps"), 1
    )
    lists = finish(statistics(shapes(kind="ranked", pairs=5)))
    assert (lists.kind, lists.singles, lists.labels) == ("ranked list", 0, {"4 ranks": 5})
    assert sum(lists.sizes.values()) == 20
    assert finish(statistics(shapes(kind="labelled", pairs=9))).labels.keys() == {
        "liked",
        "disliked",
    }


def test_preview_shows_lists_and_labelled_samples():
    widths = [preview(shapes(kind=kind, pairs=2)).width for kind in ("labelled", "clean", "ranked")]
    assert widths == sorted(widths)
    assert widths[0] < widths[1] < widths[2]


def test_preview_shows_broken_and_single_pairs_too(sides):
    sheet = preview([PreferencePair("p", *sides), PreferencePair("long " * 80, b"x")])
    assert sheet.width > sheet.height
