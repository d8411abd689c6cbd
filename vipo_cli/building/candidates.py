"""Candidates: what one or several models draw for the same prompts, not judged yet."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vipo_cli.building.drawing import (
    Artist,
    Job,
    Sampling,
    draw_all,
    drawn_folder,
    forget_drawn,
    medium_file,
)
from vipo_cli.building.prompts import Prompt
from vipo_cli.data.entry import Entry
from vipo_cli.data.store import Store
from vipo_cli.evaluation.generate import picture_seed
from vipo_cli.run import Progress, Work, fingerprint
from vipo_cli.training.launch import is_main_process


@dataclass(frozen=True, slots=True)
class Generated:
    """What was drawn.

    Attributes:
        folder: of the data set.
        prompts: how many.
        media: how many.
    """

    folder: Path
    prompts: int
    media: int


def generate_candidates(
    prompts: Sequence[Prompt],
    artists: Sequence[Artist],
    per_prompt: int,
    sampling: Sampling,
    out: Path,
) -> Work[Generated]:
    """Draw candidates and write them as a data set; what was interrupted is gone on with.

    No two candidates of a prompt start from the same noise, and each starts from the same whatever
    other prompts or models there are.

    Args:
        prompts: distinct.
        artists: the models.
        per_prompt: candidates of each model for each prompt.
        sampling: how they are drawn.
        out: folder of the data set.

    Raises:
        DataError: the folder holds something else.
    """
    about = document(prompts, artists, per_prompt, sampling)
    store = Store(out, about) if is_main_process() else None
    seeds = [
        [
            [
                picture_seed(sampling.seed, prompt.text, place * per_prompt + number)
                for number in range(per_prompt)
            ]
            for place in range(len(artists))
        ]
        for prompt in prompts
    ]
    jobs = [
        [
            Job(prompt.text, seed)
            for prompt, own in zip(prompts, seeds, strict=True)
            for seed in own[place]
        ]
        for place in range(len(artists))
    ]
    folder = drawn_folder(out)
    yield from draw_all(artists, jobs, sampling, folder, about)
    if store is not None:
        for number in range(store.taken, len(prompts)):
            prompt = prompts[number]
            places = [
                (place, number * per_prompt + each)
                for place in range(len(artists))
                for each in range(per_prompt)
            ]
            own = tuple(seed for of_model in seeds[number] for seed in of_model)
            store.add(
                Entry(
                    prompt.text,
                    tuple(medium_file(folder, *place) for place in places),
                    "candidates",
                    models=tuple(artists[place].label for place, _ in places),
                    category=prompt.category,
                    seeds=own,
                    noise_seeds=own,
                    id=f"{number:07d}",
                )
            )
            store.passed()
            if number % 100 == 99:
                yield Progress("writing", number + 1, len(prompts))
        store.close()
        forget_drawn(folder)
        yield Progress("writing", len(prompts), len(prompts))
    return Generated(out, len(prompts), len(prompts) * len(artists) * per_prompt)


def document(
    prompts: Sequence[Prompt], artists: Sequence[Artist], per_prompt: int, sampling: Sampling
) -> dict[str, Any]:
    """Return what a manifest says of candidates: all that determines them."""
    return {
        "made": "candidates",
        "models": [artist.document() for artist in artists],
        "per_prompt": per_prompt,
        "seed": sampling.seed,
        "precision": sampling.precision,
        "prompts": len(prompts),
        "prompts_fingerprint": fingerprint([[each.text, each.category] for each in prompts]),
    }
