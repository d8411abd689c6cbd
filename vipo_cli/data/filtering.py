"""Which entries of a data set to keep: conditions that all have to hold, and a new set of those."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vipo_cli.data.census import Census, Depth, take_census
from vipo_cli.data.entries import Entries
from vipo_cli.data.entry import Entry
from vipo_cli.data.margins import OwnScores, all_margins, chosen_margins, find_scores
from vipo_cli.data.problems import PROBLEMS, option_of
from vipo_cli.data.store import MANIFEST, Store
from vipo_cli.errors import DataError, UnknownName
from vipo_cli.media import content_hash
from vipo_cli.run import Progress, Work, writing

DROPPED = "dropped.jsonl"
"""What was left out of a data set and why, an object for each entry."""
GROUPS: dict[str, tuple[str, ...]] = {
    "broken": ("broken media", "broken region map", "blank media", "tiny media"),
    "duplicates": ("duplicate pair", "near-duplicate pair"),
    "identical": ("winner equals loser", "repeated in a list", "winner looks like loser"),
    "contradictions": ("contradicting labels", "circular preferences"),
    "leaked": ("leaked prompt", "GenEval prompt"),
    "prompts": ("empty prompt", "endless prompt", "long prompt", "other script"),
}
"""Problems that one word names together."""
BETWEEN = (
    "contradicting labels",
    "circular preferences",
    "duplicate pair",
    "near-duplicate pair",
)
"""Problems that lie between entries: looked for among those that are left."""
DEPTHS: tuple[Depth, ...] = ("words", "bytes", "pixels")

Mask = NDArray[np.bool_]
Condition = tuple[str, Mask]
"""A reason, and the entries to which it applies."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a user asks for; all of it has to hold.

    Attributes:
        drop: problems whose entries go.
        agree: how many rewards at least have to prefer the winner.
        min_margins: by reward, how much higher the winner has to score.
        dominates: whether no reward may prefer the loser, and one has to prefer the winner.
        rewards: which count for `agree` and `dominates`; all that are known if none is named.
        min_probability: of the label.
        min_side: pixels of the shorter side of each medium.
        max_aspect: longer side over shorter side of each medium.
        balance: category, source, split, annotator or a key of the metadata: equally many of each.
        at_most: of each instead of as many as of the rarest.
        scores: a folder of scores, or a table with a row for each pair.
        against: normalised prompts that must not be trained on.
        seed: another one keeps others for the balance.
    """

    drop: tuple[str, ...] = ()
    agree: int | None = None
    min_margins: Mapping[str, float] = field(default_factory=dict)
    dominates: bool = False
    rewards: tuple[str, ...] = ()
    min_probability: float | None = None
    min_side: int | None = None
    max_aspect: float | None = None
    balance: str | None = None
    at_most: int | None = None
    scores: Path | None = None
    against: frozenset[str] = frozenset()
    seed: int = 0

    @property
    def by_scores(self) -> bool:
        """Whether scores are needed."""
        return self.agree is not None or bool(self.min_margins) or self.dominates

    def document(self) -> dict[str, Any]:
        """Return what the manifest of a filtered set says of them."""
        said = {
            "drop": list(self.drop),
            "agree": self.agree,
            "min_margins": dict(self.min_margins),
            "dominates": self.dominates,
            "rewards": list(self.rewards),
            "min_probability": self.min_probability,
            "min_side": self.min_side,
            "max_aspect": self.max_aspect,
            "balance": self.balance,
            "at_most": self.at_most,
            "scores": self.scores and str(self.scores),
            "against": len(self.against),
            "seed": self.seed,
        }
        return {name: value for name, value in said.items() if value or name == "seed"}


@dataclass(frozen=True, slots=True)
class Filtered:
    """What became of a data set.

    Attributes:
        folder: where the kept entries lie.
        entries: how many there were.
        kept: how many are left.
        dropped: by reason, how many it applied to; several may apply to one entry.
        groups: entries left of each category, if these were balanced.
    """

    folder: Path
    entries: int
    kept: int
    dropped: dict[str, int]
    groups: dict[str, int]


def problems_named(words: str) -> tuple[str, ...]:
    """Return the problems that a list such as `duplicates,broken-media` names.

    Raises:
        UnknownName: one of them is none.
    """
    known = {option_of(name): name for name in PROBLEMS}
    found: dict[str, None] = {}
    for word in filter(None, (word.strip().lower() for word in words.split(","))):
        if word not in known and word not in GROUPS:
            raise UnknownName("problem", word, [*GROUPS, *known])
        found |= dict.fromkeys(GROUPS.get(word) or (known[word],))
    return tuple(found)


def filter_entries(
    entries: Entries, folder: Path, conditions: Conditions, *, link: bool = False
) -> Work[Filtered]:
    """Write the entries that fulfil all conditions into a folder, and say why the others do not.

    Conditions on single entries come first; what lies between entries is then looked for among
    those that are left, and what is left of that is balanced.

    Args:
        entries: of any data set.
        folder: where the new one goes.
        conditions: which entries to keep.
        link: leave media that are files where they are.

    Raises:
        DataError: no scores to choose by, nothing left, or a folder that holds something else.
    """
    if not len(entries):
        raise DataError("the data set has no pairs")
    if conditions.by_scores and entries.kind != "pair":
        raise DataError(f"rewards agree on pairs, and the data set holds {entries.kind}s")
    refuse_taken(folder)
    scores = find_scores(entries, conditions.scores) if conditions.by_scores else None
    beside = scores is not None and scores.is_dir() and entries.folder is None
    own = OwnScores(len(entries), hash_prompts=beside)
    census = yield from take_census(
        entries,
        _depth(conditions, beside=beside),
        against=conditions.against,
        group_by=conditions.balance or "category",
        stage="look at",
        visit=own.visit,
    )
    reasons = _Reasons(census)
    for reason, wrong in _single(census, conditions):
        reasons.add(reason, wrong)
    if conditions.by_scores:
        for reason, wrong in _by_scores(all_margins(census, own, scores), conditions):
            reasons.add(reason, wrong)
    for name in BETWEEN:
        if name in conditions.drop:
            reasons.add(name, _mask(census, PROBLEMS[name].find(census, reasons.left).to_drop))
    if conditions.balance is not None:
        for reason, wrong in _unbalanced(census, reasons.left, conditions):
            reasons.add(reason, wrong)
    return (yield from _write(entries, census, reasons, folder, conditions, link))


def refuse_taken(folder: Path) -> None:
    """Refuse a folder that holds a data set before a long look at another one.

    Raises:
        DataError: it does.
    """
    if (folder / MANIFEST).is_file():
        raise DataError(
            f"`{folder}` holds a data set already",
            hint=f"choose another folder, or remove it: rm -r {folder}",
        )


class _Reasons:
    """Why entries are dropped."""

    def __init__(self, census: Census) -> None:
        self.left: Mask = np.ones(len(census), bool)
        self.masks: dict[str, Mask] = {}

    def add(self, reason: str, wrong: Mask) -> None:
        if wrong.any():
            self.masks[reason] = wrong
            self.left = self.left & ~wrong

    def of(self, row: int) -> list[str]:
        return [reason for reason, wrong in self.masks.items() if wrong[row]]


def _depth(conditions: Conditions, *, beside: bool) -> Depth:
    """Return how closely media have to be looked at."""
    needed = [DEPTHS.index(PROBLEMS[name].depth) for name in conditions.drop]
    if conditions.min_side is not None or conditions.max_aspect is not None:
        needed.append(DEPTHS.index("pixels"))
    return DEPTHS[max([*needed, int(beside)])]


def _mask(census: Census, rows: NDArray[np.int64]) -> Mask:
    mask = np.zeros(len(census), bool)
    mask[rows] = True
    return mask


def _single(census: Census, conditions: Conditions) -> Iterator[Condition]:
    """Yield the conditions that concern entries one by one."""
    everything = np.ones(len(census), bool)
    for name in conditions.drop:
        if name not in BETWEEN:
            yield name, _mask(census, PROBLEMS[name].find(census, everything).to_drop)
    if (least := conditions.min_probability) is not None:
        judged = census.is_named("label", "a", "b")
        yield f"probability below {least:g}", judged & (census.rows["probability"] < least)
    media = census.media
    width, height = media["width"], media["height"]
    shorter, longer = np.minimum(width, height), np.maximum(width, height)
    if (side := conditions.min_side) is not None:
        yield f"a side below {side} pixels", _any_medium(census, shorter < side)
    if (aspect := conditions.max_aspect) is not None:
        slim = longer > aspect * np.maximum(shorter, 1)
        yield f"longer than {aspect:g} times its width or height", _any_medium(census, slim)


def _any_medium(census: Census, wrong: Mask) -> Mask:
    owner = np.repeat(np.arange(len(census)), census.counts)
    return np.bincount(owner, wrong, minlength=len(census)) > 0


def _by_scores(
    margins: Mapping[str, NDArray[np.float64]], conditions: Conditions
) -> Iterator[Condition]:
    """Yield the conditions on rewards; a pair that a reward could not judge fulfils none on it."""
    for name, least in conditions.min_margins.items():
        (reward, margin), *_ = chosen_margins(margins, [name]).items()
        yield f"margin of {reward} below {least:g}", ~(margin >= least)
    if conditions.agree is None and not conditions.dominates:
        return
    chosen = chosen_margins(margins, conditions.rewards)
    table = np.column_stack(list(chosen.values()))
    if (agree := conditions.agree) is not None:
        if agree > len(chosen):
            raise DataError(
                f"{agree} rewards cannot agree: scores of {len(chosen)} are known",
                details=list(chosen),
            )
        yield (
            f"fewer than {agree} of {len(chosen)} rewards prefer the winner",
            (table > 0).sum(1) < agree,
        )
    if conditions.dominates:
        dominant = (table >= 0).all(1) & (table > 0).any(1)
        yield "the winner is not the better one by every reward", np.logical_not(dominant)


def _unbalanced(census: Census, left: Mask, conditions: Conditions) -> Iterator[Condition]:
    """Yield what is too many of each category; which of them go is drawn by the seed.

    Raises:
        DataError: no entry has a category.
    """
    names, groups = census.names["group"], census.rows["group"]
    known = ~census.is_named("group", "")
    if not (known & left).any():
        raise DataError(
            f"no entry says its {conditions.balance}, so there is nothing to balance",
            hint="--balance takes category, source, split, annotator or a key of the metadata",
        )
    yield f"has no {conditions.balance}", ~known & left
    counts = np.bincount(groups[left & known], minlength=len(names))
    most = conditions.at_most or int(counts[counts > 0].min())
    order = np.random.default_rng(conditions.seed).permutation(len(census))
    for number in np.flatnonzero(counts > most):
        rows = order[(left & (groups == number))[order]]
        yield f"more than {most:,} of {names[number]}", _mask(census, rows[most:])


def _write(
    entries: Entries,
    census: Census,
    reasons: _Reasons,
    folder: Path,
    conditions: Conditions,
    link: bool,
) -> Work[Filtered]:
    if not reasons.left.any():
        raise _nothing_left(census, reasons)
    about = {"filter": entries.name, "conditions": conditions.document(), "link": link}
    state = content_hash(reasons.left.tobytes() + census.rows["prompt"].tobytes())
    store = Store(folder, about, state=state, link=link)
    dropped = {reason: int(wrong.sum()) for reason, wrong in reasons.masks.items()}
    groups = np.zeros(len(census.names["group"]), np.int64)
    with (
        writing(folder / DROPPED) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogatepass") as lines,
    ):
        for index, entry in enumerate(entries):
            why = reasons.of(index) if not reasons.left[index] else [entry.problem()]
            if not any(why) and index >= store.taken:
                why = [_added(store, entry)]
            if any(why):
                if reasons.left[index]:
                    dropped[why[0]] = dropped.get(why[0], 0) + 1
                lines.write(_line(index, entry, why, census.reasons.get(index)))
            else:
                groups[census.rows["group"][index]] += 1
            if index >= store.taken:
                if any(why):
                    store.leave_out(why[0])
                store.passed()
            yield Progress("write", index + 1, len(entries))
        kept = sum(store.labels.values())
        if not kept:
            store.discard()
            raise _nothing_left(census, reasons)
        store.close()
    left = {
        name: int(count)
        for name, count in zip(census.names["group"], groups, strict=True)
        if count and conditions.balance is not None
    }
    return Filtered(folder, len(census), kept, dropped, left)


def _added(store: Store, entry: Entry) -> str:
    """Add an entry; return why that is not possible, or an empty string."""
    try:
        store.add(entry)
    except DataError as error:
        return f"a medium cannot be read: {error.message}"
    return ""


def _line(index: int, entry: Entry, why: list[str], detail: str | None) -> str:
    line = {"entry": index, "id": entry.id, "prompt": entry.prompt, "reasons": why}
    if detail is not None:
        line["detail"] = detail
    return json.dumps(line) + "\n"


def _nothing_left(census: Census, reasons: _Reasons) -> DataError:
    return DataError(
        f"nothing is left of {len(census):,} {census.entries.kind}s",
        details=[f"{int(wrong.sum()):,}: {reason}" for reason, wrong in reasons.masks.items()],
        hint="nothing was written; ask for less",
    )
