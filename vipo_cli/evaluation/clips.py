"""Clips for the prompts of a benchmark, under its official names, each from a seed of its own.

    clips/PROMPT-0.mp4 ...    as the public implementations look for them
    clips.jsonl               prompt, index, seed and file of each

Clips are H.264 at the encoder's own quality, as the benchmarks' guides for sampling write them.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from vipo_cli.benchmarks.vbench_suite import Suite
from vipo_cli.errors import DataError, ModelError, VipoError
from vipo_cli.evaluation.generate import Sampling, load_target, picture_seed
from vipo_cli.evaluation.target import Target
from vipo_cli.media import Pixels
from vipo_cli.models import Family, family_of
from vipo_cli.models.draw import drawer
from vipo_cli.models.sample import fitting_batch_size
from vipo_cli.run import Progress, Work, writing

CLIPS = "clips"
LIST = "clips.jsonl"
ENCODING = "h264-crf23-cpu-independent"
OPTIONS = {"crf": "23", "preset": "medium", "x264-params": "cpu-independent=1"}
"""The encoder's defaults; without the last, one clip in a hundred differs from run to run."""
FRAME_RATE = 8.0
"""Frames a second where neither the user nor the family says it; that of the official guide."""
FRAME_RATES = {"Wan": 16.0, "CogVideoX": 8.0, "HunyuanVideo": 24.0}
"""Frames a second that families were trained at."""
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
) -> Work[int]:
    """Draw the clips that are missing; return how many were drawn.

    A clip appears whole or not at all, and is kept. Batches are cut the same way every time and one
    that lacks a clip is drawn again whole, so that what was interrupted equals what was not.

    Args:
        target: the model.
        suite: whose names and counts are used.
        prompts: of the suite, as its prompt set has them.
        sampling: how; the number of media for a prompt is the suite's.
        out: the folder in which `clips/` and `clips.jsonl` appear.
        frames_per_second: of the files; None is the family's.

    Raises:
        DataError: a prompt that cannot be part of a file's name.
        ModelError: the model makes pictures, or is of an unknown kind.
        VipoError: PyAV, which writes MP4, is not installed.
    """
    clips = list_clips(suite, prompts, sampling.seed)
    folder = out / CLIPS
    missing = {clip for clip in clips if not _is_there(folder / clip.name)}
    _write_list(out / LIST, clips)
    if not missing:
        return 0
    _require_av()
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
    done = len(clips) - len(missing)
    yield Progress("generate", done, len(clips))
    for batch in _batches(clips, sampling.batch_size or fitting_batch_size(family.size)):
        if missing.isdisjoint(batch):
            continue
        drawn = draw([clip.prompt for clip in batch], [clip.seed for clip in batch])
        for clip, pixels in zip(batch, drawn, strict=True):
            if clip in missing:
                with writing(folder / clip.name) as temporary:
                    temporary.write_bytes(encode_mp4(pixels, rate))
                done += 1
        yield Progress("generate", done, len(clips))
    return len(missing)


def frame_rate(family: Family) -> float:
    """Return how many frames a second a family's clips have."""
    return FRAME_RATES.get(type(family).__name__, FRAME_RATE)


def encode_mp4(frames: Pixels, frames_per_second: float) -> bytes:
    """Encode (t, h, w, 3) uint8 as H.264 in MP4; the same pixels, the same bytes.

    Raises:
        VipoError: PyAV is not installed.
    """
    _require_av()
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream: Any = container.add_stream(
            "libx264", rate=Fraction(frames_per_second).limit_denominator(1001)
        )
        stream.height, stream.width = frames.shape[1:3]
        odd = stream.height % 2 or stream.width % 2  # chroma is only halved where it can be
        stream.pix_fmt = "yuv444p" if odd else "yuv420p"
        stream.options = OPTIONS
        stream.thread_count = 1
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def _require_av() -> None:
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise VipoError(
            "clips are written as MP4 with PyAV, which is not installed",
            hint='pip install "vipo[video]"',
        ) from error


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


def _batches(clips: Sequence[Clip], size: int) -> Iterator[Sequence[Clip]]:
    for start in range(0, len(clips), size):
        yield clips[start : start + size]
