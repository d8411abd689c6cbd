"""GenEval 2 (arXiv 2512.16853): how sure a model is of each thing that a prompt asks for.

Every prompt comes with questions and the right answer to each. A question's score is the chance
that a vision-language model's answer begins with the right one, in any of some spellings. The mean
over a prompt's questions (Soft-TIFA AM) tells of its parts; their geometric mean (Soft-TIFA GM) of
the prompt as a whole, since one thing that is missing pulls it down.

As in the public script a spelling counts by its first token alone, so that spellings which share
it count twice. Checked by hand and with a random Qwen2-VL; Qwen3-VL itself was not at hand. The
data set is CC BY-NC 4.0: it is read from a file or fetched, never part of vipo.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from vipo_cli.benchmarks.prompt_files import Record, read_prompt_file
from vipo_cli.benchmarks.prompt_lists import Place
from vipo_cli.benchmarks.sources import Published, find_files
from vipo_cli.benchmarks.task import Asked, Metric, Task, Verdict
from vipo_cli.chat import identity
from vipo_cli.chat.local import LocalChat, load_chat
from vipo_cli.errors import DataError
from vipo_cli.media import decode
from vipo_cli.run import fingerprint

DATA = Published(
    title="GenEval 2",
    files=("geneval2_data.jsonl",),
    url="https://raw.githubusercontent.com/facebookresearch/GenEval2/a6e82d2289e8d418f27f0adee77908b07060eea3",
    hashes={"geneval2_data.jsonl": "823f48414446157fe252f92e3c60c803c33c303c"},
    licence="CC-BY-NC-4.0",
)
PROMPTS = 800
SKILLS = ("object", "attribute", "count", "position", "verb")
JUDGE = "Qwen/Qwen3-VL-8B-Instruct"
SHORT = " Answer in one word."
"""What is said behind every question."""
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
Question = tuple[str, str]
"""What is asked, and the right answer."""


def geneval2(
    *,
    judge: Annotated[
        str, Field(description="Who is asked: a vision-language model's hub id or folder.")
    ] = JUDGE,
    batch_size: Annotated[int, Field(ge=1, description="Questions asked at once.")] = 8,
    device: Annotated[
        str, Field(description="Where it runs; auto: on a GPU if there is one.")
    ] = "auto",
    dtype: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        Field(description="Precision; auto: bf16 on a GPU, else fp32."),
    ] = "auto",
) -> Task:
    """GenEval 2 (arXiv 2512.16853): the chance of right answers on a picture (Soft-TIFA), in %."""
    chat = load_chat(judge, device, dtype)
    return GenEval2(chat, identity(judge, chat), batch_size, dtype)


def geneval2_prompts(*, path: Place = None) -> list[Record]:
    """GenEval 2's 800 prompts with their questions; the tag is how many things one asks for."""
    file = find_files(DATA, path)[0]
    records = [read_questions(record) for record in read_prompt_file(file)]
    if path is None and len(records) != PROMPTS:
        raise DataError(f"`{file}` holds {len(records)} prompts, GenEval 2 {PROMPTS}")
    return records


def read_questions(record: Mapping[str, Any]) -> Record:
    """Return a line of the data set as a prompt.

    Raises:
        DataError: it lacks questions, or has one without a skill.
    """
    try:
        pairs = [(str(question), str(answer)) for question, answer in record["vqa_list"]]
        skills = [str(skill) for skill in record["skills"]]
        tag = str(int(record["atom_count"]))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"`{record['prompt']}` is no prompt of GenEval 2: {error}") from error
    if not pairs or len(pairs) != len(skills) or set(skills) - set(SKILLS):
        raise DataError(f"`{record['prompt']}` has {len(pairs)} questions and the skills {skills}")
    questions = [{"question": question, "answer": answer} for question, answer in pairs]
    return {"prompt": record["prompt"], "tag": tag, "questions": questions, "skills": skills}


