"""`vipo eval vbench` and `vipo eval vbench2`: clips, made or finished, and official results."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vipo_cli.cli.eval_options import Guidance, Model, Out, Precision, Prompts, Steps
from vipo_cli.cli.output import Json, Output, Quiet
from vipo_cli.errors import Interrupted, VipoError

if TYPE_CHECKING:
    from vipo_cli.benchmarks.vbench_suite import Suite
    from vipo_cli.evaluation.vbench import Options, Outcome

Targets = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TARGET",
        help="Run or checkpoint directory, LoRA file, diffusers folder, model name, hub id, or "
        "folder of finished clips (PROMPT-INDEX.mp4).",
        show_default=False,
    ),
]
FromResults = Annotated[
    list[Path] | None,
    typer.Option(
        help="Only add up official result files: folders, files or zip archives.",
        show_default=False,
    ),
]
Dimension = Annotated[
    list[str] | None,
    typer.Option(help="Only this dimension; may be given again.", show_default="all"),
]
Backend = Annotated[
    Literal["native", "official", "none"],
    typer.Option(help="Who judges: vipo, the official package, or nobody: only make clips."),
]
Python = Annotated[
    str | None,
    typer.Option(help="Interpreter that can import the official package.", show_default=False),
]
Info = Annotated[
    Path | None,
    typer.Option(help="Info file with the prompts.", show_default="the official one"),
]
Weights = Annotated[
    Path | None,
    typer.Option(help="Folder of the judging models.", show_default="the hub's cache"),
]
DeviceName = Annotated[str, typer.Option("--device", help="Where to judge.")]
Quirks = Annotated[
    bool,
    typer.Option(
        "--official-quirks", help="Take missing dimensions for zeros, as the script does."
    ),
]
Fps = Annotated[
    float | None, typer.Option(min=1, help="Frames a second of clips.", show_default="the model's")
]
Seed = Annotated[int, typer.Option(min=0, help="Base seed of all clips.")]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Clips drawn at once.", show_default="by size")
]
Partial = Annotated[
    bool, typer.Option("--allow-partial", help="Accept missing dimensions or clips.")
]


def vbench(
    target: Targets = None,
    from_results: FromResults = None,
    dimension: Dimension = None,
    backend: Backend = "native",
    python: Python = None,
    info: Info = None,
    prompts: Prompts = None,
    weights: Weights = None,
    device: DeviceName = "auto",
    fps: Fps = None,
    seed: Seed = 0,
    steps: Steps = None,
    guidance: Guidance = None,
    batch_size: BatchSize = None,
    precision: Precision = "fp32",
    official_quirks: Quirks = False,
    model: Model = None,
    out: Out = None,
    allow_partial: Partial = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a video model on VBench: sixteen dimensions, five of them natively.

    There is a total only when no dimension is missing.
    """
    from vipo_cli.benchmarks.vbench import VBENCH
    from vipo_cli.evaluation.vbench import Options

    options = Options(
        info, tuple(dimension or ()), prompts, backend, python, weights, device, seed, steps,
        guidance, batch_size, precision, fps, official_quirks,
    )  # fmt: skip
    output = Output(json=json, quiet=quiet)
    _show(
        output,
        VBENCH,
        _run(output, VBENCH, target, from_results, options, model, out),
        allow_partial,
    )


