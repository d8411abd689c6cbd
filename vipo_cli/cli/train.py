"""`vipo train`: preference optimisation, from flags or a recipe."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vipo_cli.cli.output import Json, Output, Quiet
from vipo_cli.errors import Interrupted
from vipo_cli.training.launch import (
    going_on,
    is_launched,
    is_main_process,
    launch,
    must_launch,
    report_run,
    started_processes,
)

if TYPE_CHECKING:
    from vipo_cli.recipe import Recipe
    from vipo_cli.training.train import Result

EPILOG = (
    "Examples: vipo train --method poly-dpo --alpha 0.5   |   "
    "vipo train --model sd15 --data pickapic_v2 --method poly-dpo --alpha 8 --dry-run   |   "
    "vipo train --resume runs/shapes-sd-poly-dpo-1"
)

app = typer.Typer(add_completion=False, rich_markup_mode=None)


SHOWN = 5
"""How many broken pairs, and how many alarms, are named."""
AUTO = "auto"
"""The value of --alpha that leaves the choice to an analysis of the data."""


@app.command(epilog=EPILOG)
def train(
    recipe: Annotated[
        str | None, typer.Option(help="Shipped recipe or YAML file to start from.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="Objective, see vipo list methods.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Registered name, hub id or diffusers folder.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Registered name, hub id, file or folder of pairs.")
    ] = None,
    alpha: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|auto",
            help="Of poly-dpo: > 0 for conflicting pairs, < 0 for trivial; auto asks the rewards.",
        ),
    ] = None,
    beta: Annotated[
        float | None, typer.Option(help="Pull towards the reference: larger stays closer.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Updates of the weights.")] = None,
    seed: Annotated[int | None, typer.Option(help="Fixes everything random.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run directory to make; runs/MODEL-METHOD-N if not given.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Run directory to go on with, by its own recipe.")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Processes on this machine that share each batch, one a GPU."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any key of the recipe, as section.key=value; repeatable."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved recipe and the plan, then stop.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune a generator on preference pairs."""
    output = Output(json=json, quiet=quiet, mute=not is_main_process())
    if resume is not None:
        given = (recipe, method, model, data, alpha, beta, steps, seed, out, set_, dry_run or None)
        if any(value not in (None, []) for value in given):
            raise typer.BadParameter(
                "takes everything from the run's own recipe", param_hint="--resume"
            )
    if must_launch(processes) and not dry_run:
        launch(processes or 1, sys.argv[1:])
        return
    if resume is not None:
        _train(output, None, resume)
        return
    flags = {"alpha": _number(alpha), "beta": beta, "steps": steps, "seed": seed}
    resolved = _resolve(recipe, model, data, method, flags, set_ or [])
    if alpha == AUTO:
        flags["alpha"] = _alpha_of(resolved, output)
        resolved = _resolve(recipe, model, data, method, flags, set_ or [])
    if dry_run:
        from vipo_cli.training.plan import plan

        outlook = output.follow(plan(resolved, processes or started_processes()))
        output.result(outlook.document(resolved), outlook.text(resolved), [])
        return
    _train(output, resolved, out)


def _number(alpha: str | None) -> float | None:
    """Read a value of alpha; `auto` is none until the data have been asked."""
    if alpha is None or alpha == AUTO:
        return None
    try:
        return float(alpha)
    except ValueError as error:
        raise typer.BadParameter(
            f"`{alpha}` is neither a number nor auto", param_hint="--alpha"
        ) from error


def _alpha_of(recipe: "Recipe", output: Output) -> float:
    """Choose alpha by how far rewards and labels of the data agree, and say why."""
    from vipo_cli.data.sources import opening
    from vipo_cli.errors import RecipeError
    from vipo_cli.evaluation.conflict import measure_conflict
    from vipo_cli.training.devices import main_first, on_main, start_accelerator

    if recipe.objective.method != "poly-dpo":
        raise RecipeError(
            f"`--alpha auto` chooses Poly-DPO's alpha, and the method is "
            f"`{recipe.objective.method}`",
            hint="add --method poly-dpo, or give a number",
        )
    start_accelerator(recipe)
    source = partial(opening, recipe.data.name, recipe.data.parameters)
    pairs = output.follow(main_first(source))
    found = output.follow(on_main(measure_conflict(pairs))).conflict
    output.note(
        f"alpha   {found.alpha:g}, chosen by a heuristic of vipo, not the paper's: {found.advice}"
    )
    return found.alpha


def _resolve(
    recipe: str | None,
    model: str | None,
    data: str | None,
    method: str | None,
    flags: dict[str, Any],
    settings: list[str],
) -> "Recipe":
    from vipo_cli.recipe import parse_settings, resolve_recipe

    return resolve_recipe(
        recipe,
        model=model,
        data=data,
        method=method,
        flags=flags,
        settings=parse_settings(settings),
    )


