"""A benchmark for clips of the embedded world: do shapes, colours and directions come out right?"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from vipo_cli.benchmarks import Asked, Metric, Task, Verdict
from vipo_cli.clips import read_frames
from vipo_cli.shapes.motion import TASKS, draw_clip_caption, judge_clip, parse_clip_caption

SHARES = ("object", "colour", "direction")


def motion_prompts(
    *,
    seed: Annotated[int, Field(ge=0, description="Another seed draws other prompts.")] = 43,
    number: Annotated[int, Field(ge=1, description="How many prompts.")] = 300,
) -> list[dict[str, Any]]:
    """Distinct prompts about moving shapes, of each kind equally many."""
    rng, found = np.random.default_rng(seed), dict[str, str]()
    while len(found) < number:
        caption = draw_clip_caption(rng, TASKS[len(found) % len(TASKS)])
        found[str(caption)] = caption.task
    return [{"prompt": prompt, "tag": task} for prompt, task in found.items()]


def motion() -> Task:
    """Clips of the embedded world: shares with everything right, and right objects and colours."""
    return Motion()


@dataclass(frozen=True, slots=True)
class Motion:
    """The share of clips that show all that their caption asks for."""

    name: str = "shapes-motion"
    title: str = "Shapes in motion"
    version: str = "shapes-motion-1"
    judge_fingerprint: str = "classical-image-analysis-1"
    metrics: tuple[Metric, ...] = (
        Metric("overall", score="correct", lowest=0, highest=1),
        *(Metric(name, lowest=0, highest=1, by_tag=False) for name in SHARES),
    )
    prompt_set: str = "shapes-motion"
    needs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    images_per_prompt: int = 1
    batch_size: int = 1

    def judge(self, media: Sequence[bytes], asked: Sequence[Asked]) -> list[Verdict]:
        """Judge clips one by one."""
        return [self._one(*each) for each in zip(media, asked, strict=True)]

    def _one(self, data: bytes, asked: Asked) -> Verdict:
        frames = np.stack([np.asarray(frame) for frame in read_frames(data)])
        caption = parse_clip_caption(str(asked["prompt"]))
        if caption is None:
            raise ValueError("the prompt is about no shapes in motion")
        seen = judge_clip(frames, caption)
        shares = {name: getattr(seen, name) for name in SHARES}
        lacking = ", ".join(name for name, share in shares.items() if share < 1)
        reason = f"not every {lacking} is right" if lacking else ""
        return Verdict({"correct": float(seen.correct), **shares}, reason=reason)
