"""`vipo data`: look at preference pairs before anything is trained on them."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vipo_cli.cli.output import Json, Output, Quiet
from vipo_cli.cli.source import Data, Folder, Settings, describe, open_source, setting

if TYPE_CHECKING:
    from vipo_cli.data.check import Findings
    from vipo_cli.data.importing import Imported
    from vipo_cli.data.stats import Statistics

app = typer.Typer(
    help="List, check, count and look at preference pairs.",
    epilog="Example: vipo data check shapes --limit 200",
    no_args_is_help=True,
    rich_markup_mode=None,
)

ImporterSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        show_default=False,
        help="Parameter of the importer, such as split=test; repeatable.",
    ),
]
Limit = Annotated[
    int | None, typer.Option(min=1, help="Only the first so many pairs.", show_default="all")
]


@app.command("list", epilog="Example: vipo data list")
def list_(json: Json = False, quiet: Quiet = False) -> None:
    """List the data sets that have a name; files, folders and hub ids work as well."""
    from vipo_cli.data import datasets

    output = Output(json=json, quiet=quiet)
    output.entries({name: datasets.summary(name) for name in datasets.names()})


@app.command(
    "import",
    epilog="Examples: vipo data import photos/ --out pairs   |   "
    "vipo data import votes.csv --columns prompt=text,a=left,b=right,label=vote --out pairs",
)
def import_(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", show_default=False, help="File, folder or hub id."),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", show_default=False, help="Folder of the data set.")
    ],
    from_: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="NAME", help="Importer (vipo list importers).", show_default="guessed"
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="ROLE=NAME,...", help="Which column means what.", show_default="guessed"
        ),
    ] = None,
    settings: ImporterSettings = None,
    pairs: Annotated[
        Literal["all", "adjacent", "extremes", "none"],
        typer.Option(help="Which pairs of a ranked list become pairs of their own."),
    ] = "none",
    link: Annotated[bool, typer.Option("--link", help="Leave media files where they are.")] = False,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Only the first so many entries.", show_default="all"),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Bring preference data of any layout into one: Parquet shards with a manifest."""
    from vipo_cli.data.importing import Wanted, describe_source, import_data, source_folder

    output = Output(json=json, quiet=quiet)
    parameters: dict[str, Any] = dict(map(setting, settings or []))
    if columns is not None:
        parameters["columns"] = dict(setting(part, "--columns") for part in columns.split(","))
    place = source_folder(source)
    for line in describe_source(place, from_, parameters):
        output.note(line)
    wanted = Wanted(from_, parameters, pairs, link, limit)
    imported = output.follow(import_data(place, out, wanted))
    document = {
        "data": str(out),
        "importer": imported.importer,
        **imported.manifest,
        "examples": imported.examples,
    }
    output.result(document, _imported_text(imported), [str(out)])


