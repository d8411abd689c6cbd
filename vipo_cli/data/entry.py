"""What preference data say before anything is decided: the media side by side, and who liked which.

A record is what training reads: a winner and a loser. An entry keeps what a source said: two media
in the order in which they were shown, and a label, which may be a tie or missing.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, Literal, get_args

from vipo_cli.data.columns import Ties
from vipo_cli.data.prompts import LONGEST
from vipo_cli.data.record import Kind, LabelledSample, PreferencePair, RankedList, Record
from vipo_cli.data.regions import RegionMap
from vipo_cli.errors import DataError
from vipo_cli.media import Media

Label = Literal["a", "b", "tie", "none", "ranked", "liked", "disliked", "candidates"]
"""Of a pair: which is better, neither, or nobody said; a ranked list; a single sample; one or more
media that nobody has judged."""
KINDS: dict[Label, Kind] = {
    "a": "pair",
    "b": "pair",
    "tie": "pair",
    "none": "pair",
    "ranked": "ranked list",
    "liked": "labelled sample",
    "disliked": "labelled sample",
    "candidates": "ranked list",
}
Expansion = Literal["all", "adjacent", "extremes", "none"]
"""Which pairs of a ranked list become pairs of their own; none leaves the list as it is."""
NAMED = ("annotator", "category", "source", "split", "id")
"""Fields of an entry that a record keeps in its metadata."""

SIDES = (("_w", "_l"), ("_winner", "_loser"), ("_a", "_b"), ("_0", "_1"), ("_left", "_right"))
"""How columns end that say something of winner and loser, or of the media as they were shown."""
BY_RANK = SIDES[:2]


@dataclass(frozen=True, slots=True)
class Entry:
    """One comparison, list or sample as its source has it.

    Attributes:
        prompt: what the media were made for.
        media: two in the order shown, a list in any order, or one.
        label: what was said about them.
        probability: that the label is right; None where nobody counted.
        votes: for each medium.
        ranks: of each medium of a list, 1 the best; equal ranks are ties. None: best first.
        weight: how much the entry counts.
        annotator: who said so.
        models: that made each medium.
        dimensions: label of each quality that was judged apart.
        scores: by reward, of each medium.
        category: what kind of prompt it is, or what the entry is about.
        seeds: that each medium was sampled with.
        noise_seeds: of the noise that each medium's sampling started from.
        regions: where each medium counts.
        id: of the entry in its source.
        source, split: where it comes from.
        metadata: anything else, as JSON can hold it.
        where: in its source, in words by which the user finds it; not kept.
    """

    prompt: str
    media: tuple[Media, ...]
    label: Label
    probability: float | None = None
    votes: tuple[float, ...] | None = None
    ranks: tuple[float, ...] | None = None
    weight: float = 1.0
    annotator: str | None = None
    models: tuple[str | None, ...] | None = None
    dimensions: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    category: str | None = None
    seeds: tuple[int | None, ...] | None = None
    noise_seeds: tuple[int | None, ...] | None = None
    regions: tuple[RegionMap | None, ...] | None = None
    id: str | None = None
    source: str | None = None
    split: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    where: str = field(default="", compare=False)

    @property
    def kind(self) -> Kind:
        """What record it can become."""
        return KINDS[self.label]

    def problem(self) -> str:
        """Return why the entry cannot be used, in words that are the same for all such entries."""
        count, wanted = len(self.media), {"pair": (2, 2), "labelled sample": (1, 1)}
        least, most = wanted.get(self.kind, (1 if self.label == "candidates" else 2, math.inf))
        beside = (self.votes, self.ranks, self.models, self.seeds, self.noise_seeds, self.regions)
        found = {
            "empty prompt": not self.prompt.strip(),
            f"prompt of {LONGEST:,} characters or more": len(self.prompt) >= LONGEST,
            "text that is not Unicode": not all(map(_is_unicode, self._texts())),
            "prompt with a NUL in it": "\0" in self.prompt,
            "missing medium": not all(self.media),
            f"wrong number of media for a {self.kind}": not least <= count <= most,
            "what is said of the media is not said of each": any(
                values is not None and len(values) != count
                for values in (*beside, *self.scores.values())
            ),
            "probability outside 0 to 1": not _within(self.probability, 1),
            "weight that is no number of at least 0": not _within(self.weight),
            "votes that are no numbers of at least 0": not all(map(_within, self.votes or ())),
            "ranks that are no finite numbers": not all(map(math.isfinite, self.ranks or ())),
            "seeds that are no whole numbers of 63 bits": not all(
                seed is None or 0 <= seed < 2**63
                for seed in (*(self.seeds or ()), *(self.noise_seeds or ()))
            ),
            "scores that are no finite numbers": not all(
                math.isfinite(value) for values in self.scores.values() for value in values
            ),
            "winner and loser are the same file": self.label in ("a", "b")
            and self.media[0] == self.media[-1],
        }
        return next((what for what, wrong in found.items() if wrong), "")

    def _texts(self) -> Iterator[str]:
        yield self.prompt
        yield from (text for name in NAMED if (text := getattr(self, name)) is not None)
        yield from (text for text in self.models or () if text is not None)
        yield from self.scores
        for name, label in self.dimensions.items():
            yield name
            yield label


@dataclass(frozen=True, slots=True)
class Unusable:
    """Something in a source that is no entry.

    Attributes:
        where: in the source, in words by which the user finds it.
        reason: in words that are the same for all such cases.
        lacking: files that were looked for in vain.
    """

    where: str
    reason: str
    lacking: tuple[Path, ...] = ()


Found = Entry | Unusable
"""What an importer yields."""


def entry_of(record: Record) -> Entry:
    """Return a record as an entry; the winner comes first."""
    metadata = dict(record.metadata)
    known: dict[str, Any] = {
        name: str(metadata.pop(name)) for name in NAMED if metadata.get(name) is not None
    }
    known |= {"metadata": metadata, "weight": record.weight}
    if isinstance(record, LabelledSample):
        return Entry(record.prompt, record.media, "liked" if record.liked else "disliked", **known)
    if isinstance(record, RankedList):
        return Entry(record.prompt, record.media, "ranked", **known)
    if record.loser is None:
        return Entry(record.prompt, record.media, "liked", **known)
    seeds = record.noise_seeds
    tied = record.probability == 0.5
    return Entry(
        record.prompt,
        record.media,
        "tie" if tied else "a",
        probability=None if tied or record.probability == 1 else record.probability,
        noise_seeds=seeds and tuple(None if seed < 0 else seed for seed in seeds),
        regions=record.regions,
        **known,
    )


def record_of(entry: Entry) -> Record:
    """Return what training reads of an entry.

    Raises:
        DataError: a pair that nobody labelled.
    """
    if why := why_left_out(entry.label, "keep"):
        raise DataError(f"a {entry.kind} that {why} cannot be trained on")
    metadata = dict(entry.metadata)
    metadata |= {name: value for name in NAMED if (value := getattr(entry, name)) is not None}
    if entry.dimensions:
        sides = (
            {"a": "loser", "b": "winner"} if entry.label == "b" else {"a": "winner", "b": "loser"}
        )
        metadata["dimensions"] = {
            name: sides.get(said, said) for name, said in entry.dimensions.items()
        }
    if entry.kind == "labelled sample":
        liked = entry.label == "liked"
        return LabelledSample(entry.prompt, entry.media[0], liked, metadata, entry.weight)
    order = _order(entry)
    media = tuple(entry.media[place] for place in order)
    if entry.models is not None:
        metadata |= _each("model", [entry.models[place] for place in order])
    for name, values in entry.scores.items():
        metadata |= _each(name, [values[place] for place in order])
    if entry.kind == "ranked list":
        return RankedList(entry.prompt, media, metadata, entry.weight)
    seeds, regions = entry.noise_seeds, entry.regions
    return PreferencePair(
        entry.prompt,
        media[0],
        media[1],
        metadata,
        entry.weight,
        winner_probability(entry),
        noise_seeds=None if seeds is None else _two([seeds[place] for place in order]),
        regions=None if regions is None else (regions[order[0]], regions[order[1]]),
    )


def winner_probability(entry: Entry) -> float:
    """Return how probable the label of a pair is: as counted, by votes, or 1."""
    if entry.label == "tie":
        return 0.5
    if entry.probability is not None:
        return entry.probability
    if entry.votes is not None and sum(entry.votes) > 0:
        return entry.votes["ab".index(entry.label)] / sum(entry.votes)
    return 1.0


def expand(entry: Entry, how: Expansion) -> Iterator[Entry]:
    """Yield the pairs of a ranked list, which share its weight; anything else as it is.

    Media of equal rank make ties. A list that cannot be used stays whole.
    """
    if entry.label != "ranked" or how == "none" or entry.problem():
        yield entry
        return
    order = _order(entry)
    pairs = {
        "all": list(combinations(order, 2)),
        "adjacent": list(pairwise(order)),
        "extremes": [(order[0], order[-1])],
    }[how]
    for number, (one, other) in enumerate(pairs):
        ranks = entry.ranks
        tied = ranks is not None and ranks[one] == ranks[other]
        yield replace(
            with_media(entry, (one, other)),
            label="tie" if tied else "a",
            ranks=None,
            weight=entry.weight / len(pairs),
            id=None if entry.id is None else f"{entry.id}.{number}",
        )


def lifted(entry: Entry) -> Entry:
    """Take scores and models of both media out of the metadata of a pair."""
    if entry.kind != "pair" or not entry.metadata:
        return entry
    rest, scores, models = dict(entry.metadata), dict(entry.scores), entry.models
    for ends in SIDES:
        for name in [key.removesuffix(ends[0]) for key in rest if key.endswith(ends[0])]:
            keys = [name + end for end in ends]
            if keys[1] not in rest:
                continue
            both = [rest[key] for key in keys]
            if entry.label == "b" and ends in BY_RANK:
                both.reverse()
            if all(isinstance(each, float) and math.isfinite(each) for each in both):
                scores.setdefault(name, (both[0], both[1]))
            elif name == "model" and models is None:
                models = (_name(both[0]), _name(both[1]))
            else:
                continue
            rest = {key: value for key, value in rest.items() if key not in keys}
    return replace(entry, scores=scores, models=models, metadata=rest)


def why_left_out(label: Label, ties: Ties) -> str:
    """Return why entries of a label take no part in training, or an empty string."""
    if label == "candidates":
        return "is not judged yet (vipo data build makes pairs)"
    if label == "none":
        return "has no label"
    return "a tie" if label == "tie" and ties == "drop" else ""


def with_media(entry: Entry, places: tuple[int, ...]) -> Entry:
    """Return an entry with some of its media, and what is said of these."""
    changed: dict[str, Any] = {
        name: tuple(values[place] for place in places)
        for name in ("media", "votes", "models", "seeds", "noise_seeds", "regions")
        if (values := getattr(entry, name)) is not None
    }
    changed["scores"] = {
        name: tuple(values[place] for place in places) for name, values in entry.scores.items()
    }
    return replace(entry, **changed)


def _name(value: Any) -> str | None:
    return None if value in (None, "") else str(value)


def _order(entry: Entry) -> list[int]:
    """Return the places of an entry's media, the best first."""
    if entry.label == "b":
        return [1, 0]
    places = range(len(entry.media))
    ranks = entry.ranks
    return list(places) if ranks is None else sorted(places, key=lambda place: ranks[place])


def _each(name: str, values: list[Any]) -> dict[str, Any]:
    """Name what is said of winner and loser, or of each rank; what is unknown is left out."""
    ends = ("w", "l") if len(values) == 2 else [str(rank) for rank in range(1, len(values) + 1)]
    return {
        f"{name}_{end}": value for end, value in zip(ends, values, strict=True) if value is not None
    }


def _two(seeds: list[int | None]) -> tuple[int, int]:
    one, other = (-1 if seed is None else seed for seed in seeds)
    return one, other


def _within(value: float | None, most: float = math.inf) -> bool:
    return value is None or (0 <= value <= most and math.isfinite(value))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, as broken JSON writers leave
        return False
    return True


assert KINDS.keys() == set(get_args(Label))
