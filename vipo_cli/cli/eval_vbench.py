"""`vipo eval vbench` and `vipo eval vbench2`: clips, made or finished, and official results."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vipo_cli.cli.eval_options import Shared, command_line, follow, taking_options
from vipo_cli.cli.output import Output
from vipo_cli.errors import VipoError
from vipo_cli.training.launch import launch, must_launch

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
Judge = Literal["native", "official", "none"]
Backend = Annotated[
    Judge,
    typer.Option(help="Who judges: vipo, the official package, or nobody: only make clips."),
]
Python = Annotated[
    str | None,
    typer.Option(
        help="Interpreter that can import the official package.",
        show_default="that of vipo eval setup",
    ),
]
Info = Annotated[
    Path | None,
    typer.Option(help="Info file with the prompts.", show_default="the official one"),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the judging models; of the official package, laid out as its cache.",
        show_default="the hub's cache, or the package's",
    ),
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


@dataclass(frozen=True)
class Wanted(Shared):
    """What the command line says about an evaluation of clips beside its target and its judge."""

    dimension: Dimension = None
    python: Python = None
    info: Info = None
    fps: Fps = None
    official_quirks: Quirks = False

    def options(
        self, backend: Judge, weights: Path | None = None, device: str = "auto"
    ) -> "Options":
        """Return what the engine is told; weights and device are those of the judge."""
        from vipo_cli.evaluation.vbench import Options

        same = {field.name for field in fields(self)} & {field.name for field in fields(Options)}
        return Options(
            **{name: getattr(self, name) for name in same},
            dimensions=tuple(self.dimension or ()),
            backend=backend,
            weights=weights,
            device=device,
            frames_per_second=self.fps,
        )


def vbench(
    wanted: Wanted,
    target: Targets = None,
    from_results: FromResults = None,
    backend: Backend = "native",
    weights: Weights = None,
    device: DeviceName = "auto",
) -> None:
    """Evaluate a video model on VBench: sixteen dimensions, five of them natively.

    There is a total only when no dimension is missing.
    """
    from vipo_cli.benchmarks.vbench import VBENCH

    _run(VBENCH, target, from_results, wanted, wanted.options(backend, weights, device))


def vbench2(
    wanted: Wanted,
    target: Targets = None,
    from_results: FromResults = None,
    backend: Backend = "official",
) -> None:
    """Evaluate a video model on VBench-2.0: eighteen dimensions in five categories.

    All of them are judged by the official package. There is a total only when none is missing.
    """
    from vipo_cli.benchmarks.vbench2 import VBENCH2

    _run(VBENCH2, target, from_results, wanted, wanted.options(backend))


EPILOGS = {
    "vbench": "Examples: vipo eval vbench --from-results evaluation_results/ | "
    "vipo eval vbench runs/my-run --backend official --dimension motion_smoothness",
    "vbench2": "Examples: vipo eval vbench2 --from-results evaluation_results.zip | "
    "vipo eval vbench2 clips/ --python ~/vbench2/bin/python --dimension Human_Identity",
}
COMMANDS: dict[str, Callable[..., None]] = {"vbench": vbench, "vbench2": vbench2}


def register(app: typer.Typer) -> None:
    """Add both commands to `vipo eval`."""
    for name, command in COMMANDS.items():
        app.command(name=name, epilog=EPILOGS[name])(taking_options(command, Wanted))


def _run(
    suite: "Suite",
    targets: list[str] | None,
    places: list[Path] | None,
    wanted: Wanted,
    options: "Options",
) -> None:
    """Evaluate, or add official results up, and show what came of it."""
    from vipo_cli.evaluation.vbench import evaluate, from_results

    output = wanted.output
    named = targets or []
    if places:  # more files may follow the first without the option's name
        found = [*places, *map(Path, named)]
        quirks = wanted.official_quirks
        outcome = from_results(suite, found, official_quirks=quirks, out=wanted.out)
        _show(output, suite, outcome, wanted.allow_partial)
        return
    if len(named) != 1:
        raise VipoError(
            "name one target" if named else "nothing to evaluate",
            hint=f"vipo eval {suite.name} TARGET, or vipo eval {suite.name} --from-results FOLDER",
        )
    if must_launch(wanted.processes):
        launch(wanted.processes or 1, sys.argv[1:])
        return
    from vipo_cli.building.team import join_team

    team = join_team()
    work = evaluate(suite, named[0], options, model=wanted.model, out=wanted.out, team=team)
    judged = follow(output, work)
    if judged is not None:
        _show(output, suite, judged, wanted.allow_partial)


def _show(output: Output, suite: "Suite", outcome: "Outcome", allow_partial: bool) -> None:
    results = outcome.results
    where = [] if outcome.out is None else [str(outcome.out)]
    total = results["metrics"].get("total")
    identifiers = where or ([] if total is None else [f"{100 * total['value']:.2f}"])
    output.result(results | {"out": outcome.out}, results_table(suite, results), identifiers)
    for warning in results["warnings"]:
        output.warn(warning)
    for name, apart in results.get("backends_apart", {}).items():
        output.note(_agreement(name, apart))
    if outcome.out is not None:
        from vipo_cli.reporting.html import write_report

        output.note(f"\nreport: {write_report(outcome.out)}\nrun again: {command_line()}")
    if results["status"] != "complete" and not allow_partial:
        raise VipoError(
            f"the evaluation is not complete: this is no result of {suite.title}",
            hint="add what is missing and run the same command again, or accept it as it is with "
            "--allow-partial",
        )


def _agreement(name: str, apart: dict[str, Any]) -> str:
    """Say how far vipo and the official package are apart."""
    found = [f"{apart['clips']} clips"]
    if apart["largest"] is not None:
        found.append(f"at most {apart['largest']:.1e} apart")
    for key, who in (("only_native", "vipo"), ("only_official", "the official package")):
        if apart[key]:
            found.append(f"{len(apart[key])} more judged by {who} alone")
    return f"{name} judged by both backends: {', '.join(found)}"


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
