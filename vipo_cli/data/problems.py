"""What can be wrong with single entries: found in a census, counted or left out.

Media are compared by their content hashes, and where decoded by how they look; media of different
prompts are never held against each other.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vipo_cli.data.census import Census, Depth
from vipo_cli.data.perceptual import alike, group_alike
from vipo_cli.data.prompts import LONGEST
from vipo_cli.data.wording import CLIP_TOKENS

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
Hashes = NDArray[np.uint64]

TINY = 32
"""Pixels of the shorter side below which a medium shows nothing."""
TINY_SHARE = 0.25
"""Of the median shorter side of the data set, below which a medium is a thumbnail among others."""


@dataclass(frozen=True, slots=True)
class Flags:
    """The entries that have a problem.

    Attributes:
        rows: which they are.
        beside: the entry that each is at odds with, where it takes two.
        dropped: which have to go, where these are not the same.
    """

    rows: Rows
    beside: Rows | None = None
    dropped: Rows | None = None

    @property
    def to_drop(self) -> Rows:
        """Entries without which the problem is gone."""
        return self.rows if self.dropped is None else self.dropped


Find = Callable[[Census, Mask], Flags]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that can be wrong with an entry.

    Attributes:
        meaning: what it means, in words.
        serious_above: the share of entries above which the set should not be trained on; 1: never.
        find: returns the entries that have it, among those of a mask.
        depth: how closely media have to be looked at to find it.
    """

    meaning: str
    serious_above: float
    find: Find
    depth: Depth = "words"


def _mix(values: Hashes) -> Hashes:
    """Scatter 64-bit numbers, so that sums of them name sets (splitmix64)."""
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))


def _summed(census: Census, values: Hashes) -> Hashes:
    """Add what stands for the media of each entry, whatever their order."""
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(values, dtype=np.uint64)])
    start = census.rows["start"]
    found: Hashes = sums[start + census.counts] - sums[start]
    return found


def _of_media(census: Census, wrong: Mask) -> Mask:
    """Tell of each entry that can be read whether any of its media is wrong."""
    found: Mask = (_summed(census, wrong.astype(np.uint64)) > 0) & ~census.rows["broken"]
    return found


def _spread(census: Census, values: NDArray[np.integer]) -> Mask:
    """Tell of each entry whether its media differ in a value."""
    found = np.zeros(len(census), bool)
    has = np.flatnonzero(census.counts)
    if len(has):
        starts = census.rows["start"][has]
        found[has] = np.maximum.reduceat(values, starts) != np.minimum.reduceat(values, starts)
    return found


def _whole(census: Census, among: Mask) -> Mask:
    found: Mask = among & ~census.rows["broken"] & (census.counts > 0)
    return found


def _simple(choose: Callable[[Census], Mask]) -> Find:
    """Find entries one by one."""
    return lambda census, among: Flags(np.flatnonzero(choose(census) & among))


def _repeating(census: Census) -> Mask:
    """Tell of each entry whether the same bytes stand in it twice."""
    owner = np.repeat(np.arange(len(census)), census.counts)
    digest = census.media["digest"][:, 0]
    order = np.lexsort((digest, owner))
    owner, digest = owner[order], digest[order]
    found = np.zeros(len(census), bool)
    found[owner[1:][(owner[1:] == owner[:-1]) & (digest[1:] == digest[:-1])]] = True
    return found & _whole(census, np.ones(len(census), bool))


def _first_of(keys: Hashes, rows: Rows) -> Rows:
    """Return for each row the first row of the same key."""
    _, index, inverse = np.unique(keys[rows], return_index=True, return_inverse=True)
    return np.asarray(rows[index[inverse]], np.int64)


def _keys(census: Census, media: Hashes) -> tuple[Hashes, Hashes]:
    """Name what was compared in each entry, and what was said of it.

    Args:
        census: of the entries.
        media: what stands for each medium.
    """
    standing = _mix(census.media["standing"].astype(np.uint64))
    key = _summed(census, _mix(media)) + _mix(census.rows["prompt"])
    return key, _summed(census, _mix(media ^ standing))


def _judged(census: Census) -> Mask:
    return ~census.is_named("label", "none", "candidates")


