"""The only place that prints: results to stdout, everything else to stderr, in three modes."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

import typer

from vipo_cli.errors import Interrupted, VipoError
from vipo_cli.run import Progress, Work, finish

T = TypeVar("T")
Draw = Callable[[Progress], None]

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only identifiers or paths.")]


class Output:
    """How one command speaks: to people, to programs (`--json`), or in identifiers (`--quiet`)."""

    def __init__(self, *, json: bool = False, quiet: bool = False, mute: bool = False) -> None:
        self.json = json
        self.quiet = quiet or mute
        self.mute = mute  # of several processes only one speaks

    def result(self, document: dict[str, Any], text: str, identifiers: Sequence[str] = ()) -> None:
        """Print the one result of a command to stdout, in the form that the mode asks for."""
        if self.mute:
            return
        if self.json:
            sys.stdout.write(json.dumps(document, indent=2, default=str) + "\n")
        elif self.quiet:
            sys.stdout.write("".join(f"{identifier}\n" for identifier in identifiers))
        else:
            sys.stdout.write(_spelled_out(text.rstrip("\n") + "\n"))
        sys.stdout.flush()

    def entries(self, entries: dict[str, str]) -> None:
        """Print names with a line each as the result of a command."""
        width = max(map(len, entries))
        lines = [f"{name:{width}}  {summary}" for name, summary in entries.items()]
        self.result(entries, "\n".join(lines), list(entries))

    def note(self, text: str) -> None:
        """Tell what is going on, to stderr; silent under --quiet."""
        if not self.quiet:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()

    def warn(self, text: str) -> None:
        """Warn on stderr, in every mode."""
        if self.mute:
            return
        sys.stderr.write(f"{_colour('warning:', 33)} {text}\n")

    def error(self, error: VipoError) -> None:
        """Print an error with its details and hint to stderr, in every mode."""
        sys.stderr.write(f"{_colour('error:', 31)} {error.message}\n")
        sys.stderr.writelines(f"  {detail}\n" for detail in error.details)
        if error.hint:
            sys.stderr.write(f"\n{_colour('hint:', 36)} {error.hint}\n")

    def follow(self, work: Work[T], until: Callable[[], bool] = lambda: False) -> T:
        """Run long work, with a bar a stage on a terminal, and return its result.

        As soon as `until` says so the work is closed, and Interrupted raised.
        """
        with self._stages() if self.quiet or not sys.stderr.isatty() else _bars() as draw:

            def watch(progress: Progress) -> None:
                if until():
                    raise Interrupted("stopped on request")
                if progress.warning:
                    self.warn(progress.warning)
                if progress.stage:
                    draw(progress)

            return finish(work, watch)

    @contextmanager
    def _stages(self) -> Iterator[Draw]:
        """Tell of each stage once, where there is no terminal to draw bars on."""
        stages: set[str] = set()

        def draw(progress: Progress) -> None:
            if progress.stage not in stages:
                stages.add(progress.stage)
                total = f" ({progress.total})" if progress.total else ""
                self.note(f"{progress.stage}{total} ...")

        yield draw


@contextmanager
def _bars() -> Iterator[Draw]:
    """Draw a bar for each stage, with rate and time left."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    tasks: dict[str, TaskID] = {}
    with Bars(*columns, console=Console(stderr=True)) as bars:

        def draw(progress: Progress) -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bars.add_task(progress.stage, rate="", note="")
            task = tasks[progress.stage]
            speed = bars.tasks[task].speed
            bars.update(
                task,
                completed=progress.done,
                total=progress.total,
                rate=f"{speed:.1f}/s" if speed else "",
                note=progress.note,
            )

        yield draw


def _spelled_out(text: str) -> str:
    """Return a text in which stands escaped what the terminal has no letters for."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _colour(text: str, code: int) -> str:
    plain = "NO_COLOR" in os.environ or not sys.stderr.isatty()
    return text if plain else f"\033[1;{code}m{text}\033[0m"
