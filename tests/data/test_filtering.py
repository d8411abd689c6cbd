import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vipo_cli.data import LabelledSample, PreferencePair, RankedList
from vipo_cli.data import store as writing
from vipo_cli.data.entries import entries_of, open_entries
from vipo_cli.data.entry import Entry
from vipo_cli.data.filtering import GROUPS, Conditions, filter_entries, problems_named
from vipo_cli.data.problems import PROBLEMS
from vipo_cli.data.scores import keys_of, prompt_hash, write_scores
from vipo_cli.data.store import Store
from vipo_cli.data.stored import entries_in
from vipo_cli.errors import DataError, UnknownName, VipoError
from vipo_cli.media import content_hash, encode_png
from vipo_cli.run import finish
from vipo_cli.shapes.source import shapes


@pytest.fixture(scope="module")
def pictures():
    """Pictures of shapes, all of them different."""
    return [medium for pair in shapes(pairs=12, seed=5) for medium in pair.media]


@pytest.fixture
def store(tmp_path):
    """Return a function that keeps entries in a folder and opens them."""

    def store(*entries):
        kept = Store(tmp_path / "source", {"test": True})
        for entry in entries:
            kept.add(entry)
            kept.passed()
        kept.close()
        return open_entries(str(tmp_path / "source"))

    return store


@pytest.fixture
def filtered(tmp_path):
    """Return a function that filters: what is left, and the reasons by number of entry."""

    def filtered(entries, **conditions):
        folder = tmp_path / "kept"
        found = finish(filter_entries(entries, folder, Conditions(**conditions)))
        lines = map(json.loads, (folder / "dropped.jsonl").read_text().splitlines())
        dropped = {line["entry"]: line["reasons"] for line in lines}
        left = list(entries_in(folder))
        assert found.kept == len(left) == len(entries) - len(dropped)
        return left, dropped

    return filtered


def scored(pictures, *margins, **more):
    """Pairs of which the first medium wins, with scores of three rewards."""
    return [
        Entry(
            f"prompt {n}",
            (pictures[2 * n], pictures[2 * n + 1]),
            "a",
            scores={name: (value, 0.0) for name, value in zip("xyz", each, strict=True)},
            id=f"r{n}",
            **more,
        )
        for n, each in enumerate(margins)
    ]


MARGINS = ((1.0, 2.0, 3.0), (1.0, 1.0, -1.0), (0.0, 0.0, 1.0), (-1.0, -1.0, -1.0))


@pytest.mark.parametrize(
    ("conditions", "kept"),
    [
        ({"agree": 3}, ["r0"]),
        ({"agree": 2}, ["r0", "r1"]),
        ({"agree": 1, "rewards": ("z",)}, ["r0", "r2"]),
        ({"dominates": True}, ["r0", "r2"]),
        ({"min_margins": {"y": 1.5}}, ["r0"]),
        ({"min_margins": {"x": 0.0}}, ["r0", "r1", "r2"]),
        ({"min_margins": {"x": 0.0, "z": 1.0}, "agree": 1}, ["r0", "r2"]),
    ],
)
def test_rewards_choose(store, filtered, pictures, conditions, kept):
    left, dropped = filtered(store(*scored(pictures, *MARGINS)), **conditions)
    assert [entry.id for entry in left] == kept
    assert all(dropped.values())


def test_scores_follow_the_winner(store, filtered, pictures):
    pair = Entry("p", (pictures[0], pictures[1]), "b", scores={"x": (1.0, 2.0)})
    unscored = Entry("q", (pictures[2], pictures[3]), "a")
    left, dropped = filtered(store(pair, unscored), agree=1)
    assert [entry.prompt for entry in left] == ["p"]
    assert dropped == {1: ["fewer than 1 of 1 rewards prefer the winner"]}


def test_scores_beside_the_data_count(store, filtered, pictures, tmp_path):
    entries = store(*scored(pictures, *MARGINS))
    media = [content_hash(data) for data in pictures[:8]]
    prompts = [prompt_hash(f"prompt {n // 2}") for n in range(8)]
    values = np.array([0.0, 1, 1, 0, np.nan, 0, 5, 1])
    folder = tmp_path / "source" / "scores"
    write_scores(folder, "beside", "1", keys_of(media, prompts), values)
    left, _ = filtered(entries, agree=1, rewards=("beside",))
    assert [entry.id for entry in left] == ["r1", "r3"]


