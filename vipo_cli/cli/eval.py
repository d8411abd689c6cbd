"""`vipo eval`: benchmarks with honest intervals."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from vipo_cli.cli.output import Json, Output, Quiet
from vipo_cli.errors import Interrupted, VipoError

app = typer.Typer(
    help="Measure what a model can do, with intervals, and what training changed.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

TASK_WIDTH = 14


@app.command(
    epilog="Examples: vipo eval geneval runs/my-run | "
    "vipo eval geneval shapes-sd --images-per-prompt 4 --json"
)
def geneval(
    target: Annotated[
        str,
        typer.Argument(
            help="Run or checkpoint directory, LoRA file, diffusers folder, model name, hub id, "
            "or folder of finished pictures.",
        ),
    ],
    images_per_prompt: Annotated[
        int | None, typer.Option(min=1, help="Pictures for each prompt.", show_default="2")
    ] = None,
    prompts: Annotated[
        int | None, typer.Option(min=1, help="Only so many prompts of each task, for a quick look.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Base seed of all pictures.")] = 0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Denoising steps.", show_default="the model's")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(min=0, help="Guidance scale.", show_default="the model's")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Pictures drawn at once.", show_default="by size")
    ] = None,
    precision: Annotated[str, typer.Option(help="Weights in fp32, bf16 or fp16.")] = "fp32",
    detector: Annotated[
        str | None, typer.Option(help="Who judges.", show_default="the prompt set's")
    ] = None,
    prompt_set: Annotated[
        str | None, typer.Option(help="Which prompts.", show_default="the model's")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="Target to compare with, or `none`.", show_default="the base model"),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Base model of a LoRA file that does not name it.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for everything.", show_default="in the run")
    ] = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Accept missing or failed pictures.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a model on GenEval: does it draw what the prompt asks for?"""
    from vipo_cli.evaluation.geneval import evaluate
    from vipo_cli.evaluation.plan import Options
    from vipo_cli.reporting.html import write_report
    from vipo_cli.reporting.sheet import write_sheet

    output = Output(json=json, quiet=quiet)
    command = shlex.join(["vipo", *sys.argv[1:]])
    options = Options(images_per_prompt, prompts, seed, steps, guidance, batch_size, precision)
    names = {"baseline": baseline, "model": model, "detector": detector, "prompt_set": prompt_set}
    try:
        evaluation = output.follow(evaluate(target, options, **names, out=out))
    except KeyboardInterrupt as stop:
        raise Interrupted(
            "interrupted; what is finished is kept", hint=f"continue with: {command}"
        ) from stop
    results = evaluation.results
    report, sheet = write_report(evaluation.out), write_sheet(evaluation.out)
    paths = {"out": evaluation.out, "report": report, "contact_sheet": sheet}
    document = results | paths | {"baseline": evaluation.comparison}
    table = results_table(results, evaluation.comparison, evaluation.baseline_model)
    output.result(document, table, [str(evaluation.out)])
    for warning in results["warnings"]:
        output.warn(warning)
    output.note(f"\nreport: {report}\ncontact sheet: {sheet}\nrun again: {command}")
    if not (allow_partial or _as_asked(results, prompts)):
        raise VipoError(
            f"the evaluation of `{target}` is not complete",
            details=results["warnings"],
            hint=f"try again with: {command}; or accept it as it is with --allow-partial",
        )


def _as_asked(results: dict[str, Any], prompts: int | None) -> bool:
    """Tell whether all is there; a prompt set that was cut on request is partial by intention."""
    counts = results["n_samples"]
    limited = prompts is not None and counts["scored"] == counts["expected"]
    return results["status"] == "complete" or limited


@app.command(
    name="compare",
    epilog="Example: vipo eval compare runs/poly-dpo runs/dpo --json",
)
def compare_command(
    a: Annotated[Path, typer.Argument(help="Evaluation folder or run directory.")],
    b: Annotated[Path, typer.Argument(help="What to compare it with.")],
    fail_below: Annotated[
        float | None,
        typer.Option(help="Exit with status 3 if A is not better overall by at least this."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare two evaluations, paired on prompt and seed."""
    from vipo_cli.evaluation.compare import compare

    output = Output(json=json, quiet=quiet)
    found = compare(a, b)
    output.result(found, comparison_table(found), [f"{overall_difference(found):+.4f}"])
    if found["unpaired"]:
        output.warn(f"{found['unpaired']} pictures have no counterpart and are left out")
    if fail_below is not None and not overall_difference(found) >= fail_below:
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


def results_table(
    results: dict[str, Any], comparison: dict[str, Any] | None = None, baseline: str | None = None
) -> str:
    """Lay results out for people, 80 columns wide at most."""
    differences = comparison["differences"] if comparison else {}
    counts = results["n_samples"]
    head = f"{'':{TASK_WIDTH}}  value  95 % interval      n"
    lines = [
        f"GenEval of {results['model']}, {counts['scored']} of {counts['expected']} pictures",
        "",
        head + ("  vs. base  paired interval" if differences else ""),
    ]
    for name, metric in (results["subtasks"] | results["metrics"]).items():
        line = f"{name:{TASK_WIDTH}}  {metric['value']:5.3f}  {_between(metric['ci95'])}  "
        line += f"{metric['n']:5d}"
        if name in differences:
            line += f"  {_starred(differences[name])}  {_between(differences[name]['ci95'], '+')}"
        lines.append(line)
    if differences:
        lines += ["", f"base: {baseline}", _STAR]
    return "\n".join(line.rstrip() for line in lines)


def comparison_table(comparison: dict[str, Any]) -> str:
    """Lay a comparison out for people, 80 columns wide at most."""
    lines = [
        f"a: {comparison['a']}",
        f"b: {comparison['b']}",
        "",
        f"{'':{TASK_WIDTH}}   a - b   paired interval       p      n",
    ]
    for name, found in comparison["differences"].items():
        lines.append(
            f"{name:{TASK_WIDTH}}  {_starred(found)}  {_between(found['ci95'], '+')}  "
            f"{found['p_value']:6.4f}  {found['n']:5d}"
        )
    return "\n".join([*lines, "", _STAR])


def overall_difference(comparison: dict[str, Any]) -> float:
    """Return how much better A is overall; not a number where a task is missing."""
    overall = comparison["differences"].get("overall")
    return float(overall["value"]) if overall else float("nan")


_STAR = "* the paired 95 % interval excludes 0"


def _starred(difference: dict[str, Any]) -> str:
    low, high = difference["ci95"]
    return f"{difference['value']:+.3f}{'*' if low > 0 or high < 0 else ' '} "


def _between(ci95: list[float], sign: str = "") -> str:
    return f"{ci95[0]:{sign}.3f} to {ci95[1]:{sign}.3f}"
