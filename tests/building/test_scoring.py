import numpy as np
import pytest

from vipo_cli.building import scoring
from vipo_cli.building.scoring import score_records, score_stored
from vipo_cli.data.entry import Entry
from vipo_cli.data.record import PreferencePair
from vipo_cli.data.scores import keys_of, media_keys, prompt_hash, stored_scores
from vipo_cli.errors import MissingWeights, UnknownName, VipoError
from vipo_cli.media import content_hash
from vipo_cli.rewards import rewards
from vipo_cli.run import finish


class Ruler:
    """Scores the length of a medium; cannot judge media that begin with `?`."""

    dimension = "length"

    def __init__(self, name="ruler", identity="1"):
        self.name = name
        self.fingerprint = identity
        self.seen = []

    def score(self, media, prompts):
        self.seen += zip(media, prompts, strict=True)
        lengths = [float("nan") if data[:1] == b"?" else float(len(data)) for data in media]
        return np.array(lengths)


@pytest.fixture
def ruler(monkeypatch):
    made = Ruler()
    monkeypatch.setitem(rewards._loaded, "ruler", lambda: made)
    return made


ENTRIES = (
    Entry("x", (b"a", b"bb"), "a"),
    Entry("x", (b"bb", b"ccc"), "tie"),
    Entry("y", (b"a", b"?"), "none"),
)


def test_a_medium_is_scored_once_for_each_prompt(keep, ruler, tmp_path):
    data = keep(ENTRIES)
    found = finish(score_stored(data, ["ruler"], data / "scores"))
    assert sorted(ruler.seen) == [
        (b"?", "y"), (b"a", "x"), (b"a", "y"), (b"bb", "x"), (b"ccc", "x"),
    ]  # fmt: skip
    assert (found.media, found.distinct, found.unreadable) == (6, 5, 0)
    scores = found.rewards["ruler"]
    assert (scores.new, scores.known, scores.unjudged) == (5, 0, 1)
    assert (scores.mean, scores.low, scores.high) == (1.75, 1.0, 3.0)
    stored = stored_scores(data / "scores")["ruler"]
    np.testing.assert_array_equal(stored.of(media_keys(data)), [1, 2, 2, 3, 1, np.nan])


def test_what_was_scored_before_is_not_read_again(keep, ruler):
    data = keep(ENTRIES)
    finish(score_stored(data, ["ruler"], data / "scores"))
    ruler.seen.clear()
    again = finish(score_stored(data, ["ruler"], data / "scores")).rewards["ruler"]
    assert ruler.seen == []
    assert (again.new, again.known, again.unjudged, again.mean) == (0, 5, 1, 1.75)


def test_a_killed_scoring_goes_on_where_its_last_shard_ended(keep, ruler, monkeypatch):
    monkeypatch.setattr(scoring, "BATCH", 1)
    monkeypatch.setattr(scoring, "SHARD_ROWS", 2)
    data = keep(ENTRIES)
    work = score_stored(data, ["ruler"], data / "scores")
    while len(ruler.seen) < 3:
        next(work)
    work.close()
    ruler.seen.clear()
    found = finish(score_stored(data, ["ruler"], data / "scores")).rewards["ruler"]
    assert len(ruler.seen) == 3
    assert (found.new, found.known) == (3, 2)


def test_another_fingerprint_is_scored_anew(keep, ruler):
    data = keep(ENTRIES)
    finish(score_stored(data, ["ruler"], data / "scores"))
    ruler.fingerprint = "2"
    assert finish(score_stored(data, ["ruler"], data / "scores")).rewards["ruler"].new == 5


def test_each_reward_gets_what_it_lacks(keep, ruler, monkeypatch):
    other = Ruler("other")
    monkeypatch.setitem(rewards._loaded, "other", lambda: other)
    data = keep(ENTRIES)
    finish(score_stored(data, ["ruler"], data / "scores", limit=1))
    assert len(ruler.seen) == 2
    ruler.seen.clear()
    found = finish(score_stored(data, ["ruler", "other"], data / "scores"))
    assert (len(ruler.seen), len(other.seen)) == (3, 5)
    assert (found.rewards["ruler"].known, found.rewards["other"].known) == (2, 0)


def test_the_media_themselves_are_not_written_again(keep, ruler):
    data = keep(ENTRIES)
    before = {file: file.read_bytes() for file in data.iterdir()}
    finish(score_stored(data, ["ruler"], data / "scores"))
    assert {file: file.read_bytes() for file in data.iterdir() if file.is_file()} == before


def test_groups_of_rows_without_anything_new_are_not_read(keep, ruler, monkeypatch):
    from vipo_cli.data import store

    monkeypatch.setattr(store, "GROUP_ROWS", 1)
    data = keep(ENTRIES)
    finish(score_stored(data, ["ruler"], data / "scores", limit=2))
    read = []
    plain = scoring.entry_in
    monkeypatch.setattr(
        scoring, "entry_in", lambda row, folder: read.append(row["prompt"]) or plain(row, folder)
    )
    finish(score_stored(data, ["ruler"], data / "scores"))
    assert read == ["y"]