def test_scores_of_data_that_vipo_does_not_keep(filtered, pictures, tmp_path):
    pairs = [PreferencePair(f"prompt {n}", *pictures[2 * n : 2 * n + 2]) for n in range(3)]
    media = [content_hash(data) for data in pictures[:6]]
    keys = keys_of(media, [prompt_hash(f"prompt {n // 2}") for n in range(6)])
    write_scores(tmp_path / "scores", "x", "1", keys, np.array([1.0, 0, 0, 1, 3, 2]))
    left, _ = filtered(entries_of(pairs), min_margins={"x": 0.5}, scores=tmp_path / "scores")
    assert [entry.prompt for entry in left] == ["prompt 0", "prompt 2"]


def test_a_table_of_scores_counts_pairs_as_training_does(store, filtered, pictures, tmp_path):
    tie = Entry("tie", (pictures[22], pictures[23]), "tie")
    entries = store(tie, *scored(pictures, *MARGINS))
    table = tmp_path / "pairs.parquet"
    columns = {"pair": [3, 0, 1], "r_w": [2.0, 2.0, 0.0], "r_l": [1.0, 1.0, 1.0]}
    pq.write_table(pa.table(columns), table)
    left, _ = filtered(entries, min_margins={"r": 0.5}, scores=table)
    assert [entry.id for entry in left] == ["r0", "r3"]


def test_a_table_of_votes_says_what_is_a_tie(store, filtered, pictures, tmp_path):
    """As `vipo analyze conflict` writes them: its ties, and columns that are no rewards."""
    table = tmp_path / "pairs.parquet"
    columns = {
        "pair": [0, 1, 2, 3],
        "r_w": [2.0, 2.0, 2.0, 2.0],
        "r_l": [1.0, 1.9, 3.0, 1.0],
        "r_margin": [1.0, 0.1, -1.0, 1.0],
        "r_vote": pa.array([1, 0, -1, None], pa.int8()),
        "s_margin": [1.0, 1.0, 1.0, 1.0],
        "winner_probability": [1.0, 1.0, 1.0, 1.0],
    }
    pq.write_table(pa.table(columns), table)
    entries = store(*scored(pictures, *MARGINS))
    _, dropped = filtered(entries, agree=2, rewards=("r", "s"), scores=table)
    assert sorted(dropped) == [1, 2]
    with pytest.raises(DataError, match="scores of 5 are known") as caught:
        finish(filter_entries(entries, tmp_path / "x", Conditions(agree=6, scores=table)))
    assert {*caught.value.details} == {*"rsxyz"}


@pytest.mark.parametrize(("ties", "kept"), [(b"keep", ["p1"]), (b"drop", ["p2"])])
def test_a_table_says_whether_it_counts_ties(store, filtered, pictures, tmp_path, ties, kept):
    entries = store(
        Entry("p0", (pictures[0], pictures[1]), "tie"),
        Entry("p1", (pictures[2], pictures[3]), "a"),
        Entry("p2", (pictures[4], pictures[5]), "b"),
    )
    table = pa.table({"pair": [1], "r": [1.0]}).replace_schema_metadata({b"vipo.ties": ties})
    pq.write_table(table, tmp_path / "pairs.parquet")
    left, _ = filtered(entries, agree=1, scores=tmp_path / "pairs.parquet")
    assert [entry.prompt for entry in left] == kept


def test_a_table_of_margins_for_every_pair(store, filtered, pictures, tmp_path):
    table = tmp_path / "pairs.parquet"
    pq.write_table(pa.table({"r": [1.0, -1.0, 1.0, -1.0]}), table)
    left, _ = filtered(store(*scored(pictures, *MARGINS)), agree=1, rewards=("r",), scores=table)
    assert [entry.id for entry in left] == ["r0", "r2"]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"pair": [7], "r": [1.0]}, "is not about these pairs"),
        ({"pair": [-1], "r": [1.0]}, "is not about these pairs"),
        ({"r": [1.0]}, "is not about these pairs"),
        ({"pair": [0], "name": ["r"]}, "holds no scores"),
    ],
)
def test_a_table_of_other_pairs_is_refused(store, pictures, tmp_path, columns, words):
    table = tmp_path / "pairs.parquet"
    pq.write_table(pa.table(columns), table)
    entries = store(*scored(pictures, *MARGINS))
    with pytest.raises(DataError, match=words):
        finish(filter_entries(entries, tmp_path / "x", Conditions(agree=1, scores=table)))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("conditions", "error", "words"),
    [
        ({"agree": 4}, DataError, "4 rewards cannot agree: scores of 3 are known"),
        ({"min_margins": {"w": 0.0}}, UnknownName, "unknown reward `w`"),
        ({"min_margins": {"x": 9.0}}, DataError, "nothing is left of 4 pairs"),
        ({"balance": "category"}, DataError, "no entry says its category"),
        ({"agree": 1, "scores": "no"}, DataError, "no such file or folder"),
    ],
)
def test_what_cannot_be_asked_is_told(store, pictures, tmp_path, conditions, error, words):
    if "scores" in conditions:
        conditions = conditions | {"scores": tmp_path / "no"}
    with pytest.raises(error, match=words):
        entries = store(*scored(pictures, *MARGINS))
        finish(filter_entries(entries, tmp_path / "x", Conditions(**conditions)))
    assert not (tmp_path / "x").exists()


