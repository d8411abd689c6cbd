from collections import Counter
from itertools import accumulate

import numpy as np
import pytest

from vipo_cli.data import PreferencePair, RankedList
from vipo_cli.data.entries import entries_of, open_entries
from vipo_cli.data.mixing import (
    Ingredient,
    mix_entries,
    sample_shares,
    split_entries,
    weigh_shares,
)
from vipo_cli.data.stored import entries_in, open_stored
from vipo_cli.errors import DataError
from vipo_cli.run import finish


def entries(name, count, per_prompt=1, **more):
    pairs = [
        PreferencePair(f"{name} {n // per_prompt}", f"w{n}".encode(), f"l{n}".encode(), **more)
        for n in range(count)
    ]
    return entries_of(pairs, name)


def test_no_prompt_is_on_both_sides(tmp_path):
    source = [
        PreferencePair(prompt, f"{prompt}{n}".encode(), b"l")
        for n in range(5)
        for prompt in ("A cat.", "a  cat", "dogs", "birds", "fish", "cows", "bees")
    ]
    train, held = finish(split_entries(entries_of(source), tmp_path, 0.2))
    sides = [[e.prompt for e in entries_in(part.folder)] for part in (train, held)]
    assert sorted(sides[0] + sides[1]) == sorted(pair.prompt for pair in source)
    assert not set(sides[0]) & set(sides[1])
    assert ("A cat." in sides[0]) == ("a  cat" in sides[0])
    assert [part.entries for part in (train, held)] == [len(side) for side in sides]
    assert 7 <= held.entries <= 15
    assert [part.folder.name for part in (train, held)] == ["train", "held-out"]
    assert len(open_stored(held.folder)) == held.entries


def held_out(source, folder, share, seed=0):
    _, held = finish(split_entries(source, folder, share, seed=seed))
    return {entry.prompt for entry in entries_in(held.folder)}


def test_a_split_depends_on_seed_and_prompts_alone(tmp_path):
    few, more = entries("p", 100), entries("p", 120)
    one = held_out(few, tmp_path / "1", 0.2)
    assert len(one) == 20
    assert held_out(few, tmp_path / "2", 0.2, seed=1) != one
    assert held_out(entries_of(list(reversed_(few)), "x"), tmp_path / "3", 0.2) == one
    assert len(held_out(more, tmp_path / "4", 0.2) & one) >= 15


def reversed_(source):
    pairs = [PreferencePair(entry.prompt, *entry.media) for entry in source]
    return reversed(pairs)


def test_both_sides_have_something(tmp_path):
    train, held = finish(split_entries(entries("p", 2), tmp_path / "1", 0.001))
    assert (train.entries, held.entries) == (1, 1)
    train, held = finish(split_entries(entries("p", 3), tmp_path / "2", 0.999))
    assert (train.entries, held.entries) == (1, 2)
    with pytest.raises(DataError, match="1 prompts cannot be on two sides"):
        finish(split_entries(entries("p", 6, per_prompt=6), tmp_path / "3", 0.5))


@pytest.mark.parametrize(
    ("sizes", "shares", "pairs", "counts"),
    [
        ((100, 100), (0.7, 0.3), None, (99, 43)),  # 142 is the most, 0.7 of it 99.4
        ((100, 10), (0.5, 0.5), None, (10, 10)),
        ((100, 100, 100), (2, 1, 1), 10, (5, 3, 2)),
        ((7, 3), (7, 3), None, (7, 3)),
    ],
)
def test_shares_are_of_entries(sizes, shares, pairs, counts):
    parts = [
        Ingredient(entries(str(n), size), share)
        for n, (size, share) in enumerate(zip(sizes, shares, strict=True))
    ]
    rows = sample_shares(parts, pairs)
    assert tuple(len(taken) for taken in rows) == counts
    for taken, size in zip(rows, sizes, strict=True):
        assert len(np.unique(taken)) == len(taken)
        assert (np.diff(taken) > 0).all()
        assert taken.max() < size
    again = sample_shares(parts, pairs)
    assert all((one == other).all() for one, other in zip(rows, again, strict=True))


def test_too_few_for_the_shares():
    parts = [Ingredient(entries("a", 10), 0.5), Ingredient(entries("b", 100), 0.5)]
    with pytest.raises(DataError, match="too few entries for 40") as caught:
        sample_shares(parts, 40)
    assert caught.value.details == ("a: 10 of 20",)
    assert "--pairs 20" in caught.value.hint


def mixed(parts, folder, rows, factors):
    made = finish(mix_entries(parts, folder, rows, factors))
    return made, list(entries_in(folder))


def test_a_mixture_is_even_from_the_first_to_the_last(tmp_path):
    parts = [Ingredient(entries("a", 75), 0.75), Ingredient(entries("b", 25), 0.25)]
    made, found = mixed(parts, tmp_path / "m", sample_shares(parts), [1.0, 1.0])
    assert Counter(entry.source for entry in found) == {"a": 75, "b": 25}
    of_a = accumulate(entry.source == "a" for entry in found)
    assert all(abs(n - 0.75 * place) <= 1 for place, n in enumerate(of_a, start=1))
    assert [part.entries for part in made] == [75, 25]
    assert len({entry.prompt for entry in found}) == 100


def test_weights_have_the_shares_and_a_mean_of_one(tmp_path):
    parts = [
        Ingredient(entries("a", 30), 0.5),
        Ingredient(entries("b", 10, weight=2.0), 0.5),
    ]
    factors = weigh_shares(parts)
    rows = [np.arange(30), np.arange(10)]
    made, found = mixed(parts, tmp_path / "m", rows, factors)
    assert len(found) == 40
    weights = {name: [e.weight for e in found if e.source == name] for name in "ab"}
    assert sum(weights["a"]) == pytest.approx(20)
    assert weights["b"] == pytest.approx([4.0] * 10)  # what was said of them still counts
    assert [part.weight for part in made] == pytest.approx([20, 40])


def test_one_kind_of_records(tmp_path):
    lists = entries_of([RankedList("p", (b"1", b"2", b"3"))], "lists")
    parts = [Ingredient(entries("a", 3), 1), Ingredient(lists, 1)]
    with pytest.raises(DataError, match="one kind, not pair and ranked lists"):
        finish(mix_entries(parts, tmp_path / "m", sample_shares(parts), [1.0, 1.0]))
    assert not (tmp_path / "m").exists()


def test_a_mixture_of_mixtures_keeps_where_entries_come_from(tmp_path):
    parts = [Ingredient(entries("a", 4), 1), Ingredient(entries("b", 4), 1)]
    mixed(parts, tmp_path / "m", sample_shares(parts), [1.0, 1.0])
    again = [Ingredient(open_entries(str(tmp_path / "m")), 1), Ingredient(entries("c", 8), 1)]
    _, found = mixed(again, tmp_path / "n", sample_shares(again), [1.0, 1.0])
    assert Counter(entry.source for entry in found) == {"a": 4, "b": 4, "c": 8}
