"""A benchmark from end to end: draw, judge, aggregate, and compare with the base model."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

import torch

from vipo_cli.evaluation.aggregate import aggregate
from vipo_cli.evaluation.compare import compare
from vipo_cli.evaluation.generate import generate, list_pictures
from vipo_cli.evaluation.plan import (
    Options,
    Plan,
    in_cache,
    make_plan,
    settled,
    write_manifest,
)
from vipo_cli.evaluation.score import find_pictures, gather_parts, read_samples, score
from vipo_cli.evaluation.target import find_target
from vipo_cli.run import ALONE, Team, Work, environment, write_json

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        title: how reports call the benchmark.
        out: the folder that holds all of it.
        results: as in results.json.
        baseline: the folder of the baseline's evaluation, if there is one.
        baseline_model: how reports call the baseline.
        comparison: how much better the target is than the baseline, paired.
    """

    title: str
    out: Path
    results: dict[str, Any]
    baseline: Path | None = None
    baseline_model: str | None = None
    comparison: dict[str, Any] | None = None


def evaluate(
    task: str,
    target: str,
    options: Options = Options(),  # noqa: B008 - frozen
    *,
    baseline: str | None = None,
    model: str | None = None,
    out: Path | None = None,
    team: Team = ALONE,
) -> Work[Evaluation]:
    """Evaluate a target on a benchmark, continuing what was begun before in the same folder.

    In a team, only who leads gets results.

    Args:
        task: name of the benchmark, of a reward, or a file that makes a benchmark.
        target: a run or checkpoint directory, a LoRA file, a pipeline, a model name, or pictures.
        options: how pictures are drawn and judged.
        baseline: what to compare with; None is the model that the target was trained from, if
            that is known, and "none" is nothing.
        model: the model that a LoRA was trained on, where its file does not say.
        out: where results go; None is into the run, the cache, or `eval-NAME`.
        team: the processes that share the work.
    """
    found = find_target(target, base=model)
    plan = make_plan(task, found, options, out)
    other = found.base if baseline is None else baseline
    against = None
    if other is not None and other != "none":
        # planned before the first picture is drawn, so that a wrong name costs no work
        against = make_plan(task, find_target(other, base=model), settled(options, plan))
        if against.target.run is None:  # the same base serves many runs
            against = in_cache(against)
    results = yield from _evaluate(plan, team)
    if against is not None:
        yield from _evaluate(against, team)
    if against is None or not team.leads:
        return Evaluation(plan.task.title, plan.out, results)
    comparison = compare(plan.out, against.out)
    write_json(
        plan.out / "baseline.json",
        {"model": against.target.label, "folder": str(against.out.resolve()), **comparison},
    )
    return Evaluation(
        plan.task.title, plan.out, results, against.out, against.target.label, comparison
    )


def _evaluate(plan: Plan, team: Team) -> Work[dict[str, Any]]:
    """Draw, judge and aggregate one model's pictures."""
    samples_file = plan.out / "samples.jsonl"
    if team.leads:
        write_manifest(plan)
        gather_parts(samples_file)
    team.wait()
    drawn, seeds, started = 0, {}, perf_counter()
    there = len(find_pictures(plan.pictures)) if team.count > 1 else 0
    if plan.sampling is not None:
        work = generate(plan.target, plan.metadata, plan.sampling, plan.pictures, team)
        drawn = yield from _labelled(work, plan.target.label)
        prompts = {index: str(record["prompt"]) for index, record in plan.metadata.items()}
        seeds = {
            (picture.prompt_index, picture.image_index): picture.seed
            for picture in list_pictures(prompts, plan.sampling)
        }
    team.wait()
    generated = perf_counter()
    pictures = {
        key: file
        for key, file in find_pictures(plan.pictures).items()
        if key[0] in plan.metadata and key[1] < plan.images_per_prompt
    }
    work = score(pictures, plan.metadata, seeds, plan.task, samples_file, team)
    judged = yield from _labelled(work, plan.target.label)
    team.wait()
    if not team.leads:
        return {}
    if team.count > 1:
        drawn, judged = len(find_pictures(plan.pictures)) - there, gather_parts(samples_file)
    timing = {
        "generate_seconds": round(generated - started, 3),
        "score_seconds": round(perf_counter() - generated, 3),
        "drawn": drawn,
        "judged": judged,
    }
    results = aggregate(
        plan.manifest, plan.metadata, read_samples(samples_file), pictures, plan.all_prompts
    )
    results |= {"environment": {"device": _device(), **environment()}, "timing": timing}
    file = plan.out / "results.json"
    if not drawn and not judged and file.is_file():
        before = json.loads(file.read_text())  # where and how fast the work was really done
        results |= {key: before[key] for key in ("environment", "timing")}
    results["warnings"] = results.pop("warnings")
    write_json(file, results)
    return results


def _labelled(work: Work[T], label: str) -> Work[T]:
    """Pass progress on under a name that tells the model from its baseline."""
    while True:
        try:
            progress = next(work)
        except StopIteration as end:
            result: T = end.value
            return result
        yield replace(progress, stage=f"{progress.stage} {label}")


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
