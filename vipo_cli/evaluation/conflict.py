"""Score pairs with every reward at hand, and measure how far the rewards agree."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vipo_cli.analysis.conflict import TIE, About, Conflict, conflict
from vipo_cli.analysis.dominance import INDIFFERENCE
from vipo_cli.data.facts import Facts, facts_of, taken, told_by
from vipo_cli.data.pair_scores import Scores, known_scores
from vipo_cli.data.record import PreferencePair, Record
from vipo_cli.data.usable import only_pairs, why_broken
from vipo_cli.errors import DataError, UnknownName, VipoError
from vipo_cli.evaluation.pair_scoring import Scored, score_pairs, tie_noise
from vipo_cli.evaluation.pair_table import PairTable
from vipo_cli.evaluation.strata import strata_of
from vipo_cli.media import media_bytes
from vipo_cli.rewards import Reward, rewards
from vipo_cli.rewards.made import make_reward
from vipo_cli.run import Progress, Work
from vipo_cli.weights import without_fetching

PAIRS_SCORED = 1_000
"""How many pairs are scored when nobody says how many; scores that are known are all used."""

PROBE = 8
BLIND = 0.9
"""Share of NaN, or of ties, from which on a reward says nothing about a data set."""

DIMENSIONS = {
    "pickscore": "overall",
    "hps": "overall",
    "imagereward": "overall",
    "image-reward": "overall",
    "mps": "overall",
    "aesthetic": "aesthetic",
    "laion": "aesthetic",
    "clip": "alignment",
    "vqascore": "alignment",
    "ocr": "text rendering",
}
"""What rewards are about whose scores are known but who are not asked, by how their names begin."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A reward that took no part: why, and how to get it."""

    reward: str
    reason: str
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """How to look at margins.

    Attributes:
        ties: by reward, margins up to which it calls two media equal.
        noise: whether rewards without such a band get one from how much their margins change with
            what nobody sees.
        indifference: share of a median absolute margin that does not matter to dominance.
    """

    ties: Mapping[str, float] = field(default_factory=dict)
    noise: bool = False
    indifference: float = INDIFFERENCE


@dataclass(frozen=True, slots=True)
class ConflictReport:
    """A conflict with what it rests on.

    Attributes:
        conflict: the numbers.
        pairs: how many pairs were looked at, from the first on.
        available: how many the data set has.
        stored: rewards whose scores were known: they came with the data, or lie beside it.
        missing: rewards that took no part.
        skipped: pairs that took no part, by reason.
        table: what the rewards say of each pair.
    """

    conflict: Conflict
    pairs: int
    available: int
    stored: tuple[str, ...]
    missing: tuple[Missing, ...]
    skipped: dict[str, int]
    table: PairTable

    def document(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            **self.conflict.document(),
            "available_pairs": self.available,
            "stored_scores": list(self.stored),
            "missing": [asdict(each) for each in self.missing],
            "skipped": self.skipped,
        }


@dataclass(frozen=True, slots=True)
class _Rewards:
    """Rewards with their scores of winners and losers."""

    names: list[str]
    scores: list[Scores]
    dimensions: dict[str, str]