@dataclass(frozen=True, slots=True)
class GenEval2:
    """The chance of the right answers about a picture, averaged in two ways.

    Attributes:
        chat: who is asked.
        identity: what changes whenever that model does.
        batch: questions asked at once.
        dtype: its precision.
    """

    chat: LocalChat
    identity: str
    batch: int = 8
    dtype: str = "auto"
    metrics: tuple[Metric, ...] = (
        Metric("soft_tifa_gm", lowest=0, highest=100),
        Metric("soft_tifa_am", lowest=0, highest=100),
        *(Metric(skill, lowest=0, highest=100, by_tag=False) for skill in SKILLS),
    )
    prompt_set: str = "geneval2"
    needs: tuple[str, ...] = ("questions", "skills")
    images_per_prompt: int = 1
    batch_size: int = 1
    version: str = field(default="1", init=False)

    @property
    def name(self) -> str:
        """Return a name that no two judges share: their numbers do not compare."""
        return "geneval2" if self._official else f"geneval2.{self._short}"

    @property
    def title(self) -> str:
        """Return how reports call it."""
        return "GenEval 2" if self._official else f"GenEval 2 by {self._short}"

    @property
    def _short(self) -> str:
        last = self.chat.name.rstrip("/").rpartition("/")[2]
        return re.sub(r"[^a-z0-9.]+", "-", last.lower()).strip("-.")

    @property
    def _official(self) -> bool:
        return self.chat.name.rstrip("/").rpartition("/")[2] == JUDGE.rpartition("/")[2]

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what readers of the results must know."""
        licence = "the prompts and questions of GenEval 2 are CC BY-NC 4.0"
        if self._official:
            return (licence,)
        other = f"judged by {self.chat.name}, published numbers by {JUDGE}: they do not compare"
        return (other, licence)

    @property
    def judge_fingerprint(self) -> Any:
        """Return the judge, its precision, and what it is asked."""
        return [fingerprint([self.identity, self.dtype, SHORT]), self.batch]

    def judge(self, media: Sequence[bytes], asked: Sequence[Asked]) -> list[Verdict]:
        """Judge pictures one by one, several questions at once."""
        return [self._one(*each) for each in zip(media, asked, strict=True)]

    def _one(self, data: bytes, asked: Asked) -> Verdict:
        picture = decode(data)
        questions = [(str(each["question"]), str(each["answer"])) for each in asked["questions"]]
        chances: list[float] = []
        for first in range(0, len(questions), self.batch):
            some = questions[first : first + self.batch]
            told = self.chat.chances_of(
                [("", [picture, question + SHORT]) for question, _ in some],
                [spellings(*each) for each in some],
            )
            chances += map(math.fsum, told)
        return graded(questions, chances, asked["skills"])


def spellings(question: str, answer: str) -> list[str]:
    """Return how the right answer may begin."""
    if not question.startswith("How many"):
        return ["Yes", "yes", " yes", " Yes"]
    digits = str(NUMBERS.index(answer) + 1) if answer in NUMBERS else "other"
    words = [answer, answer.capitalize(), digits]
    return [spelled for word in words for spelled in (word, f" {word}")]


def graded(
    questions: Sequence[Question], chances: Sequence[float], skills: Sequence[str]
) -> Verdict:
    """Return both means of a prompt's chances, and the mean for each skill, in %."""
    scores = {
        "soft_tifa_gm": 100 * geometric_mean(chances),
        "soft_tifa_am": 100 * math.fsum(chances) / len(chances),
    }
    weights = {}
    for skill in dict.fromkeys(skills):
        own = [chance for chance, of in zip(chances, skills, strict=True) if of == skill]
        scores[skill] = 100 * math.fsum(own) / len(own)
        weights[skill] = float(len(own))
    doubted = [
        f"{question} {answer}: {chance:.0%}"
        for (question, answer), chance in zip(questions, chances, strict=True)
        if chance < 0.5
    ]
    return Verdict(scores, weights, reason="; ".join(doubted), details={"chances": list(chances)})


def geometric_mean(numbers: Sequence[float]) -> float:
    """Return the geometric mean; 0 if one of the numbers is."""
    if min(numbers) <= 0:
        return 0.0
    return math.exp(math.fsum(map(math.log, numbers)) / len(numbers))