def vbench2(
    target: Targets = None,
    from_results: FromResults = None,
    dimension: Dimension = None,
    backend: Backend = "official",
    python: Python = None,
    info: Info = None,
    prompts: Prompts = None,
    fps: Fps = None,
    seed: Seed = 0,
    steps: Steps = None,
    guidance: Guidance = None,
    batch_size: BatchSize = None,
    precision: Precision = "fp32",
    official_quirks: Quirks = False,
    model: Model = None,
    out: Out = None,
    allow_partial: Partial = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a video model on VBench-2.0: eighteen dimensions in five categories.

    All of them are judged by the official package. There is a total only when none is missing.
    """
    from vipo_cli.benchmarks.vbench2 import VBENCH2
    from vipo_cli.evaluation.vbench import Options

    options = Options(
        info, tuple(dimension or ()), prompts, backend, python, None, "auto", seed, steps,
        guidance, batch_size, precision, fps, official_quirks,
    )  # fmt: skip
    output = Output(json=json, quiet=quiet)
    _show(
        output,
        VBENCH2,
        _run(output, VBENCH2, target, from_results, options, model, out),
        allow_partial,
    )


EPILOGS = {
    "vbench": "Examples: vipo eval vbench --from-results evaluation_results/ | "
    "vipo eval vbench runs/my-run --backend official --python ~/vbench/bin/python",
    "vbench2": "Examples: vipo eval vbench2 --from-results evaluation_results.zip | "
    "vipo eval vbench2 clips/ --python ~/vbench2/bin/python --dimension Human_Identity",
}
COMMANDS: dict[str, Callable[..., None]] = {"vbench": vbench, "vbench2": vbench2}


def register(app: typer.Typer) -> None:
    """Add both commands to `vipo eval`."""
    for name, command in COMMANDS.items():
        app.command(name=name, epilog=EPILOGS[name])(command)


def _run(
    output: Output,
    suite: "Suite",
    targets: list[str] | None,
    places: list[Path] | None,
    options: "Options",
    model: str | None,
    out: Path | None,
) -> "Outcome":
    from vipo_cli.evaluation.vbench import evaluate, from_results

    named = targets or []
    if places:  # more files may follow the first without the option's name
        found = [*places, *map(Path, named)]
        return from_results(suite, found, official_quirks=options.official_quirks, out=out)
    if len(named) != 1:
        raise VipoError(
            "name one target" if named else "nothing to evaluate",
            hint=f"vipo eval {suite.name} TARGET, or vipo eval {suite.name} --from-results FOLDER",
        )
    try:
        return output.follow(evaluate(suite, named[0], options, model=model, out=out))
    except KeyboardInterrupt as stop:
        raise Interrupted(
            "interrupted; what is finished is kept", hint=f"continue with: {_command()}"
        ) from stop


def _command() -> str:
    return shlex.join(["vipo", *sys.argv[1:]])


def _show(output: Output, suite: "Suite", outcome: "Outcome", allow_partial: bool) -> None:
    results = outcome.results
    where = [] if outcome.out is None else [str(outcome.out)]
    total = results["metrics"].get("total")
    identifiers = where or ([] if total is None else [f"{100 * total['value']:.2f}"])
    output.result(results | {"out": outcome.out}, results_table(suite, results), identifiers)
    for warning in results["warnings"]:
        output.warn(warning)
    if outcome.out is not None:
        from vipo_cli.reporting.html import write_report

        output.note(f"\nreport: {write_report(outcome.out)}\nrun again: {_command()}")
    if results["status"] != "complete" and not allow_partial:
        raise VipoError(
            f"the evaluation is not complete: this is no result of {suite.title}",
            hint="add what is missing and run the same command again, or accept it as it is with "
            "--allow-partial",
        )


def results_table(suite: "Suite", results: dict[str, Any]) -> str:
    """Lay results out for people, in percent as leaderboards do, 80 columns wide at most."""
    width = max(map(len, suite.names))
    paper, reported = suite.reported or ("", ())
    lines = [
        f"{suite.title} of {results['model']}",
        "",
        f"{'':{width}}    raw   scaled  95 % interval        n",
    ]
    for name in suite.names:
        mark = "*" if name in reported else " "
        one = results["subtasks"].get(name)
        if one is None:
            lines.append(f"{name:{width}}  missing{mark}")
            continue
        interval = _between(one["ci95"])
        lines.append(
            f"{name:{width}} {100 * one['value']:6.2f}{mark} {100 * one['normalised']:7.2f}  "
            f"{interval:17}  {one['n']:5d}"
        )
    lines.append("")
    for name in (*(each.name for each in suite.categories), "total"):
        metric = results["metrics"].get(name)
        if metric is None:
            lines.append(f"{name:{width}}         none: dimensions are missing")
            continue
        lines.append(
            f"{name:{width}}         {100 * metric['value']:7.2f}  {_between(metric['ci95'])}"
        )
    if paper:
        lines += ["", f"* one of the {len(reported)} that {paper} reports"]
    return "\n".join(line.rstrip() for line in lines)


def _between(ci95: list[float] | None) -> str:
    return "unknown" if ci95 is None else f"{100 * ci95[0]:.2f} to {100 * ci95[1]:.2f}"