def test_no_scores_at_all(tmp_path):
    with pytest.raises(DataError, match="no scores to choose by") as caught:
        finish(filter_entries(entries_of(shapes(pairs=2)), tmp_path / "x", Conditions(agree=1)))
    assert "vipo data score" in caught.value.hint


def test_each_problem_can_be_dropped(store, filtered, pictures):
    good = [Entry(f"good {n}", (pictures[2 * n], pictures[2 * n + 1]), "a") for n in range(3)]
    flat = encode_png(np.zeros((32, 32, 3), np.uint8))
    bad = {
        "broken media": Entry("p", (pictures[8][:200], pictures[9]), "a"),
        "blank media": Entry("q", (pictures[8], flat), "a"),
        "GenEval prompt": Entry("a photo of a bench", (pictures[8], pictures[9]), "a"),
        "leaked prompt": Entry("Held back!", (pictures[8], pictures[9]), "a"),
        "duplicate pair": good[1],
        "tie": Entry("r", (pictures[8], pictures[9]), "tie"),
        "no label": Entry("r", (pictures[10], pictures[9]), "none"),
    }
    entries = store(*good, *bad.values())
    names = "broken,leaked,duplicates,tie,no-label"
    against = frozenset({"held back"})
    left, dropped = filtered(entries, drop=problems_named(names), against=against)
    assert [entry.prompt for entry in left] == [entry.prompt for entry in good]
    assert list(dropped.values()) == [[problem] for problem in bad]


def test_duplicates_are_looked_for_among_what_is_left(store, filtered, pictures):
    both = (pictures[0], pictures[1])
    unsure = Entry("p", both, "a", probability=0.6)
    sure = Entry("p", both, "a", probability=0.9)
    other = Entry("p", both, "a", probability=0.95)
    left, dropped = filtered(
        store(unsure, sure, other), drop=("duplicate pair",), min_probability=0.8
    )
    assert [entry.probability for entry in left] == [0.9]
    assert dropped == {0: ["probability below 0.8"], 2: ["duplicate pair"]}


def test_all_sides_of_a_contradiction_go(store, filtered, pictures):
    both = (pictures[0], pictures[1])
    entries = [Entry("p", both, "a"), Entry("p", both, "b"), Entry("q", both, "b")]
    left, dropped = filtered(store(*entries), drop=problems_named("contradictions"))
    assert [entry.prompt for entry in left] == ["q"]
    assert dropped.keys() == {0, 1}


def test_circles_go_and_what_leads_to_them_stays(store, filtered, pictures):
    a, b, c, d = pictures[:4]
    pairs = [(a, b), (b, c), (c, a), (a, d)]
    entries = [Entry("p", pair, "a") for pair in pairs]
    entries += [Entry("q", pair, "a") for pair in pairs[:2]]
    left, dropped = filtered(store(*entries), drop=("circular preferences",))
    assert dropped == {number: ["circular preferences"] for number in (0, 1, 2)}
    assert len(left) == 3


def test_sizes(store, filtered, pictures):
    def grey(width, height, value):
        return encode_png(np.full((height, width, 3), value, np.uint8))

    entries = [
        Entry("small", (grey(60, 90, 1), pictures[0]), "a"),
        Entry("long", (grey(70, 300, 2), grey(70, 300, 3)), "a"),
        Entry("good", (grey(64, 64, 4), grey(64, 100, 5)), "a"),
    ]
    left, dropped = filtered(store(*entries), min_side=64, max_aspect=2)
    assert [entry.prompt for entry in left] == ["good"]
    assert dropped == {
        0: ["a side below 64 pixels"],
        1: ["longer than 2 times its width or height"],
    }


