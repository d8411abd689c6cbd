"""`vipo analyze`: what the data, the loss, the model and the run say about how to train."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vipo_cli.cli.output import Json, Output, Quiet
from vipo_cli.cli.source import (
    Data,
    Folder,
    RewardSettings,
    Settings,
    describe,
    open_source,
    reward_settings,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vipo_cli.data import Record
    from vipo_cli.evaluation.conflict import Look
    from vipo_cli.evaluation.target import Target

app = typer.Typer(
    help="Analyse preference data, objectives, models and runs.",
    epilog="Example: vipo analyze conflict shapes --set kind=noisy",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Out = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Folder for the pictures, SVG and PNG.")
]


@app.callback()
def analyze() -> None:
    """Analyse preference data, objectives, models and runs."""


@app.command(
    epilog="Examples: vipo analyze conflict shapes --set kind=noisy   |   "
    "vipo analyze conflict pickapic_v2 --path DIR --limit 5000 --json   |   "
    "vipo analyze conflict pairs --out report   |   "
    "vipo analyze conflict pairs --pairs pairs.parquet"
)
def conflict(
    data: Data,
    path: Folder = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Only the first so many pairs.",
            show_default="1000, or all whose scores are known",
        ),
    ] = None,
    rewards: Annotated[
        str | None, typer.Option(metavar="A,B", help="Which rewards.", show_default="all at hand")
    ] = None,
    reward_set: RewardSettings = None,
    tie: Annotated[
        list[str] | None,
        typer.Option(
            metavar="REWARD=X",
            show_default=False,
            help="Up to this margin a reward calls both equal; repeatable. Or noise: by as much as "
            "margins change when pictures are saved again.",
        ),
    ] = None,
    indifference: Annotated[
        float, typer.Option(min=0, help="Of its median margin, what no dominance depends on.")
    ] = 0.1,
    pairs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Write what rewards say of each pair as Parquet, for vipo data filter --scores.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            show_default=False,
            help="Folder for conflict.html, .json, .svg, .png and pairs.parquet.",
        ),
    ] = None,
    settings: Settings = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show how far reward models agree about pairs, with each other and with the labels."""
    from vipo_cli.cli.show_conflict import conflict_text, files_text, write_files
    from vipo_cli.evaluation.conflict import measure_conflict
    from vipo_cli.evaluation.pair_table import write_pair_table

    output = Output(json=json, quiet=quiet)
    look = _look(tie or [], indifference)
    records = open_source(data, settings, path, output)
    wanted = [name.strip() for name in rewards.split(",") if name.strip()] if rewards else None
    options = reward_settings(reward_set, wanted or [])
    work = measure_conflict(records, wanted=wanted, limit=limit, look=look, options=options)
    report = output.follow(work)
    name = describe(data, settings)
    document = {"data": name, **report.document()}
    files: dict[str, Path] = {}
    if out is not None:
        files |= write_files(out, name, records, report, document)
    if pairs is not None:
        write_pair_table(pairs, report.table, name)
        files["pairs"] = pairs
    share = f"{report.conflict.unanimous.share.value:.4f}"
    if files:
        document["files"] = {kind: str(file) for kind, file in files.items()}
    text = conflict_text(name, report) + files_text(data, report, files)
    output.result(document, text, [str(file) for file in files.values()] or [share])


def _look(ties: list[str], indifference: float) -> "Look":
    """Read how to look at margins."""
    from vipo_cli.evaluation.conflict import Look

    bands: dict[str, float] = {}
    for text in ties:
        if text == "noise":
            continue
        reward, _, number = text.rpartition("=")
        try:
            bands[reward.strip()] = float(number)
        except ValueError:
            bands[""] = 0.0
        if "" in bands or not 0 <= bands[reward.strip()] < float("inf"):
            raise typer.BadParameter(f"`{text}` is not REWARD=X, nor noise", param_hint="--tie")
    return Look(bands, "noise" in ties, indifference)


