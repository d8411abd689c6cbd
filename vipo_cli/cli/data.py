"""`vipo data`: pairs from any source, looked at, built and made ready before training on them."""

import typer

from vipo_cli.cli import (
    data_build,
    data_cache,
    data_export,
    data_import,
    data_look,
    data_select,
)
from vipo_cli.cli.output import Json, Output, Quiet

app = typer.Typer(
    help="Import, check, score, build and cache preference data.",
    epilog="Example: vipo data check shapes --limit 200",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@app.command("list", epilog="Example: vipo data list")
def list_(json: Json = False, quiet: Quiet = False) -> None:
    """List the data sets that have a name; files, folders and hub ids work as well."""
    from vipo_cli.data import datasets

    output = Output(json=json, quiet=quiet)
    output.entries({name: datasets.summary(name) for name in datasets.names()})


for commands in (data_import, data_look, data_select, data_build, data_export, data_cache):
    commands.register(app)
