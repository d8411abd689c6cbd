"""`vipo eval setup`, `doctor` and `parity`: upstream packages, and what is here and what is not."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import wrap
from typing import Annotated, Any, Literal

import typer

from vipo_cli.cli.output import Json, Output, Quiet

TOLERANCE = 1e-5
LOOSE_TOLERANCE = 1e-3
"""Where one side computes in half precision, or on a GPU."""
READY = {True: "yes", False: "no", None: "?"}


def register(app: typer.Typer) -> None:
    """Add the commands to those of `vipo eval`."""
    app.command(
        epilog="Examples: vipo eval setup image-reward | vipo eval setup hpsv2 --torch cpu"
    )(setup)
    app.command(epilog="Examples: vipo eval doctor | vipo eval doctor --require hpsv2.1")(doctor)
    app.command(
        epilog="Examples: vipo eval parity imagereward --images samples/ --prompts prompts.txt | "
        "vipo eval parity hpsv2.1 --random-weights 0"
    )(parity)


def setup(
    name: Annotated[
        str | None,
        typer.Argument(help="Package, or what it is for.", show_default="list them"),
    ] = None,
    python: Annotated[
        str | None,
        typer.Option(help="Interpreter to make it with.", show_default="the one that runs vipo"),
    ] = None,
    torch: Annotated[
        Literal["auto", "cpu", "default"],
        typer.Option(help="Build of torch; auto: without CUDA where there is no GPU."),
    ] = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the pinned requirements and stop.")
    ] = False,
    recreate: Annotated[
        bool, typer.Option("--recreate", help="Make it anew even if it is there.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make the environment of an upstream package, for `--set backend=official`."""
    from vipo_cli.rewards.environments import (
        ENVIRONMENTS,
        find_environment,
        interpreter,
        set_up,
    )
    from vipo_cli.weights import size

    output = Output(json=json, quiet=quiet)
    if name is None:
        output.entries({each.name: _summary(each) for each in ENVIRONMENTS.values()})
        return
    environment = find_environment(name)
    if dry_run:
        document = {
            "environment": environment.name,
            "folder": environment.folder,
            "requirements": environment.pins,
            "supplements": [
                {"file": each.target, "from": each.source, "reason": each.reason}
                for each in environment.supplements
            ],
        }
        output.result(document, environment.requirements, environment.pins)
        output.note(f"into {environment.folder}, about {size(environment.bytes)}")
        return
    found = output.follow(set_up(environment, python=python, torch=torch, recreate=recreate))
    document = found | {"folder": environment.folder}
    lines = [
        f"{found['package']} {found['version']} is ready",
        "",
        f"folder   {environment.folder}",
        f"size     {size(found['bytes'])}, made in {found['seconds']} s",
        f"runs on  Python {found['python']}, torch {found['versions']['torch']}",
    ]
    output.result(document, "\n".join(lines), [str(environment.folder)])
    for text in (environment.terms, *environment.notes):
        if text:
            output.note(f"\n{text}".replace("PYTHON", str(interpreter(environment.folder))))
    for reward in environment.rewards[-1:]:
        output.note(f"\ncompare it with vipo's own: vipo eval parity {reward}")
    for benchmark in environment.benchmarks:
        output.note(f"\nlet it judge: vipo eval {benchmark} TARGET --backend official")


