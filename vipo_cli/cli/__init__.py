"""The command line; the only place that imports typer or rich."""

import os
import sys
from typing import Annotated

import typer

from vipo_cli import __version__
from vipo_cli.cli import analyze, data, eval, export, list, train
from vipo_cli.cli.output import Output
from vipo_cli.errors import Interrupted, VipoError

app = typer.Typer(
    name="vipo",
    help="Visual preference optimisation: train image and video generators on preference pairs, "
    "and measure what it changed.",
    epilog="Start here: vipo train --method poly-dpo --alpha 0.5",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command(epilog=train.EPILOG)(train.train)
app.add_typer(data.app, name="data")
app.add_typer(eval.app, name="eval")
app.add_typer(analyze.app, name="analyze")
app.command(epilog=export.EPILOG)(export.export)
app.add_typer(list.app, name="list")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"vipo {__version__}")
        raise typer.Exit


@app.callback()
def vipo(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Visual preference optimisation: train image and video generators on preference pairs."""


def main() -> None:
    """Run the command line and turn the errors meant for users into exit statuses."""
    try:
        app(prog_name="vipo")
    except VipoError as error:
        if os.environ.get("VIPO_DEBUG") == "1":
            raise
        from vipo_cli.training.launch import speaks_of

        if speaks_of(error):
            Output().error(error)
        sys.exit(130 if isinstance(error, Interrupted) else 1)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
