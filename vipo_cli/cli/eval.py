"""`vipo eval`: benchmarks with honest intervals."""

import sys
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from vipo_cli.cli import eval_setup, eval_vbench
from vipo_cli.cli.eval_options import (
    FromResults,
    OptionalTarget,
    Target,
    Wanted,
    command_line,
    follow,
    taking_options,
)
from vipo_cli.cli.output import Json, Output, Quiet
from vipo_cli.cli.show_evaluation import (
    comparison_table,
    overall_difference,
    ranking_table,
    results_table,
)
from vipo_cli.errors import VipoError
from vipo_cli.training.launch import launch, must_launch

app = typer.Typer(
    help="Measure what a model can do, with intervals, and what training changed.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@app.command(
    epilog="Examples: vipo eval geneval runs/my-run | "
    "vipo eval geneval shapes-sd --images-per-prompt 4 --json"
)
@taking_options
def geneval(
    wanted: Wanted,
    target: OptionalTarget = None,
    from_results: FromResults = None,
    detector: Annotated[
        str | None, typer.Option(help="Who judges.", show_default="the prompt set's")
    ] = None,
) -> None:
    """Evaluate a model on GenEval: does it draw what the prompt asks for?"""
    chosen = {} if detector is None else {"detector": detector}
    _run_or_show("geneval", target, from_results, wanted, wanted.settings | chosen)


@app.command(
    epilog="Examples: vipo eval dpg runs/my-run | "
    "vipo eval dpg --from-results dpg-bench_results.txt"
)
@taking_options
def dpg(
    wanted: Wanted,
    target: OptionalTarget = None,
    from_results: FromResults = None,
    official_quirks: Annotated[
        bool,
        typer.Option("--official-quirks", help="Reproduce the errors of the public script."),
    ] = False,
) -> None:
    """Evaluate a model on DPG-Bench: long prompts, asked about piece by piece."""
    chosen = {"rules": "official"} if official_quirks else {}
    _run_or_show("dpg", target, from_results, wanted, wanted.settings | chosen)


@app.command(epilog="Example: vipo eval cvtg runs/my-run --official-quirks")
@taking_options
def cvtg(
    wanted: Wanted,
    target: Target,
    official_quirks: Annotated[
        bool,
        typer.Option("--official-quirks", help="Reproduce the errors of the public script."),
    ] = False,
    clipscore: Annotated[
        bool, typer.Option("--clipscore", help="Score CLIPScore, too (OpenAI's ViT-L/14).")
    ] = False,
) -> None:
    """Evaluate a model on CVTG-2K: can what it writes be read?"""
    chosen: dict[str, Any] = {"rules": "official"} if official_quirks else {}
    chosen |= {"clipscore": True} if clipscore else {}
    run_task("cvtg-2k", target, wanted, wanted.settings | chosen)


def _reward_command(name: str, task: str, about: str) -> None:
    """Add the command of a reward."""

    def command(wanted: Wanted, target: Target) -> None:
        run_task(task, target, wanted, wanted.settings)

    example = f"Example: vipo eval {name} runs/my-run --prompt-set prompts.txt"
    app.command(name=name, help=about, epilog=example)(taking_options(command))


for _name, _task, _about in (
    ("pickscore", "pickscore", "Score a model's pictures with PickScore: what people pick."),
    ("hpsv2", "hpsv2.1", "Score a model's pictures with HPSv2.1 (hpsv2.0: vipo eval run)."),
    ("imagereward", "imagereward", "Score a model's pictures with ImageReward."),
    ("aesthetic", "aesthetic", "Score how beautiful a model's pictures are, whatever the prompt."),
    ("clip", "clip", "Score how well a model's pictures fit their prompts, with CLIP."),
):
    _reward_command(_name, _task, _about)


@app.command(
    name="run",
    epilog="Examples: vipo eval run shapes-alignment runs/my-run | "
    "vipo eval run my_task.py runs/my-run --set threshold=0.5",
)
@taking_options
def run_command(
    wanted: Wanted,
    task: Annotated[
        str, typer.Argument(help="Benchmark or reward by name, or FILE.py[:FUNCTION] of your own.")
    ],
    target: Target,
) -> None:
    """Evaluate a model on any benchmark or reward: see vipo list benchmarks and rewards."""
    run_task(task, target, wanted, wanted.settings)


def _run_or_show(
    task: str, target: str | None, file: Path | None, wanted: Wanted, options: dict[str, Any]
) -> None:
    if file is not None:
        show_results(task, file, wanted)
    elif target is not None:
        run_task(task, target, wanted, options)
    else:
        raise typer.BadParameter("name what to evaluate, or give --from-results FILE")


