"""DPG-Bench (arXiv 2403.05135): how much of a dense prompt is in a picture, question by question.

A question whose parents are not answered with yes counts as not answered with yes, whatever was
said. The score of a picture is the share of questions answered with yes, that of a prompt the mean
over its pictures, the whole the mean over prompts times 100; a category is the share of its
questions.

The rules are those of the public script but for what is wrong in it, which `official` reproduces:
categories count the last of a prompt's four pictures alone (ELLA #60) and do not heed parents, so
that they exceed the whole; the first row of the table is skipped, and with it every picture of the
first prompt if another question depends on it (ELLA #61); an answer is yes only to the letter. Not
reproduced is what several processes do to categories there: it differs from run to run.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from PIL import Image
from pydantic import Field

from vipo_cli.benchmarks.dpg_questions import Question, all_questions, official_questions
from vipo_cli.benchmarks.task import Asked, Metric, Task, Verdict
from vipo_cli.benchmarks.vqa import Vqa, find_vqa
from vipo_cli.errors import DataError
from vipo_cli.media import decode

Rules = Literal["corrected", "official"]
Answers = Mapping[int, str]
"""What was said to each question, by its id."""

TILES = 4
"""Pictures for each prompt; the official layout has them in one, two by two."""
PARTS = ("global", "entity", "attribute", "relation", "other")
DETAILED = (
    "entity - whole", "entity - part", "entity - state",
    "attribute - color", "attribute - shape", "attribute - size", "attribute - texture",
    "attribute - other",
    "relation - spatial", "relation - non-spatial",
    "other - count", "other - text",
)  # fmt: skip
"""The categories of the published table but `global -`, which is all of `global`."""

NOT_COMPARABLE = "judged by {judge}: not comparable with published numbers, which mPLUG judged"


def dpg_bench(
    *,
    judge: Annotated[
        str, Field(description="Who answers: a VQA or vision-language model, or a server's URL.")
    ] = "Salesforce/blip-vqa-base",
    judge_model: Annotated[
        str | None, Field(description="What a server calls its model; by default its only one.")
    ] = None,
    rules: Annotated[
        Rules, Field(description="`official` reproduces the errors of the public script.")
    ] = "corrected",
    grid: Annotated[
        bool, Field(description="A picture is four, two by two, as the public script wants them.")
    ] = False,
) -> Task:
    """DPG-Bench (arXiv 2403.05135): the share of a dense prompt's propositions that hold, in %."""
    return DPGBench(find_vqa(judge, judge_model), rules, grid)


@dataclass(frozen=True, slots=True)
class DPGBench:
    """The mean over prompts of the share of questions answered with yes, times 100."""

    vqa: Vqa
    rules: Rules = "corrected"
    grid: bool = False
    metrics: tuple[Metric, ...] = (
        Metric("dpg", lowest=0, highest=100, by_tag=False),
        *(Metric(part, lowest=0, highest=100, by_tag=False) for part in (*PARTS, *DETAILED)),
    )
    prompt_set: str = "dpg"
    needs: tuple[str, ...] = ("questions",)
    batch_size: int = 1

    @property
    def name(self) -> str:
        """Return a name that no two judges share: their numbers are not comparable."""
        return f"dpg_bench.{self._judge}"

    @property
    def title(self) -> str:
        """Return how reports call it."""
        return f"DPG-Bench by {self._judge}"

    @property
    def _judge(self) -> str:
        name = self.vqa.name.rstrip("/").rpartition("/")[2]
        return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")

    @property
    def version(self) -> str:
        """Return the rules and how often they changed."""
        return f"dpg-{self.rules}-1"

    @property
    def images_per_prompt(self) -> int:
        """Return four, or one with four in it."""
        return 1 if self.grid else TILES

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what readers of the results must know."""
        return (NOT_COMPARABLE.format(judge=self.vqa.name),)

    @property
    def judge_fingerprint(self) -> list[Any]:
        """Return the judge's name and fingerprint, and how pictures come."""
        return [self.vqa.name, self.vqa.fingerprint, self.rules, "grid" if self.grid else "single"]

    def judge(self, media: Sequence[bytes], asked: Sequence[Asked]) -> list[Verdict]:
        """Judge pictures one by one."""
        return [self._one(*each) for each in zip(media, asked, strict=True)]

    def _one(self, data: bytes, asked: Asked) -> Verdict:
        picture = decode(data)
        questions = asked_by(self.rules, asked["questions"])
        tiles = quarters(picture) if self.grid else [picture]
        words = [question["question"] for question in questions]
        said = [
            dict(zip((each["id"] for each in questions), self.vqa.ask(tile, words), strict=True))
            for tile in tiles
        ]
        graded = grade(questions, said, self.rules, self._with_categories(asked))
        if graded is None:
            why = "the official script drops this prompt: a question depends on the skipped row"
            return Verdict({}, reason=why, details={"answers": said})
        no = [
            each["question"]
            for each in questions
            if not all(yes(answers[each["id"]], self.rules) for answers in said)
        ]
        scores = {"dpg": 100 * graded.score}
        weights = {}
        for category, answers in graded.categories.items():
            if answers:
                scores[category] = 100 * sum(answers) / len(answers)
                weights[category] = float(len(answers))
        return Verdict(scores, weights, reason="; ".join(no), details={"answers": said})

    def _with_categories(self, asked: Asked) -> bool:
        """Tell whether a picture counts for categories: officially the last of a prompt alone."""
        if self.rules == "corrected" or self.grid:
            return True
        if "image_index" not in asked:
            raise DataError("the official rules need to know which of four pictures this is")
        return bool(asked["image_index"] == TILES - 1)


