"""`vipo data export`: preference data in the layouts of other programs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from vipo_cli.cli.output import Json, Output, Quiet
from vipo_cli.cli.source import Data, Folder, Settings, open_source

if TYPE_CHECKING:
    from vipo_cli.data.exporting import Exported, Source


def register(app: typer.Typer) -> None:
    """Add the command to those of `vipo data`."""
    app.command(
        epilog="Examples: vipo data export pairs --to csv --out pairs-csv   |   "
        "vipo data export pairs --to webdataset --out shards"
    )(export)


def export(
    data: Data,
    to: Annotated[
        Literal["parquet", "csv", "jsonl", "folders", "webdataset"],
        typer.Option(show_default=False, help="Layout: folders are winner/, loser/, prompts.csv."),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", show_default=False, help="Folder to make.")],
    limit: Annotated[
        int | None, typer.Option(min=1, help="Only the first so many.", show_default="all")
    ] = None,
    path: Folder = None,
    settings: Settings = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write preference data for other programs; `vipo data import` reads all of it again."""
    from vipo_cli.data.exporting import export_data

    output = Output(json=json, quiet=quiet)
    source = _source(data, settings, path, limit, output)
    exported = output.follow(export_data(source, to, out))
    for what, count in exported.lost.items():
        output.warn(f"{to} cannot hold {what}: lost of {count:,} entries")
    for reason, count in exported.left_out.items():
        output.warn(f"left out {count:,}: {reason}")
    document: dict[str, Any] = {
        "out": str(out),
        "layout": to,
        "kind": source.kind,
        "entries": exported.entries,
        "left_out": exported.left_out,
        "lost": exported.lost,
    }
    output.result(document, _text(source, exported), [str(out)])


def _source(
    data: str, settings: list[str] | None, path: str | None, limit: int | None, output: Output
) -> "Source":
    """Return all entries of a stored data set, or the records of any other."""
    from vipo_cli.data.exporting import source_of_records, source_of_stored
    from vipo_cli.data.lazy import first
    from vipo_cli.data.stored import is_stored

    place = Path(data).expanduser()
    if place.is_dir() and not settings and is_stored(place):
        return source_of_stored(place, limit)
    return source_of_records(first(open_source(data, settings, path, output), limit))


def _text(source: "Source", exported: "Exported") -> str:
    return f"{exported.folder}: {exported.entries:,} {source.kind}s"
