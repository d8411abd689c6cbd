"""The launcher, with processes that import next to nothing; and the command line on two of ours."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vipo_cli.errors import VipoError
from vipo_cli.training import launch

ROOT = Path(__file__).parents[2]
PROLOGUE = """
import os, signal, sys, time
from vipo_cli.errors import Interrupted, VipoError
from vipo_cli.training import launch
rank = int(os.environ["RANK"])
"""
WAIT = """
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
open(f"{sys.argv[1]}/{rank}", "w").write(str(os.getpid()))
while not stopped:
    time.sleep(0.01)
"""
"""Says that it is there, and waits for a request to stop."""


def program(script, folder):
    """Return the command of a process that runs a script as ours run the command line."""
    lines = "".join(f"    {line}\n" for line in script.splitlines())
    return [sys.executable, "-c", f"{PROLOGUE}with launch.reporting():\n{lines}", str(folder)]


@pytest.fixture
def team(monkeypatch, tmp_path):
    """Return a function that launches processes of a script, which is given a folder."""

    def run(script, processes=2):
        monkeypatch.setattr(launch, "_command", lambda words: program(script, tmp_path))
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        launch.launch(processes, [])

    return run


def when_there(folder, count):
    """Wait until processes have said that they are there; return their numbers."""
    deadline = time.monotonic() + 60
    while len(list(folder.glob("[0-9]"))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return [int((folder / str(rank)).read_text()) for rank in range(count)]


def test_processes_know_of_each_other_and_share_the_cores(team, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(launch, "_cores", lambda: 7)
    team('import json; open(f"{sys.argv[1]}/{rank}", "w").write(json.dumps(dict(os.environ)))', 3)
    found = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(3)]
    for rank, variables in enumerate(found):
        assert variables["RANK"] == variables["LOCAL_RANK"] == str(rank)
        assert variables["WORLD_SIZE"] == variables["LOCAL_WORLD_SIZE"] == "3"
        assert variables["OMP_NUM_THREADS"] == "2"
    assert len({variables["MASTER_PORT"] for variables in found}) == 1


def test_the_main_process_alone_has_the_output(team, capfd):
    team("print(rank); print(rank, file=sys.stderr)")
    assert capfd.readouterr() == ("0\n", "0\n")


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_one_is_told_once_and_ends_all(team, monkeypatch, rank):
    monkeypatch.setattr(launch, "GRACE", 0.2)
    script = f"""
if rank == {rank}:
    raise VipoError("it is broken", hint="mend it", details=["here"])
time.sleep(60)
"""
    started = time.monotonic()
    with pytest.raises(VipoError, match="it is broken") as raised:
        team(script)
    assert (raised.value.hint, raised.value.details) == ("mend it", ("here",))
    assert time.monotonic() - started < 20


def test_the_same_error_of_all_is_told_once(team, capfd):
    with pytest.raises(VipoError, match="it is broken"):
        team('raise VipoError("it is broken")')
    assert capfd.readouterr() == ("", "")


def test_what_users_are_told_counts_more_than_what_follows_from_it(team):
    script = """
if rank == 1:
    raise VipoError("no room")
time.sleep(0.3)
raise RuntimeError("lost the other one")
"""
    with pytest.raises(VipoError, match="no room"):
        team(script)


def test_a_bug_comes_with_its_traceback(team):
    with pytest.raises(RuntimeError, match=r"(?s)process 2 of 2 failed.*ZeroDivisionError"):
        team("rank == 1 and 1 / 0\ntime.sleep(0.5)")


def test_one_that_is_killed_ends_the_others_and_the_run_can_go_on(team, tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "GRACE", 0.2)
    script = (
        f"launch.report_run({str(tmp_path / 'run')!r})\n"
        + """
if rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
while True:
    time.sleep(1)
"""
    )
    started = time.monotonic()
    with pytest.raises(VipoError, match="process 2 of 2 was ended by SIGKILL") as raised:
        team(script)
    expected = f"go on: vipo train --resume {tmp_path / 'run'} --processes 2"
    assert raised.value.hint == expected
    assert time.monotonic() - started < 20


def test_the_last_words_of_one_that_crashed_are_shown(team):
    script = "if rank == 1:\n    print('out of luck', file=sys.stderr, flush=True)\n    os.abort()"
    with pytest.raises(VipoError, match="ended by SIGABRT") as raised:
        team(script)
    assert raised.value.details == ("out of luck",)


def test_wrong_usage_keeps_its_exit_status(team):
    with pytest.raises(SystemExit) as raised:
        team("sys.exit(2)")
    assert raised.value.code == 2


@pytest.fixture
def outside(tmp_path):
    """Return a function that launches a script from a process of its own, to be sent signals."""

    def start(script):
        code = (
            "from vipo_cli.training import launch\n"
            f"launch._command = lambda words: {program(WAIT + script, tmp_path)!r}\n"
            "launch.launch(2, [])"
        )
        return subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True,
        )  # fmt: skip

    return start


def alive(number):
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{number}/stat").read_text().split()[2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_goes_to_the_main_process(outside, tmp_path, number):
    # the others are told by it: here by a file
    script = """
if rank == 0:
    launch.report(Interrupted("saved"))
    open(f"{sys.argv[1]}/done", "w")
    os.kill(int(open(f"{sys.argv[1]}/1").read()), signal.SIGTERM)
sys.exit(130)
"""
    process = outside(script)
    when_there(tmp_path, 2)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (tmp_path / "done").exists()
    assert "Interrupted: saved" in err


def test_a_second_request_does_not_wait(outside, tmp_path):
    process = outside("time.sleep(600)")
    numbers = when_there(tmp_path, 2)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert "Interrupted: stopped at once" in err
    assert not any(map(alive, numbers))


def test_processes_stop_as_if_asked_to_when_their_launcher_is_killed(outside, tmp_path):
    process = outside('open(f"{sys.argv[1]}/{rank}.stopped", "w")')
    when_there(tmp_path, 2)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("*.stopped"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_asking_for_processes_under_a_launcher(monkeypatch):
    assert not launch.must_launch(None)
    assert not launch.must_launch(1)
    assert launch.must_launch(2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not launch.must_launch(2)
    with pytest.raises(VipoError, match="started 2 processes, and --processes says `3`"):
        launch.must_launch(3)


def test_only_the_main_process_speaks(monkeypatch):
    assert launch.is_main_process()
    monkeypatch.setenv("RANK", "3")  # of something else: this command runs alone
    assert launch.is_main_process()
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert not launch.is_main_process()
    assert not launch.speaks_of(VipoError("told by the first"))
    monkeypatch.setenv("RANK", "0")
    assert launch.speaks_of(VipoError("told here"))
