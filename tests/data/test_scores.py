import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from filelock import FileLock

from vipo_cli.data import score_shards, scores
from vipo_cli.data.entry import Entry
from vipo_cli.data.scores import (
    keys_of,
    media_keys,
    merge_scores,
    prompt_hash,
    scores_folder,
    scores_in,
    scores_of,
    stored_scores,
    write_scores,
)
from vipo_cli.data.store import Store
from vipo_cli.errors import DataError
from vipo_cli.media import content_hash


def keys(*names):
    return keys_of([f"medium-{name}" for name in names], [f"prompt-{name}" for name in names])


def store(folder, *entries):
    kept = Store(folder, {})
    for entry in entries:
        kept.add(entry)
        kept.passed()
    kept.close()
    return folder


def test_what_was_written_is_found_again_and_nothing_else(tmp_path):
    write_scores(tmp_path, "r", "f", keys(1, 2, 3), np.array([1.0, np.nan, 3.0]))
    found = stored_scores(tmp_path)["r"]
    assert (found.reward, found.fingerprint, len(found)) == ("r", "f", 3)
    asked = keys(3, 9, 2, 1, 3)
    assert found.has(asked).tolist() == [True, False, True, True, True]
    np.testing.assert_array_equal(found.of(asked), [3.0, np.nan, np.nan, 1.0, 3.0])


def test_a_medium_has_a_score_for_each_prompt(tmp_path):
    both = keys_of(["m", "m"], [prompt_hash("a"), prompt_hash("b")])
    write_scores(tmp_path, "r", "f", both, np.array([1.0, 2.0]))
    swapped = keys_of(["m", "m"], [prompt_hash("b"), prompt_hash("a")])
    assert stored_scores(tmp_path)["r"].of(swapped).tolist() == [2.0, 1.0]


def test_shards_are_added_and_none_is_written_over(tmp_path):
    write_scores(tmp_path, "r", "f", keys(1), np.array([1.0]))
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.parquet")}
    write_scores(tmp_path, "r", "f", keys(2), np.array([2.0]))
    assert len(list(tmp_path.rglob("*.parquet"))) == 2
    assert all(file.read_bytes() == data for file, data in before.items())
    assert scores_of(tmp_path, "r", "f").of(keys(2, 1)).tolist() == [2.0, 1.0]


def test_other_fingerprints_are_other_scores_and_the_last_counts(tmp_path):
    write_scores(tmp_path, "r", "old", keys(1), np.array([1.0]))
    write_scores(tmp_path, "r", "new", keys(1), np.array([2.0]))
    assert scores_of(tmp_path, "r", "old").of(keys(1)).tolist() == [1.0]
    assert stored_scores(tmp_path)["r"].of(keys(1)).tolist() == [2.0]
    assert not scores_of(tmp_path, "r", "newer").has(keys(1)).any()


def test_rewards_whose_names_are_no_file_names(tmp_path):
    for name in ("a/b", "a-b", "../c"):
        write_scores(tmp_path / "scores", name, "f", keys(1), np.array([1.0]))
    assert set(stored_scores(tmp_path / "scores")) == {"a/b", "a-b", "../c"}
    assert [path.name for path in tmp_path.iterdir()] == ["scores"]


def test_no_scores_are_no_error(tmp_path):
    assert stored_scores(tmp_path / "nowhere") == {}
    write_scores(tmp_path, "r", "f", keys(), np.zeros(0))
    assert stored_scores(tmp_path) == {}