def doctor(
    require: Annotated[
        list[str] | None,
        typer.Option(help="Exit with status 3 if this one is not ready; can be repeated."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what every reward and benchmark needs, what of it is here, and the next command."""
    from vipo_cli.evaluation.doctor import examine, is_ready

    output = Output(json=json, quiet=quiet)
    found = examine()
    unready = [name for name in require or () if not is_ready(found, name)]
    output.result(found, doctor_table(found), [
        row["name"] for row in [*found["rewards"], *found["benchmarks"]] if row["ready"]
    ])  # fmt: skip
    if unready:
        output.note(f"\nnot ready: {', '.join(unready)}")
        raise typer.Exit(3)


def parity(
    reward: Annotated[str, typer.Argument(help="Reward to compare, such as hpsv2.1.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of pictures.", show_default="drawn ones")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="File with a prompt a line, used in turn.", show_default="six of all kinds"
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Folder or file of the weights.", show_default="the hub's cache"),
    ] = None,
    random_weights: Annotated[
        int | None,
        typer.Option(min=0, metavar="SEED", help="Draw weights of the official shape instead."),
    ] = None,
    device: Annotated[str, typer.Option(help="Where both run: auto, cpu, cuda.")] = "auto",
    dtype: Annotated[
        Literal["fp32", "bf16", "fp16"], typer.Option(help="Precision of the native backend.")
    ] = "fp32",
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Exit with status 3 above this difference; of scores above 1, this share.",
            show_default="1e-5; 1e-3 on a GPU or below fp32",
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score the same pictures with vipo's own and the official backend, and compare."""
    from vipo_cli.errors import VipoError
    from vipo_cli.rewards.parity import (
        PROMPTS,
        agrees,
        drawn_samples,
        parity_of,
        read_prompts,
        read_samples,
    )

    if weights is not None and random_weights is not None:
        raise VipoError("--weights and --random-weights exclude each other")
    output = Output(json=json, quiet=quiet)
    wording = PROMPTS if prompts is None else read_prompts(prompts)
    samples = drawn_samples(wording) if images is None else read_samples(images, wording)
    place = None if weights is None else str(weights)
    found = output.follow(
        parity_of(reward, samples, path=place, seed=random_weights, device=device, dtype=dtype)
    )
    if tolerance is None:
        exact = found["native"]["device"] == "cpu" and dtype == "fp32"
        tolerance = TOLERANCE if exact else LOOSE_TOLERANCE
    good = agrees(found, tolerance)
    document = found | {"tolerance": tolerance, "agree": good}
    output.result(document, parity_table(document), [f"{found['largest_difference']}"])
    if not good:
        raise typer.Exit(3)


def doctor_table(found: Mapping[str, Any]) -> str:
    """Lay the state of all rewards and benchmarks out for people, 80 columns but for commands."""
    from vipo_cli.weights import size

    rows = [*found["rewards"], *found["benchmarks"], *found["prompts"]]
    width = max(len(row["name"]) for row in rows)
    lines: list[str] = []
    for title in ("rewards", "benchmarks"):
        lines.append(f"{title:{width}}  ready  to fetch  licence       official backend")
        for row in found[title]:
            fetch = size(row["to_fetch"]) if row["to_fetch"] else "-"
            state = f"{READY[row['ready']]:5}  {fetch:>8}  {row['licence']:12}"
            lines.append(f"{row['name']:{width}}  {state}  {_official(row['official'])}")
        lines.append("")
    lines += [
        f"{'prompts':{width}}  ready  how many",
        *(
            f"{row['name']:{width}}  {READY[row['ready']]:5}  {row['prompts'] or '-':>8}"
            for row in found["prompts"]
        ),
    ]
    for row in [*found["rewards"], *found["benchmarks"]]:
        if row["official"] and (terms := row["official"]["terms"]):
            lines += ["", *wrap(f"official backend of {row['name']}: {terms}", 80)]
    wanted: dict[str, list[str]] = {}
    about: dict[str, str] = {}
    for row in [*found["rewards"], *found["benchmarks"]]:
        for each in row["missing"]:
            wanted.setdefault(each["next"], []).append(row["name"])
            about[each["next"]] = each["what"] + (f", {size(each['bytes'])}" * bool(each["bytes"]))
    if wanted:
        lines += ["", "What is missing is fetched when it is needed, or by these commands:"]
    for command, names in wanted.items():
        lines += ["", f"{about[command]}: for {', '.join(names)}", f"    {command}"]
    return "\n".join(line.rstrip() for line in lines)


def _official(state: Mapping[str, Any] | None) -> str:
    if state is None:
        return "-"
    ready = f"{state['environment']} {state['version']}"
    return ready if state["ready"] else str(state["next"])


def parity_table(found: Mapping[str, Any]) -> str:
    """Lay a comparison of backends out for people, 80 columns wide at most."""
    from vipo_cli.rewards.parity import allowed

    official, native = found["official"], found["native"]
    lines = [f"{'picture':18}  {'official':>11}  {'native':>11}  difference"]
    lines += [
        f"{row['picture'][:18]:18}  {_number(row['official'])}  {_number(row['native'])}  "
        + (row["failure"][:34] if row["difference"] is None else f"{row['difference']:+.1e}")
        for row in found["pictures"]
    ]
    return "\n".join([
        *lines,
        "",
        f"official  {official['package']} {official['version']}, torch "
        f"{official['versions']['torch']}, {official['device']}, {official['dtype']}",
        f"native    torch {native['torch']}, {native['device']}, {native['dtype']}",
        f"weights   {found['weights']}",
        f"scores    {found['compared']} of {found['n']} compared, "
        f"standard deviation {_short(found['standard_deviation'])}",
        f"apart     largest {_short(found['largest_difference'])}, "
        f"mean {_short(found['mean_difference'])}, "
        f"allowed {allowed(found, found['tolerance']):.1e}",
        f"relative  {_short(found['relative_difference'])} of the largest score",
        "they agree" if found["agree"] else "they do NOT agree",
    ])  # fmt: skip


def _number(value: float | None) -> str:
    return f"{'-':>11}" if value is None else f"{value:11.6f}"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _summary(environment: Any) -> str:
    from vipo_cli.rewards.environments import ready

    state = "ready" if ready(environment) else "not set up"
    return f"{state}; official backend of {', '.join(environment.serves)}"
