import io

import numpy as np
import pytest
from PIL import Image

from vipo_cli.data import LabelledSample, PreferencePair, RankedList, census
from vipo_cli.data.check import check
from vipo_cli.data.entries import Entries
from vipo_cli.data.entry import Entry
from vipo_cli.data.preview import preview
from vipo_cli.data.stats import statistics
from vipo_cli.data.store import Store
from vipo_cli.data.stored import open_stored
from vipo_cli.errors import DataError
from vipo_cli.media import decode, encode_clip, encode_png
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


def smooth(seed, size=(64, 64), kind="PNG"):
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(buffer, format=kind)
    return buffer.getvalue()


A, B, C, D = map(smooth, range(4))
LARGE = [smooth(seed, (320, 320)) for seed in (4, 5)]
FLAT = encode_png(np.full((64, 64, 3), 90, np.uint8))


@pytest.mark.parametrize(
    ("problem", "serious", "example", "pairs"),
    [
        ("blank media", True, "pair 1", [("p", A, B), ("q", C, FLAT)]),
        ("tiny media", True, "(24x40 against 64x64)", [("p", smooth(7, (24, 40)), A)]),
        ("tiny media", True, "pair 1", [("p", *LARGE), ("q", LARGE[0], A)]),
        ("winner looks like loser", True, "pair 0", [("p", A, smooth(0, (72, 72)))]),
        (
            "near-duplicate pair",
            False,
            "1 and pair 0",
            [("p", A, B), ("p", smooth(0, (72, 72)), B)],
        ),
        ("circular preferences", False, "pair 0", [("p", A, B), ("p", B, C), ("p", C, A)]),
        ("other script", False, "\u043a\u043e\u0442", [("\u043a\u043e\u0442", A, B)]),
        ("GenEval prompt", True, "A photo of a bench!", [("A photo of a bench!", A, B)]),
        ("GenEval-like prompt", False, "", [("a photo of a cat and a dog", A, B)]),
        ("leaked prompt", True, "(Held, back)", [("Held, back", A, B)]),
    ],
)
def test_finds_what_spoils_training(problem, serious, example, pairs):
    work = check([PreferencePair(*pair) for pair in pairs], frozenset({"held back"}))
    findings = {finding.problem: finding for finding in finish(work).found}
    finding = findings.pop(problem)
    assert set(findings) <= {"different sizes"}
    assert finding.serious is serious
    assert any(example in each for each in finding.examples)
    assert finding.mend == ["--drop", problem.lower().replace(" ", "-")]


def test_a_clip_that_stands_still():
    frames = np.stack([np.asarray(decode(each)) for each in (A, B, C, D)])
    moving, frozen = encode_clip(frames, 8), encode_clip(frames[[0, 0, 0]], 8)
    assert found([PreferencePair("p", moving, frozen)]).keys() == {"frozen clip", "different sizes"}
    cut = PreferencePair("p", moving[: len(moving) // 2], moving)
    assert "broken media" in found([cut])


def test_people_may_say_the_same_twice_and_disagree():
    def said(winner, loser, annotator):
        return PreferencePair("p", winner, loser, {"annotator": annotator})

    agreed = [said(A, B, "one"), said(A, B, "two"), said(A, B, "two")]
    (finding,) = found(agreed).values()
    assert (finding.problem, finding.count) == ("duplicate pair", 1)
    (finding,) = found([said(A, B, "one"), said(B, A, "two")]).values()
    assert finding.problem == "contradicting labels"


def test_a_contradiction_is_no_circle():
    pairs = [(A, B), (B, A), (B, C), (C, B)]
    assert found([PreferencePair("p", *pair) for pair in pairs]).keys() == {"contradicting labels"}


def test_broken_media_are_told_of_once(tmp_path):
    missing = PreferencePair("p", tmp_path / "no.png", A)
    (finding,) = found([missing, missing]).values()
    assert (finding.problem, finding.count) == ("broken media", 2)
    assert "winner: cannot read" in finding.examples[0]


def test_uneven_categories():
    pairs = [
        PreferencePair(f"p{n}", smooth(2 * n), smooth(2 * n + 1), {"category": "ab"[n > 8]})
        for n in range(10)
    ]
    (finding,) = found(pairs).values()
    assert (finding.problem, finding.count) == ("category imbalance", 9)
    assert finding.examples == ["a: 9", "b: 1"]
    assert finding.mend == ["--balance", "category"]
    assert found(pairs[5:]).keys() == set()


def test_which_side_wins(tmp_path):
    store = Store(tmp_path / "set", {})
    for number in range(24):
        label = "b" if number < 22 else "a"
        store.add(Entry(f"p{number}", (smooth(2 * number), smooth(2 * number + 1)), label))
    store.close()
    (finding,) = found(open_stored(tmp_path / "set")).values()
    assert (finding.problem, finding.serious, finding.mend) == ("position bias", False, [])
    assert "8% (95 % interval" in finding.examples[0]


def test_what_was_left_out_before_is_told():
    work = check([PreferencePair("p", A, B)], left_out={"not JSON": 3})
    (finding,) = finish(work).found
    assert (finding.problem, finding.count, finding.serious) == ("left out", 3, False)
    assert finding.examples == ["3: not JSON"]


def test_media_that_come_again_are_decoded_once(monkeypatch):
    decoded = []
    monkeypatch.setattr(census, "decode", lambda data: decoded.append(data) or decode(data))
    monkeypatch.setattr(census.os, "sched_getaffinity", lambda _: {0}, raising=False)
    pairs = [PreferencePair(f"p{n}", A, each) for n, each in enumerate((B, C, D, B, C))]
    assert finish(check(pairs)).found == ()
    assert sorted(decoded) == sorted((A, B, C, D))


def test_entries_are_read_ahead_but_not_far(monkeypatch):
    monkeypatch.setattr(census.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    read = []

    def after(start):
        for number in range(start, 50):
            read.append(number)
            yield Entry(f"p{number}", (A, B), "a")

    seen = 0
    for _ in census.take_census(Entries("x", 50, "pair", after)):
        seen += 1
        assert len(read) - seen <= 5
    assert seen == 50
