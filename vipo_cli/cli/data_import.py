"""`vipo data import`: preference data of any layout into one."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vipo_cli.cli.output import Json, Output, Quiet
from vipo_cli.cli.source import setting

if TYPE_CHECKING:
    from vipo_cli.data.importing import Imported

ImporterSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        show_default=False,
        help="Parameter of the importer, such as split=test; repeatable.",
    ),
]


SAMPLES = (
    "training reads prompt, medium and label of a sample; its scores and region map stay in the\n"
    "data set, for vipo data stats, filter and export"
)


def register(app: typer.Typer) -> None:
    """Add the command to those of `vipo data`."""
    app.command(
        "import",
        epilog="Examples: vipo data import photos/ --out pairs   |   "
        "vipo data import votes.csv --columns prompt=text,a=left,b=right,label=vote --out pairs",
    )(import_)


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
    from vipo_cli.data.importing import (
        Wanted,
        describe_source,
        find_importer,
        find_source,
        import_data,
    )

    output = Output(json=json, quiet=quiet)
    parameters: dict[str, Any] = dict(map(setting, settings or []))
    if columns is not None:
        parameters["columns"] = dict(setting(part, "--columns") for part in columns.split(","))
    place = find_source(source)
    importer, _ = find_importer(place, from_)
    for line in describe_source(place, importer, parameters):
        output.note(line)
    wanted = Wanted(importer, parameters, pairs, link, limit)
    imported = output.follow(import_data(place, out, wanted))
    document = {
        "data": str(out),
        "importer": imported.importer,
        **imported.manifest,
        "examples": imported.examples,
    }
    output.result(document, _imported_text(imported), [str(out)])


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
    if manifest["kind"] == "labelled sample":
        lines.append(SAMPLES)
    lines += ["", f"next: vipo data check {folder}", f"      vipo train --data {folder}"]
    return "\n".join(lines)