def test_a_linked_medium_that_is_gone_is_counted(tmp_path, ruler):
    from vipo_cli.data.store import Store

    file = tmp_path / "a.png"
    file.write_bytes(b"aaaa")
    store = Store(tmp_path / "set", {}, link=True)
    store.add(Entry("x", (file, b"bb"), "a"))
    store.passed()
    store.close()
    file.unlink()
    found = finish(score_stored(tmp_path / "set", ["ruler"], tmp_path / "scores"))
    assert found.unreadable == 1
    assert found.rewards["ruler"].new == 1


def test_any_records_can_be_scored_to_a_folder(tmp_path, ruler):
    file = tmp_path / "medium"
    file.write_bytes(b"ccc")
    records = [
        PreferencePair("x", b"a", b"bb"),
        PreferencePair("x", b"bb", file),
        PreferencePair("x", tmp_path / "gone", b"a"),
    ]
    found = finish(score_records(records, ["ruler"], tmp_path / "scores"))
    assert sorted(ruler.seen) == [(b"a", "x"), (b"bb", "x"), (b"ccc", "x")]
    assert (found.media, found.distinct, found.unreadable) == (5, 3, 1)
    key = keys_of([content_hash(b"bb")], [prompt_hash("x")])
    assert stored_scores(tmp_path / "scores")["ruler"].of(key).tolist() == [2.0]
    ruler.seen.clear()
    again = finish(score_records(records, ["ruler"], tmp_path / "scores"))
    assert ruler.seen == []
    assert (again.rewards["ruler"].new, again.rewards["ruler"].known) == (0, 3)


def test_processes_share_media_by_content(keep, ruler, monkeypatch):
    data = keep([Entry("x", (bytes([n]) * 3, bytes([n, 1])), "a") for n in range(2, 30)])
    shares = []
    for rank in range(3):
        monkeypatch.setattr(scoring, "is_mine", lambda number, rank=rank: number % 3 == rank)
        ruler.seen.clear()
        finish(score_stored(data, ["ruler"], data / f"scores-{rank}"))
        shares.append({data for data, _ in ruler.seen})
    assert all(len(share) > 5 for share in shares)
    assert len(set().union(*shares)) == sum(map(len, shares)) == 56


def test_a_data_set_without_entries_has_nothing_to_score(keep, ruler):
    data = keep([])
    found = finish(score_stored(data, ["ruler"], data / "scores"))
    assert (found.media, found.rewards["ruler"].mean) == (0, None)


def test_rewards_that_are_not_to_be_had(keep, monkeypatch):
    data = keep(ENTRIES)
    with pytest.raises(UnknownName):
        finish(score_stored(data, ["nobody"], data / "scores"))

    def missing():
        raise MissingWeights("no weights", hint="fetch them")

    monkeypatch.setitem(rewards._loaded, "far", missing)
    with pytest.raises(MissingWeights, match="cannot score with `far`") as caught:
        finish(score_stored(data, ["far"], data / "scores"))
    assert caught.value.details == ("far: no weights",)
    assert caught.value.hint == "fetch them"


def test_rewards_take_options(keep, monkeypatch):
    def scaled(*, factor: int = 1):
        return Ruler(identity=f"times {factor}")

    monkeypatch.setitem(rewards._loaded, "ruler", scaled)
    data = keep(ENTRIES)
    finish(score_stored(data, ["ruler"], data / "scores"))
    options = {"ruler": {"factor": 3}}
    found = finish(score_stored(data, ["ruler"], data / "scores", options=options))
    assert found.rewards["ruler"].fingerprint == "times 3"
    assert found.rewards["ruler"].new == 5
    with pytest.raises(VipoError, match="options of `ruler` are not valid"):
        finish(score_stored(data, ["ruler"], data / "scores", options={"ruler": {"faktor": 3}}))


def test_shards_are_merged_while_and_after_they_are_written(keep, ruler, monkeypatch):
    monkeypatch.setattr(scoring, "BATCH", 1)
    monkeypatch.setattr(scoring, "SHARD_ROWS", 1)
    monkeypatch.setattr(scoring, "MERGED_EVERY", 10)
    data = keep([Entry("x", (bytes([n]) * 3, bytes([n, 1])), "a") for n in range(2, 30)])
    work = score_stored(data, ["ruler"], data / "scores")
    while len(ruler.seen) < 25:
        next(work)
    work.close()  # as if it were killed
    files = sorted(file.name[:4] for file in data.glob("scores/*/*.parquet"))
    assert files == ["merg", *["part"] * 5]
    found = finish(score_stored(data, ["ruler"], data / "scores")).rewards["ruler"]
    assert (found.new, found.known) == (31, 25)
    files = sorted(file.name[:4] for file in data.glob("scores/*/*.parquet"))
    assert files == ["merg", "part"]
    scores = stored_scores(data / "scores")["ruler"]
    assert len(scores) == 56
    np.testing.assert_array_equal(scores.of(media_keys(data)), [3.0, 2.0] * 28)
