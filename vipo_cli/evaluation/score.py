"""Judging pictures: one line for each in an append-only file, so that work can stop anywhere."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vipo_cli.benchmarks import Detector
from vipo_cli.benchmarks.geneval import judge
from vipo_cli.errors import DataError, VipoError
from vipo_cli.media import content_hash, decode
from vipo_cli.run import Progress, Work, append_line, read_lines

Key = tuple[int, int]
"""Number of the prompt, number of the picture among the prompt's."""

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
BROKEN = (VipoError, ValueError, RuntimeError, ArithmeticError, LookupError, TypeError, OSError)
"""What a detector may fail with on one picture while the others can still be judged."""


def find_pictures(folder: Path) -> dict[Key, Path]:
    """Find all pictures in GenEval's official layout: NNNNN/samples/NNNN.png."""
    found = {}
    for samples in sorted(folder.glob("*/samples")):
        if not samples.parent.name.isdigit():
            continue
        for file in sorted(samples.iterdir()):
            if file.stem.isdigit() and file.suffix.lower() in SUFFIXES:
                found[int(samples.parent.name), int(file.stem)] = file
    return found


def score(
    pictures: Mapping[Key, Path],
    metadata: Mapping[int, dict[str, Any]],
    seeds: Mapping[Key, int],
    detector: Detector,
    file: Path,
) -> Work[int]:
    """Judge the pictures that have no verdict yet; return how many were judged.

    A verdict counts as long as its picture has the same content. A picture that the detector fails
    on is marked failed, which is neither right nor wrong, and is tried again next time.
    """
    judged = read_samples(file)
    _drop_unfinished_line(file)
    new = 0
    for done, (key, picture) in enumerate(pictures.items(), 1):
        data = picture.read_bytes()
        name = content_hash(data)
        known = judged.get(key)
        if known is None or known["image"] != name or known["correct"] is None:
            prompt_index, image_index = key
            asked = metadata[prompt_index]
            record = {
                "prompt_index": prompt_index,
                "image_index": image_index,
                "seed": seeds.get(key),
                "tag": asked["tag"],
                "prompt": asked["prompt"],
                **_verdict(data, asked, detector),
                "image": name,
            }
            append_line(file, record)
            new += 1
        yield Progress("score", done, len(pictures))
    return new


def _verdict(data: bytes, asked: dict[str, Any], detector: Detector) -> dict[str, Any]:
    try:
        picture = decode(data)
        found = detector.detect(picture)
        verdict = judge(asked, found, lambda detection: detector.colour(picture, detection))
    except BROKEN as error:
        return {"correct": None, "reason": f"failed: {type(error).__name__}: {error}"}
    return {"correct": verdict.correct, "reason": verdict.reason}


def read_samples(file: Path) -> dict[Key, dict[str, Any]]:
    """Read all verdicts; of several about one picture the last counts.

    Raises:
        DataError: a line in the middle is damaged.
    """
    try:
        lines: Iterable[dict[str, Any]] = read_lines(file)
    except json.JSONDecodeError as error:
        raise DataError(
            f"`{file}` is damaged: {error}",
            hint=f"remove it and evaluate again, the pictures are kept: rm {file}",
        ) from error
    return {(line["prompt_index"], line["image_index"]): line for line in lines}


def _drop_unfinished_line(file: Path) -> None:
    """Cut off what a killed process left of its last line, so that the next one starts afresh."""
    if not file.is_file():
        return
    data = file.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with file.open("r+b") as stream:
            stream.truncate(whole)