@app.command(
    epilog="Examples: vipo analyze gradients   |   vipo analyze gradients --alpha -1,0,8   |   "
    "vipo analyze gradients diffusion-dpo cdpo poly-dpo --set label_smoothing=0.1,0.3 "
    "--set poly-dpo.alpha=8"
)
def gradients(
    methods: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="METHOD",
            help="Objectives to draw, see vipo list methods.",
            show_default="poly-dpo with the alphas of the ViPO paper",
        ),
    ] = None,
    alpha: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Short for --set alpha=A,B,...")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=A,B,...",
            show_default=False,
            help="A parameter of the methods that have it (or of one: METHOD.KEY=...), a curve for "
            "each value; repeatable.",
        ),
    ] = None,
    out: Out = Path("analysis"),
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw how hard an objective pushes a pair, by the implicit probability of its winner."""
    from vipo_cli.cli.show_gradients import gradients_text
    from vipo_cli.evaluation.gradients import trace_variants, variants
    from vipo_cli.reporting.figures import plot_gradients, save

    given = [*(settings or []), *([f"alpha={alpha}"] if alpha is not None else [])]
    found = variants(methods or [], given)
    curves = trace_variants(found)
    by_label = {variant.label: curve for variant, curve in zip(found, curves, strict=True)}
    figures = save(plot_gradients(by_label), out, "gradients")
    rows = [
        {"method": variant.method, "parameters": variant.parameters, **curve.document()}
        for variant, curve in zip(found, curves, strict=True)
    ]
    _show(Output(json=json, quiet=quiet), {"curves": rows}, gradients_text(by_label), figures)


@app.command(
    epilog="Examples: vipo analyze timesteps shapes-sd shapes   |   "
    "vipo analyze timesteps runs/shapes-sd-poly-dpo-1   |   "
    "vipo analyze timesteps sd15 pickapic_v2 --path DIR --pairs 256"
)
def timesteps(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Registered name, hub id, diffusers folder, run or checkpoint directory, or LoRA.",
        ),
    ] = "shapes-sd",
    data: Annotated[
        str | None,
        typer.Argument(
            metavar="DATA",
            help="Registered name (vipo data list), hub id, file, folder or pattern.",
            show_default="what the run was trained on; shapes for shapes-sd",
        ),
    ] = None,
    path: Folder = None,
    settings: Settings = None,
    pairs: Annotated[int, typer.Option(min=2, help="Pairs to measure, evenly chosen.")] = 64,
    times: Annotated[int, typer.Option(min=2, help="Times to measure at.")] = 20,
    steps: Annotated[
        int, typer.Option(min=2, help="Sampling steps that the weight is about, as in dpo-cm, sipo")
    ] = 50,
    clip: Annotated[
        float, typer.Option(min=0.001, max=0.999, help="Pairs weighing less than 1 - clip are out.")
    ] = 0.1,
    out: Out = Path("analysis"),
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure a model's error and importance weight over time, and which times to draw."""
    from vipo_cli.analysis.timesteps import examine, measured_times
    from vipo_cli.cli.show_timesteps import timesteps_text
    from vipo_cli.evaluation.target import find_target
    from vipo_cli.models.lora_files import START_FILE
    from vipo_cli.reporting.figures import plot_timesteps, save
    from vipo_cli.training.timesteps import load_policy, measure_times, rate_of

    output = Output(json=json, quiet=quiet)
    target = find_target(model)
    source = _source(target)
    name, records = _records(target, data, settings, path, output)
    start = target.run / START_FILE if target.run else None
    family, reference = load_policy(source, target.lora, target.base, start)
    work = measure_times(family, reference, records, measured_times(times), pairs)
    found = examine(output.follow(work), rate_of(family, steps), clip)
    document = {
        "model": target.label,
        "reference": target.base,
        "data": name,
        "steps": steps,
        **found.document(),
    }
    figures = save(plot_timesteps(found), out, "timesteps")
    _show(output, document, timesteps_text(document, found), figures)


@app.command(epilog="Example: vipo analyze dynamics runs/shapes-sd-poly-dpo-1")
def dynamics(
    run: Annotated[Path, typer.Argument(help="Directory of a run, finished or not.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder for the pictures.", show_default="RUN"),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what a run did, what went wrong, and what to do about it."""
    from vipo_cli.cli.show_dynamics import dynamics_text
    from vipo_cli.evaluation.dynamics import measure_dynamics
    from vipo_cli.reporting.figures import plot_dynamics, save

    found, about = measure_dynamics(run)
    figures = save(plot_dynamics(found), out or run, "dynamics")
    document = {"run": about.run, "method": about.method or None, **found.document()}
    _show(Output(json=json, quiet=quiet), document, dynamics_text(found, about), figures)


def _show(output: Output, document: dict[str, Any], text: str, figures: dict[str, Path]) -> None:
    """Print an analysis with the paths of its pictures."""
    paths = {kind: str(file) for kind, file in figures.items()}
    output.result(
        {**document, "figures": paths},
        text + "\n\n" + "\n".join(f"{kind}  {file}" for kind, file in paths.items()),
        list(paths.values()),
    )


def _source(target: "Target") -> str:
    """Return where the weights of a target lie."""
    from vipo_cli.errors import VipoError

    if target.spec is None:
        raise VipoError(
            f"`{target.label}` is a folder of pictures, and only a model has errors",
            hint="give a model, a run or a LoRA",
        )
    return target.spec.source


def _records(
    target: "Target",
    data: str | None,
    settings: list[str] | None,
    path: str | None,
    output: Output,
) -> "tuple[str, Sequence[Record]]":
    """Open the pairs to measure on, with their name: what was named, or what suits the target."""
    from vipo_cli.errors import VipoError

    if data is None and target.run is not None and not settings and path is None:
        from vipo_cli.data.sources import opening
        from vipo_cli.training.train import read_run

        own = read_run(target.run).data
        records = output.follow(opening(own.name, own.parameters))
        return f"{own.name}, as in its recipe", records
    if data is None:
        if target.spec is None or target.spec.prompts != "shapes":
            raise VipoError(
                f"on which pairs should `{target.label}` be measured?",
                hint=f"vipo analyze timesteps {target.label} DATA; vipo data list names some",
            )
        data = "shapes"
    return describe(data, settings), open_source(data, settings, path, output)
