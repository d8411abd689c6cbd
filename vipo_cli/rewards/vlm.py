"""A vision-language model as a judge of one picture or clip, by a rubric of the user's own.

Where the model tells the chances of its first words, the score is the mean over the numbers of the
scale, each weighted by its chance; else it is the number in its answer. Answers are kept in vipo's
cache by model, rubric, medium and prompt, so that nothing is asked twice.
"""

import math
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vipo_cli.chat import AskedInVain, Chat, Part, find_chat, identity
from vipo_cli.errors import DataError, MissingWeights
from vipo_cli.media import content_hash, enlarge, stills
from vipo_cli.rewards import Reward
from vipo_cli.run import append_line, cache_home, fingerprint, read_lines

JUDGE = "VIPO_JUDGE"
"""Environment variable that names the judge where no option does."""
RUBRIC = (
    "How well does it show what the prompt asks for: every object, their number, colours, actions "
    "and places, and nothing that contradicts it? How well is it made: is it sharp, coherent and "
    "free of errors?"
)
"""What is judged where the user does not say."""
INSTRUCTIONS = (
    "You rate a {what} that was made for a prompt. Judge by this rubric alone:\n\n{rubric}\n\n"
    "Answer with one whole number from {lowest} (worst) to {highest} (best) and nothing else."
)
VERSION = 1
"""Raised whenever a model is told or shown something else."""
LARGEST_TOLD = 9
"""Of the numbers whose chances are read; a larger one is several tokens to most models."""
SURE = 0.5
"""How likely a number must be to come first for chances to be read; else there is talk before."""
_NUMBER = r"-?\d+(?:\.\d+)?"


def vlm_judge(
    *,
    judge: Annotated[
        str | None,
        Field(description="Vision-language model (folder or hub id) or server (URL); $VIPO_JUDGE."),
    ] = None,
    judge_model: Annotated[
        str | None, Field(description="What a server calls its model; by default its only one.")
    ] = None,
    rubric: Annotated[
        str | None,
        Field(description="File that says what is judged; by default all of it."),
    ] = None,
    lowest: Annotated[int, Field(ge=0, le=1, description="The worst score.")] = 1,
    highest: Annotated[
        int, Field(ge=2, le=100, description="The best; up to 9 chances are read, else a number.")
    ] = 5,
    together: Annotated[int, Field(ge=1, description="Questions a server is asked at once.")] = 4,
) -> Reward:
    """Any vision-language model as a judge by a rubric: 1 to 5, or another scale.

    The key of a server is read from VIPO_JUDGE_KEY. Of a clip its first, middle and last frame are
    shown. An answer without a number is no score.

    Raises:
        MissingWeights: no judge is named, or it is not on this machine.
    """
    judge = judge or os.environ.get(JUDGE)
    if not judge:
        raise MissingWeights(
            "`vlm-judge` needs to be told who judges",
            hint=f"name a model or a server: export {JUDGE}=http://localhost:8000/v1",
        )
    text = read_rubric(rubric)
    chat = find_chat(judge, judge_model, together)
    about = {
        "reward": "vlm-judge",
        "model": identity(judge, chat),
        "rubric": fingerprint(text),
        "scale": [lowest, highest],
        "version": VERSION,
    }
    name = fingerprint(about)
    kept = cache_home() / "judgements" / f"{name}.jsonl"
    return JudgeReward("vlm-judge", "overall", name, chat, text, (lowest, highest), kept)


def read_rubric(file: str | None) -> str:
    """Return what a file says is judged.

    Raises:
        DataError: it cannot be read, or says nothing.
    """
    if file is None:
        return RUBRIC
    try:
        text = Path(file).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the rubric `{file}`: {error}") from error
    if not text:
        raise DataError(f"the rubric `{file}` is empty")
    return text


@dataclass(frozen=True, slots=True)
class Judged:
    """What a model said about a medium: a score, or NaN with what it said instead."""

    score: float
    said: str


