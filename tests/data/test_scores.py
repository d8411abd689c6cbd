import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from vipo_cli.data.entry import Entry
from vipo_cli.data.scores import (
    keys_of,
    media_keys,
    prompt_hash,
    scores_folder,
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
