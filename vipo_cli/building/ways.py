"""The ways of building pairs, by the words that name them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vipo_cli.building.build import Built, Plan, refuse_built, write_pairs
from vipo_cli.building.categories import Category, find_category
from vipo_cli.building.drawing import Sampling, drawn_folder, find_artists, forget_drawn
from vipo_cli.building.judged import Choice, plan_judged, verdicts_file
from vipo_cli.building.perturbers import CHANGES, Change
from vipo_cli.data.lazy import first
from vipo_cli.data.sources import opening
from vipo_cli.data.stored import is_stored
from vipo_cli.errors import DataError, UnknownName
from vipo_cli.run import Work
from vipo_cli.training.launch import is_main_process

WAYS = ("reward:NAME", "reward:A=0.7,B=0.3", "pareto:A,B", "perturbation", "ocr", "judge",
        "self-play")  # fmt: skip
OCR = "ocr-similarity"
"""The reward that stands for the way `ocr`."""
VERDICTS = "verdicts.jsonl"
"""What a judge said, beside the pairs made of it."""
RUBRIC = "alignment"
"""Whose rubric a judge goes by if nothing is said."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a user asks of a build.

    Attributes:
        source: data set, or where prompts come from.
        by: one of WAYS; None: as the category does.
        parameters: of the data set.
        category: that all pairs are to have, and which says how they are made.
        min_margin: by how much the winner must be better.
        models: that draw.
        changes: that a perturbation may make.
        judge: URL of a server, or a model.
        judge_model: what the server calls it.
        together: questions that the server is asked at once.
        rubric: file with what a judge goes by.
        per_prompt: pairs of each prompt that a judge is asked about.
        limit: the first so many prompts or records.
        balance: as many pairs of each category as of the rarest.
        sampling: how media are drawn.
        rewards: options of rewards, by reward.
    """

    source: str
    by: str | None = None
    parameters: Mapping[str, Any] | None = None
    category: str | None = None
    min_margin: float | None = None
    models: Sequence[str] = ()
    changes: Sequence[str] = ()
    judge: str | None = None
    judge_model: str | None = None
    together: int = 4
    rubric: Path | None = None
    per_prompt: int = 1
    limit: int | None = None
    balance: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    rewards: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def build(wish: Wish, out: Path) -> Work[Built | None]:
    """Build pairs; processes that only help to draw return None.

    Raises:
        DataError: a wish that says nothing possible, or nothing that pairs can be made of.
        UnknownName: no such way, category, reward, model or perturbation.
        MissingWeights: something that is not at hand.
    """
    category = None if wish.category is None else find_category(wish.category)
    by = wish.by or (category.by if category else None)
    if by is None:
        raise DataError("nothing says who is better", hint=f"--by {', '.join(WAYS)}")
    refuse_built(out)
    plan = yield from _plan(wish, by, category, out)
    if not is_main_process():
        return None
    built = yield from write_pairs(plan, out, balance=wish.balance, seed=wish.sampling.seed)
    forget_drawn(drawn_folder(out))
    if (verdicts := verdicts_file(out)).is_file():
        verdicts.replace(out / VERDICTS)
    return built


def _plan(wish: Wish, by: str, category: Category | None, out: Path) -> Work[Plan]:
    way, _, detail = by.partition(":")
    if way == "perturbation":
        from vipo_cli.building.drawn import plan_perturbation
        from vipo_cli.building.prompts import read_prompts

        changes = _changes(wish.changes or (category.changes if category else ()))
        artists = find_artists(wish.models, wish.sampling)
        prompts = read_prompts(wish.source, wish.parameters, wish.limit)
        return (
            yield from plan_perturbation(
                prompts, artists, changes, wish.sampling, out, wish.category
            )
        )
    if way == "self-play":
        from vipo_cli.building.drawn import plan_self_play

        artists = find_artists(wish.models, wish.sampling)
        records = first((yield from opening(wish.source, wish.parameters)), wish.limit)
        return (yield from plan_self_play(records, artists, wish.sampling, out, wish.category))
    if way == "judge":
        from vipo_cli.building.judge import find_judge

        if wish.judge is None:
            raise DataError("nobody is named who judges", hint="--judge URL, or --judge MODEL")
        rubric = _rubric(wish, category)
        data = _stored(wish.source)
        judge = find_judge(wish.judge, wish.judge_model, wish.together)
        choice = Choice(wish.per_prompt, wish.sampling.seed)
        return (yield from plan_judged(data, judge, rubric, out, choice, wish.category))
    return (yield from _plan_best(wish, way, detail or by, category))


def _plan_best(wish: Wish, way: str, detail: str, category: Category | None) -> Work[Plan]:
    from vipo_cli.building.best import Measure, parse_weights, plan_best

    margin = wish.min_margin
    if margin is None:
        margin = category.min_margin if category else 0.0
    if way == "ocr":
        weights = {OCR: 1.0}
    elif way in ("reward", "pareto") or "=" in detail:
        weights = parse_weights(detail)
    else:
        raise UnknownName("way of building", way, WAYS)
    measure = Measure(weights, way == "pareto", margin)
    if measure.dominance and len(weights) < 2:
        raise DataError("dominance is about two or more rewards", hint="--by pareto:A,B")
    return (yield from plan_best(_stored(wish.source), measure, wish.category, wish.rewards))


def _stored(source: str) -> Path:
    place = Path(source).expanduser()
    if place.is_dir() and is_stored(place):
        return place
    if not place.exists():
        raise DataError(
            f"no such folder: `{source}`",
            hint="pairs are made of what vipo data generate or vipo data import wrote",
        )
    raise DataError(
        f"`{source}` is no data set that vipo keeps",
        hint=f"import it first: vipo data import {source} --out DIR",
    )


def _changes(names: Sequence[str]) -> list[Change]:
    for name in names:
        if name not in CHANGES:
            raise UnknownName("perturbation", name, CHANGES)
    return [change for change in CHANGES if not names or change in names]


def _rubric(wish: Wish, category: Category | None) -> str:
    if wish.rubric is None:
        return (category or find_category(RUBRIC)).rubric
    try:
        rubric = wish.rubric.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the rubric `{wish.rubric}`: {error}") from error
    if not rubric:
        raise DataError(f"the rubric `{wish.rubric}` says nothing")
    return rubric
