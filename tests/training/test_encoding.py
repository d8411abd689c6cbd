import shutil
from contextlib import closing

import numpy as np
import pytest
import torch
from filelock import FileLock

from vipo_cli.data import PreferencePair, RankedList
from vipo_cli.data.sources import open_pairs
from vipo_cli.errors import DataError, VipoError
from vipo_cli.media import encode_png
from vipo_cli.models import open_family
from vipo_cli.recipe.sections import Data
from vipo_cli.run import cache_home, finish
from vipo_cli.training import cache, encoding
from vipo_cli.training.buckets import buckets_of


@pytest.fixture
def pairs():
    pairs = list(open_pairs("shapes", {"pairs": 9}))
    wide = encode_png(np.full((32, 64, 3), 90, np.uint8))
    pairs[4] = PreferencePair("wide", wide, wide[:-30])
    pairs[6] = PreferencePair(pairs[0].prompt, pairs[0].loser, wide)
    return pairs


@pytest.fixture
def work(tiny, monkeypatch, tmp_path):
    """Return how to begin an encoding in a cache of a name."""
    monkeypatch.setattr(encoding, "NOTED_RECORDS", 2)

    def begin(pairs, home="cache"):
        monkeypatch.setenv("VIPO_CACHE", str(tmp_path / home))
        family = open_family(str(tiny))
        return cache.encode(family, pairs, "source", 0.5, buckets_of(family, Data()))

    return begin


def interrupt(work, done):
    """Run work until so many pictures are encoded, as if the process were killed then."""
    with closing(work):
        for progress in work:
            if progress.stage == "encoding pictures" and progress.done == done:
                return
    pytest.fail("it ended too soon")


def contents(home):
    return {
        file.relative_to(home).as_posix(): file.read_bytes()
        for file in sorted(home.rglob("*"))
        if file.is_file() and file.suffix != ".lock"
    }


def test_an_interrupted_build_goes_on_and_equals_a_whole_one(work, pairs, tmp_path):
    whole = finish(work(pairs, "whole"))
    interrupt(work(pairs, "cut"), 3)
    interrupt(work(pairs, "cut"), 7)
    known = [None, None, None, None, None, None, *pairs[6:]]  # noted after the sixth
    again = finish(work(known, "cut"))
    assert [found.index for found in again.broken] == [4]
    assert again.texts == whole.texts
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_what_grew_after_the_last_note_is_cut_off(work, pairs, tmp_path):
    finish(work(pairs, "whole"))
    interrupt(work(pairs, "cut"), 5)
    (building,) = (tmp_path / "cut" / "pairs").glob("*.building")
    for file in building.iterdir():
        if file.suffix in (".bin", ".places", ".jsonl"):
            file.write_bytes(file.read_bytes() + b"half a li")
    finish(work(pairs, "cut"))
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_damaged_build_begins_anew(work, pairs, tmp_path):
    finish(work(pairs, "whole"))
    for damage in (b"", b"{", b"[]"):
        interrupt(work(pairs, "cut"), 5)
        (building,) = (tmp_path / "cut" / "pairs").glob("*.building")
        file = building / ("mean.places" if not damage else "state.json")
        file.write_bytes(damage)
        finish(work(pairs, "cut"))
        assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
        (folder,) = (found for found in (tmp_path / "cut" / "pairs").iterdir() if found.is_dir())
        shutil.rmtree(folder)


def test_interrupted_among_the_prompts_it_embeds_none_twice(work, pairs, monkeypatch):
    monkeypatch.setattr(encoding, "PROMPTS", 2)
    with closing(work(pairs)) as first:
        for progress in first:
            if progress.stage == "encoding prompts" and progress.done >= 4:
                break
    stages = [progress for progress in work(pairs) if progress.stage == "encoding prompts"]
    assert stages[0].done == 6
    assert [progress.done for progress in work(pairs)] == []


def test_a_second_process_waits_and_encodes_nothing(work, pairs, monkeypatch):
    monkeypatch.setattr(cache, "WAITED_SECONDS", 0.01)
    first = work(pairs)
    assert next(first).stage == "loading the encoders"
    second = work(pairs)
    assert next(second).stage == "waiting for another process that encodes the same"
    one = finish(first)
    two = finish(second)
    rows = np.arange(len(one.mean))
    sizes = one.mean.shapes.prod(1)
    assert one.fingerprint == two.fingerprint
    for row in rows[sizes == sizes[0]]:
        assert torch.equal(one.mean.read(rows[[row]]), two.mean.read(rows[[row]]))


def test_records_of_several_kinds_leave_nothing_behind(work, pairs):
    with pytest.raises(DataError, match="records of one kind"):
        finish(work([*pairs, RankedList("p", pairs[1].media)]))
    assert not list((cache_home() / "pairs").glob("*.building"))


def test_a_place_that_cannot_be_written_to_is_one_error(work, pairs, tmp_path):
    (tmp_path / "file" / "pairs").parent.mkdir()
    (tmp_path / "file" / "pairs").write_text("in the way")
    with pytest.raises(VipoError, match="cannot write"):
        finish(work(pairs, "file"))


def test_the_lock_of_a_killed_process_does_not_last(work, pairs):
    interrupt(work(pairs), 3)
    (lock,) = (cache_home() / "pairs").glob("*.lock")
    with FileLock(lock, timeout=0):
        pass
    assert len(finish(work(pairs))) == 8
