"""What a set of records consists of."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vipo_cli.data.bias import share_of
from vipo_cli.data.census import format_of
from vipo_cli.data.entries import entry_at
from vipo_cli.data.entry import Entry
from vipo_cli.data.record import Kind, Record
from vipo_cli.data.usable import kind_of
from vipo_cli.errors import DataError
from vipo_cli.media import media_bytes, probe
from vipo_cli.run import Progress, Work


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts over records.

    Attributes:
        kind: what the records are.
        pairs: how many records there are.
        singles: how many of them are pairs without a loser.
        labels: records by what their labels say, where these are more than who won.
        prompts: how many different prompts.
        prompt_characters: shortest, median and longest prompt.
        categories: records by category, where the source knows one.
        sizes: media by width x height, and frames if they are clips.
        formats: media by file format.
        media_bytes: all media together, encoded.
        unreadable: media whose header cannot be read.
        models: by who made the media, how many were shown, compared with another, and preferred.
        annotators: how many people judged, and the records of those who judged most.
        dimensions: labels of each quality that was judged apart.
        scores: by reward, how many records have it, its mean for winners and losers, and in what
            share the winner scores higher.
    """

    kind: Kind
    pairs: int
    singles: int
    labels: dict[str, int]
    prompts: int
    prompt_characters: tuple[int, int, int]
    categories: dict[str, int]
    sizes: dict[str, int]
    formats: dict[str, int]
    media_bytes: int
    unreadable: int
    models: dict[str, dict[str, int]]
    annotators: dict[str, int]
    dimensions: dict[str, dict[str, int]]
    scores: dict[str, dict[str, Any]]


def statistics(records: Sequence[Record]) -> Work[Statistics]:
    """Read all prompts and the headers of all media; nothing is decoded.

    Raises:
        DataError: the data set is empty.
    """
    if not len(records):
        raise DataError("the data set has no pairs")
    counts = _Counts()
    for index in range(len(records)):
        counts.add(entry_at(records, index), kind_of(records))
        yield Progress(f"read {kind_of(records)}s", index + 1, len(records))
    return counts.statistics(kind_of(records), len(records))


@dataclass
class _Scores:
    """What one reward says of winners and losers."""

    winners: "array[float]" = field(default_factory=lambda: array("d"))
    losers: "array[float]" = field(default_factory=lambda: array("d"))
    prompts: "array[int]" = field(default_factory=lambda: array("q"))

    def document(self) -> dict[str, Any]:
        winners, losers = np.frombuffer(self.winners), np.frombuffer(self.losers)
        decided = winners != losers
        said: dict[str, Any] = {
            "pairs": len(winners),
            "winner": float(winners.mean()),
            "loser": float(losers.mean()),
            "ties": int((~decided).sum()),
        }
        if decided.any():
            prompts = np.frombuffer(self.prompts, np.int64)[decided]
            said["prefers_winner"] = share_of((winners > losers)[decided], prompts).document()
        return said


@dataclass
class _Counts:
    """Counts that grow."""

    prompts: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    categories: Counter[str] = field(default_factory=Counter)
    sizes: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    annotators: Counter[str] = field(default_factory=Counter)
    models: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    dimensions: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    scores: dict[str, _Scores] = field(default_factory=lambda: defaultdict(_Scores))
    singles: int = 0
    encoded: int = 0
    unreadable: int = 0

    def add(self, entry: Entry, kind: Kind) -> None:
        self.prompts[entry.prompt] += 1
        self.labels.update(_labels(entry, kind))
        self.singles += kind == "pair" and len(entry.media) == 1
        if entry.category:
            self.categories[entry.category] += 1
        if entry.annotator:
            self.annotators[entry.annotator] += 1
        for dimension, label in entry.dimensions.items():
            self.dimensions[dimension][label] += 1
        self._add_sides(entry)
        for medium in entry.media:
            try:
                data = media_bytes(medium)
                found = probe(data)
            except DataError:
                self.unreadable += 1
            else:
                self.sizes[str(found)] += 1
                self.formats[format_of(data)] += 1
                self.encoded += len(data)

    def _add_sides(self, entry: Entry) -> None:
        """Count what is known of winner and loser."""
        winner = "ab".find(entry.label) if len(entry.label) == 1 else -1
        for place, model in enumerate(entry.models or ()):
            if model:
                self.models[model]["shown"] += 1
                self.models[model]["compared"] += winner >= 0
                self.models[model]["preferred"] += place == winner
        if winner < 0:
            return
        for reward, values in entry.scores.items():
            said = self.scores[reward]
            said.winners.append(values[winner])
            said.losers.append(values[1 - winner])
            said.prompts.append(hash(entry.prompt))

    def statistics(self, kind: Kind, records: int) -> Statistics:
        lengths = sorted(len(prompt) for prompt in self.prompts)
        models = sorted(self.models.items(), key=lambda item: -item[1]["shown"])
        return Statistics(
            kind=kind,
            pairs=records,
            singles=self.singles,
            labels=dict(self.labels.most_common()),
            prompts=len(self.prompts),
            prompt_characters=(lengths[0], lengths[len(lengths) // 2], lengths[-1]),
            categories=dict(self.categories.most_common()),
            sizes=dict(self.sizes.most_common()),
            formats=dict(self.formats.most_common()),
            media_bytes=self.encoded,
            unreadable=self.unreadable,
            models={model: dict(counts) for model, counts in models},
            annotators=dict(self.annotators.most_common()),
            dimensions={name: dict(counts) for name, counts in sorted(self.dimensions.items())},
            scores={name: said.document() for name, said in sorted(self.scores.items())},
        )


def _labels(entry: Entry, kind: Kind) -> Iterator[str]:
    """Yield what an entry's label says beyond who won."""
    if entry.weight != 1:
        yield "weighted"
    if kind == "labelled sample":
        yield entry.label
    elif entry.label == "ranked":
        yield f"{len(entry.media)} ranks"
    else:
        if entry.label == "tie":
            yield "tie"
        elif entry.probability is not None and entry.probability < 1:
            yield "uncertain"
        if entry.noise_seeds:
            yield "noise seeds"
        if entry.regions:
            yield "region maps"
