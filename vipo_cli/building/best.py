"""Pairs of the best and the worst: by a reward, by a weighted sum of several, or by dominance."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vipo_cli.building.build import Plan, Planned
from vipo_cli.building.scoring import OptionsOf, score_stored
from vipo_cli.data.entry import Entry, with_media
from vipo_cli.data.row_groups import RowGroups, read_columns
from vipo_cli.data.scores import media_keys, scores_folder, stored_scores
from vipo_cli.data.stored import entry_in, read_manifest, stored_rows
from vipo_cli.errors import DataError
from vipo_cli.run import Work, fingerprint

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Measure:
    """What makes one medium better than another.

    Attributes:
        weights: of each reward. One alone counts as it is; several are standardised over the data
            set, so that weights mean the same whatever a reward ranges over.
        dominance: the better one is better by every reward, and weights do not matter.
        min_margin: by how much it must be better: of a single reward in its own units, of several
            in standard deviations.
    """

    weights: Mapping[str, float]
    dominance: bool = False
    min_margin: float = 0.0

    @property
    def standardised(self) -> bool:
        """Whether rewards are brought to one scale."""
        return len(self.weights) > 1


@dataclass(frozen=True, slots=True)
class Pick:
    """Two media of an entry, by their places in it, and by how much the first is better."""

    entry: int
    winner: int
    loser: int
    margin: float


def parse_weights(text: str) -> dict[str, float]:
    """Read `a=0.7,b=0.3`, or a name alone.

    Raises:
        DataError: a weight that is no number, or is 0; a name that stands twice.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, weight = (each.strip() for each in part.partition("="))
        try:
            value = float(weight) if equals else 1.0
        except ValueError:
            value = 0.0
        if not name or not np.isfinite(value) or value == 0:
            raise DataError(
                f"`{part}` is no reward with its weight",
                hint="as in: --by reward:pickscore, or --by pickscore=0.7,clip=0.3",
            )
        if name in found:
            raise DataError(f"the reward `{name}` stands twice in `{text}`")
        found[name] = value
    return found


def plan_best(
    data: Path,
    measure: Measure,
    category: str | None,
    options: OptionsOf = {},  # noqa: B006 - never changed
) -> Work[Plan]:
    """Choose the best and the worst of each entry; what has no score yet is scored first.

    Args:
        data: a stored data set.
        measure: what makes one better.
        category: of all pairs; None keeps the entries' own.
        options: of the rewards.

    Raises:
        UnknownName, MissingWeights: a reward that is not to be had.
    """
    folder = scores_folder(data)
    scoring = yield from score_stored(data, list(measure.weights), folder, options=options)
    stored, keys = stored_scores(folder), media_keys(data)
    raw = {name: stored[name].of(keys) for name in measure.weights if name in stored}
    for name in measure.weights:
        raw.setdefault(name, np.full(len(keys), np.nan))
    picks, left_out = pick(raw, keys.counts, measure)
    manifest = read_manifest(data)
    starts = np.cumsum(keys.counts) - keys.counts
    rows = stored_rows(data)
    own = read_columns(rows.files, ["category"]).column("category").to_pylist()
    pairs = [
        Planned(
            category or own[chosen.entry],
            partial(_pair, rows, chosen, raw, int(starts[chosen.entry]), measure, category),
        )
        for chosen in picks
    ]
    about = {
        "made": "pairs",
        "by": "dominance" if measure.dominance else "reward",
        "weights": dict(measure.weights),
        "standardised": measure.standardised,
        "min_margin": measure.min_margin,
        "category": category,
        "rewards": {name: found.fingerprint for name, found in scoring.rewards.items()},
        "data": fingerprint([shard["sha256"] for shard in manifest["shards"]]),
        "data_from": manifest["from"],
    }
    margins = np.array([chosen.margin for chosen in picks])
    report = {"median_margin": float(np.median(margins))} if len(margins) else {}
    return Plan(about, pairs, left_out, report)


def pick(
    raw: Mapping[str, Floats], counts: NDArray[np.int64], measure: Measure
) -> tuple[list[Pick], Counter[str]]:
    """Choose a winner and a loser of each entry, if there are any.

    Args:
        raw: what each reward says of all media, entry after entry; NaN where it cannot judge.
        counts: how many media each entry has.
        measure: what makes one better.

    Returns:
        The choices, and how many entries have none, by reason.
    """
    columns = np.column_stack([raw[name] for name in measure.weights])
    if measure.standardised:
        columns = _standardised(columns)
    weights = np.array(list(measure.weights.values()))
    left_out: Counter[str] = Counter()
    picks = []
    start = 0
    for entry, count in enumerate(counts.tolist()):
        own = columns[start : start + count]
        start += count
        judged = np.flatnonzero(np.isfinite(own).all(axis=1))
        if len(judged) < 2:
            left_out["fewer than two media that can be judged"] += 1
            continue
        values = own[judged]
        best = _dominating(values) if measure.dominance else _extremes(values @ weights)
        if best is None:
            left_out["none is better by every reward"] += 1
        elif best[2] <= 0 or best[2] < measure.min_margin:
            left_out["best and worst too much alike"] += 1
        else:
            winner, loser, margin = best
            picks.append(Pick(entry, int(judged[winner]), int(judged[loser]), margin))
    return picks, left_out


def _standardised(columns: Floats) -> Floats:
    """Bring each reward to mean 0 and spread 1 over the media that it can judge."""
    finite = np.isfinite(columns)
    result = np.full_like(columns, np.nan)
    for number in range(columns.shape[1]):
        judged = columns[finite[:, number], number]
        if len(judged):
            spread = judged.std() or 1.0
            result[:, number] = (columns[:, number] - judged.mean()) / spread
    return result


def _extremes(values: Floats) -> tuple[int, int, float]:
    winner, loser = int(values.argmax()), int(values.argmin())
    return winner, loser, float(values[winner] - values[loser])


def _dominating(values: Floats) -> tuple[int, int, float] | None:
    """Return the pair whose smallest margin is largest, if that is above 0."""
    margins = (values[:, None] - values[None]).min(axis=-1)
    np.fill_diagonal(margins, -np.inf)
    winner, loser = np.unravel_index(margins.argmax(), margins.shape)
    margin = float(margins[winner, loser])
    return (int(winner), int(loser), margin) if margin > 0 else None


def _pair(
    rows: RowGroups,
    chosen: Pick,
    raw: Mapping[str, Floats],
    start: int,
    measure: Measure,
    category: str | None,
) -> Entry:
    entry = entry_in(*rows.row(chosen.entry))
    scores = {
        name: (float(values[start + chosen.winner]), float(values[start + chosen.loser]))
        for name, values in raw.items()
    }
    by = "dominance" if measure.dominance else "reward"
    return as_pair(entry, (chosen.winner, chosen.loser), scores, by, chosen.margin, category)


def as_pair(
    entry: Entry,
    places: Sequence[int],
    scores: Mapping[str, tuple[float, float]],
    by: str,
    margin: float | None,
    category: str | None,
    **said: Any,
) -> Entry:
    """Return two media of an entry as winner and loser, with how they came to be that.

    What the entry said of who is better goes.
    """
    both = with_media(entry, tuple(places))
    told: dict[str, Any] = {"built_by": by, **said}
    if margin is not None:
        told["margin"] = margin
    return replace(
        both,
        label="a",
        probability=None,
        votes=None,
        ranks=None,
        scores={**both.scores, **scores},
        category=category or entry.category,
        metadata={**entry.metadata, **told},
    )