@pytest.mark.parametrize("most", [None, 2])
def test_categories_are_balanced(store, filtered, pictures, most):
    names = ["text"] * 5 + ["portrait"] * 3 + ["other"] + [None]
    entries = [
        Entry(f"p{n}", (pictures[2 * n], pictures[2 * n + 1]), "a", category=name)
        for n, name in enumerate(names)
    ]
    left, dropped = filtered(store(*entries), balance="category", at_most=most)
    counts = {name: [e.category for e in left].count(name) for name in ("text", "portrait")}
    assert counts == dict.fromkeys(("text", "portrait"), most or 1)
    assert dropped[9] == ["has no category"]
    assert [entry.prompt for entry in left] == sorted(entry.prompt for entry in left)


def test_the_balance_is_drawn_by_the_seed(store, tmp_path, pictures):
    entries = store(
        *(
            Entry(
                f"p{n}", (pictures[2 * n], pictures[2 * n + 1]), "a", metadata={"kind": "ab"[n > 7]}
            )
            for n in range(10)
        )
    )
    kept = []
    for number, seed in enumerate((0, 0, 1)):
        folder = tmp_path / str(number)
        finish(filter_entries(entries, folder, Conditions(balance="kind", seed=seed)))
        kept.append([entry.prompt for entry in entries_in(folder)])
    assert kept[0] == kept[1] != kept[2]
    assert [len(each) for each in kept] == [4, 4, 4]


def test_nothing_is_lost_on_the_way(store, filtered, pictures):
    entry = Entry(
        "p",
        (pictures[0], pictures[1]),
        "b",
        votes=(1.0, 3.0),
        models=("one", None),
        dimensions={"text": "a"},
        scores={"x": (0.5, 1.5)},
        annotator="z",
        seeds=(1, 2),
        noise_seeds=(3, None),
        metadata={"more": [1]},
    )
    tie = Entry("q", (pictures[2], pictures[3]), "tie")
    unlabelled = Entry("r", (pictures[2], pictures[3]), "none")
    left, _ = filtered(store(entry, tie, unlabelled), drop=("broken media",))
    assert left == [entry, tie, unlabelled]


@pytest.mark.parametrize("kind", [RankedList, LabelledSample])
def test_lists_and_labels_are_filtered_too(filtered, pictures, kind):
    records = [
        RankedList(f"p{n}", tuple(pictures[3 * n : 3 * n + 3]))
        if kind is RankedList
        else LabelledSample(f"p{n}", pictures[n], liked=bool(n % 2))
        for n in (0, 1, 1)
    ]
    left, dropped = filtered(entries_of(records), drop=problems_named("duplicates,broken"))
    assert [entry.prompt for entry in left] == ["p0", "p1"]
    assert dropped == {2: ["duplicate pair"]}


def test_rewards_need_pairs(tmp_path, pictures):
    entries = entries_of([RankedList("p", tuple(pictures[:3]))])
    with pytest.raises(DataError, match="rewards agree on pairs, and the data set holds ranked"):
        finish(filter_entries(entries, tmp_path / "x", Conditions(agree=1)))


def test_an_interrupted_filter_goes_on_and_ends_the_same(store, tmp_path, pictures, monkeypatch):
    monkeypatch.setattr(writing, "SHARD_BYTES", 2_000)
    monkeypatch.setattr(writing, "GROUP_BYTES", 1_000)
    entries = store(
        *(Entry(f"p{n}", (pictures[2 * n], pictures[2 * n + 1]), "a") for n in range(12)),
        Entry("p3", (pictures[6], pictures[7]), "a"),
    )
    conditions = Conditions(drop=("duplicate pair",))
    finish(filter_entries(entries, tmp_path / "once", conditions))
    for step in filter_entries(entries, tmp_path / "twice", conditions):
        if (step.stage, step.done) == ("write", 9):
            break
    assert not (tmp_path / "twice" / "manifest.json").exists()
    finish(filter_entries(entries, tmp_path / "twice", conditions))
    files = sorted(file.name for file in (tmp_path / "once").iterdir())
    assert files == sorted(file.name for file in (tmp_path / "twice").iterdir())
    assert len(files) > 4
    for name in files:
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "twice" / name).read_bytes()
    with pytest.raises(VipoError, match="holds a data set already"):
        finish(filter_entries(entries, tmp_path / "twice", conditions))


def test_problems_have_names():
    assert problems_named(" duplicate-pair,Tie ") == ("duplicate pair", "tie")
    assert problems_named("") == ()
    assert {name for names in GROUPS.values() for name in names} <= PROBLEMS.keys()
    with pytest.raises(UnknownName, match="unknown problem `dupes`"):
        problems_named("dupes")
