"""Prompts to token ids, exactly as CLIP's own code and its descendants make them."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from vipo_cli.errors import ModelError, VipoError

PIECES = r"|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What a text is cut into, after the two special words."""

OPENAI = ("<|startoftext|>", "<|endoftext|>")
"""How the first and last word are spelled in OpenAI's code and in files of the hub."""

END = "</w>"


@dataclass(frozen=True, slots=True)
class ClipWords:
    """CLIP's byte-pair encoding.

    Files of the hub describe a tokenizer without the repair of broken text (ftfy) and of HTML
    entities that CLIP's own code and open_clip begin with, so only their vocabulary is used here.

    Attributes:
        ids: of each piece; those that end a word end with `</w>`.
        ranks: of each pair of pieces that can be merged; the lowest goes first.
        specials: words that stand for the start and the end where a prompt spells them out.
        length: most ids of a prompt.
        known: the ids of words that were met before.
    """

    ids: Mapping[str, int]
    ranks: Mapping[tuple[str, str], int]
    specials: tuple[str, str] = OPENAI
    length: int = 77
    known: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def start(self) -> int:
        """Return the id that a prompt starts with."""
        return self.ids[OPENAI[0]]

    @property
    def end(self) -> int:
        """Return the id that a prompt ends with."""
        return self.ids[OPENAI[1]]

    def __call__(self, prompts: Sequence[str]) -> list[list[int]]:
        """Return the ids of prompts; one that is too long loses its end but not the last id."""
        import regex

        pattern = regex.compile("|".join(map(regex.escape, self.specials)) + PIECES, regex.I)
        encoded = []
        for prompt in prompts:
            ids = [self.start]
            for word in pattern.findall(cleaned(prompt)):
                ids += self._word(word)
                if len(ids) >= self.length:
                    break
            encoded.append([*ids[: self.length - 1], self.end])
        return encoded

    def _word(self, word: str) -> tuple[int, ...]:
        if word in self.specials:
            return ((self.start, self.end)[self.specials.index(word)],)
        if word not in self.known:
            letters = byte_letters()
            pieces = [letters[byte] for byte in word.encode()]
            pieces[-1] += END
            self.known[word] = tuple(self.ids[piece] for piece in self._merged(pieces))
        return self.known[word]

    def _merged(self, pieces: list[str]) -> list[str]:
        """Merge neighbours, always the pair of the lowest rank and wherever it occurs."""
        while len(pieces) > 1:
            pairs = set(pairwise(pieces)) & self.ranks.keys()
            if not pairs:
                break
            first, second = min(pairs, key=self.ranks.__getitem__)
            merged, place = [], 0
            while place < len(pieces):
                if pieces[place : place + 2] == [first, second]:
                    merged.append(first + second)
                    place += 2
                else:
                    merged.append(pieces[place])
                    place += 1
            pieces = merged
        return pieces


def read_clip_words(file: Path, length: int = 77, specials: tuple[str, str] = OPENAI) -> ClipWords:
    """Read the vocabulary of a `tokenizer.json`.

    Raises:
        ModelError: it is damaged, or no byte-pair encoding of CLIP's kind.
    """
    try:
        model = json.loads(file.read_text(encoding="utf-8"))["model"]
        merges = [_pair(merge) for merge in model["merges"]]
        words = ClipWords(
            model["vocab"], {pair: rank for rank, pair in enumerate(merges)}, specials, length
        )
        lacking = {words.ids.get(letter) for letter in byte_letters().values()} - {None}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"cannot read the vocabulary in `{file}`: {error!r:.200}") from error
    if not lacking or not set(OPENAI) <= words.ids.keys():
        raise ModelError(f"`{file}` holds no vocabulary of CLIP")
    return words


def _pair(merge: Any) -> tuple[str, str]:
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first, second


@lru_cache(maxsize=1)
def byte_letters() -> dict[int, str]:
    """Return the letter that stands for each byte: itself if it can be seen, else one above 255."""
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unseen = [byte for byte in range(256) if byte not in seen]
    return {byte: chr(byte) for byte in seen} | {
        byte: chr(256 + place) for place, byte in enumerate(unseen)
    }


def cleaned(text: str) -> str:
    """Repair a prompt as CLIP's own code does: broken characters, HTML entities, white space, case.

    Raises:
        VipoError: ftfy is needed for this prompt and not installed.
    """
    import regex

    if regex.search(r"[^\t\n\r\x20-\x7e]|&", text):  # ftfy leaves all else as it is
        try:
            from ftfy import fix_text
        except ImportError as error:
            raise VipoError(
                f"the prompt `{text[:60]}` needs the package ftfy, which is not installed",
                hint="pip install ftfy",
            ) from error
        text = fix_text(text)
    text = html.unescape(html.unescape(text)).strip()
    result: str = regex.sub(r"\s+", " ", text).strip().lower()
    return result
