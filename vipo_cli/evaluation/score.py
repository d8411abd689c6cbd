"""Judging media: one line for each in an append-only file, so that work can stop anywhere."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vipo_cli.benchmarks import Asked, Task, Verdict
from vipo_cli.errors import DataError, VipoError
from vipo_cli.media import content_hash
from vipo_cli.run import ALONE, Progress, Team, Work, append_line, end_last_line, read_lines

Key = tuple[int, int]
"""Number of the prompt, number of the medium among the prompt's."""
Sample = Mapping[str, Any]
"""A line of samples.jsonl; `scores` is None where judging failed, and `reason` says why."""

PART = "samples-part-{}.jsonl"
"""What one of several processes judged."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".mp4", ".webm", ".mov", ".gif")
BROKEN = (VipoError, ValueError, RuntimeError, ArithmeticError, LookupError, TypeError, OSError)
"""What a judge may fail with on one medium while the others can still be judged."""


def find_pictures(folder: Path) -> dict[Key, Path]:
    """Find all media in GenEval's official layout: NNNNN/samples/NNNN.png."""
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
    metadata: Mapping[int, Asked],
    seeds: Mapping[Key, int],
    task: Task,
    file: Path,
    team: Team = ALONE,
) -> Work[int]:
    """Judge the media that have no verdict yet; return how many were judged.

    Of a team each process judges its share of the prompts, into a part beside the file.

    A verdict counts as long as its medium has the same content. A medium that the judge fails on is
    marked failed, which is neither right nor wrong, and is tried again next time.
    """
    judged = read_samples(file)
    if team.count > 1:
        pictures = {key: each for key, each in pictures.items() if team.mine(key[0])}
        file = file.with_name(PART.format(team.rank))
    end_last_line(file)
    new = done = 0
    for batch in _batches(_unjudged(pictures, judged), task.batch_size):
        for each, verdict in zip(batch, _verdicts(batch, metadata, task), strict=True):
            if each.data is not None:
                asked = metadata[each.key[0]]
                about = {
                    "prompt_index": each.key[0],
                    "image_index": each.key[1],
                    "seed": seeds.get(each.key),
                    "tag": asked["tag"],
                    "prompt": asked["prompt"],
                }
                append_line(file, about | _written(verdict) | {"image": each.name})
                new += 1
        done += len(batch)
        yield Progress("score", done, len(pictures))
    return new


def gather_parts(file: Path) -> int:
    """Move what the processes of a team judged into the one file; return how many verdicts.

    A team that was killed leaves its parts behind; whoever goes on gathers them, too.
    """
    gathered = 0
    for part in sorted(file.parent.glob(PART.format("*"))):
        end_last_line(file)
        for line in read_lines(part):
            append_line(file, line)
            gathered += 1
        part.unlink()
    return gathered


@dataclass(frozen=True, slots=True)
class _Medium:
    """A medium in its turn; without data it has been judged already."""

    key: Key
    name: str = ""
    data: bytes | None = None


def _unjudged(pictures: Mapping[Key, Path], judged: Mapping[Key, Sample]) -> Iterator[_Medium]:
    for key, picture in pictures.items():
        data = picture.read_bytes()
        name = content_hash(data)
        known = judged.get(key)
        if known is None or known["image"] != name or known.get("scores") is None:
            yield _Medium(key, name, data)
        else:
            yield _Medium(key)


def _batches(media: Iterable[_Medium], size: int) -> Iterator[list[_Medium]]:
    """Cut so that each batch has `size` media to judge; those judged already come along."""
    batch: list[_Medium] = []
    waiting = 0
    for each in media:
        batch.append(each)
        waiting += each.data is not None
        if waiting == size or len(batch) >= 64 * size:
            yield batch
            batch, waiting = [], 0
    if batch:
        yield batch


def _verdicts(
    batch: Sequence[_Medium], metadata: Mapping[int, Asked], task: Task
) -> list[Verdict | str]:
    """Judge what is to be judged together, or one by one where that fails; a text says why."""
    places = [place for place, each in enumerate(batch) if each.data is not None]
    media = [batch[place].data or b"" for place in places]
    keys = [batch[place].key for place in places]
    asked = [{**metadata[prompt], "image_index": image} for prompt, image in keys]
    found: list[Verdict | str] = [""] * len(batch)
    try:
        together = len(media) > 1
        verdicts: list[Verdict | str] = list(task.judge(media, asked)) if together else []
    except BROKEN:
        together = False
    if not together:
        verdicts = [_alone(task, *each) for each in zip(media, asked, strict=True)]
    for place, verdict in zip(places, verdicts, strict=True):
        found[place] = verdict
    return found


def _alone(task: Task, data: bytes, asked: Asked) -> Verdict | str:
    try:
        (verdict,) = task.judge([data], [asked])
    except BROKEN as error:
        return f"failed: {type(error).__name__}: {error}"
    return verdict


def _written(verdict: Verdict | str) -> dict[str, Any]:
    if isinstance(verdict, str):
        return {"scores": None, "reason": verdict}
    scores = {name: float(value) for name, value in verdict.scores.items()}
    if wrong := [name for name, value in scores.items() if not math.isfinite(value)]:
        return {"scores": None, "reason": verdict.reason or f"failed: no {', '.join(wrong)}"}
    line: dict[str, Any] = {"scores": scores, "reason": verdict.reason}
    if verdict.weights:
        line["weights"] = {name: float(value) for name, value in verdict.weights.items()}
    if verdict.details:
        line["details"] = dict(verdict.details)
    return line


def read_samples(file: Path) -> dict[Key, dict[str, Any]]:
    """Read all verdicts; of several about one medium the last counts.

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