@dataclass(frozen=True, slots=True)
class JudgeReward:
    """The score that a model gives by a rubric.

    Attributes:
        chat: who judges.
        rubric: by what.
        scale: the lowest and the highest score.
        kept: the file that keeps what was said.
    """

    name: str
    dimension: str
    fingerprint: str
    chat: Chat
    rubric: str
    scale: tuple[int, int]
    kept: Path

    def score(self, media: Sequence[bytes], prompts: Sequence[str]) -> NDArray[np.float64]:
        """Score each picture or clip; NaN for what cannot be decoded or got no number.

        Raises:
            AskedInVain: a question got no answer; those that did are kept.
            VipoError: the judge answers none.
        """
        keys = [
            fingerprint([content_hash(data), prompt])
            for data, prompt in zip(media, prompts, strict=True)
        ]
        known = self._known()
        asked = dict(zip(keys, zip(media, prompts, strict=True), strict=True))
        todo = [key for key in asked if key not in known]
        in_vain: AskedInVain | None = None
        with ThreadPoolExecutor(self.chat.together) as pool:
            for key, found in zip(todo, pool.map(self._try, map(asked.get, todo)), strict=True):
                if isinstance(found, AskedInVain):
                    in_vain = found
                    continue
                known[key] = found.score
                self._keep(key, found)
        if in_vain is not None:
            raise in_vain
        return np.array([known[key] for key in keys], float)

    def _known(self) -> dict[str, float]:
        return {
            line["key"]: math.nan if line["score"] is None else float(line["score"])
            for line in read_lines(self.kept)
        }

    def _keep(self, key: str, judged: Judged) -> None:
        self.kept.parent.mkdir(parents=True, exist_ok=True)
        score = None if math.isnan(judged.score) else judged.score
        append_line(self.kept, {"key": key, "score": score, "said": judged.said})

    def _try(self, asked: Any) -> Judged | AskedInVain:
        try:
            return self._judge(*asked)
        except AskedInVain as error:
            return error
        except DataError as error:
            return Judged(math.nan, error.message)

    def _judge(self, data: bytes, prompt: str) -> Judged:
        instructions, parts = self.question(data, prompt)
        lowest, highest = self.scale
        if highest <= LARGEST_TOLD:
            words = [str(number) for number in range(lowest, highest + 1)]
            chances = self.chat.chances(instructions, parts, words)
            if chances is not None and sum(chances) >= SURE:
                told = dict(zip(words, chances, strict=True))
                return Judged(expected(told), "; ".join(f"{w}: {c:.4f}" for w, c in told.items()))
        said = self.chat.ask(instructions, parts)
        return Judged(read_score(said, self.scale), said)

    def question(self, data: bytes, prompt: str) -> tuple[str, list[Part]]:
        """Return what the judge is told and shown.

        Raises:
            DataError: a medium that cannot be decoded.
        """
        frames = stills(data)
        what = "clip" if len(frames) > 1 else "picture"
        shown = "Frames from its start, middle and end:" if len(frames) > 1 else "The picture:"
        lowest, highest = self.scale
        told = INSTRUCTIONS.format(what=what, rubric=self.rubric, lowest=lowest, highest=highest)
        return told, [f"Prompt: {prompt}", shown, *(enlarge(frame) for frame in frames)]


def expected(chances: Mapping[str, float]) -> float:
    """Return the mean of numbers, each weighted by its chance."""
    total = sum(chances.values())
    return sum(float(number) * chance for number, chance in chances.items()) / total


def read_score(text: str, scale: tuple[int, int]) -> float:
    """Return the number that an answer gives; NaN for none, several, or one off the scale.

    `4`, `4/5`, `Score: 4` and `I give it a **4**.` are 4; what a model thinks aloud is left out.
    """
    answer = re.sub(r"(?s)^.*</think>", "", text).strip()
    labelled = re.findall(rf"(?i)\b(?:score|rating|answer)\W*({_NUMBER})", answer)
    numbers = labelled[-1:] or re.findall(_NUMBER, answer)
    if len(numbers) == 2 and re.search(rf"{_NUMBER}\s*(?:/|out of)\s*{scale[1]}\b", answer):
        numbers = numbers[:1]
    if len(set(numbers)) != 1:
        return math.nan
    found = float(numbers[0])
    return found if scale[0] <= found <= scale[1] else math.nan