def test_a_damaged_shard_says_what_to_remove(tmp_path):
    write_scores(tmp_path, "r", "f", keys(1), np.array([1.0]))
    shard = next(tmp_path.rglob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(DataError, match="are damaged") as caught:
        stored_scores(tmp_path)
    assert str(shard.parent) in caught.value.hint
    shutil.rmtree(shard.parent)
    assert stored_scores(tmp_path) == {}


def test_keys_of_a_data_set_stand_entry_after_entry(tmp_path):
    data = store(
        tmp_path / "set",
        Entry("x", (b"1", b"2", b"3"), "ranked"),
        Entry("y", (b"1", b"4"), "ranked"),
        Entry("x", (b"4", b"1"), "ranked"),
    )
    found = media_keys(data)
    assert found.counts.tolist() == [3, 2, 2]
    assert found.media.to_pylist() == [
        content_hash(each) for each in (b"1", b"2", b"3", b"1", b"4", b"4", b"1")
    ]
    assert found.prompts.to_pylist() == [prompt_hash(each) for each in "xxxyyxx"]


def test_a_data_set_without_entries_has_no_keys(tmp_path):
    assert len(media_keys(store(tmp_path / "set"))) == 0


def test_scores_lie_in_the_data_set_or_where_the_user_says(tmp_path):
    data = store(tmp_path / "set", Entry("x", (b"1", b"2"), "a"))
    assert scores_folder(data) == data / "scores"
    assert scores_folder(data, tmp_path / "mine") == tmp_path / "mine"
    with pytest.raises(DataError, match="no place for scores"):
        scores_folder(tmp_path / "elsewhere")


def test_several_may_write_at_once(tmp_path):
    def write(number):
        write_scores(tmp_path, "r", "f", keys(number % 20), np.array([float(number % 20)]))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(40)))
    found = stored_scores(tmp_path)["r"]
    assert found.of(keys(*range(20))).tolist() == [float(number) for number in range(20)]


def many(folder, numbers=range(40), reward="r"):
    """Write a shard for each number, and return where they lie."""
    for number in numbers:
        write_scores(folder, reward, "f", keys(number, f"{number}b"), np.array([number, np.nan]))
    (place,) = (place for place in folder.iterdir() if place.name.startswith(f"{reward}-"))
    return place


def all_there(folder, numbers=range(40), reward="r"):
    """Tell whether all scores are there, each once."""
    found = scores_of(folder, reward, "f")
    asked = keys(*numbers, *(f"{number}b" for number in numbers))
    expected = [*map(float, numbers), *(np.nan for _ in numbers)]
    return len(found) == len(expected) and np.array_equal(found.of(asked), expected, equal_nan=True)


def test_many_shards_are_merged_into_one_and_more_are_added(tmp_path, monkeypatch):
    monkeypatch.setattr(score_shards, "GROUP_ROWS", 30)
    place = many(tmp_path)
    newest = max(file.stat().st_mtime_ns for file in place.iterdir())
    merge_scores(tmp_path, "r", "f")
    (file,) = place.glob("*.parquet")
    assert file.stat().st_mtime_ns == newest
    assert pq.read_metadata(file).num_row_groups == 3
    assert all_there(tmp_path)
    many(tmp_path, range(40, 44))
    merge_scores(tmp_path, "r", "f")
    assert len(list(place.glob("*.parquet"))) == 5  # too few to be worth it
    many(tmp_path, range(44, 50))
    merge_scores(tmp_path, "r", "f")
    assert len(list(place.glob("*.parquet"))) == 1
    assert all_there(tmp_path, range(50))
    assert stored_scores(tmp_path)["r"].fingerprint == "f"


def test_large_shards_are_left_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(score_shards, "LARGE", 60)
    place = many(tmp_path)
    merge_scores(tmp_path, "r", "f")
    (large,) = place.glob("*.parquet")
    many(tmp_path, range(40, 60))
    merge_scores(tmp_path, "r", "f")
    assert large in place.glob("*.parquet")
    assert len(list(place.glob("*.parquet"))) == 2
    assert all_there(tmp_path, range(60))


def test_rewards_that_scored_the_same_are_merged_into_files_of_one_name(tmp_path):
    names = set()
    for reward in ("r", "s"):
        place = many(tmp_path, reward=reward)
        merge_scores(tmp_path, reward, "f")
        names |= {file.name for file in place.glob("*.parquet")}
    assert len(names) == 1