def _duplicates(census: Census, among: Mask) -> Flags:
    """Find entries that say again what one before them said; two people may say the same."""
    key, said = _keys(census, census.media["digest"][:, 0])
    rows = np.flatnonzero(_whole(census, among) & ~_repeating(census))
    first = _first_of(_mix(key) + _mix(said) * np.uint64(3) + _mix(census.rows["annotator"]), rows)
    return Flags(rows[rows != first], first[rows != first])


def _contradictions(census: Census, among: Mask) -> Flags:
    key, said = _keys(census, census.media["digest"][:, 0])
    rows = np.flatnonzero(_whole(census, among) & _judged(census) & ~_repeating(census))
    first = _first_of(key, rows)
    differ = said[rows] != said[first]
    return Flags(rows[differ], first[differ], rows[np.isin(first, first[differ])])


def _looking_alike(census: Census) -> Hashes:
    """Return a number for each medium that is the same where media look alike."""
    digests = census.media["digest"][:, 0]
    groups = digests.copy()
    shown = np.flatnonzero(census.media["decoded"] & ~census.media["blank"])
    _, index, inverse = np.unique(digests[shown], return_index=True, return_inverse=True)
    media = census.media[shown[index]]
    found = group_alike(np.ascontiguousarray(media["hashes"]), media["colours"])
    groups[shown] = found.astype(np.uint64)[inverse]
    return groups


def _near_duplicates(census: Census, among: Mask) -> Flags:
    """Find entries whose media look like those of one before them, without being the same."""
    exact, _ = _keys(census, census.media["digest"][:, 0])
    near, _ = _keys(census, _looking_alike(census))
    rows = np.flatnonzero(_whole(census, among) & ~_repeating(census))
    rows = rows[~np.isin(rows, _near_identical(census, among).rows)]
    rows = rows[_first_of(exact, rows) == rows]
    first = _first_of(near, rows)
    return Flags(rows[rows != first], first[rows != first])


def _near_identical(census: Census, among: Mask) -> Flags:
    rows = np.flatnonzero(_whole(census, among) & (census.counts == 2))
    rows = rows[census.media["decoded"][census.rows["start"][rows]]]
    one, other = (census.media[census.rows["start"][rows] + place] for place in (0, 1))
    same = alike((one["hashes"], one["colours"]), (other["hashes"], other["colours"]))
    differ = (one["digest"] != other["digest"]).any(-1) & ~(one["blank"] & other["blank"])
    return Flags(rows[same & differ])


