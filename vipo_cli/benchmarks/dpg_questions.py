"""DPG-Bench's prompts (arXiv 2403.05135) and the questions about each, from the published table.

A row of the table is a question: `item_id`, `text` (the prompt), `proposition_id`, `dependency`
(the ids of the questions without which this one makes no sense; 0 for none), `tuple` (starting with
the category) and `question_natural_language`.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vipo_cli.benchmarks.prompt_files import Record, read_text
from vipo_cli.benchmarks.prompt_lists import Place
from vipo_cli.benchmarks.sources import Published, find_files
from vipo_cli.errors import DataError

DPG = Published(
    title="DPG-Bench",
    files=("dpg_bench.csv",),
    url="https://raw.githubusercontent.com/TencentQQGYLab/ELLA/3c228f1dc6c4d3cad0a47493816151a419f14db3/dpg_bench",
    hashes={"dpg_bench.csv": "98457fc9901943f51ff9a30367250fc292533bed"},
    licence="Apache-2.0",
)
PROMPTS = 1065
COLUMNS = ("item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language")

Question = Mapping[str, Any]
"""A question: `id`, `question`, `category`, `parents` (ids), and `row`: its place in the table."""


def dpg_prompts(*, path: Place = None) -> list[Record]:
    """DPG-Bench's 1,065 dense prompts with their questions; the tag is where one comes from."""
    file = find_files(DPG, path)[0]
    records = read_questions(file)
    if len(records) != PROMPTS:
        raise DataError(f"`{file}` holds {len(records)} prompts, DPG-Bench {PROMPTS}")
    return records


def read_questions(file: Path) -> list[Record]:
    """Read a table of questions: a record for each prompt, in the order in which they first occur.

    Raises:
        DataError: columns are missing, or rows are not what they should be.
    """
    reader = csv.DictReader(io.StringIO(read_text(file), newline=""))
    if missing := [column for column in COLUMNS if column not in (reader.fieldnames or ())]:
        raise DataError(f"`{file}` has no column {', '.join(missing)}")
    records: dict[str, Record] = {}
    problems = []
    for row, line in enumerate(reader):
        try:
            question = _question(row, line)
        except (ValueError, AttributeError) as error:
            problems.append(f"row {row + 2}: {error}")
            continue
        item = line["item_id"]
        new: Record = {"prompt": line["text"], "tag": _origin(item), "item": item, "questions": []}
        records.setdefault(item, new)["questions"].append(question)
    if problems:
        raise DataError(f"`{file}` is no table of questions", details=problems[:10])
    return list(records.values())


def _question(row: int, line: Mapping[str, str]) -> dict[str, Any]:
    return {
        "id": int(line["proposition_id"]),
        "question": line["question_natural_language"],
        "category": line["tuple"].split("(")[0].strip(),
        "parents": [id for id in map(int, line["dependency"].split(",")) if id != 0],
        "row": row,
    }


def _origin(item: str) -> str:
    """Return which collection an item is from; those of one have bare numbers."""
    found = re.match("[A-Za-z]+", item)
    return found[0] if found else "numbered"


def all_questions(questions: Sequence[Question]) -> list[Question]:
    """Return the questions of a prompt by id; of two with one id the second takes its place."""
    return list({question["id"]: question for question in questions}.values())


def official_questions(questions: Sequence[Question]) -> list[Question]:
    """Return those that the official script asks.

    It skips the first row of the table (ELLA #61), and where the rows of a prompt do not follow
    each other, it forgets all but the last run of them.
    """
    kept: list[Question] = []
    for question in questions:
        if question["row"] == 0:
            continue
        if kept and kept[-1]["row"] != question["row"] - 1:
            kept = []
        kept.append(question)
    return all_questions(kept)
