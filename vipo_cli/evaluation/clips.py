"""Clips for the prompts of a benchmark, under its official names, each from a seed of its own.

    clips/PROMPT-0.mp4 ...    as the public implementations look for them
    clips.jsonl               prompt, index, seed and file of each

Clips are H.264 at the encoder's own quality, as the benchmarks' guides for sampling write them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vipo_cli.benchmarks.vbench_suite import Suite
from vipo_cli.clips import encode_mp4, require_av
from vipo_cli.errors import DataError, ModelError
from vipo_cli.evaluation.generate import Sampling, batches, load_target, picture_seed
from vipo_cli.evaluation.target import Target
from vipo_cli.models import family_of
from vipo_cli.models.draw import drawer, frame_rate
from vipo_cli.models.sample import fitting_batch_size
from vipo_cli.run import ALONE, Progress, Team, Work, writing

CLIPS = "clips"
LIST = "clips.jsonl"
LONGEST_NAME = 255
"""Bytes of a file's name that file systems take."""


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip to make: for which prompt, which of its clips, from which seed, under which name."""

    prompt: str
    index: int
    seed: int
    name: str


def list_clips(suite: Suite, prompts: Sequence[Mapping[str, Any]], seed: int) -> list[Clip]:
    """List the clips that a suite needs; a prompt that occurs again shares those it has.

    Raises:
        DataError: a prompt that cannot be part of a file's name, or two that share their names.
    """
    counts: dict[str, int] = {}
    for each in prompts:
        prompt = each["prompt"]
        counts[prompt] = max(counts.get(prompt, 0), suite.clips(each["dimensions"]))
    clips = [
        Clip(prompt, index, picture_seed(seed, prompt, index), suite.clip_name(prompt, index))
        for prompt, count in counts.items()
        for index in range(count)
    ]
    _check_names(clips)
    return clips


def generate_clips(
    target: Target,
    suite: Suite,
    prompts: Sequence[Mapping[str, Any]],
    sampling: Sampling,
    out: Path,
    *,
    frames_per_second: float | None = None,
    team: Team = ALONE,
) -> Work[int]:
    """Draw the clips that are missing, of a team's this process's share; return how many.

    A clip appears whole or not at all, and is kept. Batches are cut the same way every time and one
    that lacks a clip is drawn again whole, so that what was interrupted equals what was not.

    Args:
        target: the model.
        suite: whose names and counts are used.
        prompts: of the suite, as its prompt set has them.
        sampling: how; the number of media for a prompt is the suite's.
        out: the folder in which `clips/` and `clips.jsonl` appear.
        frames_per_second: of the files; None is the family's.
        team: the processes that share the work.

    Raises:
        DataError: a prompt that cannot be part of a file's name.
        ModelError: the model makes pictures, or is of an unknown kind.
        VipoError: PyAV, which writes MP4, is not installed.
    """
    clips = list_clips(suite, prompts, sampling.seed)
    folder = out / CLIPS
    missing = {clip for clip in clips if not _is_there(folder / clip.name)}
    if team.leads:
        _write_list(out / LIST, clips)
    if not missing:
        return 0
    require_av()
    yield Progress("load model", 0, 1)
    pipeline = load_target(target, sampling.precision)
    family = family_of(pipeline)
    if family is None or family.size.frames == 1:
        raise ModelError(
            f"`{target.label}` makes no clips"
            if family
            else f"`{target.label}` is of no known kind",
            hint="models that do: shapes-video, wan-1.3b, cogvideox-2b, hunyuan-video",
        )
    rate = frames_per_second or frame_rate(family)
    draw = drawer(family, steps=sampling.steps, guidance=sampling.guidance)
    done, made = len(clips) - len(missing), 0
    yield Progress("generate", done, len(clips))
    cut = batches(clips, sampling.batch_size or fitting_batch_size(family.size))
    for batch in (batch for number, batch in enumerate(cut) if team.mine(number)):
        if missing.isdisjoint(batch):
            continue
        drawn = draw([clip.prompt for clip in batch], [clip.seed for clip in batch])
        for clip, pixels in zip(batch, drawn, strict=True):
            if clip in missing:
                with writing(folder / clip.name) as temporary:
                    temporary.write_bytes(encode_mp4(pixels, rate))
                made += 1
        yield Progress("generate", min(done + made * team.count, len(clips)), len(clips))
    return made


def _check_names(clips: Sequence[Clip]) -> None:
    prompts: dict[str, str] = {}
    problems = []
    for clip in clips:
        if "/" in clip.name or "\0" in clip.name or len(clip.name.encode()) > LONGEST_NAME:
            problems.append(f"no name for a file: {clip.name!r:.80}")
        elif prompts.setdefault(clip.name, clip.prompt) != clip.prompt:
            problems.append(f"two prompts share a name: {clip.name!r:.80}")
    if problems:
        raise DataError(
            "the names of clips are made of their prompts, which cannot be done here",
            details=problems[:5],
        )


def _is_there(file: Path) -> bool:
    """Tell whether a clip is there; files appear whole, but a copy may have failed."""
    return file.is_file() and file.stat().st_size > 0


def _write_list(file: Path, clips: Sequence[Clip]) -> None:
    lines = (
        {"prompt": clip.prompt, "index": clip.index, "seed": clip.seed, "file": clip.name}
        for clip in clips
    )
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    if not file.is_file() or file.read_text() != text:
        with writing(file) as temporary:
            temporary.write_text(text)
