"""One data set from several, and two from one: which entries go where depends on a seed alone."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vipo_cli.data.entries import Entries
from vipo_cli.data.store import Store
from vipo_cli.data.wording import normalise
from vipo_cli.errors import DataError
from vipo_cli.media import content_hash
from vipo_cli.run import Progress, Work

TRAIN, HELD_OUT = "train", "held-out"
"""The folders of the two parts of a data set."""


@dataclass(frozen=True, slots=True)
class Part:
    """Entries that were written.

    Attributes:
        folder: where they lie; of a mixture, what they come from.
        entries: how many.
        prompts: how many different ones.
        weight: of all together.
    """

    folder: Path
    entries: int
    prompts: int
    weight: float


def split_entries(
    entries: Entries, folder: Path, held_out: float, *, seed: int = 0, link: bool = False
) -> Work[tuple[Part, Part]]:
    """Write entries into `train/` and `held-out/`; no prompt is in both.

    Prompts are put in an order that depends on the seed and on themselves, however capitals, signs
    and blanks are set; the first ones are held out, until they make up the share. So pairs that are
    added later change little about which are held out.

    Args:
        entries: of any data set.
        folder: where the two parts go.
        held_out: share of the entries that is held out, at least.
        seed: another one holds out others.
        link: leave media that are files where they are.

    Raises:
        DataError: fewer than two prompts, or a folder that holds something else.
    """
    names: dict[str, int] = {}
    numbers = []
    for done, entry in enumerate(entries):
        numbers.append(names.setdefault(normalise(entry.prompt), len(names)))
        yield Progress("read prompts", done + 1, len(entries))
    if len(names) < 2:
        raise DataError(f"{len(names)} prompts cannot be on two sides: two or more are needed")
    prompts = np.array(numbers, np.int64)
    sizes = np.bincount(prompts, minlength=len(names))
    order = np.argsort([_drawn(seed, name) for name in names], kind="stable")
    reached = np.cumsum(sizes[order])
    count = 1 + int(np.searchsorted(reached, held_out * len(prompts) - 1e-9))
    chosen = np.zeros(len(names), bool)
    chosen[order[: min(count, len(names) - 1)]] = True
    place = chosen[prompts].astype(np.int64)
    state = content_hash(place.tobytes())
    said = {"split": entries.name, "held_out": held_out, "seed": seed, "link": link}
    stores = [
        Store(folder / name, said | {"part": name}, state=state, link=link)
        for name in (TRAIN, HELD_OUT)
    ]
    for index, entry in enumerate(entries):
        for number, store in enumerate(stores):
            if index >= store.taken:
                if place[index] == number:
                    store.add(entry)
                store.passed()
        yield Progress("write", index + 1, len(entries))
    for store in stores:
        store.close()
    train, held = (
        Part(
            store.folder,
            int((place == number).sum()),
            int((chosen == number).sum()),
            float((place == number).sum()),
        )
        for number, store in enumerate(stores)
    )
    return train, held


def _drawn(seed: int, text: str) -> int:
    """Return 63 bits that depend on a seed and a text."""
    data = f"{seed}:{text}".encode(errors="surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest()) >> 1


@dataclass(frozen=True, slots=True)
class Ingredient:
    """A data set with its share of a mixture."""

    entries: Entries
    share: float


def sample_shares(
    ingredients: Sequence[Ingredient], pairs: int | None = None, seed: int = 0
) -> list[NDArray[np.int64]]:
    """Return which entries of each data set to take, so that their numbers have the shares.

    Args:
        ingredients: data sets with their shares, which need not add up to 1.
        pairs: how many to take of all together; as many as there are without taking any twice.
        seed: another one takes others.

    Raises:
        DataError: a data set has too few.
    """
    shares = _shares(ingredients)
    sizes = np.array([len(each.entries) for each in ingredients])
    most = int(np.floor((sizes / shares).min() + 1e-9))
    total = most if pairs is None else pairs
    counts = np.floor(total * shares + 1e-9).astype(np.int64)
    rest = total * shares - counts
    for number in np.argsort(-rest, kind="stable")[: total - int(counts.sum())]:
        counts[number] += 1
    short = [
        f"{each.entries.name}: {size:,} of {count:,}"
        for each, size, count in zip(ingredients, sizes, counts, strict=True)
        if size < count
    ]
    if short:
        raise DataError(
            f"there are too few entries for {total:,} in these shares",
            details=short,
            hint=f"at most {most:,} without taking any twice: --pairs {most}",
        )
    return [
        np.sort(np.random.default_rng((seed, number)).permutation(size)[:count])
        for number, (size, count) in enumerate(zip(sizes, counts, strict=True))
    ]


def weigh_shares(ingredients: Sequence[Ingredient]) -> list[float]:
    """Return by what to multiply the weights of each data set, so that all of it has its share.

    The weights of a mixture of entries of weight 1 are 1 on average.
    """
    shares = _shares(ingredients)
    sizes = np.array([len(each.entries) for each in ingredients])
    factors: list[float] = (shares * sizes.sum() / sizes).tolist()
    return factors


def mix_entries(
    ingredients: Sequence[Ingredient],
    folder: Path,
    rows: Sequence[NDArray[np.int64]],
    factors: Sequence[float],
    *,
    seed: int = 0,
    link: bool = False,
) -> Work[list[Part]]:
    """Write entries of several data sets into one, evenly mixed from the first to the last.

    Args:
        ingredients: data sets with their shares.
        folder: where the mixture goes.
        rows: which entries of each to take, in order.
        factors: by which the weights of each are multiplied.
        seed: that the rows were drawn with.
        link: leave media that are files where they are.

    Raises:
        DataError: records of several kinds, or a folder that holds something else.
    """
    if len(kinds := {each.entries.kind for each in ingredients}) > 1:
        raise DataError(
            f"a data set holds records of one kind, not {' and '.join(sorted(kinds))}s",
            hint="vipo data import --pairs all makes pairs of ranked lists",
        )
    about = {
        "mix": {each.entries.name: each.share for each in ingredients},
        "entries": [len(taken) for taken in rows],
        "factors": list(factors),
        "seed": seed,
        "link": link,
    }
    state = content_hash(b"".join(taken.tobytes() for taken in rows))
    store = Store(folder, about, state=state, link=link)
    prompts: list[set[int]] = [set() for _ in ingredients]
    weights = [0.0] * len(ingredients)
    turns = _turns([len(taken) for taken in rows])
    streams = [
        each.entries.taken(taken.tolist()) for each, taken in zip(ingredients, rows, strict=True)
    ]
    for done, number in enumerate(turns.tolist()):
        entry = next(streams[number])
        weight, source = entry.weight * factors[number], ingredients[number].entries.name
        prompts[number].add(_drawn(0, normalise(entry.prompt)))
        weights[number] += weight
        if done >= store.taken:
            store.add(replace(entry, weight=weight, source=entry.source or source))
            store.passed()
        yield Progress("write", done + 1, len(turns))
    store.close()
    return [
        Part(Path(each.entries.name), len(taken), len(found), weight)
        for each, taken, found, weight in zip(ingredients, rows, prompts, weights, strict=True)
    ]


def _shares(ingredients: Sequence[Ingredient]) -> NDArray[np.float64]:
    shares = np.array([each.share for each in ingredients])
    return np.asarray(shares / shares.sum(), np.float64)


def _turns(counts: Sequence[int]) -> NDArray[np.int64]:
    """Return from which data set each entry of a mixture comes, so that any part has the shares."""
    places = np.concatenate([(np.arange(count) + 0.5) / max(count, 1) for count in counts])
    numbers = np.repeat(np.arange(len(counts)), counts)
    return np.asarray(numbers[np.argsort(places, kind="stable")], np.int64)