def _cycles(census: Census, among: Mask) -> Flags:
    """Find pairs that go round in a circle of three or more: a > b > c > a."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    rows, best, worst = census.best_and_worst()
    fit = among & ~census.rows["broken"] & (census.counts == 2)
    fit[_contradictions(census, among).to_drop] = False
    kept = fit[rows]
    rows, best, worst = rows[kept], best[kept], worst[kept]
    if not len(rows):
        return Flags(rows)
    prompt = _mix(census.rows["prompt"][rows])
    names = [prompt + census.media["digest"][side, 0] for side in (best, worst)]
    nodes, ends = np.unique(np.concatenate(names), return_inverse=True)
    edges = coo_array(
        (np.ones(len(rows), np.int8), (ends[: len(rows)], ends[len(rows) :])),
        shape=(len(nodes), len(nodes)),
    )
    _, parts = connected_components(edges, connection="strong")
    parts = np.asarray(parts)[ends]
    sizes = np.bincount(parts)
    one, other = parts[: len(rows)], parts[len(rows) :]
    round_ = (one == other) & (np.bincount(one, minlength=len(sizes))[one] >= 3)
    return Flags(rows[round_])


def _sizes_differ(census: Census) -> Mask:
    media = census.media
    wide, high, long = (_spread(census, media[name]) for name in ("width", "height", "frames"))
    return _whole(census, wide | high | long)


def _tiny(census: Census) -> Mask:
    media = census.media
    shorter = np.minimum(media["width"], media["height"])
    known = shorter[media["decoded"]]
    least = max(TINY, TINY_SHARE * float(np.median(known))) if len(known) else TINY
    return _of_media(census, media["decoded"] & (shorter < least))


def _long(census: Census) -> Mask:
    rows = census.rows
    found: Mask = (rows["tokens"] > CLIP_TOKENS) & (rows["characters"] < LONGEST)
    return found


def _is_pair(census: Census) -> Mask:
    return np.full(len(census), census.entries.kind == "pair")


PROBLEMS: dict[str, Problem] = {
    "broken media": Problem(
        "cannot be read or decoded to the end",
        0.0,
        _simple(lambda census: census.rows["broken"]),
        "pixels",
    ),
    "broken region map": Problem(
        "says nothing about where its picture counts",
        0.0,
        _simple(lambda census: census.rows["broken_region"]),
        "pixels",
    ),
    "blank media": Problem(
        "one colour all over, as safety checkers and overflows leave",
        0.01,
        _simple(lambda census: _of_media(census, census.media["blank"])),
        "pixels",
    ),
    "tiny media": Problem(
        f"a side below {TINY} pixels, or a quarter of what is usual in this set",
        0.01,
        _simple(_tiny),
        "pixels",
    ),
    "frozen clip": Problem(
        "its first, middle and last frame are the same: nothing moves",
        1.0,
        _simple(lambda census: _of_media(census, census.media["frozen"])),
        "pixels",
    ),
    "winner equals loser": Problem(
        "the same bytes on both sides: nothing to learn",
        0.0,
        _simple(lambda census: _repeating(census) & _is_pair(census)),
        "bytes",
    ),
    "repeated in a list": Problem(
        "the same bytes at two ranks of a list: which one is theirs?",
        0.0,
        _simple(lambda census: _repeating(census) & ~_is_pair(census)),
        "bytes",
    ),
    "winner looks like loser": Problem(
        "the same picture in another encoding or size: all there is to learn is the encoding",
        0.05,
        _near_identical,
        "pixels",
    ),
    "contradicting labels": Problem(
        "the same media and prompt, preferred or liked differently", 0.01, _contradictions, "bytes"
    ),
    "circular preferences": Problem(
        "of three or more media for one prompt each beats the next: a > b > c > a",
        1.0,
        _cycles,
        "bytes",
    ),
    "improbable winner": Problem(
        "preferred with a probability below one half: the loser won",
        0.0,
        _simple(lambda census: census.rows["probability"] < 0.5),
    ),
    "empty prompt": Problem(
        "nothing that the media could have been made for",
        0.0,
        _simple(lambda census: census.rows["characters"] == 0),
    ),
    "endless prompt": Problem(
        f"{LONGEST:,} characters or more",
        0.0,
        _simple(lambda census: census.rows["characters"] >= LONGEST),
    ),
    "long prompt": Problem(
        f"about more than {CLIP_TOKENS} tokens, where CLIP stops reading; T5 and others read on",
        1.0,
        _simple(_long),
    ),
    "other script": Problem(
        "letters that are not Latin, which most text encoders were not trained to read",
        1.0,
        _simple(lambda census: ~census.is_named("script", "latin")),
    ),
    "leaked prompt": Problem(
        "a prompt that is kept for evaluation: its scores would not count",
        0.0,
        _simple(lambda census: census.is_named("known", "leaked")),
    ),
    "GenEval prompt": Problem(
        "one of GenEval's 553: its score would not count",
        0.001,
        _simple(lambda census: census.is_named("known", "geneval")),
    ),
    "GenEval-like prompt": Problem(
        "made by GenEval's templates, though not one of the 553",
        1.0,
        _simple(lambda census: census.is_named("known", "like geneval")),
    ),
    "duplicate pair": Problem(
        "seen before, with the same label: counts twice in training", 1.0, _duplicates, "bytes"
    ),
    "near-duplicate pair": Problem(
        "media that look like those of an entry before it, for the same prompt",
        1.0,
        _near_duplicates,
        "pixels",
    ),
    "different sizes": Problem(
        "media of a prompt differ in size or length, which a model can learn",
        1.0,
        _simple(_sizes_differ),
        "pixels",
    ),
    "different formats": Problem(
        "media of a prompt differ in file format, and so in their artefacts",
        1.0,
        _simple(lambda census: _whole(census, _spread(census, census.media["format"]))),
        "bytes",
    ),
    "tie": Problem("nobody preferred either", 1.0, _simple(lambda c: c.is_named("label", "tie"))),
    "no label": Problem("nobody judged it", 1.0, _simple(lambda census: ~_judged(census))),
}
"""By the words in which it is reported; on the command line blanks are hyphens."""
SILENT = ("tie", "no label", "different formats")
"""What is no fault by itself; `filter` can leave it out all the same."""


def option_of(problem: str) -> str:
    """Return how a problem is called on the command line."""
    return problem.lower().replace(" ", "-")
