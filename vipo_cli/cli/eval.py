"""`vipo eval`: benchmarks with honest intervals."""

import shlex
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from vipo_cli.cli import eval_setup, eval_vbench
from vipo_cli.cli.output import Json, Output, Quiet
from vipo_cli.errors import Interrupted, VipoError

app = typer.Typer(
    help="Measure what a model can do, with intervals, and what training changed.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

TASK_WIDTH = 14

Target = Annotated[
    str,
    typer.Argument(
        help="Run or checkpoint directory, LoRA file, diffusers folder, model name, hub id, "
        "or folder of finished pictures.",
    ),
]
OptionalTarget = Annotated[
    str | None, typer.Argument(help="What to evaluate, as `vipo eval run --help` lists it.")
]
FromResults = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Results of the public script, instead of a target."),
]
Images = Annotated[
    int | None,
    typer.Option(min=1, help="Pictures for each prompt.", show_default="the benchmark's"),
]
Prompts = Annotated[
    int | None, typer.Option(min=1, help="Only so many prompts of each kind, for a quick look.")
]
Seed = Annotated[int, typer.Option(min=0, help="Base seed of all pictures.")]
Steps = Annotated[
    int | None, typer.Option(min=1, help="Denoising steps.", show_default="the model's")
]
Guidance = Annotated[
    float | None, typer.Option(min=0, help="Guidance scale.", show_default="the model's")
]
BatchSize = Annotated[
    int | None, typer.Option(min=1, help="Pictures drawn at once.", show_default="by size")
]
Precision = Annotated[str, typer.Option(help="Weights in fp32, bf16 or fp16.")]
PromptSet = Annotated[
    str | None,
    typer.Option(
        help="Which prompts: a set by name, or a file (.txt, .csv, .jsonl).",
        show_default="the model's or the benchmark's",
    ),
]
Baseline = Annotated[
    str | None,
    typer.Option(help="Target to compare with, or `none`.", show_default="the base model"),
]
Model = Annotated[str | None, typer.Option(help="Base model of a LoRA file that does not name it.")]
Out = Annotated[Path | None, typer.Option(help="Folder for everything.", show_default="in the run")]
Partial = Annotated[
    bool, typer.Option("--allow-partial", help="Accept missing or failed pictures.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="An option of the benchmark or reward."),
]


@dataclass(frozen=True)
class Wanted:
    """What the command line says about an evaluation beside its benchmark and target."""

    images_per_prompt: int | None
    prompts: int | None
    seed: int
    steps: int | None
    guidance: float | None
    batch_size: int | None
    precision: str
    prompt_set: str | None
    baseline: str | None
    model: str | None
    out: Path | None
    allow_partial: bool


def run_task(
    task: str, target: str, wanted: Wanted, options: dict[str, Any], output: Output
) -> None:
    """Evaluate, and show what came of it.

    Raises:
        Interrupted: by the user; says how to go on.
        VipoError: pictures are missing or failed, unless that is accepted.
    """
    from vipo_cli.evaluation.evaluate import evaluate
    from vipo_cli.evaluation.plan import Options
    from vipo_cli.reporting.html import write_report
    from vipo_cli.reporting.sheet import write_sheet

    command = shlex.join(["vipo", *sys.argv[1:]])
    chosen = {field.name for field in fields(Wanted)} & {field.name for field in fields(Options)}
    settings = Options(**{name: getattr(wanted, name) for name in chosen}, task=options)
    base, model, out = wanted.baseline, wanted.model, wanted.out
    try:
        work = evaluate(task, target, settings, baseline=base, model=model, out=out)
        evaluation = output.follow(work)
    except KeyboardInterrupt as stop:
        raise Interrupted(
            "interrupted; what is finished is kept", hint=f"continue with: {command}"
        ) from stop
    results = evaluation.results
    report, sheet = write_report(evaluation.out), write_sheet(evaluation.out)
    paths = {"out": evaluation.out, "report": report, "contact_sheet": sheet}
    document = results | paths | {"baseline": evaluation.comparison}
    table = results_table(
        evaluation.title, results, evaluation.comparison, evaluation.baseline_model
    )
    output.result(document, table, [str(evaluation.out)])
    _remarks(results, output)
    output.note(f"\nreport: {report}\ncontact sheet: {sheet}\nrun again: {command}")
    if not (wanted.allow_partial or _as_asked(results, wanted.prompts)):
        raise VipoError(
            f"the evaluation of `{target}` is not complete",
            details=results["warnings"],
            hint=f"try again with: {command}; or accept it as it is with --allow-partial",
        )


@app.command(
    epilog="Examples: vipo eval geneval runs/my-run | "
    "vipo eval geneval shapes-sd --images-per-prompt 4 --json"
)
def geneval(
    target: OptionalTarget = None,
    from_results: FromResults = None,
    detector: Annotated[
        str | None, typer.Option(help="Who judges.", show_default="the prompt set's")
    ] = None,
    set_: Settings = None,
    images_per_prompt: Images = None,
    prompts: Prompts = None,
    seed: Seed = 0,
    steps: Steps = None,
    guidance: Guidance = None,
    batch_size: BatchSize = None,
    precision: Precision = "fp32",
    prompt_set: PromptSet = None,
    baseline: Baseline = None,
    model: Model = None,
    out: Out = None,
    allow_partial: Partial = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a model on GenEval: does it draw what the prompt asks for?"""
    here, output = locals(), Output(json=json, quiet=quiet)
    if from_results is not None:
        show_results("geneval", from_results, _wanted(here), output)
        return
    options = _settings(set_) | ({} if detector is None else {"detector": detector})
    run_task("geneval", _required(target), _wanted(here), options, output)


@app.command(
    epilog="Examples: vipo eval dpg runs/my-run | "
    "vipo eval dpg --from-results dpg-bench_results.txt"
)
def dpg(
    target: OptionalTarget = None,
    from_results: FromResults = None,
    official_quirks: Annotated[
        bool,
        typer.Option("--official-quirks", help="Reproduce the errors of the public script."),
    ] = False,
    set_: Settings = None,
    images_per_prompt: Images = None,
    prompts: Prompts = None,
    seed: Seed = 0,
    steps: Steps = None,
    guidance: Guidance = None,
    batch_size: BatchSize = None,
    precision: Precision = "fp32",
    prompt_set: PromptSet = None,
    baseline: Baseline = None,
    model: Model = None,
    out: Out = None,
    allow_partial: Partial = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a model on DPG-Bench: long prompts, asked about piece by piece."""
    here, output = locals(), Output(json=json, quiet=quiet)
    if from_results is not None:
        show_results("dpg", from_results, _wanted(here), output)
        return
    options = _settings(set_) | ({"rules": "official"} if official_quirks else {})
    run_task("dpg", _required(target), _wanted(here), options, output)


def _required(target: str | None) -> str:
    if target is None:
        raise typer.BadParameter("name what to evaluate, or give --from-results FILE")
    return target


def show_results(task: str, file: Path, wanted: Wanted, output: Output) -> None:
    """Show what a public script found, with intervals.

    Raises:
        VipoError: it is not all there, unless that is accepted.
    """
    from vipo_cli.evaluation.from_results import evaluate_results

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


def _wanted(arguments: dict[str, Any]) -> Wanted:
    return Wanted(**{field.name: arguments[field.name] for field in fields(Wanted)})


def _settings(words: list[str] | None) -> dict[str, Any]:
    """Read KEY=VALUE words; values are written as in YAML.

    Raises:
        VipoError: a word without an equals sign.
    """
    import yaml

    options = {}
    for word in words or ():
        key, equals, value = word.partition("=")
        if not equals:
            raise VipoError(f"`{word}` is no setting", hint="write it as --set KEY=VALUE")
        options[key.strip().replace("-", "_")] = yaml.safe_load(value)
    return options


def _reward_command(name: str, task: str, help_: str) -> None:
    """Add the command of a benchmark that has no options of its own."""

    def command(
        target: Target,
        set_: Settings = None,
        images_per_prompt: Images = None,
        prompts: Prompts = None,
        seed: Seed = 0,
        steps: Steps = None,
        guidance: Guidance = None,
        batch_size: BatchSize = None,
        precision: Precision = "fp32",
        prompt_set: PromptSet = None,
        baseline: Baseline = None,
        model: Model = None,
        out: Out = None,
        allow_partial: Partial = False,
        json: Json = False,
        quiet: Quiet = False,
    ) -> None:
        here = locals()
        run_task(task, target, _wanted(here), _settings(set_), Output(json=json, quiet=quiet))

    example = f"Example: vipo eval {name} runs/my-run --prompt-set prompts.txt"
    app.command(name=name, help=help_, epilog=example)(command)


for _name, _task, _help in (
    ("pickscore", "pickscore", "Score a model's pictures with PickScore: what people pick."),
    ("hpsv2", "hpsv2.1", "Score a model's pictures with HPSv2.1 (hpsv2.0: vipo eval run)."),
    ("imagereward", "imagereward", "Score a model's pictures with ImageReward."),
    ("aesthetic", "aesthetic", "Score how beautiful a model's pictures are, whatever the prompt."),
    ("clip", "clip", "Score how well a model's pictures fit their prompts, with CLIP."),
    ("cvtg", "cvtg-2k", "Evaluate a model on CVTG-2K: can what it writes be read?"),
):
    _reward_command(_name, _task, _help)


@app.command(
    name="run",
    epilog="Examples: vipo eval run shapes-alignment runs/my-run | "
    "vipo eval run my_task.py runs/my-run --set threshold=0.5",
)
def run_command(
    task: Annotated[
        str, typer.Argument(help="Benchmark or reward by name, or FILE.py[:FUNCTION] of your own.")
    ],
    target: Target,
    set_: Settings = None,
    images_per_prompt: Images = None,
    prompts: Prompts = None,
    seed: Seed = 0,
    steps: Steps = None,
    guidance: Guidance = None,
    batch_size: BatchSize = None,
    precision: Precision = "fp32",
    prompt_set: PromptSet = None,
    baseline: Baseline = None,
    model: Model = None,
    out: Out = None,
    allow_partial: Partial = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Evaluate a model on any benchmark or reward: see vipo list benchmarks and rewards."""
    here = locals()
    run_task(task, target, _wanted(here), _settings(set_), Output(json=json, quiet=quiet))


def _as_asked(results: dict[str, Any], prompts: int | None) -> bool:
    """Tell whether all is there; a prompt set that was cut on request is partial by intention."""
    counts = results["n_samples"]
    limited = prompts is not None and counts["scored"] == counts["expected"]
    return results["status"] == "complete" or limited


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
    title: str,
    results: dict[str, Any],
    comparison: dict[str, Any] | None = None,
    baseline: str | None = None,
) -> str:
    """Lay results out for people, 80 columns wide at most."""
    differences = comparison["differences"] if comparison else {}
    counts = results["n_samples"]
    rows = results["subtasks"] | results["metrics"]
    width = max([TASK_WIDTH, *map(len, rows)])
    head = f"{'':{width}}  value  95 % interval      n"
    lines = [
        f"{title} of {results['model']}, {counts['scored']} of {counts['expected']} pictures",
        "",
        head + ("  vs. base  paired interval" if differences else ""),
    ]
    for name, metric in rows.items():
        line = f"{name:{width}}  {shown(metric['value'])}  {_between(metric['ci95'])}  "
        line += f"{metric['n']:5d}"
        if name in differences:
            line += f"  {_starred(differences[name])}  {_between(differences[name]['ci95'], '+')}"
        lines.append(line)
    if comparison and differences:
        wins = next(iter(comparison["wins"].values()))
        lines += ["", f"base: {baseline}", _STAR, wins_line(wins)]
    return "\n".join(line.rstrip() for line in lines)


def comparison_table(comparison: dict[str, Any]) -> str:
    """Lay a comparison out for people, 80 columns wide at most."""
    width = max([TASK_WIDTH, *map(len, comparison["differences"])])
    lines = [
        f"a: {comparison['a']}",
        f"b: {comparison['b']}",
        "",
        f"{'':{width}}   a - b   paired interval       p   Holm      n",
    ]
    for name, found in comparison["differences"].items():
        lines.append(
            f"{name:{width}}  {_starred(found)}  {_between(found['ci95'], '+')}  "
            f"{found['p_value']:6.4f} {found['p_holm']:6.4f}  {found['n']:5d}"
        )
    wins = [f"{wins_line(found)}" for found in comparison["wins"].values()]
    return "\n".join([*lines, "", _STAR, _HOLM, *wins])


def ranking_table(ranked: dict[str, Any]) -> str:
    """Lay rankings out for people, the strongest model first."""
    lines = []
    for task, found in ranked["ranking"].items():
        lines += [f"{task}, by {found['metric']}: {found['n']} comparisons on a prompt each", ""]
        width = max(len(each["name"]) for each in found["models"])
        lines.append(f"{'':{width}}  strength  95 % interval     Elo")
        for each in found["models"]:
            strength = each["strength"]
            value, between = strength["value"], _between(strength["ci95"], "+")
            lines.append(f"{each['name']:{width}}    {value:+.3f}  {between}  {each['elo']:5.0f}")
        lines.append("")
        for each in found["ahead"]:
            low, high = each["ci95"]
            certain = "ahead of" if low > 0 or high < 0 else "not told from"
            lines.append(
                f"{each['a']} {certain} {each['b']}: {each['value']:+.3f} [{low:+.3f}, {high:+.3f}]"
            )
        lines.append("")
    return "\n".join([*lines, "Strength: log odds of winning a prompt (Bradley and Terry)"])


def wins_line(wins: dict[str, Any]) -> str:
    """Say in how many prompts a wins, ties and loses, and the rate where ties count half."""
    low, high = wins["ci95"]
    return (
        f"prompts by {wins['metric']}: {wins['won']} better, {wins['tied']} alike, {wins['lost']} "
        f"worse; {wins['rate']:.1%} [{low:.1%}, {high:.1%}]"
    )


def shown(value: float) -> str:
    """Return a value in five characters where it has so few digits."""
    return f"{value:5.3f}" if abs(value) < 10 else f"{value:5.2f}"


def overall_difference(comparison: dict[str, Any]) -> float:
    """Return how much better A is in the headline metric; not a number where it is missing."""
    headline = next(iter(comparison["wins"].values()))["metric"]
    overall = comparison["differences"].get(headline)
    return float(overall["value"]) if overall else float("nan")


_STAR = "* the paired 95 % interval excludes 0"
_HOLM = "Holm: p corrected for the number of rows; sign flips of whole prompts"


def _starred(difference: dict[str, Any]) -> str:
    low, high = difference["ci95"] or (0, 0)
    return f"{difference['value']:+.3f}{'*' if low > 0 or high < 0 else ' '} "


def _between(ci95: list[float] | None, sign: str = "") -> str:
    if ci95 is None:
        return "unknown" + 7 * " "
    digits = 3 if max(map(abs, ci95)) < 10 else 2
    return f"{ci95[0]:{sign}.{digits}f} to {ci95[1]:{sign}.{digits}f}"


eval_setup.register(app)
eval_vbench.register(app)
