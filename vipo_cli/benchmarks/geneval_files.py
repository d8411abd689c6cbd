"""The files of GenEval's public implementation: `results.jsonl`, as its evaluation writes it."""

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from vipo_cli.errors import DataError

IMAGES_PER_PROMPT = 4
"""Of the published protocol."""

COLUMNS = ("filename", "tag", "prompt", "correct", "metadata")

Key = tuple[int, int]


def read_official_results(
    file: Path, prompts: Mapping[int, Mapping[str, Any]]
) -> dict[Key, dict[str, Any]]:
    """Return the verdicts in an official `results.jsonl` as lines of samples.jsonl.

    What is missing shows in what is aggregated from them: the public summary would not tell.

    Args:
        file: with a line for each picture.
        prompts: GenEval's metadata by number.

    Raises:
        DataError: lines that are no verdicts, about other prompts, or about one picture twice.
    """
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read `{file}`: {error}") from error
    found: dict[Key, dict[str, Any]] = {}
    problems = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            key, sample = _sample(line, prompts)
        except DataError as error:
            problems.append(f"line {number}: {error.message}")
            continue
        if key in found:
            problems.append(f"line {number}: the picture {key[0]:05d}/{key[1]:04d} a second time")
        found[key] = sample
    if problems or not found:
        more = len(problems) - 10
        raise DataError(
            f"`{file}` is no results file of GenEval's 553 prompts",
            details=problems[:10] + ([f"and {more} more"] if more > 0 else []),
            hint="give the results.jsonl that GenEval's evaluate_images.py writes",
        )
    return dict(sorted(found.items()))


def _sample(line: str, prompts: Mapping[int, Mapping[str, Any]]) -> tuple[Key, dict[str, Any]]:
    """Read one line.

    Raises:
        DataError: it is no verdict about a picture of one of these prompts.
    """
    try:
        row = json.loads(line)
        asked = json.loads(row["metadata"])
        if missing := [name for name in COLUMNS if name not in row]:
            raise DataError(f"no {', '.join(missing)}")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError("not a line that GenEval's evaluation writes") from error
    key = _place(str(row["filename"]))
    if asked != prompts.get(key[0]):
        raise DataError(f"prompt {key[0]} is not `{row['prompt']}`")
    if row["correct"] not in (True, False):
        raise DataError(f"`correct` is neither true nor false but `{row['correct']}`")
    sample = {
        "prompt_index": key[0],
        "image_index": key[1],
        "seed": None,
        "tag": asked["tag"],
        "prompt": asked["prompt"],
        "scores": {"correct": float(row["correct"])},
        "reason": str(row.get("reason") or "").replace("\n", "; "),
        "image": None,
    }
    return key, sample


def _place(filename: str) -> Key:
    """Return which picture a path names: .../NNNNN/samples/NNNN.png."""
    path = PurePosixPath(filename.replace("\\", "/"))
    folder = path.parent.parent.name
    if not (folder.isdecimal() and path.stem.isdecimal()):
        raise DataError(f"`{filename}` is not named NNNNN/samples/NNNN.png")
    return int(folder), int(path.stem)
