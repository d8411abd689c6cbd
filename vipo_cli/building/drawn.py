"""Pairs whose media are drawn for them: from a perturbed caption, or against a known winner."""

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vipo_cli.building.build import Plan, Planned
from vipo_cli.building.drawing import (
    Artist,
    Job,
    Sampling,
    draw_all,
    drawn_folder,
    medium_file,
)
from vipo_cli.building.perturbers import Change, Perturbed, perturb
from vipo_cli.building.prompts import Prompt
from vipo_cli.data.entry import Entry
from vipo_cli.data.lazy import data_fingerprint
from vipo_cli.data.record import LabelledSample, Record
from vipo_cli.errors import DataError
from vipo_cli.evaluation.generate import picture_seed
from vipo_cli.run import Work, fingerprint

NO_PLACE = "nothing in the caption that a perturbation knows"


def plan_perturbation(
    prompts: Sequence[Prompt],
    artists: Sequence[Artist],
    changes: Sequence[Change],
    sampling: Sampling,
    out: Path,
    category: str | None,
) -> Work[Plan]:
    """Draw each prompt, and a perturbed caption of it from the same noise as the loser.

    Every model draws a pair for every prompt. The prompt of both is the original one.

    Args:
        prompts: distinct.
        artists: the models.
        changes: what may be perturbed.
        sampling: how media are drawn.
        out: folder of the data set.
        category: of all pairs; None keeps the prompts' own.
    """
    found: list[tuple[Prompt, Perturbed]] = []
    for prompt in prompts:
        rng = np.random.default_rng(picture_seed(sampling.seed, prompt.text, 0))
        other = perturb(rng, prompt.text, changes)
        if other is not None:
            found.append((prompt, other))
    left_out = {NO_PLACE: len(prompts) - len(found)} if len(found) < len(prompts) else {}
    about = {
        "made": "pairs",
        "by": "perturbation",
        "changes": list(changes),
        "category": category,
        **_drawn_by(artists, sampling),
        "captions": fingerprint([[a.text, a.category, b.text, b.change] for a, b in found]),
    }
    seeds = [
        [picture_seed(sampling.seed, prompt.text, place) for prompt, _ in found]
        for place in range(len(artists))
    ]
    jobs = [
        [
            Job(text, seed)
            for (prompt, other), seed in zip(found, own, strict=True)
            for text in (prompt.text, other.text)
        ]
        for own in seeds
    ]
    folder = drawn_folder(out)
    if found:
        yield from draw_all(artists, jobs, sampling, folder, about)

    def make(number: int, place: int) -> Entry:
        prompt, other = found[number]
        media = tuple(medium_file(folder, place, 2 * number + side) for side in (0, 1))
        seed = seeds[place][number]
        return Entry(
            prompt.text,
            media,
            "a",
            models=(artists[place].label,) * 2,
            category=category or prompt.category,
            seeds=(seed, seed),
            noise_seeds=(seed, seed),
            id=f"{number:07d}.{place}",
            metadata={
                "built_by": "perturbation",
                "perturbation_type": other.change,
                "perturbed_prompt": other.text,
            },
        )

    pairs = [
        Planned(category or prompt.category, partial(make, number, place))
        for number, (prompt, _) in enumerate(found)
        for place in range(len(artists))
    ]
    counts = Counter(other.change for _, other in found)
    return Plan(about, pairs, left_out, {"perturbations": dict(sorted(counts.items()))})


def plan_self_play(
    records: Sequence[Record],
    artists: Sequence[Artist],
    sampling: Sampling,
    out: Path,
    category: str | None,
) -> Work[Plan]:
    """Set what the models draw for a record's prompt as losers beside the record's winner.

    Args:
        records: whose winners count: the best of a list, and samples that were liked.
        artists: the models.
        sampling: how media are drawn.
        out: folder of the data set.
        category: of all pairs; None keeps the records' own.

    Raises:
        DataError: no record has a winner.
    """
    liked = [
        place
        for place, record in enumerate(records)
        if not isinstance(record, LabelledSample) or record.liked
    ]
    if not liked:
        raise DataError("no record has a winner", hint="self-play sets models against winners")
    left_out = {"not liked": len(records) - len(liked)} if len(liked) < len(records) else {}
    prompts = [records[place].prompt for place in liked]
    about = {
        "made": "pairs",
        "by": "self-play",
        "category": category,
        **_drawn_by(artists, sampling),
        "data": data_fingerprint(records),
    }
    seen: Counter[str] = Counter()
    seeds: list[list[int]] = [[] for _ in artists]
    for prompt in prompts:
        for place, own in enumerate(seeds):
            number = seen[prompt] * len(artists) + place
            own.append(picture_seed(sampling.seed, prompt, number))
        seen[prompt] += 1
    jobs = [[Job(*each) for each in zip(prompts, own, strict=True)] for own in seeds]
    folder = drawn_folder(out)
    yield from draw_all(artists, jobs, sampling, folder, about)

    def make(number: int, place: int) -> Entry:
        record, seed = records[liked[number]], seeds[place][number]
        own = dict(record.metadata)
        kind = category or own.pop("category", None)
        winner_model = own.pop("model_w", None)
        return Entry(
            record.prompt,
            (record.media[0], medium_file(folder, place, number)),
            "a",
            weight=record.weight,
            models=(winner_model, artists[place].label),
            category=None if kind is None else str(kind),
            seeds=(None, seed),
            noise_seeds=(None, seed),
            id=f"{number:07d}.{place}",
            metadata={"built_by": "self-play"},
        )

    kinds = [category] * len(liked) if category else _categories(records, liked)
    pairs = [
        Planned(kinds[number], partial(make, number, place))
        for number in range(len(liked))
        for place in range(len(artists))
    ]
    return Plan(about, pairs, left_out, {})


def _categories(records: Sequence[Record], places: Sequence[int]) -> list[str | None]:
    found = (records[place].metadata.get("category") for place in places)
    return [None if kind is None else str(kind) for kind in found]


def _drawn_by(artists: Sequence[Artist], sampling: Sampling) -> Mapping[str, Any]:
    return {
        "models": [artist.document() for artist in artists],
        "seed": sampling.seed,
        "precision": sampling.precision,
    }
