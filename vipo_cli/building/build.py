"""Pairs of what was found: planned by each way of building, levelled out, and written."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vipo_cli.data.entry import Entry
from vipo_cli.data.row_groups import read_columns
from vipo_cli.data.store import MANIFEST, Store
from vipo_cli.errors import DataError
from vipo_cli.run import Progress, Work, writing

STORY = "pairs.jsonl"
"""How each pair came to be, a line for each, beside the shards."""
WRITTEN = 100
"""Pairs between two tellings of how far it is."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A pair that is to be written.

    Attributes:
        category: what it is about.
        make: reads its media and returns it.
    """

    category: str | None
    make: Callable[[], Entry]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a way of building came to.

    Attributes:
        about: what the manifest says: all that determines the pairs.
        pairs: to be written.
        left_out: how many could not be made, by reason.
        report: what else is to be told.
    """

    about: Mapping[str, Any]
    pairs: Sequence[Planned]
    left_out: Mapping[str, int]
    report: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Built:
    """Pairs that were written.

    Attributes:
        folder: of the data set.
        pairs: how many.
        categories: how many of each category.
        left_out: what could not be made or was levelled out, by reason.
        report: what else is to be told.
    """

    folder: Path
    pairs: int
    categories: Mapping[str, int]
    left_out: Mapping[str, int]
    report: Mapping[str, Any]


def refuse_built(out: Path) -> None:
    """Refuse a folder that cannot take a new data set, before anything is worked for.

    Raises:
        DataError: it holds one already.
    """
    if (out / MANIFEST).is_file():
        raise DataError(
            f"`{out}` holds a data set already",
            hint=f"choose another folder, or remove it: rm -r {out}",
        )


def write_pairs(plan: Plan, out: Path, *, balance: bool, seed: int) -> Work[Built]:
    """Write planned pairs; what was interrupted is gone on with.

    Args:
        plan: what to write.
        out: folder of the data set.
        balance: keep as many pairs of each category as there are of the rarest, chosen by chance.
        seed: of the choice.

    Raises:
        DataError: nothing to write, or the folder holds something else.
    """
    left_out = Counter(plan.left_out)
    chosen = _level(plan.pairs, seed) if balance else list(plan.pairs)
    if dropped := len(plan.pairs) - len(chosen):
        left_out["more of its category than of the rarest"] += dropped
    if not chosen:
        raise DataError(
            "no pair can be made",
            details=[f"{count:,}: {reason}" for reason, count in left_out.most_common()],
            hint="see what the data hold: vipo data stats, vipo data score",
        )
    store = Store(out, {**plan.about, "balance": balance, "report": plan.report})
    for reason, count in left_out.items():
        for _ in range(0 if store.taken else count):
            store.leave_out(reason)
    for number in range(store.taken, len(chosen)):
        store.add(chosen[number].make())
        store.passed()
        if number % WRITTEN == 0:
            yield Progress("writing pairs", number, len(chosen))
    _tell_stories(out, store.flush())  # what lies beside a data set is there before it is one
    store.close()
    yield Progress("writing pairs", len(chosen), len(chosen))
    categories = Counter(each.category or "" for each in chosen)
    return Built(out, len(chosen), dict(sorted(categories.items())), dict(left_out), plan.report)


def _level(pairs: Sequence[Planned], seed: int) -> list[Planned]:
    """Choose as many of each category as there are of the rarest; order stays."""
    places: dict[str | None, list[int]] = {}
    for place, pair in enumerate(pairs):
        places.setdefault(pair.category, []).append(place)
    if not places:
        return []
    least = min(map(len, places.values()))
    rng = np.random.default_rng(seed)
    kept = [rng.choice(own, least, replace=False).tolist() for own in places.values()]
    return [pairs[place] for place in sorted(place for own in kept for place in own)]


def _tell_stories(out: Path, shards: Sequence[Path]) -> None:
    """Write how each pair came to be, without its media."""
    with writing(out / STORY) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for shard in shards:
            for row in _without_media(shard):
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def _without_media(file: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    names = [name for name in pq.read_schema(file).names if name not in ("media", "regions")]
    rows: list[dict[str, Any]] = read_columns([file], names).to_pylist()
    for row in rows:
        row["metadata"] = json.loads(row.get("metadata") or "{}")
        for name in ("scores", "dimensions"):
            row[name] = dict(row.get(name) or ())
    return [{key: value for key, value in row.items() if value not in (None, {})} for row in rows]
