"""Judges that look at two media: what they are told and shown, and what they say.

A judge is asked twice, the second time with the media the other way round, and says which of the
two it saw first is better. What it says without looking is the same both times, and cancels.
"""

import re
from typing import Literal

from vipo_cli.chat import AskedInVain, Part
from vipo_cli.chat import Chat as Judge
from vipo_cli.chat import find_chat as find_judge
from vipo_cli.media import enlarge, stills

Answer = Literal["first", "second", "tie"]

INSTRUCTIONS = (
    "You compare two {what} that were made for the same prompt. Judge by this rubric alone:\n\n"
    "{rubric}\n\nThe order in which they are shown says nothing. Give a reason in at most two "
    "sentences, then on a line of its own one of: VERDICT: FIRST, VERDICT: SECOND, VERDICT: TIE"
)
_VERDICT = re.compile(r"verdict\W*\b(first|second|tie)\b", re.IGNORECASE)
_WORD = re.compile(r"^\W*(first|second|tie)\W*$", re.IGNORECASE)


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


__all__ = ["Answer", "AskedInVain", "Judge", "find_judge", "question", "read_answer"]
