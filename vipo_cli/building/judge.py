"""Judges that look at two media: models behind a server, or in this process, and what they say.

A judge is asked twice, the second time with the media the other way round, and says which of the
two it saw first is better. What it says without looking is the same both times, and cancels.
"""

import base64
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.message import Message
from http.client import HTTPException
from typing import Any, Literal, Protocol

import numpy as np
from PIL import Image

from vipo_cli.errors import MissingWeights, ModelError, VipoError
from vipo_cli.media import encode_png, enlarge, stills

Answer = Literal["first", "second", "tie"]
KEYS = ("VIPO_JUDGE_KEY", "OPENAI_API_KEY")
"""Environment variables that may hold the key of a server, in the order in which they count."""
ATTEMPTS = 5
"""How often a server is asked before a question counts as failed."""
PAUSE = 1.0
"""Seconds before the second attempt; each further one waits twice as long."""
LONGEST_PAUSE = 60.0
TIMEOUT = 300.0
TOKENS = 512
"""Of an answer."""
PASSING = (408, 409, 425, 429, 500, 502, 503, 504)
"""What a server may say that says something else later."""

INSTRUCTIONS = (
    "You compare two {what} that were made for the same prompt. Judge by this rubric alone:\n\n"
    "{rubric}\n\nThe order in which they are shown says nothing. Give a reason in at most two "
    "sentences, then on a line of its own one of: VERDICT: FIRST, VERDICT: SECOND, VERDICT: TIE"
)
_VERDICT = re.compile(r"verdict\W*\b(first|second|tie)\b", re.IGNORECASE)
_WORD = re.compile(r"^\W*(first|second|tie)\W*$", re.IGNORECASE)

Part = str | Image.Image
"""What a judge is shown, in order: words and pictures."""


class AskedInVain(VipoError):
    """A question that got no answer, though others may."""


class Judge(Protocol):
    """Answers questions about pictures."""

    @property
    def name(self) -> str:
        """Return what data sets call it."""
        ...

    @property
    def together(self) -> int:
        """Return how many questions it takes at once."""
        ...

    def ask(self, instructions: str, parts: Sequence[Part]) -> str:
        """Return what it answers.

        Raises:
            AskedInVain: nothing, this time.
            VipoError: nothing, and asking again would not help.
        """
        ...


def question(rubric: str, prompt: str, first: bytes, second: bytes) -> tuple[str, list[Part]]:
    """Return what a judge is told and shown.

    Raises:
        DataError: a medium that cannot be decoded.
    """
    shown = [stills(first), stills(second)]
    clips = max(map(len, shown)) > 1
    parts: list[Part] = [f"Prompt: {prompt}"]
    for name, frames in zip(("First", "Second"), shown, strict=True):
        what = "clip, frames from its start, middle and end" if clips else "picture"
        parts += [f"{name} {what}:", *(enlarge(frame) for frame in frames)]
    return INSTRUCTIONS.format(what="clips" if clips else "pictures", rubric=rubric.strip()), parts


def read_answer(text: str) -> Answer | None:
    """Return the last verdict in an answer, or None where there is none."""
    found = _VERDICT.findall(text) or _WORD.findall(text)
    answer: Answer | None = found[-1].lower() if found else None
    return answer


def find_judge(name: str, model: str | None = None, together: int = 4) -> Judge:
    """Return the judge of a name: the URL of an OpenAI-compatible server, else a model.

    Args:
        name: URL, hub id or folder.
        model: what the server calls the model; None asks it.
        together: questions that the server is asked at once.

    Raises:
        VipoError: the server does not answer, or has several models.
        MissingWeights, ModelError: the model is not at hand, or damaged.
    """
    if re.match(r"https?://", name):
        url = name.rstrip("/").removesuffix("/chat/completions")
        key = next((os.environ[each] for each in KEYS if os.environ.get(each)), None)
        return ServerJudge(url, model or _only_model(url, key), key, together)
    return load_judge(name)


@dataclass(frozen=True, slots=True)
class ServerJudge:
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
        body = {
            "model": self.model,
            "temperature": 0,
            "max_tokens": TOKENS,
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
                found = _fetch(f"{self.url}/chat/completions", self.key, body)
                return str(found["choices"][0]["message"]["content"] or "")
            except urllib.error.HTTPError as error:
                said = f"{error.code} {error.reason}"
                if error.code not in PASSING:
                    raise _refused(self.url, error) from error
                self.sleep(_asked_to_wait(error.headers))
            except (OSError, HTTPException, ValueError, KeyError, IndexError, TypeError) as error:
                said = str(error) or type(error).__name__
        raise AskedInVain(f"`{self.url}` gave no answer in {ATTEMPTS} attempts: {said}")


def _fetch(url: str, key: str | None, body: Any = None) -> Any:
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        return json.load(response)


def _only_model(url: str, key: str | None) -> str:
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


@dataclass(frozen=True, slots=True)
class LocalJudge:
    """A vision-language model in this process."""

    name: str
    model: Any
    processor: Any
    together: int = 1

    def ask(self, instructions: str, parts: Sequence[Part]) -> str:
        """Return what the model says when it takes the likeliest word each time."""
        import torch

        content = [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
            for part in parts
        ]
        messages = [
            {"role": "system", "content": [{"type": "text", "text": instructions}]},
            {"role": "user", "content": content},
        ]
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True)
        pictures = [part.convert("RGB") for part in parts if not isinstance(part, str)]
        inputs = self.processor(text=[text], images=pictures, return_tensors="pt")
        inputs = inputs.to(self.model.device)
        with torch.inference_mode():
            tokens = self.model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
        new = tokens[:, inputs["input_ids"].shape[1] :]
        answer: str = self.processor.batch_decode(new, skip_special_tokens=True)[0]
        return answer


def load_judge(name: str) -> LocalJudge:
    """Load a vision-language model from a folder, or a hub id that is on this machine.

    Raises:
        MissingWeights: it is not on this machine.
        ModelError: it is damaged, or no such model.
    """
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if gpu else torch.float32
    try:
        processor = AutoProcessor.from_pretrained(name, local_files_only=True)
        model = AutoModelForImageTextToText.from_pretrained(
            name, dtype=dtype, use_safetensors=True, local_files_only=True
        )
    except OSError as error:
        raise MissingWeights(
            f"the judge `{name}` is neither a folder nor on this machine",
            hint=f"where there is a network: hf download {name}; or give the URL of a server",
        ) from error
    except (ValueError, ImportError, KeyError) as error:
        raise ModelError(
            f"cannot load the judge `{name}`: {str(error).splitlines()[0]}",
            hint="a vision-language model that transformers knows is wanted",
        ) from error
    return LocalJudge(name, model.to("cuda" if gpu else "cpu").eval(), processor)
