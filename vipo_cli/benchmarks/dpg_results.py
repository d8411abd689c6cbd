"""What the public script of DPG-Bench leaves behind: answers, the scores of pictures, and totals.

`..._results_detail.txt` has a line for each answer: picture, the corners of the part that was
looked at, question, answer; `..._results.txt` a line for each picture: its name, the scores of its
parts, their mean; and at its end what was printed.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vipo_cli.benchmarks.dpg import Answers, Rules, Totals, asked_by, totals
from vipo_cli.benchmarks.dpg_questions import Question
from vipo_cli.benchmarks.prompt_files import read_text
from vipo_cli.errors import DataError

_ANSWER = re.compile(r"(?P<picture>.+?), \((?P<corners>\d+, \d+, \d+, \d+)\), (?P<rest>.+)")
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_SCORES = re.compile(rf"(?P<picture>.+?)(?P<scores>(?:, {_NUMBER}){{2,5}})")
_CATEGORY = re.compile(rf"\t(?P<name>.+): (?P<value>{_NUMBER}|nan)")
_OVERALL = re.compile(rf"DPG-Bench score: (?P<value>{_NUMBER}|nan)")


@dataclass(frozen=True, slots=True)
class Detail:
    """The answers of a detail file.

    Attributes:
        said: by item, for each part of its picture in order, the answer to each question.
        incomplete: items without an answer to some question; the public script never asks the
            first question of the table.
    """

    said: Mapping[str, Sequence[Answers]]
    incomplete: tuple[str, ...]

    def totals(self, prompts: Mapping[str, Sequence[Question]], rules: Rules) -> Totals:
        """Add up all that can be; corrected totals leave incomplete items out, and name them."""
        if rules == "official":
            return totals(prompts, self.said, rules)
        known = {item: said for item, said in self.said.items() if item not in self.incomplete}
        found = totals(prompts, known, rules)
        left_out = (*found.left_out, *self.incomplete)
        return Totals(found.overall, found.categories, found.prompts, left_out)


@dataclass(frozen=True, slots=True)
class Results:
    """The scores of a results file.

    Attributes:
        scores: by item, those of its parts, from 0 to 1.
        printed: the totals at its end by name, from 0 to 100: `dpg`, `entity`, `entity - whole`.
    """

    scores: Mapping[str, tuple[float, ...]]
    printed: Mapping[str, float]

    @property
    def overall(self) -> float:
        """Return the mean over items, from 0 to 100."""
        import numpy as np

        return float(np.mean([sum(each) / len(each) for each in self.scores.values()]) * 100)


def read_detail(file: Path, prompts: Mapping[str, Sequence[Question]]) -> Detail:
    """Read a detail file; the processes that write it may take turns line by line.

    Raises:
        DataError: a line that is none, an unknown item or question, or one answered twice.
    """
    said: dict[str, dict[str, dict[int, str]]] = {}
    problems = []
    for number, line in _lines(file):
        found = _ANSWER.fullmatch(line)
        if found is None:
            problems.append(f"line {number}: no picture, corners, question and answer")
            continue
        item = item_of(found["picture"])
        if item not in prompts:
            problems.append(f"line {number}: `{item}` is no item of DPG-Bench")
            continue
        answers = said.setdefault(item, {}).setdefault(found["corners"], {})
        question = _next(prompts[item], answers, found["rest"])
        if question is None:
            problems.append(f"line {number}: no question of `{item}`, or answered before")
            continue
        answers[question["id"]] = found["rest"].removeprefix(question["question"] + ", ")
    if problems:
        raise DataError(f"`{file}` cannot be read", details=problems[:10])
    incomplete = tuple(
        item
        for item, parts in said.items()
        if any(len(each) < len(asked_by("corrected", prompts[item])) for each in parts.values())
    )
    return Detail({item: list(parts.values()) for item, parts in said.items()}, incomplete)


def _next(questions: Sequence[Question], answers: Answers, rest: str) -> Question | None:
    """Return the question that a line answers: the longest that it begins with, if still open."""
    fitting = [
        question
        for question in asked_by("corrected", questions)
        if question["id"] not in answers and rest.startswith(question["question"] + ", ")
    ]
    return max(fitting, key=lambda question: len(question["question"]), default=None)


def read_results(file: Path) -> Results:
    """Read a results file.

    Raises:
        DataError: it holds no scores, or another mean than that of the scores beside it.
    """
    scores: dict[str, tuple[float, ...]] = {}
    printed: dict[str, float] = {}
    problems = []
    for number, line in _lines(file):
        if found := _OVERALL.fullmatch(line):
            printed["dpg"] = float(found["value"])
        elif found := _CATEGORY.fullmatch(line):
            printed[found["name"].removesuffix("-").strip()] = float(found["value"])
        elif found := _SCORES.fullmatch(line):
            *parts, mean = map(float, found["scores"].removeprefix(", ").split(", "))
            scores[item_of(found["picture"])] = tuple(parts)
            if abs(sum(parts) / len(parts) - mean) > 1e-9:
                problems.append(f"line {number}: {mean} is not the mean of {parts}")
    if not scores:
        problems.append("no line has the scores of a picture")
    if problems:
        raise DataError(f"`{file}` is no results file of DPG-Bench", details=problems[:10])
    return Results(scores, printed)


def item_of(picture: str) -> str:
    """Return the item that a picture's file is named after: up to the first point."""
    return PurePosixPath(picture.replace("\\", "/")).name.split(".")[0]


def _lines(file: Path) -> list[tuple[int, str]]:
    lines = read_text(file).replace("\r\n", "\n").split("\n")
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
