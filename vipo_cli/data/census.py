"""One pass over a data set: what is needed to judge it, in a few dozen bytes for each medium.

Each medium is decoded once, on as many cores as there are, and again only where it comes back long
after. Prompts and media are named by hashes, so that a million pairs stay far below 1 GB.
"""

import os
import warnings
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b, sha256
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vipo_cli.clips import read_frames
from vipo_cli.data.entries import Entries
from vipo_cli.data.entry import Entry, winner_probability
from vipo_cli.data.perceptual import colours_of, hash_of, is_blank, shrink
from vipo_cli.data.prompts import LONGEST
from vipo_cli.data.regions import read_region
from vipo_cli.data.wording import estimate_tokens, known_as, normalise, script_of
from vipo_cli.errors import DataError
from vipo_cli.media import Media, decode, is_clip, media_bytes, probe
from vipo_cli.run import Progress, Work

Depth = Literal["words", "bytes", "pixels"]
"""How closely media are looked at: not at all, by their content hash, or decoded."""

MEDIUM = np.dtype(
    [
        ("digest", np.uint64, 2),
        ("hashes", np.uint64, 3),
        ("colours", np.uint8, 12),
        ("width", np.int32),
        ("height", np.int32),
        ("frames", np.int32),
        ("format", np.uint8),
        ("standing", np.uint16),
        ("blank", np.bool_),
        ("frozen", np.bool_),
        ("decoded", np.bool_),
    ]
)
ENTRY = np.dtype(
    [
        ("start", np.int64),
        ("prompt", np.uint64),
        ("words", np.uint64),
        ("characters", np.int32),
        ("tokens", np.int32),
        ("script", np.uint8),
        ("known", np.uint8),
        ("annotator", np.uint64),
        ("probability", np.float32),
        ("label", np.uint8),
        ("group", np.int32),
        ("broken", np.bool_),
        ("broken_region", np.bool_),
    ]
)
LEAST = 4096
"""Rows that a table begins with; it doubles."""
REMEMBERED = 50_000
"""Media whose looks are kept for when they come again."""
REASONS = 10_000
"""Broken entries of which it is kept what is wrong with them."""
STILL = 1.0
"""Of 255, by which the frames of a clip that stands still differ on average."""


@dataclass(frozen=True, slots=True)
class Looks:
    """What decoding a medium tells of it."""

    width: int
    height: int
    frames: int
    hashes: tuple[int, int, int]
    colours: bytes
    blank: bool
    frozen: bool


@dataclass(frozen=True, slots=True)
class Seen:
    """A medium that was looked at; what could not be read has a reason instead of looks."""

    digest: bytes
    format: str
    looks: Looks | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Census:
    """What one pass found.

    Attributes:
        entries: of the data set.
        depth: how closely media were looked at.
        rows: a row for each entry; the numbers of `names` stand in label, script, known, group.
        media: a row for each medium, in order; standing is 1 for the best, 0 where nobody judged.
        names: what the numbers stand for, by column; `format` is of the media.
        reasons: what is broken in the first entries of which anything is.
    """

    entries: Entries
    depth: Depth
    rows: NDArray[Any]
    media: NDArray[Any]
    names: dict[str, list[str]]
    reasons: dict[int, str]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many media each entry has."""
        return np.diff(self.rows["start"], append=len(self.media))

    def is_named(self, column: str, *names: str) -> NDArray[np.bool_]:
        """Tell of each entry whether a column holds one of some names."""
        wanted = [number for number, name in enumerate(self.names[column]) if name in names]
        return np.isin(self.rows[column], wanted)

    def best_and_worst(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return the entries with a winner and a loser, and where in `media` these stand."""
        start, counts = self.rows["start"], self.counts
        owner = np.repeat(np.arange(len(self)), counts)
        standing = self.media["standing"].astype(np.int64)
        order = np.lexsort((standing, owner))
        has = np.flatnonzero(counts > 1)
        first, last = order[start[has]], order[start[has] + counts[has] - 1]
        judged = (standing[first] > 0) & (standing[first] < standing[last])
        return has[judged], first[judged], last[judged]


@dataclass
class _Table:
    """Rows that grow."""

    kind: Any
    count: int = 0
    rows: Any = field(init=False)

    def __post_init__(self) -> None:
        self.rows = np.zeros(LEAST, self.kind)

    def add(self, row: tuple[Any, ...]) -> None:
        if self.count == len(self.rows):
            self.rows = np.concatenate([self.rows, np.zeros(self.count, self.kind)])
        self.rows[self.count] = row
        self.count += 1

    def whole(self) -> NDArray[Any]:
        found: NDArray[Any] = self.rows[: self.count].copy()
        return found


