"""Scores of winners and losers by rewards that are at hand, each medium and prompt once."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vipo_cli.data.pair_scores import Scores
from vipo_cli.data.record import PreferencePair
from vipo_cli.data.usable import why_broken
from vipo_cli.errors import DataError
from vipo_cli.media import content_hash, decode, is_clip, media_bytes
from vipo_cli.rewards import Reward
from vipo_cli.run import Progress, Work

CHUNK = 32

NOISE_PAIRS = 64
NOISE_QUANTILE = 0.95
"""Share of pairs whose margins change by less than the band."""
JPEG_QUALITY = 95
"""Of pictures saved again: nobody sees a difference."""

Key = tuple[str, str]
"""A medium's content hash, and the prompt that it is scored for."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of winners and losers.

    Attributes:
        rows: the pairs that took part; what follows is about these, in this order.
        scores: of winners and losers, (n, 2), for each reward.
        pairs: what else they say; empty where nothing was scored.
        skipped: pairs that took no part, by reason.
    """

    rows: NDArray[np.int64]
    scores: list[Scores]
    pairs: list[PreferencePair]
    skipped: dict[str, int]


def score_pairs(
    pairs: Sequence[PreferencePair], count: int, rewards: Sequence[Reward]
) -> Work[Scored]:
    """Score each medium of the first so many pairs with its prompt once.

    Raises:
        DataError: no pair has both a winner and a loser that can be decoded.
    """
    rows: list[int] = []
    both: list[NDArray[np.float64]] = []
    told: list[PreferencePair] = []
    skipped: dict[str, int] = {}
    known: dict[Key, NDArray[np.float64]] = {}
    for start in range(0, count, CHUNK):
        chunk = {index: pairs[index] for index in range(start, min(start + CHUNK, count))}
        media, sides = _media(chunk, skipped)
        new = [key for key in media if key not in known]
        columns = [
            reward.score([media[key] for key in new], [prompt for _, prompt in new])
            for reward in rewards
        ]
        known.update(zip(new, np.column_stack(columns), strict=True))
        for index, (winner, loser) in sides.items():
            rows.append(index)
            both.append(np.stack([known[winner], known[loser]], 1))
            told.append(_without_media(chunk[index]))
        yield Progress("score pairs", start + len(chunk), count)
    if not rows:
        details = [f"{number:,} pairs: {reason}" for reason, number in skipped.items()]
        raise DataError("no pair has a winner and a loser that can be scored", details=details)
    scores = np.stack(both)
    by_reward = [scores[:, number] for number in range(len(rewards))]
    return Scored(np.array(rows), by_reward, told, skipped)


def tie_noise(
    pairs: Sequence[PreferencePair], rows: NDArray[np.int64], rewards: Sequence[Reward]
) -> Work[dict[str, float]]:
    """Measure by how much margins change where nobody sees a change: pictures saved once more.

    Clips are left out; a reward that cannot judge any pair gets no band.
    """
    places = np.unique(np.linspace(0, len(rows) - 1, NOISE_PAIRS).astype(int))
    changes: Mapping[str, list[float]] = {reward.name: [] for reward in rewards}
    for done, row in enumerate(rows[places].tolist() if rewards else []):
        pair = pairs[row]
        assert pair.loser is not None
        media = [media_bytes(pair.winner), media_bytes(pair.loser)]
        if not any(map(is_clip, media)):
            prompts = [pair.prompt] * 4
            for reward in rewards:
                scores = reward.score([*media, *map(_saved_again, media)], prompts)
                change = (scores[0] - scores[1]) - (scores[2] - scores[3])
                changes[reward.name].append(abs(float(change)))
        yield Progress("measure noise", done + 1, len(places))
    known = {name: np.array(each)[~np.isnan(each)] for name, each in changes.items()}
    return {
        name: float(np.quantile(each, NOISE_QUANTILE)) for name, each in known.items() if len(each)
    }


def _saved_again(data: bytes) -> bytes:
    buffer = io.BytesIO()
    decode(data).save(buffer, format="jpeg", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def _without_media(pair: PreferencePair) -> PreferencePair:
    """Return a pair that takes little memory: a thousand of them are kept."""
    return PreferencePair(
        pair.prompt, b"", b"", pair.metadata, pair.weight, probability=pair.probability
    )


def _media(
    chunk: dict[int, PreferencePair], skipped: dict[str, int]
) -> tuple[dict[Key, bytes], dict[int, tuple[Key, Key]]]:
    """Return the media of the usable pairs by key, and the keys of winner and loser by pair."""
    media: dict[Key, bytes] = {}
    sides: dict[int, tuple[Key, Key]] = {}
    for index, pair in chunk.items():
        if pair.loser is None or why_broken(pair):
            reason = "no loser" if pair.loser is None else "broken media"
            skipped[reason] = skipped.get(reason, 0) + 1
            continue
        both = media_bytes(pair.winner), media_bytes(pair.loser)
        winner, loser = ((content_hash(data), pair.prompt) for data in both)
        media |= {winner: both[0], loser: both[1]}
        sides[index] = winner, loser
    return media, sides