@dataclass(frozen=True, slots=True)
class Graded:
    """What was found in the pictures of a prompt.

    Attributes:
        score: share of questions answered with yes, the mean over pictures.
        scores: the same for each picture.
        categories: 1 or 0 for each answer that counts for a category, by both of its names.
    """

    score: float
    scores: tuple[float, ...]
    categories: Mapping[str, Sequence[float]]


def asked_by(rules: Rules, questions: Sequence[Question]) -> list[Question]:
    """Return the questions that are asked about a prompt."""
    return official_questions(questions) if rules == "official" else all_questions(questions)


def grade(
    questions: Sequence[Question],
    said: Sequence[Answers],
    rules: Rules = "corrected",
    with_categories: bool = True,
) -> Graded | None:
    """Grade the answers about a prompt's pictures; None where the official script would fail.

    Raises:
        DataError: an answer is missing or empty.
    """
    official = rules == "official"
    if not questions:
        return None
    raw = [
        {each["id"]: float(yes(_answer(answers, each, rules), rules)) for each in questions}
        for answers in said
    ]
    heeded = [heed_parents(questions, each) for each in raw]
    if official and any(_misses_a_parent(questions, each) for each in raw):
        return None
    scores = tuple(sum(each.values()) / len(each) for each in heeded)
    counted = (raw[-1:] if official else heeded) if with_categories else []
    categories: dict[str, list[float]] = {}
    for answers in counted:
        for question in questions:
            for name in category_names(question["category"]):
                categories.setdefault(name, []).append(answers[question["id"]])
    return Graded(sum(scores) / len(scores), scores, categories)


def heed_parents(questions: Sequence[Question], answers: Mapping[int, float]) -> dict[int, float]:
    """Turn yes into no where the answer to a parent is no, in the order of the questions.

    A parent that is not among the questions says nothing.
    """
    heeded = dict(answers)
    for question in questions:
        if any(heeded.get(parent) == 0 for parent in question["parents"]):
            heeded[question["id"]] = 0.0
    return heeded


def _misses_a_parent(questions: Sequence[Question], answers: Mapping[int, float]) -> bool:
    """Tell whether the official script looks for a parent that was not asked about.

    It looks at the parents of a question one by one, until it finds one whose answer is no.
    """
    heeded = dict(answers)
    for question in questions:
        for parent in question["parents"]:
            if parent not in heeded:
                return True
            if heeded[parent] == 0:
                heeded[question["id"]] = 0.0
                break
    return False


def yes(answer: str, rules: Rules = "corrected") -> bool:
    """Tell whether an answer says yes: its first word does, or all of it to the letter."""
    if rules == "official":
        return answer == "yes"
    return bool(re.match(r"\W*yes\b", answer, re.IGNORECASE))


def category_names(category: str) -> list[str]:
    """Return the names under which an answer is counted: `entity` and `entity - whole`."""
    part, _, detail = (each.strip() for each in category.partition("-"))
    return [part, f"{part} - {detail}"] if detail else [part]


def quarters(picture: Image.Image) -> list[Image.Image]:
    """Cut a picture of four into its rows' pictures.

    Raises:
        DataError: it cannot be halved.
    """
    width, height = picture.width // 2, picture.height // 2
    if picture.width % 2 or picture.height % 2 or not width or not height:
        raise DataError(f"{picture.width} x {picture.height} pixels are no grid of four pictures")
    corners = [(0, 0), (width, 0), (0, height), (width, height)]
    return [picture.crop((left, top, left + width, top + height)) for left, top in corners]


@dataclass(frozen=True, slots=True)
class Totals:
    """What the official script prints, from 0 to 100.

    Attributes:
        overall: the mean over prompts.
        categories: by name, such as `entity` and `entity - whole`.
        prompts: how many count.
        left_out: items that do not, because the official script fails on them.
    """

    overall: float
    categories: Mapping[str, float]
    prompts: int
    left_out: tuple[str, ...]


def totals(
    prompts: Mapping[str, Sequence[Question]],
    said: Mapping[str, Sequence[Answers]],
    rules: Rules = "corrected",
) -> Totals:
    """Add up the answers about the pictures of each item, in the order in which these come.

    Raises:
        DataError: an item that is none of the prompts, a missing answer, or nothing to add up.
    """
    import numpy as np

    scores: list[float] = []
    left_out: list[str] = []
    categories: dict[str, list[float]] = {}
    for item, answers in said.items():
        if item not in prompts:
            raise DataError(f"`{item}` is no item of DPG-Bench")
        graded = grade(asked_by(rules, prompts[item]), answers, rules)
        if graded is None:
            left_out.append(item)
            continue
        scores.append(graded.score)
        for name, found in graded.categories.items():
            categories.setdefault(name, []).extend(found)
    if not scores:
        raise DataError("there are no answers to add up")
    return Totals(
        float(np.mean(scores) * 100),
        {name: float(np.mean(found) * 100) for name, found in categories.items()},
        len(scores),
        tuple(left_out),
    )


def _answer(answers: Answers, question: Question, rules: Rules) -> str:
    said = answers.get(question["id"])
    if said is None or (rules == "corrected" and not said.strip()):
        raise DataError(f"no answer to `{question['question']}`")
    return said
