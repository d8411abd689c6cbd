"""A process that runs an upstream package in an environment of its own, spoken to in JSON lines."""

import json
import os
import subprocess
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from types import TracebackType
from typing import IO, Any

from vipo_cli.errors import VipoError

WORKERS = Path(__file__).parent / "workers"

LINES = 8
"""Of what a worker last said on standard error, how many an error shows."""


class Worker:
    """A running worker; it ends with `close`, at the end of a `with`, or when vipo ends.

    Args:
        name: what users call the environment.
        python: the environment's interpreter.
        script: the adapter to run.
    """

    def __init__(self, name: str, python: Path, script: Path) -> None:
        self.name = name
        # -I: neither the user's site-packages nor PYTHONPATH nor the script's folder
        self._process = subprocess.Popen(
            [str(python), "-I", str(WORKERS / "serve.py"), str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        )
        self._answers: SimpleQueue[bytes] = SimpleQueue()
        self._said: deque[str] = deque(maxlen=LINES)
        _listen(self._process.stdout, self._answers.put)
        self._hearing = _listen(
            self._process.stderr, lambda line: self._said.append(line.decode(errors="replace"))
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    @property
    def process_id(self) -> int:
        """Return the number by which the system knows its process."""
        return self._process.pid

    def ask(self, request: dict[str, Any], seconds: float) -> Any:
        """Send a request and return its answer.

        Raises:
            VipoError: the package failed, the worker died, or gave no answer for so many seconds.
        """
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=seconds)
        except (BrokenPipeError, ValueError):  # it died, or was closed, before
            line = b""
        except Empty as error:
            self.close()
            raise VipoError(
                f"the worker of `{self.name}` gave no answer for {seconds:g} s and was ended",
                details=self._last_words(),
                hint="give it more time with the option `seconds`, or a faster device",
            ) from error
        if not line:
            raise self._death()
        answer = json.loads(line)
        if "error" in answer:
            raise VipoError(f"`{self.name}` failed: {answer['error']}", details=self._last_words())
        return answer["ok"]

    def close(self) -> None:
        """End the process."""
        process = getattr(self, "_process", None)
        if process is None:
            return
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdin is not None and not process.stdin.closed:
            with suppress(BrokenPipeError):  # something was still to be sent
                process.stdin.close()

    def _death(self) -> VipoError:
        self.close()
        status = self._process.returncode
        hint = None
        if status == -9:
            hint = "signal 9 often means that memory ran out"
        return VipoError(
            f"the worker of `{self.name}` died with status {status}",
            details=self._last_words(),
            hint=hint or f"vipo eval setup {self.name} --recreate makes its environment anew",
        )

    def _last_words(self) -> list[str]:
        if self._process.poll() is not None:
            self._hearing.join(timeout=2)
        return [line.rstrip() for line in list(self._said) if line.strip()]


def _listen(stream: IO[bytes] | None, take: Callable[[bytes], None]) -> Thread:
    """Take a stream's lines, and an empty one at its end."""
    assert stream is not None
    source = stream

    def listen() -> None:
        with source:
            for line in source:
                take(line)
            take(b"")

    thread = Thread(target=listen, daemon=True)
    thread.start()
    return thread
