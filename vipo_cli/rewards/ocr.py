"""Text rendering: how much of what a prompt puts in quotes can be read in a picture.

A backend reads; the extra `ocr` brings one. Readings are compared without regard to case,
punctuation and line breaks.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from shutil import which
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vipo_cli.errors import DataError, MissingWeights
from vipo_cli.media import content_hash, decode, enlarge
from vipo_cli.rewards import Reward
from vipo_cli.run import fingerprint

Backend = Annotated[
    Literal["auto", "rapidocr", "tesseract"],
    Field(description="Who reads; auto: RapidOCR if it is installed, else Tesseract."),
]
Read = Callable[[bytes], str]
"""Returns what is written in a picture, in the order in which it is read."""

VERSION = 1
"""Raised whenever the same reading may score differently."""
SMALLEST = 256
"""Pictures with a shorter side are enlarged to it before they are read."""
READINGS = 512
"""Readings kept, for the other measure of the same pictures."""
QUOTES = re.compile(
    r'"([^"]+)"|\u201c([^\u201d]+)\u201d|\u00ab([^\u00bb]+)\u00bb|'
    r"(?<!\w)'([^']+(?:'\w[^']*)*)'(?!\w)|(?<!\w)\u2018([^\u2019]+)\u2019(?!\w)"
)


def ocr_similarity(*, backend: Backend = "auto") -> Reward:
    """1 minus the edit distance between quoted and read text, per character; in [0, 1]."""
    return _reward("ocr-similarity", backend, similarity)


def ocr_words(*, backend: Backend = "auto") -> Reward:
    """Share of the quoted words that can be read; in [0, 1]."""
    return _reward("ocr-words", backend, word_accuracy)


@dataclass(frozen=True, slots=True)
class TextReward:
    """A measure of what can be read against what was asked for."""

    name: str
    fingerprint: str
    read: Read
    measure: Callable[[str, str], float]
    dimension: str = "text rendering"

    def score(self, media: Sequence[bytes], prompts: Sequence[str]) -> NDArray[np.float64]:
        """Measure each picture; NaN where nothing is quoted or nothing can be decoded."""
        return np.array([self._one(*each) for each in zip(media, prompts, strict=True)])

    def _one(self, data: bytes, prompt: str) -> float:
        wanted = normalised(quoted(prompt))
        if not wanted:
            return float("nan")
        try:
            return self.measure(wanted, normalised(self.read(data)))
        except DataError:
            return float("nan")


def quoted(prompt: str) -> str:
    """Return all that a prompt puts in quotes, one after another."""
    return " ".join("".join(found) for found in QUOTES.findall(prompt))


def normalised(text: str) -> str:
    """Return a text without regard to case, width of characters, punctuation and blanks."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    letters = (char if unicodedata.category(char)[0] in "LNM" else " " for char in folded)
    return " ".join("".join(letters).split())


def similarity(wanted: str, read: str) -> float:
    """Return 1 minus the edit distance over the length of the longer text."""
    return 1 - edit_distance(wanted, read) / max(len(wanted), len(read))


def word_accuracy(wanted: str, read: str) -> float:
    """Return the share of wanted words that were read, each as often as it is wanted."""
    words = Counter(wanted.split())
    return (words & Counter(read.split())).total() / words.total()


def edit_distance(one: str, other: str) -> int:
    """Return how many characters must be put in, left out or changed to get from one to other."""
    row = list(range(len(other) + 1))
    for number, char in enumerate(one, 1):
        before, row[0] = row[0], number
        for place, against in enumerate(other, 1):
            changed = before + (char != against)
            before = row[place]
            row[place] = min(changed, row[place] + 1, row[place - 1] + 1)
    return row[-1]


def _reward(name: str, backend: str, measure: Callable[[str, str], float]) -> Reward:
    chosen = find_reader(backend)
    identity = fingerprint(
        {"reward": name, "version": VERSION, "backend": chosen.name, "of": chosen.version}
    )
    return TextReward(name, identity, chosen.read, measure)


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads, in which version, and how."""

    name: str
    version: str
    read: Read


def find_reader(backend: str = "auto") -> Reader:
    """Return a reader of pictures.

    Raises:
        MissingWeights: none is installed.
    """
    wanted = ("rapidocr", "tesseract") if backend == "auto" else (backend,)
    chosen = next((each for each in wanted if INSTALLED[each]()), None)
    if chosen is None:
        raise MissingWeights(
            f"no OCR backend is installed: {' or '.join(wanted)}",
            hint='pip install "vipo[ocr]"; Tesseract needs pytesseract and its own program',
        )
    return Reader(chosen, _version(chosen), READERS[chosen]())


def _version(backend: str) -> str:
    package = {"rapidocr": "rapidocr-onnxruntime", "tesseract": "pytesseract"}[backend]
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _has_rapidocr() -> bool:
    return find_spec("rapidocr_onnxruntime") is not None


def _has_tesseract() -> bool:
    return find_spec("pytesseract") is not None and which("tesseract") is not None


@lru_cache(maxsize=1)
def _rapidocr() -> Read:
    from rapidocr_onnxruntime import RapidOCR

    engine = RapidOCR()

    def read(picture: Any) -> str:
        found, _ = engine(np.ascontiguousarray(np.asarray(picture)[:, :, ::-1]))  # it wants BGR
        return " ".join(text for _, text, _ in found or ())

    return _remembered(read)


@lru_cache(maxsize=1)
def _tesseract() -> Read:
    import pytesseract

    def read(picture: Any) -> str:
        return str(pytesseract.image_to_string(picture))

    return _remembered(read)


def _remembered(read: Callable[[Any], str]) -> Read:
    """Decode before reading, and remember the last readings."""
    known: dict[str, str] = {}

    def remembered(data: bytes) -> str:
        name = content_hash(data)
        if name not in known:
            text = read(enlarge(decode(data), SMALLEST))
            while len(known) >= READINGS:
                del known[next(iter(known))]
            known[name] = text
        return known[name]

    return remembered


INSTALLED: dict[str, Callable[[], bool]] = {"rapidocr": _has_rapidocr, "tesseract": _has_tesseract}
READERS: dict[str, Callable[[], Read]] = {"rapidocr": _rapidocr, "tesseract": _tesseract}