def _train(output: Output, recipe: "Recipe | None", place: Path | None) -> None:
    """Start a new run of a recipe, or go on with the one at a place."""
    from vipo_cli.training.devices import agreed, leave
    from vipo_cli.training.train import document, new_run, read_run
    from vipo_cli.training.train import train as run_recipe

    resume = recipe is None
    try:
        if recipe is None:
            assert place is not None
            run, recipe = place, read_run(place)
        else:
            run = new_run(recipe, place)
        report_run(run)
        output.note(_introduction(recipe, run))
        with stop_requests() as stop:
            work = run_recipe(recipe, run, resume=resume)
            result = output.follow(work, until=lambda: agreed(stop.is_set()))
        leave()
    except Interrupted as error:
        leave()
        raise Interrupted(
            "stopped on request; what was trained is saved",
            hint=f"go on: {going_on(run, started_processes() if is_launched() else 1)}",
        ) from error
    output.result(document(recipe, result), _summary(recipe, result), [str(run)])
    if result.broken:
        output.warn(_left_out(result))


@contextmanager
def stop_requests() -> Iterator[Event]:
    """Turn Ctrl-C and SIGTERM into an event, so that the step under way ends and is saved.

    A second Ctrl-C does not wait.
    """
    stop = Event()

    def ask(*_: object) -> None:
        if stop.is_set() and not is_launched():  # a launcher ends those that it started itself
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _introduction(recipe: "Recipe", run: Path) -> str:
    """Say what is about to happen, and how to name something else."""
    count = started_processes()
    shared = f", shared out to {count} processes" if count > 1 else ""
    lines = [
        f"model   {recipe.model.name}, {_trained_part(recipe)}",
        f"data    {_with_values(recipe.data.name, recipe.data.parameters)}",
        f"method  {_with_values(recipe.objective.method, recipe.objective.parameters)}",
        f"steps   {recipe.run.steps} of {recipe.optimizer.batch_size} pairs{shared}",
        f"seed    {recipe.run.seed}",
        f"run     {run}",
    ]
    if recipe.model.name == "shapes-sd":
        lines.append(
            "this is the embedded laptop model; a real one: "
            "vipo train --model sd15 --data pairs.parquet --method poly-dpo"
        )
    return "\n".join(lines)


def _trained_part(recipe: "Recipe") -> str:
    model = recipe.model
    if model.train == "full":
        merged = f", with {model.start_from} merged in" if model.start_from else ""
        return f"all weights{merged}"
    if model.start_from:
        return f"going on from the LoRA {model.start_from}"
    return f"{'LoRA' if model.adapter == 'lora' else 'DoRA'} of rank {model.rank}"


def _with_values(name: str, parameters: dict[str, Any]) -> str:
    values = ", ".join(f"{key} {value}" for key, value in parameters.items() if value is not None)
    return f"{name} ({values})" if values else name


def _left_out(result: "Result") -> str:
    lines = [f"{len(result.broken):,} pairs cannot be used and were left out"]
    lines += [f"  {each}" for each in result.broken[:SHOWN]]
    if len(result.broken) > SHOWN:
        lines.append(f"  and {len(result.broken) - SHOWN:,} more")
    return "\n".join(lines)


def _summary(recipe: "Recipe", result: "Result") -> str:
    lines = [f"trained {recipe.model.name} with {recipe.objective.method}: {result.steps} steps"]
    lines += [f"left out {count:,} rows: {reason}" for reason, count in result.dropped.items()]
    if result.broken:
        lines.append(f"left out {len(result.broken):,} broken pairs")
    lines.append(f"loss {result.final['loss']:.4f} over the last steps")
    if held_out := result.held_out:
        low, high = held_out["ci95"]
        metric = held_out["metric"].replace("_", " ")
        lines.append(
            f"held-out {metric} {held_out['value']:.3f} [{low:.3f}, {high:.3f}]"
            f" on {held_out['n']} pairs"
        )
    if began := [alarm for alarm in result.alarms if alarm["begins"]]:
        lines.append(f"{len(began)} alarm{'s' * (len(began) != 1)}: {_listed_alarms(began)}")
        lines.append(f"what they say: vipo analyze dynamics {result.run}")
    if result.samples is not None:
        lines.append(f"samples {result.samples}")
    pairs = result.steps * recipe.optimizer.batch_size
    lines += [
        f"{pairs / result.seconds:.1f} pairs/s, {result.seconds:.0f} s of training",
        f"checkpoint {result.checkpoint}",
        f"next: vipo {'analyze dynamics' if result.clips else 'eval geneval'} {result.run}",
    ]
    return "\n".join(lines)


def _listed_alarms(alarms: list[dict[str, Any]]) -> str:
    """Name the first alarms with their steps."""
    named = [
        f"{alarm['name']} at step {alarm['step']}"
        + (f" (returned to step {alarm['returned_to']})" if "returned_to" in alarm else "")
        for alarm in alarms[:SHOWN]
    ]
    more = len(alarms) - SHOWN
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")
