"""A model behind a server that speaks OpenAI's chat completions."""

import base64
import json
import math
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPException
from typing import Any

import numpy as np

from vipo_cli.chat import KEYS, AskedInVain, Part
from vipo_cli.errors import VipoError
from vipo_cli.media import encode_png

ATTEMPTS = 5
"""How often a server is asked before a question counts as failed."""
PAUSE = 1.0
"""Seconds before the second attempt; each further one waits twice as long."""
LONGEST_PAUSE = 60.0
TIMEOUT = 300.0
TOKENS = 512
"""Of an answer."""
ALTERNATIVES = 20
"""First words whose chances a server tells at most."""
PASSING = (408, 409, 425, 429, 500, 502, 503, 504)
"""What a server may say that says something else later."""


@dataclass(frozen=True, slots=True)
class ServerChat:
    """A model behind a server that speaks OpenAI's chat completions."""

    url: str
    model: str
    key: str | None = field(repr=False)
    together: int
    sleep: Callable[[float], None] = time.sleep

    @property
    def name(self) -> str:
        """What the model is called; where the server runs changes no answer."""
        return self.model

    def ask(self, instructions: str, parts: Sequence[Part]) -> str:
        """Ask until there is an answer, with growing pauses.

        Raises:
            AskedInVain: there was none.
            VipoError: the server refuses such questions.
        """
        return str(
            self._ask(instructions, parts, {"max_tokens": TOKENS})["message"]["content"] or ""
        )

    def chances(
        self, instructions: str, parts: Sequence[Part], words: Sequence[str]
    ) -> list[float] | None:
        """Return how likely the answer begins with each of some words, as far as the server tells.

        A word that is not among the likeliest counts as impossible: take care to ask for words that
        together are nearly certain.

        Raises:
            AskedInVain: there was no answer.
            VipoError: the server refuses such questions.
        """
        wish = {"max_tokens": 1, "logprobs": True, "top_logprobs": ALTERNATIVES}
        try:
            first = self._ask(instructions, parts, wish)["logprobs"]["content"][0]["top_logprobs"]
            told = {str(each["token"]): math.exp(each["logprob"]) for each in first}
        except (KeyError, IndexError, TypeError, ValueError):
            return None
        return [told.get(word, 0.0) for word in words]

    def _ask(
        self, instructions: str, parts: Sequence[Part], wish: dict[str, Any]
    ) -> dict[str, Any]:
        body = {
            "model": self.model,
            "temperature": 0,
            **wish,
            "messages": [
                {"role": "system", "content": instructions},
                {"role": "user", "content": [_as_content(part) for part in parts]},
            ],
        }
        said = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                self.sleep(min(LONGEST_PAUSE, PAUSE * 2 ** (attempt - 1)))
            try:
                found = _fetch(f"{self.url}/chat/completions", self.key, body)["choices"][0]
                _ = found["message"]["content"]
            except urllib.error.HTTPError as error:
                said = f"{error.code} {error.reason}"
                if error.code not in PASSING:
                    raise _refused(self.url, error) from error
                self.sleep(_asked_to_wait(error.headers))
            except (OSError, HTTPException, ValueError, KeyError, IndexError, TypeError) as error:
                said = str(error) or type(error).__name__
            else:
                choice: dict[str, Any] = found
                return choice
        raise AskedInVain(f"`{self.url}` gave no answer in {ATTEMPTS} attempts: {said}")


def _fetch(url: str, key: str | None, body: Any = None) -> Any:
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        return json.load(response)


def only_model(url: str, key: str | None) -> str:
    """Return the model of a server that has one.

    Raises:
        VipoError: it does not answer, or has none or several.
    """
    try:
        names = [str(each["id"]) for each in _fetch(f"{url}/models", key)["data"]]
    except urllib.error.HTTPError as error:
        raise _refused(url, error) from error
    except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
        raise VipoError(
            f"`{url}` does not say which models it has: {error}",
            hint="is the server running? its address mostly ends in /v1",
        ) from error
    if len(names) != 1:
        raise VipoError(
            f"`{url}` has {len(names)} models",
            details=names[:10],
            hint="name one: --judge-model NAME",
        )
    return names[0]


def _refused(url: str, error: urllib.error.HTTPError) -> VipoError:
    hints = {
        401: f"put the key of the server into {KEYS[0]}",
        403: f"put a key that may do this into {KEYS[0]}",
        404: "its address mostly ends in /v1; name its model with --judge-model",
    }
    said = error.read(500).decode(errors="replace").strip()
    return VipoError(
        f"`{url}` refuses to judge: {error.code} {error.reason}",
        details=[said] if said else [],
        hint=hints.get(error.code),
    )


def _asked_to_wait(headers: Message) -> float:
    """Return how many seconds a server asks to be left alone."""
    try:
        return min(LONGEST_PAUSE, max(0.0, float(headers.get("Retry-After", "0"))))
    except ValueError:  # a date
        return 0.0


def _as_content(part: Part) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    data = base64.b64encode(encode_png(np.asarray(part.convert("RGB")))).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