@app.command(
    epilog="Examples: vipo data check shapes --set kind=noisy --limit 200   |   "
    "vipo data check pairs.csv --json"
)
def check(
    data: Data,
    limit: Limit = None,
    path: Folder = None,
    settings: Settings = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Decode every picture and look for pairs that spoil training; exit status 3 if there are."""
    from vipo_cli.data.check import check as check_pairs
    from vipo_cli.data.lazy import dropped, first

    output = Output(json=json, quiet=quiet)
    pairs = open_source(data, settings, path, output)
    findings = output.follow(check_pairs(first(pairs, limit)))
    name = describe(data, settings)
    document = {
        "data": name,
        "kind": findings.kind,
        "pairs": findings.pairs,
        "serious": findings.serious,
        "dropped": dict(dropped(pairs)),
        "findings": [asdict(finding) for finding in findings.found],
    }
    problems = [finding.problem.replace(" ", "-") for finding in findings.found]
    output.result(document, _findings_text(name, findings), problems)
    if findings.serious:
        raise typer.Exit(3)


@app.command(
    epilog="Examples: vipo data stats shapes --limit 500   |   "
    "vipo data stats pickapic_v2 --path DIR --json"
)
def stats(
    data: Data,
    limit: Limit = None,
    path: Folder = None,
    settings: Settings = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Count pairs, prompts, categories, sizes and formats."""
    from vipo_cli.data.lazy import dropped, first
    from vipo_cli.data.stats import statistics

    output = Output(json=json, quiet=quiet)
    pairs = open_source(data, settings, path, output)
    found = output.follow(statistics(first(pairs, limit)))
    name = describe(data, settings)
    document = {"data": name, "dropped": dict(dropped(pairs)), **asdict(found)}
    output.result(document, _statistics_text(name, found), [str(found.pairs)])


@app.command(
    epilog="Examples: vipo data preview shapes --set kind=noisy   |   "
    "vipo data preview pairs.jsonl --pairs 20 --out sheet.png"
)
def preview(
    data: Data,
    pairs: Annotated[int, typer.Option(min=1, max=200, help="How many pairs, evenly spread.")] = 8,
    out: Annotated[Path, typer.Option(help="PNG file to write.")] = Path("preview.png"),
    path: Folder = None,
    settings: Settings = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw pairs on one sheet, winner left, loser right, with their prompts; print its path."""
    from vipo_cli.data.preview import preview as draw
    from vipo_cli.run import writing

    output = Output(json=json, quiet=quiet)
    source = open_source(data, settings, path, output)
    count = min(pairs, len(source))
    rows = [number * len(source) // count for number in range(count)]
    sheet = draw([source[row] for row in rows])
    with writing(out) as temporary:
        sheet.save(temporary, format="PNG")
    document = {"data": describe(data, settings), "path": str(out), "pairs": rows}
    output.result(document, str(out), [str(out)])


def _imported_text(imported: "Imported") -> str:
    manifest, folder = imported.manifest, imported.folder
    labels = ", ".join(f"{label} {count:,}" for label, count in manifest["labels"].items())
    size = sum(shard["bytes"] for shard in manifest["shards"])
    lines = [
        f"{folder}: {manifest['entries']:,} {manifest['kind']}s ({labels}), "
        f"{size / 2**20:,.1f} MiB in {len(manifest['shards'])} shards",
    ]
    for reason, count in manifest["left_out"].items():
        where = ", ".join(imported.examples.get(reason, ()))
        lines.append(f"left out {count:,}: {reason}" + (f" ({where})" if where else ""))
    lines += ["", f"next: vipo data check {folder}", f"      vipo train --data {folder}"]
    return "\n".join(lines)


def _findings_text(name: str, findings: "Findings") -> str:
    looked_at = f"{findings.pairs:,} {findings.kind}s"
    lines = [f"{name}: {looked_at} looked at"]
    for finding in findings.found:
        weight = "SERIOUS" if finding.serious else "note"
        lines += [
            "",
            f"{weight}: {finding.problem}, {finding.count:,} of {looked_at}",
            f"  {finding.meaning}",
            *(f"  - {example}" for example in finding.examples),
        ]
        if finding.count > len(finding.examples):
            lines.append(f"  - and {finding.count - len(finding.examples):,} more")
    verdict = "not fit for training as it is" if findings.serious else "fit for training"
    return "\n".join([*lines, "", verdict])


def _statistics_text(name: str, found: "Statistics") -> str:
    shortest, median, longest = found.prompt_characters
    rows: list[tuple[str, Any]] = [
        ("data", name),
        (f"{found.kind}s", f"{found.pairs:,}"),
        *([("without a loser", f"{found.singles:,}")] if found.kind == "pair" else []),
        ("prompts", f"{found.prompts:,}"),
        ("prompt characters", f"{shortest} to {longest}, median {median}"),
        ("media", f"{found.media_bytes / 2**20:,.1f} MiB encoded"),
        ("unreadable media", f"{found.unreadable:,}"),
    ]
    tables = (
        ("labels", found.labels),
        ("categories", found.categories),
        ("sizes", found.sizes),
        ("formats", found.formats),
    )
    for title, counts in tables:
        shown = list(counts.items())[:8]
        rows += [(title if not number else "", _count(*each)) for number, each in enumerate(shown)]
        if len(counts) > len(shown):
            rows.append(("", f"and {len(counts) - len(shown)} more"))
    return "\n".join(f"{title:18} {value}" for title, value in rows)


def _count(name: str, count: int) -> str:
    return f"{name:16} {count:>9,}"
