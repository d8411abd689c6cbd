"""One run on several processes of this machine: started, watched and spoken for by the one asked.

The processes find each other by the variables that torchrun sets, so a launcher for several nodes
(`accelerate launch -m vipo_cli train ...`) can take this one's place. Unlike those, this one waits
for as long as it takes to end a step and save it when it is asked to stop, and lets nobody wait for
a process that died; and it tells of an error once, whichever process met it.

Nothing here imports torch, so that the command line may ask at no cost.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from vipo_cli.errors import Interrupted, VipoError

if TYPE_CHECKING:
    import subprocess

REPORTS = "VIPO_PROCESS_REPORTS"
"""Names the folder in which a process says what it failed of, to whoever started it."""
GRACE = 10.0
"""Seconds that the others get to end by themselves once one has failed."""
POLL = 0.05
"""Seconds between looks at the processes."""
LINES = 5
"""How many of the last lines are shown of a process that died."""


def started_processes() -> int:
    """Return how many processes run this command together, as a launcher said."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def is_main_process() -> bool:
    """Return whether this process is the one that writes and speaks."""
    return started_processes() == 1 or os.environ.get("RANK", "0") == "0"


def must_launch(processes: int | None) -> bool:
    """Return whether a command that was asked for several processes has yet to start them.

    Raises:
        VipoError: a launcher started another number.
    """
    started = started_processes()
    if processes is None or processes == started:
        return False
    if started > 1:
        raise VipoError(
            f"a launcher started {started} processes, and --processes says `{processes}`",
            hint="leave --processes out where a launcher says how many",
        )
    return True


def is_launched() -> bool:
    """Return whether `launch` started this process."""
    return REPORTS in os.environ


def speaks_of(error: VipoError) -> bool:
    """Return whether this process tells the user of an error; of several processes only one does.

    Whoever started them is told in any case, if that was `launch`.
    """
    if is_launched():
        report(error)
        return False
    return started_processes() == 1 or _is_first_to_fail()


def _is_first_to_fail() -> bool:
    """Ask the store that all processes share; before there is one, all fail of the same."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_initialized():
        return is_main_process()
    try:
        store = distributed.distributed_c10d._get_default_store()
        return bool(store.add("vipo/failed", 1) == 1)
    except RuntimeError:  # who kept it is gone: that process failed first
        return False


@dataclass(frozen=True, slots=True)
class Report:
    """What a process failed of.

    Attributes:
        when: in seconds since the epoch, to tell the cause from what followed of it.
        kind: `stopped` on request, `told` to the user, or a `crash`.
        message, hint, details: of the error.
        trace: the traceback.
    """

    when: float
    kind: str
    message: str
    hint: str | None = None
    details: list[str] = field(default_factory=list)
    trace: str = ""


def report(error: BaseException) -> None:
    """Leave word of an error for the process that started this one."""
    import traceback

    known = isinstance(error, VipoError)
    found = Report(
        when=time.time(),
        kind="stopped" if isinstance(error, Interrupted) else "told" if known else "crash",
        message=error.message if isinstance(error, VipoError) else repr(error),
        hint=error.hint if isinstance(error, VipoError) else None,
        details=list(error.details) if isinstance(error, VipoError) else [],
        trace="".join(traceback.format_exception(error)),
    )
    place = Path(os.environ[REPORTS], f"{os.environ['RANK']}.json")
    with suppress(OSError):  # nobody listens any more
        place.write_text(json.dumps(asdict(found)))


def report_run(run: Path) -> None:
    """Say which directory is trained in, so that whoever survives can say how to go on."""
    if is_launched() and is_main_process():
        Path(os.environ[REPORTS], "run").write_text(str(run))


def going_on(run: Path, processes: int) -> str:
    """Return the command that goes on with a run."""
    command = f"vipo train --resume {run}"
    return f"{command} --processes {processes}" if processes > 1 else command


@contextmanager
def reporting() -> Iterator[None]:
    """Report what nobody catches to the launcher, and stop as if asked to when that is gone."""
    if not is_launched():
        yield
        return

    def listen() -> None:
        os.read(sys.stdin.fileno(), 1)  # the launcher never writes: its end is the pipe's end
        os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=listen, daemon=True).start()
    try:
        yield
    except Exception as error:  # noqa: BLE001  # not hidden: the launcher tells of it
        report(error)
        sys.exit(1)


def launch(processes: int, words: Sequence[str]) -> None:
    """Run a command on several processes of this machine, and return when all have done it.

    The main process has this one's stdout and stderr. A request to stop goes to the main process,
    which settles with the others where they stop; a second one does not wait.

    Args:
        processes: how many.
        words: of the command line, after the program's name.

    Raises:
        VipoError: what one of them failed of, or that one died.
        Interrupted: they were asked to stop, and did.
    """
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="vipo-") as folder:
        reports = Path(folder)
        team = _start(processes, words, reports)
        try:
            with _stop_requests(team) as asked:
                _watch(team, asked)
        finally:
            _end(team)
        if len(asked) > 1:
            raise Interrupted("stopped at once; what was not saved yet is lost")
        _tell(team, reports, asked=bool(asked))


@dataclass
class _Team:
    """The processes, and which of them were ended from here."""

    members: list["subprocess.Popen[bytes]"]
    ended: set[int] = field(default_factory=set)

    @property
    def running(self) -> list[int]:
        return [rank for rank, member in enumerate(self.members) if member.poll() is None]

    @property
    def failures(self) -> list[int]:
        return [
            rank
            for rank, member in enumerate(self.members)
            if rank not in self.ended and member.poll() not in (None, 0)
        ]

    def status(self, rank: int) -> int:
        """Return how a process ended: its exit status, or minus the signal that ended it."""
        return self.members[rank].returncode


def _start(processes: int, words: Sequence[str], reports: Path) -> _Team:
    import subprocess  # here and elsewhere: --help must not wait for these

    shared = os.environ | _addresses(processes) | {REPORTS: str(reports)}
    team = _Team([])
    try:
        for rank in range(processes):
            main = rank == 0
            with (reports / f"{rank}.log").open("wb") as log:
                member = subprocess.Popen(
                    _command(words),
                    env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                    stdin=subprocess.PIPE,
                    stdout=None if main else subprocess.DEVNULL,
                    stderr=None if main else log,
                    start_new_session=True,  # Ctrl-C reaches them through this process alone
                )
            team.members.append(member)
    except OSError:
        _end(team)
        raise
    return team


def _command(words: Sequence[str]) -> list[str]:
    # a module of the working directory must not take the place of one of ours
    safe = [] if Path(sys.argv[0]).name == "__main__.py" else ["-P"]
    return [sys.executable, *safe, "-m", "vipo_cli", *words]


def _addresses(processes: int) -> dict[str, str]:
    """Return what the processes need to know to find each other, as torchrun names it."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    threads = max(1, _cores() // processes)
    return {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(threads),
        # of what the libraries below warn on losing each other, this one tells itself
        "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL") or "ERROR",
    }


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def _stop_requests(team: _Team) -> Iterator[list[int]]:
    """Pass the first request to stop on to the main process; with the second, end all."""
    asked: list[int] = []

    def ask(number: int, _: object) -> None:
        asked.append(number)
        if (
            len(asked) == 1 and 0 in team.running
        ):  # not SIGINT, which Python greets with a traceback
            team.members[0].send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(team: _Team, asked: Sequence[int]) -> None:
    """Wait until all have ended, not long once one has failed or the main one is done."""
    deadline = None
    while team.running:
        if deadline is None and (team.failures or 0 not in team.running):
            deadline = time.monotonic() + GRACE
        if len(asked) > 1 or (deadline is not None and time.monotonic() > deadline):
            return
        time.sleep(POLL)


