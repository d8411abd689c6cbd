"""Talking to vision-language models, behind a server or in this process.

A conversation is an instruction and then words and pictures in turn. A model behind a server says
what it says; of one in this process the chances of its first words can be read as well.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from PIL import Image

from vipo_cli.errors import MissingWeights, VipoError
from vipo_cli.run import remembered_fingerprint

KEYS = ("VIPO_JUDGE_KEY", "OPENAI_API_KEY")
"""Environment variables that may hold the key of a server, in the order in which they count."""

Part = str | Image.Image
"""What a model is shown, in order: words and pictures."""


class AskedInVain(VipoError):
    """A question that got no answer, though others may."""


class Chat(Protocol):
    """Answers questions about pictures."""

    @property
    def name(self) -> str:
        """Return what results and data sets call it."""
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

    def chances(
        self, instructions: str, parts: Sequence[Part], words: Sequence[str]
    ) -> list[float] | None:
        """Return how likely its answer begins with each of some words; None where it hides that.

        A word counts by its first token, as the model spells it.

        Raises:
            AskedInVain: no answer, this time.
            VipoError: no answer, and asking again would not help.
        """
        ...


def find_chat(name: str, model: str | None = None, together: int = 4) -> Chat:
    """Return the model of a name: the URL of an OpenAI-compatible server, else a model to load.

    Args:
        name: URL, hub id or folder.
        model: what the server calls the model; None asks it.
        together: questions that the server is asked at once.

    Raises:
        VipoError: the server does not answer, or has several models.
        MissingWeights, ModelError: the model is not at hand, or damaged.
    """
    if is_url(name):
        from vipo_cli.chat.server import ServerChat, only_model

        url = name.rstrip("/").removesuffix("/chat/completions")
        key = next((os.environ[each] for each in KEYS if os.environ.get(each)), None)
        return ServerChat(url, model or only_model(url, key), key, together)
    from vipo_cli.chat.local import load_chat

    try:
        return load_chat(name)
    except MissingWeights as error:
        hint = f"{error.hint}; or give the URL of a server"
        raise MissingWeights(error.message, hint=hint) from error


def is_url(name: str) -> bool:
    """Tell whether a name is the address of a server."""
    return re.match(r"https?://", name) is not None


def identity(name: str, chat: Chat) -> str:
    """Return what changes whenever a model does: a folder's content, else what it is called."""
    folder = Path(name)
    return chat.name if is_url(name) or not folder.is_dir() else remembered_fingerprint(folder)


__all__ = ["KEYS", "AskedInVain", "Chat", "Part", "find_chat", "identity", "is_url"]
