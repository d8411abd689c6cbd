import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from vipo_cli import __version__, cli
from vipo_cli.errors import Interrupted, VipoError

VIPO = Path(sys.executable).with_name("vipo")
ROOT = typer.main.get_command(cli.app)


def commands(command, path=("vipo",)):
    """Yield every command below one with the words that call it, groups included."""
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*path, name))


ALL = list(commands(ROOT))
LEAVES = {path: command for path, command in ALL if not hasattr(command, "commands")}


def examples():
    for path, command in ALL:
        text = " ".join((command.epilog or "").split())
        for example in text.partition(": ")[2].split("|"):
            if example.strip():
                yield path, example.strip()


def installed(*words, **variables):
    environment = {k: v for k, v in os.environ.items() if k not in ("VIPO_DEBUG",)} | variables
    return subprocess.run([VIPO, *words], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("path", [path for path, _ in ALL], ids=" ".join)
def test_every_command_has_help(path, vipo):
    status, out, err = vipo(*path[1:], "--help")
    assert (status, err) == (0, "")
    assert "Usage: " in out
    assert "\033[" not in out


@pytest.mark.parametrize("path", [*LEAVES], ids=" ".join)
def test_the_help_of_every_command_is_a_sentence_with_examples(path):
    command = LEAVES[path]
    first = command.help.strip().partition("\n\n")[0]
    assert first[0].isupper()
    assert first.endswith((".", "?"))
    assert command.epilog.startswith(("Example: ", "Examples: "))
    for option in command.params:
        assert option.help, f"{option.name} has no help"


@pytest.mark.parametrize(("path", "example"), [*examples()], ids=lambda value: str(value)[:60])
def test_every_example_is_a_command_that_can_be_given(path, example):
    words = shlex.split(example)
    assert tuple(words[: len(path)]) == path
    depth = next(n for n in range(len(words), 0, -1) if tuple(words[:n]) in LEAVES)
    command = LEAVES[tuple(words[:depth])]
    with command.make_context(" ".join(words[:depth]), words[depth:]) as context:
        assert context.command is command


def test_the_verbs_are_described_as_they_describe_themselves():
    assert {name: command.help.strip() for name, command in ROOT.commands.items()} == cli.VERBS


def test_no_words_show_the_help(vipo):
    _, out, err = vipo()
    assert "Usage: vipo" in out + err


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("trian",), "train"),
        (("lst",), "list"),
        (("list", "method"), "methods"),
        (("train", "--metod", "sft"), "--method"),
        (("train", "--resum", "x"), "--resume"),
    ],
)
def test_mistyped_words_are_wrong_usage_and_suggest(vipo, words, meant):
    status, out, err = vipo(*words)
    assert (status, out) == (2, "")
    assert meant in err.partition("Error")[2]


def test_errors_have_status_1_and_interruptions_130(vipo, monkeypatch):
    def fail(error):
        def app(prog_name):
            raise error

        monkeypatch.setattr(cli, "app", app)

    fail(VipoError("`x` is wrong", hint="try y"))
    assert vipo() == (1, "", "error: `x` is wrong\n\nhint: try y\n")
    fail(Interrupted("stopped on request"))
    assert vipo()[0] == 130
    fail(KeyboardInterrupt())
    assert vipo() == (130, "", "interrupted\n")
    monkeypatch.setenv("VIPO_DEBUG", "1")
    fail(VipoError("no"))
    with pytest.raises(VipoError):
        cli.main()


def test_the_installed_script_has_the_documented_statuses(tmp_path):
    version = installed("--version")
    assert (version.returncode, version.stdout, version.stderr) == (0, f"vipo {__version__}\n", "")
    usage = installed("trian")
    assert (usage.returncode, usage.stdout) == (2, "")
    missing = ("data", "check", str(tmp_path / "nothing.csv"))
    plain = installed(*missing)
    assert (plain.returncode, plain.stdout) == (1, "")
    error, _, hint = plain.stderr.partition("\n\nhint: ")
    assert error == f"error: no such file or folder: `{missing[-1]}`"
    assert hint.startswith("vipo list importers names the layouts")
    debugged = installed(*missing, VIPO_DEBUG="1")
    assert debugged.returncode == 1
    assert debugged.stderr.startswith("Traceback (most recent call last)")
    assert "DataError: no such file or folder" in debugged.stderr