def _end(team: _Team) -> None:
    """End what still runs; who is blocked in an exchange hears no politer signal."""
    for rank in team.running:
        team.ended.add(rank)
        team.members[rank].kill()
    for member in team.members:
        member.wait()
        assert member.stdin is not None
        member.stdin.close()


def _tell(team: _Team, reports: Path, *, asked: bool) -> None:
    """Raise the one error that the others followed from.

    Raises:
        VipoError: what it was.
        Interrupted: all stopped on request.
    """
    if not team.failures:
        return
    count, run = len(team.members), reports / "run"
    hint = f"go on: {going_on(Path(run.read_text()), count)}" if run.is_file() else None
    for rank in team.failures:
        number = -team.status(rank)
        if asked and number == signal.SIGTERM:
            raise Interrupted("stopped on request, before any work was done", hint=hint)
        if number > 0:
            raise VipoError(
                f"process {rank + 1} of {count} was ended by {signal.Signals(number).name}",
                details=_last_lines(reports / f"{rank}.log"),
                hint=hint,
            )
    found = _reports(reports)
    for kind in ("told", "stopped", "crash"):
        if of_kind := {rank: each for rank, each in found.items() if each.kind == kind}:
            rank = min(of_kind, key=lambda rank: of_kind[rank].when)
            raise _error(of_kind[rank], f"process {rank + 1} of {count}")
    sys.exit(max(1, team.status(0)))  # wrong usage, which the main process told of


def _reports(folder: Path) -> Mapping[int, Report]:
    found = {}
    for file in folder.glob("*.json"):
        with suppress(json.JSONDecodeError):  # its writer was ended meanwhile
            found[int(file.stem)] = Report(**json.loads(file.read_text()))
    return found


def _error(found: Report, who: str) -> Exception:
    """Make the error again; its traceback goes with it, for those who ask for tracebacks."""
    if found.kind == "crash":
        return RuntimeError(f"{who} failed:\n{found.trace}")
    kind = Interrupted if found.kind == "stopped" else VipoError
    error = kind(found.message, hint=found.hint, details=found.details)
    error.add_note(f"in {who}:\n{found.trace}")
    return error


def _last_lines(log: Path) -> list[str]:
    lines = log.read_text(errors="replace").splitlines()
    return [line for line in lines if line.strip()][-LINES:]
