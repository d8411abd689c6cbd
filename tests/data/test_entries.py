import pytest

from vipo_cli.data import PreferencePair
from vipo_cli.data.entries import entries_of, entry_at, left_out_before, lifted, open_entries
from vipo_cli.data.entry import Entry
from vipo_cli.data.lazy import Subset
from vipo_cli.data.store import Store
from vipo_cli.data.stored import open_stored

MEDIA = (b"first", b"second")


@pytest.fixture
def folder(tmp_path):
    """A data set in which a tie and a pair without a label stand between two others."""
    store = Store(tmp_path / "set", {})
    for number, label in enumerate(("a", "tie", "none", "b")):
        store.add(Entry(f"p{number}", MEDIA, label, id=f"r{number}", seeds=(number, None)))
        store.passed()
    store.leave_out("not JSON")
    store.close()
    return tmp_path / "set"


def test_everything_that_is_kept_is_an_entry(folder):
    entries = open_entries(str(folder))
    assert (len(entries), entries.kind, entries.folder) == (4, "pair", folder)
    assert [entry.label for entry in entries] == ["a", "tie", "none", "b"]
    assert [entry.id for entry in entries.after(2)] == ["r2", "r3"]
    assert entries.left_out == left_out_before(str(folder)) == {"not JSON": 1}
    some = open_entries(str(folder), limit=3)
    assert ([entry.id for entry in some], some.folder) == (["r0", "r1", "r2"], None)


def test_records_keep_what_their_source_says(folder):
    records = open_stored(folder)
    assert entry_at(records, 1).seeds == (3, None)
    assert entry_at(Subset(records, [1]), 0) == entry_at(records, 1)
    assert entry_at(records, 1).label == "b"


def test_ties_stay_unless_told_otherwise(tmp_path):
    (tmp_path / "pairs.csv").write_text(
        "prompt,winner,loser,probability\np,a.png,b.png,0.5\nq,a.png,b.png,0.7\n"
    )
    for side in "ab":
        (tmp_path / f"{side}.png").write_bytes(side.encode())
    name = str(tmp_path / "pairs.csv")
    assert [entry.label for entry in open_entries(name)] == ["tie", "a"]
    dropped = open_entries(name, {"ties": "drop"})
    assert [entry.prompt for entry in dropped] == ["q"]
    assert sum(dropped.left_out.values()) == 1
    assert len(open_entries("shapes", {"pairs": 5}, limit=3)) == 3


def test_scores_and_models_are_found_among_the_rest():
    said = {"x_w": 2.0, "x_l": 1.0, "model_w": "one", "model_l": None, "seed_w": 1, "seed_l": 2}
    (entry,) = entries_of([PreferencePair("p", *MEDIA, said)])
    assert entry.scores == {"x": (2.0, 1.0)}
    assert entry.models == ("one", None)
    assert entry.metadata == {"seed_w": 1, "seed_l": 2}


def test_scores_by_rank_and_by_place_both_end_up_in_place():
    said = {"x_w": 2.0, "x_l": 1.0, "y_0": 5.0, "y_1": 6.0, "z_a": 1.0}
    entry = lifted(Entry("p", MEDIA, "b", metadata=said))
    assert entry.scores == {"x": (1.0, 2.0), "y": (5.0, 6.0)}
    assert entry.metadata == {"z_a": 1.0}
    nan = {"x_w": float("nan"), "x_l": 1.0}
    assert lifted(Entry("p", MEDIA, "a", metadata=nan)).scores == {}


def test_what_is_no_stored_set_left_nothing_out(tmp_path):
    assert left_out_before("shapes") == left_out_before(str(tmp_path)) == {}