@pytest.mark.parametrize("step", range(0, 12, 2))
def test_a_merge_that_is_killed_loses_nothing_and_doubles_nothing(tmp_path, monkeypatch, step):
    """Two merges; the process ends before the removal of a file, or before a new one appears."""

    class Killed(BaseException):
        pass

    many(tmp_path, range(9))
    merge_scores(tmp_path, "r", "f")
    place = many(tmp_path, range(9, 19))
    left = step

    def until_killed(plain):
        def call(self, *args, **more):
            nonlocal left
            if self.suffix == ".parquet" or self.name.endswith(".tmp"):
                left -= 1
                if left < 0:
                    raise Killed
            return plain(self, *args, **more)

        return call

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", until_killed(Path.unlink))
        patched.setattr(Path, "replace", until_killed(Path.replace))
        with pytest.raises(Killed):
            merge_scores(tmp_path, "r", "f")
    assert all_there(tmp_path, range(19))
    assert stored_scores(tmp_path).keys() == {"r"}
    many(tmp_path, range(19, 30))
    merge_scores(tmp_path, "r", "f")
    assert all_there(tmp_path, range(30))
    assert [file.name[:7] for file in place.iterdir() if file.suffix == ".parquet"] == ["merged-"]
    assert not list(place.glob(".*.tmp"))


def test_what_is_merged_while_it_is_read_is_read_anew(tmp_path, monkeypatch):
    place = many(tmp_path)
    plain, listed = score_shards.score_files, []

    def list_and_merge(place):
        files = plain(place)
        listed.append(len(files))
        if len(listed) == 1:
            merge_scores(tmp_path, "r", "f")
        return files

    monkeypatch.setattr(score_shards, "score_files", list_and_merge)
    found = score_shards.read_files(place, scores_in)
    assert found.of(keys(*range(40))).tolist() == list(range(40))
    assert listed[0] == 40
    assert listed[-1] == 1


def test_only_one_merges_at_a_time(tmp_path):
    place = many(tmp_path)
    with FileLock(place / score_shards.LOCK):
        merge_scores(tmp_path, "r", "f")
    assert len(list(place.glob("part-*"))) == 40


def test_a_damaged_shard_is_not_merged_away(tmp_path):
    place = many(tmp_path)
    shard = min(place.glob("part-*"))
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(DataError, match="are damaged") as caught:
        merge_scores(tmp_path, "r", "f")
    assert str(place) in caught.value.hint
    assert len(list(place.glob("part-*"))) == 40


@pytest.mark.parametrize("factors", ["own", "all alike"])
def test_hashes_are_found_as_texts_are(monkeypatch, factors):
    if factors == "all alike":  # numbers tell nothing apart, and all are compared in full
        monkeypatch.setattr(scores, "FACTORS", np.zeros(5, np.uint64))
    rng = np.random.default_rng(0)
    media = [content_hash(bytes([number])) for number in range(12)]
    prompts = [prompt_hash(text) for text in "abcd"]

    def some(count):
        first, second = rng.integers(0, len(media), count), rng.integers(0, len(prompts), count)
        return [media[place] for place in first], [prompts[place] for place in second]

    known, asked = some(30), some(60)
    asked[1][7] = prompt_hash("nobody asked this")
    among = list(zip(*known, strict=True))
    expected = [among.index(key) if key in among else -1 for key in zip(*asked, strict=True)]
    assert -1 in expected
    assert scores.places_of(keys_of(*asked), keys_of(*known)).tolist() == expected
    coded = replace(keys_of(*asked), prompts=keys_of(*asked).prompts.dictionary_encode())
    sliced = replace(coded, media=coded.media.slice(5), prompts=coded.prompts.slice(5))
    assert scores.places_of(sliced, keys_of(*known)).tolist() == expected[5:]