def measure_conflict(
    records: Sequence[Record],
    *,
    wanted: Sequence[str] | None = None,
    limit: int | None = None,
    look: Look | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> Work[ConflictReport]:
    """Use the scores that are known, compute the others, and compare the rewards.

    Args:
        records: any pairs; those without a loser are skipped.
        wanted: rewards to use. By default those whose scores are known if there are two or more,
            else these and every reward that can be loaded.
        limit: how many pairs to look at. By default all if nothing has to be computed.
        look: how to look at margins.
        options: of rewards, by reward.

    Raises:
        UnknownName: a wanted reward that is neither registered nor among the data's scores.
        DataError: no pairs to compare, or fewer than two rewards that can judge them.
    """
    look = look or Look()
    pairs = only_pairs(records, "the analysis of conflict")
    if not len(pairs):
        raise DataError("the data set has no pairs")
    with ThreadPoolExecutor(1) as reader:
        told = reader.submit(facts_of, pairs)
        known = known_scores(pairs)
    names = list(dict.fromkeys(_default(known) if wanted is None else wanted))
    for name in [*names, *look.ties]:
        if name not in known and name not in rewards:
            raise UnknownName("reward", name, {*rewards.names(), *known})
    to_compute = [name for name in names if name not in known]
    count = min(len(pairs), limit or (PAIRS_SCORED if to_compute else len(pairs)))
    loaded, missing = yield from _load(to_compute, pairs, count, options or {})
    from_data = [name for name in names if name in known]
    _require_two([*from_data, *(reward.name for reward in loaded)], missing)
    scored = yield from _scored(pairs, count, loaded)
    bands = dict(look.ties)
    if look.noise:
        bands = (yield from tie_noise(pairs, scored.rows, loaded)) | bands
    yield Progress("compare rewards", 0, 1)
    judged = _Rewards(
        [*from_data, *(reward.name for reward in loaded)],
        [*_read(known, from_data, scored.rows), *scored.scores],
        {name: about for name in from_data if (about := _dimension(name))}
        | {reward.name: reward.dimension for reward in loaded},
    )
    judged, missing = _telling(judged, missing, bands)
    facts = told.result()
    if facts is None:
        facts = told_by(scored.pairs)
    elif len(scored.rows) < len(pairs):
        facts = taken(facts, scored.rows)
    found, table = _compare(judged, scored.rows, facts, bands, look.indifference)
    yield Progress("compare rewards", 1, 1)
    return ConflictReport(
        found, count, len(pairs), tuple(from_data), missing, scored.skipped, table
    )


def _scored(pairs: Sequence[PreferencePair], count: int, loaded: Sequence[Reward]) -> Work[Scored]:
    """Score the first so many pairs with the rewards that were loaded, if any were."""
    if not loaded:
        return Scored(np.arange(count), [], [], {})
    return (yield from score_pairs(pairs, count, loaded))


def _telling(
    judged: _Rewards, absent: Sequence[Missing], bands: Mapping[str, float]
) -> tuple[_Rewards, tuple[Missing, ...]]:
    """Keep the rewards that say something about these pairs; add the others to the absent.

    Raises:
        DataError: fewer than two do, or never about the same pair.
    """
    missing, telling = list(absent), []
    for number, (name, scores) in enumerate(zip(judged.names, judged.scores, strict=True)):
        margins = scores[:, 0] - scores[:, 1]
        if np.isnan(margins).mean() >= BLIND:
            missing.append(_silent(name, float(np.isnan(margins).mean())))
        elif (np.abs(margins) <= bands.get(name, TIE)).mean() >= BLIND:
            missing.append(Missing(name, "it scores winner and loser alike in nearly all pairs"))
        else:
            telling.append(number)
    names = [judged.names[number] for number in telling]
    _require_two(names, missing)
    kept = [judged.scores[number] for number in telling]
    if np.any([np.isnan(each).any(1) for each in kept], axis=0).all():
        raise DataError(
            f"no pair can be judged by all of {', '.join(names)}",
            hint="choose rewards that go together with --rewards A,B",
        )
    return _Rewards(names, kept, judged.dimensions), tuple(missing)


def _compare(
    judged: _Rewards,
    rows: NDArray[np.int64],
    facts: Facts,
    bands: Mapping[str, float],
    indifference: float,
) -> tuple[Conflict, PairTable]:
    margins = np.stack([scores[:, 0] - scores[:, 1] for scores in judged.scores]).T
    labels = np.where(facts.probability == 0.5, 0.0, 1.0)
    prompts, strata = strata_of(facts)
    about = About(strata, judged.dimensions, bands, indifference)
    found = conflict(margins, labels, judged.names, prompts, about)
    names, ids = tuple(judged.names), facts.texts.get("id")
    table = PairTable(names, rows, judged.scores, facts.probability, ids, found.tie_bands)
    return found, table


def _read(
    known: Mapping[str, Callable[[], Scores]], names: Sequence[str], rows: NDArray[np.int64]
) -> list[Scores]:
    """Read the scores of some rewards, the first alone: it finds what the others share."""

    def read(name: str) -> Scores:
        scores = known[name]()
        return scores if len(rows) == len(scores) else scores[rows]

    with ThreadPoolExecutor() as pool:
        return [*map(read, names[:1]), *pool.map(read, names[1:])]


def _default(known: Mapping[str, Callable[[], Scores]]) -> list[str]:
    return list(known) if len(known) > 1 else list(dict.fromkeys([*known, *rewards.names()]))


def _dimension(name: str) -> str | None:
    starts = (about for start, about in DIMENSIONS.items() if name.startswith(start))
    return next(starts, None)


def _load(
    names: Sequence[str],
    pairs: Sequence[PreferencePair],
    count: int,
    options: Mapping[str, Mapping[str, Any]],
) -> Work[tuple[list[Reward], tuple[Missing, ...]]]:
    """Load the rewards that are at hand and can judge a few pairs from all over the data set."""
    loaded: list[Reward] = []
    missing: list[Missing] = []
    places = np.unique(np.linspace(0, count - 1, PROBE).astype(int)).tolist() if names else []
    probe = [pair for pair in (pairs[place] for place in places) if not why_broken(pair)]
    media = [media_bytes(pair.winner) for pair in probe]
    for done, name in enumerate(names):
        yield Progress("load rewards", done, len(names))
        own = options.get(name, {})
        if needed := _needed(name, own):
            missing.append(Missing(name, f"it has to be told its {needed}"))
            continue
        try:
            with without_fetching():  # gigabytes, for a reward that nobody may have asked for
                reward = make_reward(name, own)
        except VipoError as error:  # its weights, its environment or a key are not at hand
            if own:  # somebody wants it
                raise
            missing.append(Missing(name, error.message, error.hint))
            continue
        scores = reward.score(media, [pair.prompt for pair in probe])
        if len(scores) and np.isnan(scores).mean() >= BLIND:
            missing.append(_blind(name))
        else:
            loaded.append(reward)
    if names:
        yield Progress("load rewards", len(names), len(names))
    return loaded, tuple(missing)


def _needed(name: str, options: Mapping[str, Any]) -> str:
    """Return the parameters without which a reward cannot be made, in words."""
    fields = rewards.parameters(name).model_fields.items()
    return " and ".join(key for key, each in fields if each.is_required() and key not in options)


def _blind(name: str) -> Missing:
    return Missing(name, "it cannot judge these captions")


def _silent(name: str, share: float) -> Missing:
    if share == 1:
        return _blind(name)
    return Missing(
        name,
        f"scores of only {1 - share:.1%} of the pairs are known, or it cannot judge the others",
        f"vipo data score DATA --rewards {name}",
    )


def _require_two(names: Sequence[str], missing: Sequence[Missing]) -> None:
    if len(names) > 1:
        return
    hints = [each.hint for each in missing if each.hint]
    raise DataError(
        f"fewer than two rewards can judge these pairs: {', '.join(names) or 'none'}",
        details=[f"{each.reward}: {each.reason}" for each in missing],
        hint=hints[0] if hints else "see `vipo list rewards`, and name two with --rewards A,B",
    )
