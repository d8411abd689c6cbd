"""CVTG-2K (arXiv 2503.23461): can the words that a prompt puts in single quotes be read?

Words are split at white space and compared without regard to case. Word accuracy is the share of
the words of all prompts that were read anywhere in their picture, however often; NED the mean over
the same words of 1 minus the edit distance to the likest word that was read, over the length of the
longer one. These are the rules of the public script, down to its denominator, which is larger by
1e-5, and to the likest word, which is that of difflib. Where nothing could be read because reading
failed, the script counts all words as wrong; here the picture fails unless `official` is asked for.
CLIPScore, with OpenAI's ViT-L/14, is a mean over pictures.
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import Field

from vipo_cli.benchmarks import paddle
from vipo_cli.benchmarks.task import Asked, Metric, Task, Verdict
from vipo_cli.registry import Registry

Engine = Annotated[
    Literal["auto", "paddleocr", "rapidocr", "tesseract"],
    Field(description="Who reads; auto: PaddleOCR as published if it is installed, else another."),
]
Rules = Literal["corrected", "official"]
readers: Registry[Any] = Registry(
    "OCR engine", "vipo.readers", {"others": "vipo_cli.rewards.ocr:find_reader"}
)
"""Engines that other parts of the package know."""

scores: Registry[Any] = Registry(
    "score", "vipo.cvtg_scores", {"clipscore": "vipo_cli.rewards.clip:clipscore"}
)
"""What is scored beside the words."""
CLIP = "vit-l-14"

QUOTED = re.compile(r"'(.*?)'")
TINY = 1e-5
"""What the published denominator of NED has too much."""
COMPARABLE = "paddleocr"
NOT_COMPARABLE = "read by {engine}: published numbers are PaddleOCR's"


def cvtg_2k(
    *,
    engine: Engine = "auto",
    rules: Annotated[
        Rules, Field(description="`official` counts all words as wrong where reading failed.")
    ] = "corrected",
    clipscore: Annotated[
        bool, Field(description="Score CLIPScore, too; that needs the weights of ViT-L/14.")
    ] = False,
) -> Task:
    """CVTG-2K (arXiv 2503.23461): the share of quoted words that can be read in the picture."""
    found = find_cvtg(engine, rules)
    if not clipscore:
        return found
    metrics = (*found.metrics, Metric("clipscore", lowest=0, highest=2.5))
    return replace(found, clipscore=scores["clipscore"](backbone=CLIP), metrics=metrics)


@dataclass(frozen=True, slots=True)
class CVTG:
    """Word accuracy and NED, both over the words of all prompts; CLIPScore where it is wanted."""

    lines: paddle.Lines
    engine: str
    version_of_engine: str
    rules: Rules = "corrected"
    clipscore: Any = None
    name: str = "cvtg-2k"
    title: str = "CVTG-2K"
    metrics: tuple[Metric, ...] = (
        Metric("word_accuracy", lowest=0, highest=1),
        Metric("ned", lowest=0, highest=1),
    )
    prompt_set: str = "cvtg-2k"
    needs: tuple[str, ...] = ()
    images_per_prompt: int = 1
    batch_size: int = 1

    @property
    def version(self) -> str:
        """Return the rules and how often they changed."""
        return f"cvtg-{self.rules}-1"

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what readers of the results must know."""
        if self.engine == COMPARABLE:
            return ()
        return (NOT_COMPARABLE.format(engine=self.engine),)

    @property
    def judge_fingerprint(self) -> list[str]:
        """Return who reads, in which version, and the fingerprint of CLIPScore."""
        also = [] if self.clipscore is None else [self.clipscore.fingerprint]
        return [self.engine, self.version_of_engine, *also]

    def judge(self, media: Sequence[bytes], asked: Sequence[Asked]) -> list[Verdict]:
        """Judge pictures one by one."""
        verdicts = [self._one(*each) for each in zip(media, asked, strict=True)]
        if self.clipscore is None:
            return verdicts
        found = self.clipscore.score(media, [str(each["prompt"]) for each in asked])
        return [
            replace(verdict, scores={**verdict.scores, "clipscore": float(score)})
            for verdict, score in zip(verdicts, found, strict=True)
        ]

    def _one(self, data: bytes, asked: Asked) -> Verdict:
        words = quoted_words(asked["prompt"])
        if not words:
            return Verdict({}, reason="nothing is quoted")
        try:
            read = read_words(self.lines(data))
        except Exception as error:
            if self.rules == "corrected":
                raise
            zero = {"word_accuracy": 0.0, "ned": 0.0}
            why = f"reading failed, which counts as wrong: {error}"
            return Verdict(zero, dict.fromkeys(zero, float(len(words))), reason=why)
        reading = compare(words, read)
        missing = [word for word in words if word not in read]
        return Verdict(
            {"word_accuracy": reading.right / len(words), "ned": sum(reading.ned) / len(words)},
            {"word_accuracy": float(len(words)), "ned": float(len(words))},
            reason=f"not read: {' '.join(missing)}" if missing else "",
            details={"read": read},
        )


def find_cvtg(engine: str, rules: Rules) -> CVTG:
    """Return the benchmark with the engine that is wanted.

    Raises:
        MissingWeights: none is installed.
    """
    paddle_is_here = paddle.installed() is not None and find_spec("paddle") is not None
    if engine == "paddleocr" or (engine == "auto" and paddle_is_here):
        lines = paddle.load_paddle()
        return CVTG(lines, "paddleocr", paddle.installed() or "", rules)
    found = readers["others"](engine)
    return CVTG(lambda data: [found.read(data)], found.name, found.version, rules)


@dataclass(frozen=True, slots=True)
class Reading:
    """How a picture's words compare with those that are wanted.

    Attributes:
        right: how many of the wanted words were read.
        ned: for each wanted word how like the likest word is that was read, from 0 to 1.
    """

    right: int
    ned: tuple[float, ...]


def quoted_words(prompt: str) -> list[str]:
    """Return the words between single quotes; an apostrophe in between counts as one, too."""
    return [word for quoted in QUOTED.findall(prompt) for word in quoted.lower().split()]


def read_words(lines: Sequence[str]) -> list[str]:
    """Return the words of lines of text."""
    return [word for line in lines for word in line.lower().split()]


def compare(wanted: Sequence[str], read: Sequence[str]) -> Reading:
    """Compare what is wanted with what was read; if that is nothing, with an empty word."""
    known = sorted(set(read)) or [""]
    likest = [difflib.get_close_matches(word, known, n=1, cutoff=0)[0] for word in wanted]
    return Reading(
        sum(word in known for word in wanted),
        tuple(likeness(*pair) for pair in zip(wanted, likest, strict=True)),
    )


def likeness(word: str, other: str) -> float:
    """Return 1 minus the edit distance over the published denominator."""
    return 1 - edit_distance(word, other) / (max(len(word), len(other)) + TINY)


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
