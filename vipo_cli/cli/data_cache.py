"""`vipo data cache`: encode a data set for a model before training on it."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from vipo_cli.cli.output import Json, Output, Quiet
from vipo_cli.cli.source import Data

if TYPE_CHECKING:
    from vipo_cli.training.precompute import Filled


def register(app: typer.Typer) -> None:
    """Add the command to those of `vipo data`."""
    app.command(
        epilog="Examples: vipo data cache pairs/ --model sdxl   |   "
        "vipo data cache shapes --set model.precision=bf16"
    )(cache)


def cache(
    data: Data,
    model: Annotated[
        str | None, typer.Option(help="Registered name, hub id or diffusers folder.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Recipe that will be trained with it: model, sizes, types.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Any key of the recipe, such as data.size=[1024,1024]; repeatable."
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Encode media and prompts once, so that training starts at once; print where they lie.

    Content names the cache: another model, size or type has another. One that was interrupted goes
    on where it was.
    """
    from vipo_cli.data.sources import opening
    from vipo_cli.recipe import parse_settings, resolve_recipe
    from vipo_cli.training.precompute import fill, open_filling

    output = Output(json=json, quiet=quiet)
    resolved = resolve_recipe(recipe, model=model, data=data, settings=parse_settings(set_ or []))
    output.follow(opening(resolved.data.name, resolved.data.parameters))  # tells how it goes
    filling = open_filling(resolved)
    output.note(
        f"{len(filling.records):,} records for {resolved.model.name}: "
        f"at most {filling.most_bytes / 1e6:,.0f} MB on disk"
    )
    filled = output.follow(fill(filling))
    document = {"data": data, "model": resolved.model.name, **asdict(filled)}
    output.result(document, _text(filled), [str(filled.folder)])


def _text(filled: "Filled") -> str:
    took = f"encoded in {filled.seconds:,.0f} s" if filled.seconds else "there already"
    return (
        f"{filled.folder}: {filled.media:,} media and {filled.prompts:,} prompts of "
        f"{filled.records:,} records, {filled.bytes / 1e6:,.1f} MB, {took}"
        + (f"; {filled.broken:,} records cannot be used" if filled.broken else "")
    )