def take_census(
    entries: Entries,
    depth: Depth = "pixels",
    *,
    against: frozenset[str] = frozenset(),
    group_by: str = "category",
    stage: str = "check",
    visit: Callable[[int, Entry], None] | None = None,
) -> Work[Census]:
    """Look at every entry once.

    Args:
        entries: of a data set.
        depth: how closely to look at the media.
        against: normalised prompts that must not be trained on.
        group_by: what `group` holds: category, source, split, annotator, or a key of the metadata.
        stage: what the progress is called.
        visit: is shown each entry with its number.
    """
    names: dict[str, dict[str, int]] = {
        name: {} for name in ("label", "script", "known", "group", "format")
    }
    table, media = _Table(ENTRY), _Table(MEDIUM)
    reasons: dict[int, str] = {}
    words = lru_cache(maxsize=2**16)(lambda prompt: _words(prompt, against, names))
    # other threads decode: that these hide warnings, too, is not safe without this
    with warnings.catch_warnings(action="ignore"):
        for index, (entry, seen) in enumerate(_looked_at(entries, depth)):
            if visit is not None:
                visit(index, entry)
            standings = standings_of(entry)
            problems, region = _problems(entry, seen), _region_problem(entry, depth)
            table.add(
                (
                    media.count,
                    *words(entry.prompt),
                    _hashed(entry.annotator or ""),
                    winner_probability(entry) if entry.label in ("a", "b") else 1.0,
                    _number(names["label"], entry.label),
                    _number(names["group"], _group_of(entry, group_by)),
                    bool(problems),
                    bool(region),
                )
            )
            for standing, each in zip(standings, seen, strict=True):
                media.add(_medium_row(each, standing, names["format"]))
            if (problems or region) and len(reasons) < REASONS:
                reasons[index] = "; ".join([*problems, *filter(None, [region])])
            yield Progress(f"{stage} {entries.kind}s", index + 1, len(entries))
    listed = {name: list(numbers) for name, numbers in names.items()}
    return Census(entries, depth, table.whole(), media.whole(), listed, reasons)


def role_of(entry: Entry, place: int) -> str:
    """Return what one medium of an entry is, in words."""
    if entry.label in ("a", "b"):
        return "winner" if entry.label == "ab"[place] else "loser"
    if entry.label == "ranked":
        return f"rank {entry.ranks[place] if entry.ranks else place + 1:g}"
    return entry.label if entry.kind == "labelled sample" else f"medium {place + 1}"


def _words(
    prompt: str, against: frozenset[str], names: dict[str, dict[str, int]]
) -> tuple[int, int, int, int, int, int]:
    return (
        _hashed(prompt),
        _hashed(normalise(prompt)),
        len(prompt) if prompt.strip() else 0,
        estimate_tokens(prompt[:LONGEST]),
        _number(names["script"], script_of(prompt[:LONGEST])),
        _number(names["known"], known_as(prompt[:LONGEST], against)),
    )


