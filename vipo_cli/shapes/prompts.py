"""The prompts that GenEval uses in the embedded world."""

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from vipo_cli.shapes.captions import TASKS, Caption, Noun, Task, draw_caption


def geneval_prompts(
    *,
    seed: Annotated[int, Field(ge=0, description="Another seed draws other prompts.")] = 43,
    per_task: Annotated[int, Field(ge=1, le=100, description="Prompts of each task.")] = 100,
) -> list[dict[str, Any]]:
    """Distinct prompts about coloured shapes for each of GenEval's six tasks."""
    return [
        metadata(caption)
        for index, task in enumerate(TASKS)
        for caption in _distinct(np.random.default_rng((seed, index)), task, per_task)
    ]


def _distinct(rng: np.random.Generator, task: Task, number: int) -> Iterator[Caption]:
    seen: set[Caption] = set()
    while len(seen) < number:
        caption = draw_caption(rng, task)
        if caption not in seen:
            seen.add(caption)
            yield caption


def metadata(caption: Caption) -> dict[str, Any]:
    """Say what a caption asks for in GenEval's own layout."""
    include = [_clause(noun, caption.count) for noun in caption.nouns]
    if caption.relation:  # the object that is referred to comes first
        include = [include[1], include[0] | {"position": [caption.relation, 0]}]
    asked: dict[str, Any] = {"tag": caption.task, "include": include}
    if caption.task == "counting":
        asked["exclude"] = [{"class": caption.nouns[0].shape, "count": caption.count + 1}]
    return asked | {"prompt": str(caption)}


def _clause(noun: Noun, count: int) -> dict[str, Any]:
    clause: dict[str, Any] = {"class": noun.shape, "count": count}
    return clause | {"color": noun.colour} if noun.colour else clause
