"""The command line; the only place that imports typer or rich."""

import os
import sys
from collections import UserDict
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vipo_cli import __version__
from vipo_cli.errors import Interrupted, VipoError

VERBS = {
    "train": "Fine-tune a generator on preference pairs.",
    "data": "Import, check, score, build and cache preference data.",
    "eval": "Measure what a model can do, with intervals, and what training changed.",
    "analyze": "Analyse preference data, objectives, models and runs.",
    "export": "Write a LoRA under the names that ComfyUI or kohya's scripts read.",
    "list": "List what has a name: methods, models, data sets, rewards, benchmarks and more.",
}
"""What can be typed after `vipo`; each has a module of its own, loaded when it is asked for."""


class _Commands(UserDict[str, Any]):
    """Commands by name, each loaded when it is looked up."""

    def __getitem__(self, name: str) -> Any:
        command = super().__getitem__(name)
        if command is None:
            module = import_module(f"vipo_cli.cli.{name}")
            command = typer.main.get_command(module.app)
            command.name = name
            self[name] = command
        return command


class _Verbs(TyperGroup):
    """A group that shows its help without loading its commands."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.commands = _Commands(dict.fromkeys(VERBS))

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Return the verbs in the order in which they are used."""
        return [*VERBS]

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write a line for each verb."""
        with formatter.section("Commands"):
            formatter.write_dl([*VERBS.items()])


app = typer.Typer(
    cls=_Verbs,
    name="vipo",
    help="Visual preference optimisation: train image and video generators on preference pairs, "
    "and measure what it changed.",
    epilog="Start here: vipo train --method poly-dpo --alpha 0.5",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


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
        from vipo_cli.cli.output import Output
        from vipo_cli.training.launch import speaks_of

        if speaks_of(error):
            Output().error(error)
        sys.exit(130 if isinstance(error, Interrupted) else 1)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