def run_task(task: str, target: str, wanted: Wanted, options: dict[str, Any]) -> None:
    """Evaluate, and show what came of it.

    Raises:
        Interrupted: by the user; says how to go on.
        VipoError: pictures are missing or failed, unless that is accepted.
    """
    if must_launch(wanted.processes):
        launch(wanted.processes or 1, sys.argv[1:])
        return
    from vipo_cli.building.team import join_team
    from vipo_cli.evaluation.evaluate import evaluate
    from vipo_cli.evaluation.plan import Options
    from vipo_cli.reporting.html import write_report
    from vipo_cli.reporting.sheet import write_sheet

    output = wanted.output
    chosen = {field.name for field in fields(Wanted)} & {field.name for field in fields(Options)}
    settings = Options(**{name: getattr(wanted, name) for name in chosen}, task=options)
    base, model, out = wanted.baseline, wanted.model, wanted.out
    team = join_team()
    work = evaluate(task, target, settings, baseline=base, model=model, out=out, team=team)
    evaluation = follow(output, work)
    if not team.leads:
        return
    results = evaluation.results
    report, sheet = write_report(evaluation.out), write_sheet(evaluation.out)
    paths = {"out": evaluation.out, "report": report, "contact_sheet": sheet}
    document = results | paths | {"baseline": evaluation.comparison}
    table = results_table(
        evaluation.title, results, evaluation.comparison, evaluation.baseline_model
    )
    output.result(document, table, [str(evaluation.out)])
    _remarks(results, output)
    output.note(f"\nreport: {report}\ncontact sheet: {sheet}\nrun again: {command_line()}")
    if not (wanted.allow_partial or _as_asked(results, wanted.prompts)):
        raise VipoError(
            f"the evaluation of `{target}` is not complete",
            details=results["warnings"],
            hint=f"try again with: {command_line()}; or accept it as it is with --allow-partial",
        )


def _as_asked(results: dict[str, Any], prompts: int | None) -> bool:
    """Tell whether all is there; a prompt set that was cut on request is partial by intention."""
    counts = results["n_samples"]
    limited = prompts is not None and counts["scored"] == counts["expected"]
    return results["status"] == "complete" or limited


def show_results(task: str, file: Path, wanted: Wanted) -> None:
    """Show what a public script found, with intervals.

    Raises:
        VipoError: it is not all there, unless that is accepted.
    """
    from vipo_cli.evaluation.from_results import evaluate_results

    output = wanted.output
    results, folder = evaluate_results(task, file, wanted.out)
    table = results_table(task, results)
    output.result(results | {"out": folder}, table, [str(folder)])
    _remarks(results, output)
    if not (wanted.allow_partial or results["status"] == "complete"):
        raise VipoError(
            f"`{file}` is not complete",
            details=results["warnings"],
            hint="accept it as it is with --allow-partial",
        )


def _remarks(results: dict[str, Any], output: Output) -> None:
    for warning in results["warnings"]:
        output.warn(warning)
    for note in results["notes"]:
        output.note(f"note: {note}")


@app.command(
    name="compare",
    epilog="Examples: vipo eval compare runs/poly-dpo runs/dpo --json | "
    "vipo eval compare runs/poly-dpo runs/dpo runs/sipo",
)
def compare_command(
    a: Annotated[Path, typer.Argument(help="Evaluation folder or run directory.")],
    others: Annotated[
        list[Path],
        typer.Argument(metavar="B...", help="What to compare it with; several are ranked."),
    ],
    fail_below: Annotated[
        float | None,
        typer.Option(help="Exit with status 3 if A is not better than B by at least this."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare two evaluations, paired on prompt and seed, or rank several."""
    from vipo_cli.evaluation.compare import compare
    from vipo_cli.evaluation.rank import rank_evaluations

    output = Output(json=json, quiet=quiet)
    if len(others) > 1:
        if fail_below is not None:
            raise VipoError("--fail-below compares two evaluations, not several")
        ranked = rank_evaluations([a, *others])
        best = next(iter(ranked["ranking"].values()))["models"]
        output.result(ranked, ranking_table(ranked), [each["name"] for each in best])
        return
    found = compare(a, others[0])
    output.result(found, comparison_table(found), [f"{overall_difference(found):+.4f}"])
    if found["unpaired"]:
        output.warn(f"{found['unpaired']} pictures have no counterpart and are left out")
    if fail_below is None:
        return
    if found["headline"] is None:
        raise VipoError(
            "there is no overall difference for --fail-below: parts of the benchmark are missing"
        )
    if overall_difference(found) < fail_below:
        raise typer.Exit(3)


@app.command(epilog="Example: vipo eval report runs/my-run")
def report(
    folder: Annotated[Path, typer.Argument(help="Evaluation folder or run directory.")],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the report and the contact sheet of an evaluation anew."""
    from vipo_cli.evaluation.compare import evaluation_folder
    from vipo_cli.reporting.html import write_report
    from vipo_cli.reporting.sheet import write_sheet

    where = evaluation_folder(folder)
    page, sheet = write_report(where), write_sheet(where)
    Output(json=json, quiet=quiet).result(
        {"report": page, "contact_sheet": sheet},
        f"report         {page}\ncontact sheet  {sheet}",
        [str(page)],
    )


eval_setup.register(app)
eval_vbench.register(app)
