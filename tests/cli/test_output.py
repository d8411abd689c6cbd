import io
import json
import sys

import pytest

from vipo_cli.cli.output import Output
from vipo_cli.errors import Interrupted, VipoError
from vipo_cli.run import Progress

MODES = {"person": {}, "program": {"json": True}, "quiet": {"quiet": True}}


@pytest.fixture
def said(capsys):
    """Return a function that speaks in every mode: what came to stdout and to stderr."""

    def speak(action):
        spoken = {}
        for mode, options in MODES.items():
            action(Output(**options))
            spoken[mode] = tuple(capsys.readouterr())
        return spoken

    return speak


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Return a function that puts a terminal in the place of stderr, and returns it."""

    def open_terminal():
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(sys, "stderr", Terminal())
        return sys.stderr

    return open_terminal


def work(stages=("one", "two"), closed=None):
    try:
        for stage in stages:
            for done in (1, 2):
                yield Progress(stage, done, 2, "loss 0.5")
    except GeneratorExit:
        closed.append(True)
        raise
    return "result"


def test_a_result_in_every_mode(said):
    document = {"n": 1, "path": sys}
    spoken = said(lambda output: output.result(document, "one thing\n\n", ["a", "b"]))
    assert spoken["person"] == ("one thing\n", "")
    assert spoken["program"][1] == ""
    assert json.loads(spoken["program"][0])["n"] == 1
    assert spoken["quiet"] == ("a\nb\n", "")


def test_notes_are_for_people_and_their_logs(said):
    spoken = said(lambda output: output.note("working"))
    assert spoken == {
        "person": ("", "working\n"), "program": ("", "working\n"), "quiet": ("", ""),
    }  # fmt: skip


def test_warnings_and_errors_come_through_in_every_mode(said):
    error = VipoError("`x` is wrong", hint="try y", details=["x.a: no", "x.b: no"])
    assert set(said(lambda output: output.warn("careful")).values()) == {("", "warning: careful\n")}
    assert set(said(lambda output: output.error(error)).values()) == {
        ("", "error: `x` is wrong\n  x.a: no\n  x.b: no\n\nhint: try y\n")
    }
    assert set(said(lambda output: output.error(VipoError("no"))).values()) == {("", "error: no\n")}


def test_long_work_is_told_by_stage_where_there_is_no_terminal(said):
    results = []
    spoken = said(lambda output: results.append(output.follow(work())))
    assert results == ["result"] * 3
    assert spoken["person"] == spoken["program"] == ("", "one (2) ...\ntwo (2) ...\n")
    assert spoken["quiet"] == ("", "")


def test_long_work_has_a_bar_on_a_terminal(terminal, capsys):
    screen = terminal()
    assert Output().follow(work()) == "result"
    for text in ("one", "two", "2/2", "loss 0.5"):
        assert text in screen.getvalue()
    screen = terminal()
    assert Output(quiet=True).follow(work()) == "result"
    assert screen.getvalue() == capsys.readouterr().out == ""


@pytest.mark.parametrize("quiet", [False, True])
def test_work_is_closed_when_a_stop_is_asked_for(terminal, quiet):
    terminal()
    closed, looks = [], iter([False, True])
    with pytest.raises(Interrupted):
        Output(quiet=quiet).follow(work(closed=closed), until=lambda: next(looks))
    assert closed == [True]


def test_colour_is_for_terminals_and_can_be_refused(terminal, monkeypatch):
    screen = terminal()
    Output().error(VipoError("no"))
    assert screen.getvalue() == "\033[1;31merror:\033[0m no\n"
    screen = terminal()
    monkeypatch.setenv("NO_COLOR", "")
    Output().error(VipoError("no"))
    assert screen.getvalue() == "error: no\n"


def test_what_the_terminal_has_no_letters_for_is_spelled_out(monkeypatch):
    for encoding, written in (("utf-8", "\u4e00 \\udcff\n"), ("ascii", "\\u4e00 \\udcff\n")):
        stream = io.TextIOWrapper(io.BytesIO(), encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        Output().result({}, "\u4e00 \udcff")
        assert stream.buffer.getvalue() == written.encode(encoding)