def _hashed(text: str) -> int:
    """Return 64 bits that name a text; 0 for none."""
    data = text.encode(errors="surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=8).digest()) if text else 0


def _number(numbers: dict[str, int], name: str) -> int:
    """Return the number of a name, a new one where it is not known yet."""
    return numbers.setdefault(name, len(numbers))


def _group_of(entry: Entry, group_by: str) -> str:
    if group_by in ("category", "source", "split", "annotator"):
        return getattr(entry, group_by) or ""
    value = entry.dimensions.get(group_by, entry.metadata.get(group_by))
    return "" if value is None else str(value)


def standings_of(entry: Entry) -> list[int]:
    """Return the place of each medium among those it was compared with, 1 the best, 0 unknown."""
    if entry.label in ("a", "b"):
        return [1, 2] if entry.label == "a" else [2, 1]
    if entry.label == "ranked":
        ranks = entry.ranks or tuple(range(len(entry.media)))
        order = sorted(set(ranks))
        return [order.index(rank) + 1 for rank in ranks]
    known = {"tie": 1, "liked": 1, "disliked": 2}
    return [known.get(entry.label, 0)] * len(entry.media)


def _looked_at(entries: Entries, depth: Depth) -> Iterator[tuple[Entry, list[Seen]]]:
    """Yield entries with what was seen of their media; other threads are a few entries ahead."""
    if depth == "words":
        for entry in entries:
            yield entry, [Seen(bytes(16), "", None)] * len(entry.media)
        return
    remembered: OrderedDict[bytes, Seen] = OrderedDict()
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4
    ahead: deque[tuple[Entry, Future[list[Seen]]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for entry in entries:
                look = pool.submit(_look_at_all, entry, depth, remembered)
                ahead.append((entry, look))
                if len(ahead) > 2 * workers:
                    first, looked = ahead.popleft()
                    yield first, looked.result()
            while ahead:
                first, looked = ahead.popleft()
                yield first, looked.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _look_at_all(entry: Entry, depth: Depth, remembered: OrderedDict[bytes, Seen]) -> list[Seen]:
    return [_look_at(medium, depth, remembered) for medium in entry.media]


def _look_at(medium: Media, depth: Depth, remembered: OrderedDict[bytes, Seen]) -> Seen:
    where = "" if isinstance(medium, bytes) else f" `{medium}`"
    try:
        data = media_bytes(medium)
    except DataError as error:
        return Seen(bytes(16), "", None, f": {error.message}")
    digest = sha256(data).digest()[:16]
    if digest in remembered:
        return remembered[digest]
    if depth == "bytes":
        return Seen(digest, format_of(data), None)
    try:
        seen = Seen(digest, format_of(data), _decoded(data))
    except DataError as error:
        return Seen(digest, "", None, f"{where}: {error.message}")
    remembered[digest] = seen
    if len(remembered) > REMEMBERED:
        remembered.popitem(last=False)
    return seen


def _decoded(data: bytes) -> Looks:
    """Decode a picture, or every frame of a clip.

    Raises:
        DataError: it cannot be decoded.
    """
    if not is_clip(data):
        picture = decode(data)
        small, (width, height) = shrink(picture), picture.size
        return Looks(
            width,
            height,
            frames=1,
            hashes=(hash_of(small),) * 3,
            colours=colours_of(small).tobytes(),
            blank=is_blank(small),
            frozen=False,
        )
    found = probe(data)
    kept: list[NDArray[np.uint8]] = []
    last = None
    count = 0
    for frame in read_frames(data):
        if count in (0, (found.frames - 1) // 2):
            kept.append(shrink(frame))
        last = frame
        count += 1
    if last is None:
        raise DataError("broken clip: it has no frames")
    first, middle, end = kept[0], kept[-1], shrink(last)
    moved = max(np.abs(first.astype(float) - each).mean() for each in (middle, end))
    return Looks(
        found.width,
        found.height,
        count,
        (hash_of(first), hash_of(middle), hash_of(end)),
        colours_of(middle).tobytes(),
        all(map(is_blank, (first, middle, end))),
        count > 1 and moved < STILL,
    )


def format_of(data: bytes) -> str:
    """Return the format of a file by its first bytes."""
    for start, name in MAGIC:
        if data.startswith(start):
            return name
    if data[:4] == b"RIFF":
        return {b"WEBP": "WebP", b"AVI ": "AVI"}.get(data[8:12], "other")
    if data[4:8] == b"ftyp":
        return "AVIF or HEIC" if data[8:12] in PICTURE_BRANDS else "MP4"
    return "other"


MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"\x1aE\xdf\xa3", "Matroska"),
)
PICTURE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1")


def _problems(entry: Entry, seen: list[Seen]) -> list[str]:
    """Return what keeps the media of an entry from being used."""
    if entry.label == "ranked" and len(seen) < 2:
        return [f"a ranked list of {len(seen)}: two or more are needed"]
    return [
        f"{role_of(entry, place)}{each.reason}" for place, each in enumerate(seen) if each.reason
    ]


def _region_problem(entry: Entry, depth: Depth) -> str:
    if depth != "pixels":
        return ""
    for place, region in enumerate(entry.regions or ()):
        try:
            if region is not None:
                read_region(region)
        except DataError as error:
            return f"region of the {role_of(entry, place)}: {error.message}"
    return ""


def _medium_row(seen: Seen, standing: int, formats: dict[str, int]) -> tuple[Any, ...]:
    looks = seen.looks or NOTHING
    return (
        tuple(np.frombuffer(seen.digest, ">u8")),
        looks.hashes,
        tuple(looks.colours),
        looks.width,
        looks.height,
        looks.frames,
        _number(formats, seen.format),
        standing,
        looks.blank,
        looks.frozen,
        seen.looks is not None,
    )


NOTHING = Looks(0, 0, 0, (0, 0, 0), bytes(12), blank=False, frozen=False)
