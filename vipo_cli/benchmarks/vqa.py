"""Models that answer questions about pictures in a word."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from vipo_cli.chat import find_chat
from vipo_cli.errors import ModelError
from vipo_cli.run import fingerprint, remembered_fingerprint
from vipo_cli.weights import SOURCES, content, find

TOGETHER = 8
"""Questions that a server is asked at once."""
INSTRUCTIONS = "You are shown a picture. Answer the question about it with one word: yes or no."
BLIP = "blip-vqa"
BLIP_TOKENS = 10
"""Most tokens of an answer of BLIP's."""
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
WEIGHTS = "model.safetensors"


class Vqa(Protocol):
    """Answers questions about a picture."""

    @property
    def name(self) -> str:
        """Return what results call it."""
        ...

    @property
    def fingerprint(self) -> str:
        """Return what changes whenever the same question may be answered differently."""
        ...

    def ask(self, picture: Image.Image, questions: Sequence[str]) -> list[str]:
        """Return the answer to each question, as it was given."""
        ...


def find_vqa(name: str, model: str | None = None) -> Vqa:
    """Return who answers: BLIP for questions, else a vision-language model, here or at a server.

    Args:
        name: hub id, folder, or URL of an OpenAI-compatible server.
        model: what the server calls the model.

    Raises:
        MissingWeights: it is not on this machine.
        ModelError: it is damaged, or no such model.
        VipoError: the server does not answer, or has several models.
    """
    url = re.match(r"https?://", name) is not None
    if not url and (name == SOURCES[BLIP].repository or _kind(Path(name)) == "blip"):
        return load_blip(None if name == SOURCES[BLIP].repository else name)
    found = find_chat(name, model, TOGETHER)
    weights = remembered_fingerprint(Path(name)) if Path(name).is_dir() else found.name
    return ChatVqa(found, fingerprint([weights, INSTRUCTIONS]))


def _kind(folder: Path) -> str:
    from transformers import AutoConfig

    if not folder.is_dir():
        return ""
    try:
        return str(AutoConfig.from_pretrained(folder, local_files_only=True).model_type)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"`{folder}` holds no model that transformers knows: {str(error).splitlines()[0]}"
        ) from error


@dataclass(frozen=True, slots=True)
class ChatVqa:
    """A vision-language model that is told to say yes or no."""

    chat: Any
    fingerprint: str

    @property
    def name(self) -> str:
        """What the model is called."""
        return str(self.chat.name)

    def ask(self, picture: Image.Image, questions: Sequence[str]) -> list[str]:
        """Ask each question by itself, as many at once as the model takes."""

        def one(question: str) -> str:
            return str(self.chat.ask(INSTRUCTIONS, [picture, question])).strip()

        if self.chat.together == 1:
            return [one(question) for question in questions]
        with ThreadPoolExecutor(self.chat.together) as pool:
            return list(pool.map(one, questions))


@dataclass(frozen=True, slots=True)
class BlipVqa:
    """BLIP for question answering (arXiv 2201.12086), as transformers has it.

    Questions are only batched with others of as many tokens: the published decoder looks at
    padding, so that an answer would depend on the questions beside it.
    """

    name: str
    fingerprint: str
    model: Any
    tokenizer: Any

    def ask(self, picture: Image.Image, questions: Sequence[str]) -> list[str]:
        """Look at the picture once, and answer greedily."""
        import torch

        encoded = [self.tokenizer(question)["input_ids"] for question in questions]
        answers = [""] * len(questions)
        with torch.inference_mode():
            seen = self._see(picture)
            for length in sorted({len(ids) for ids in encoded}):
                places = [place for place, ids in enumerate(encoded) if len(ids) == length]
                ids = torch.tensor([encoded[place] for place in places], device=seen.device)
                for place, answer in zip(places, self._answer(seen, ids), strict=True):
                    answers[place] = answer
        return answers

    def _see(self, picture: Image.Image) -> Any:
        import torch

        pixels = torch.from_numpy(blip_pixels(picture, self.model.config.vision_config.image_size))
        return self.model.vision_model(pixel_values=pixels[None].to(self.model.device))[0]

    def _answer(self, seen: Any, ids: Any) -> list[str]:
        import torch

        together = seen.expand(len(ids), -1, -1)
        understood = self.model.text_encoder(
            input_ids=ids, attention_mask=torch.ones_like(ids), encoder_hidden_states=together
        )[0]
        start = torch.full(
            (len(ids), 1), self.model.config.text_config.bos_token_id, device=ids.device
        )
        tokens = self.model.text_decoder.generate(
            input_ids=start,
            attention_mask=torch.ones_like(start),
            eos_token_id=self.model.config.text_config.sep_token_id,
            pad_token_id=self.model.config.text_config.pad_token_id,
            encoder_hidden_states=understood,
            max_new_tokens=BLIP_TOKENS,
            do_sample=False,
        )
        found = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return [answer.strip() for answer in found]


def blip_pixels(picture: Image.Image, size: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return a picture as BLIP sees it: squeezed to a square (bicubic), colours first."""
    squeezed = picture.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(squeezed, np.float32) / np.float32(255)
    scaled = (pixels - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def load_blip(folder: str | None = None) -> BlipVqa:
    """Load BLIP for questions, from a folder or as it was published.

    Raises:
        MissingWeights: it is not on this machine and not to be had.
        ModelError: it is damaged.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoTokenizer, BlipForQuestionAnswering
    from transformers.utils import logging

    weights = find(SOURCES[BLIP], folder)[WEIGHTS]
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(weights.parent, local_files_only=True)
        model = BlipForQuestionAnswering.from_pretrained(
            weights.parent, dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"cannot load the model in `{weights.parent}`: {str(error).splitlines()[0]}",
            hint="the folder may be incomplete: compare it with where it came from",
        ) from error
    name = Path(folder).name if folder is not None else SOURCES[BLIP].repository
    identity = fingerprint([content(weights), "blip-pil-bicubic-1", BLIP_TOKENS])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return BlipVqa(name, identity, model.to(device).eval().requires_grad_(False), tokenizer)
