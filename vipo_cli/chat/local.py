"""A vision-language model in this process."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

from vipo_cli.chat import Part, is_url
from vipo_cli.chat.qwen import PICTURE, load_inputs
from vipo_cli.errors import MissingWeights, ModelError

TOKENS = 512
"""Of an answer."""
QWEN = r"qwen(2|2_5|3)_vl(_moe)?|qwen3_5(_moe)?"
"""Kinds of models whose own processors ask for torchvision."""
REUSED = r"qwen(2|2_5|3)_vl"
"""Kinds that go on from what they made of a picture; seen to give the same chances as anew."""

Question = tuple[str, Sequence[Part]]
"""An instruction, which may be empty, and what is shown and asked."""


@dataclass(frozen=True, slots=True)
class LocalChat:
    """A model of transformers with what prepares its inputs."""

    name: str
    model: Any
    processor: Any
    together: int = 1

    def ask(self, instructions: str, parts: Sequence[Part]) -> str:
        """Return what the model says when it takes the likeliest word each time."""
        import torch

        inputs = self._inputs([(instructions, parts)])
        with torch.inference_mode():
            tokens = self.model.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
        new = tokens[:, inputs["input_ids"].shape[1] :]
        answer: str = self.processor.batch_decode(new, skip_special_tokens=True)[0]
        return answer

    def chances(
        self, instructions: str, parts: Sequence[Part], words: Sequence[str]
    ) -> list[float]:
        """Return how likely the answer begins with each of some words."""
        return self.chances_of([(instructions, parts)], [words])[0]

    def chances_of(
        self, questions: Sequence[Question], words: Sequence[Sequence[str]]
    ) -> list[list[float]]:
        """Return the chances of the first words of several answers, in one pass.

        Of questions that begin with one and the same picture, it is looked at once.

        Args:
            questions: each with as many pictures as the others.
            words: those of each question that matter; a word counts by its first token.
        """
        import torch

        with torch.inference_mode():
            logits = self._next_of_one(questions)
            if logits is None:
                logits = self._next(self._inputs(questions)).logits[:, -1]
        chances = logits.double().softmax(-1)
        return [
            [float(row[self._first(word)]) for word in asked]
            for row, asked in zip(chances, words, strict=True)
        ]

    def _next(self, inputs: Any, **more: Any) -> Any:
        last = "logits_to_keep" in signature(self.model.forward).parameters
        return self.model(**inputs, **({"logits_to_keep": 1} if last else {}), **more)

    def _next_of_one(self, questions: Sequence[Question]) -> Any:
        """Return what comes next, all up to the last picture read once; None if they differ there.

        The word for a picture is never joined with others, so that texts can be cut behind it.
        """
        import torch
        from torch.nn.utils.rnn import pad_sequence

        texts = [self._text(question) for question in questions]
        pictures = [_pictures([question]) for question in questions]
        if (
            len(questions) < 2
            or not pictures[0]
            or not re.fullmatch(REUSED, self.model.config.model_type)
            or any(text.count(PICTURE) != len(pictures[0]) for text in texts)
            or len({text.rpartition(PICTURE)[0] for text in texts}) > 1
            or len({tuple(map(id, each)) for each in pictures}) > 1
        ):
            return None
        inputs = self._inputs(questions[:1])
        shown = inputs["input_ids"][0] == self.processor.tokenizer.convert_tokens_to_ids(PICTURE)
        end = int(shown.nonzero()[-1]) + 1
        for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
            inputs[name] = inputs[name][:, :end]
        known = self._next(inputs, use_cache=True).past_key_values
        known.batch_repeat_interleave(len(texts))
        tails = [
            torch.tensor(self.processor.tokenizer(text.rpartition(PICTURE)[2])["input_ids"])
            for text in texts
        ]
        ids = pad_sequence(tails, batch_first=True).to(self.model.device)
        # no word sees those behind it, and so none the padding
        logits = self.model(input_ids=ids, past_key_values=known, use_cache=True).logits
        return torch.stack([row[len(tail) - 1] for row, tail in zip(logits, tails, strict=True)])

    def _text(self, question: Question) -> str:
        text: str = self.processor.apply_chat_template(
            _messages(*question), add_generation_prompt=True
        )
        return text

    def _first(self, word: str) -> int:
        ids: list[int] = self.processor.tokenizer.encode(word, add_special_tokens=False)
        return ids[0]

    def _inputs(self, questions: Sequence[Question]) -> Any:
        """Return what the model is given: texts padded in front, since answers come behind."""
        texts = [self._text(question) for question in questions]
        pictures = [picture.convert("RGB") for picture in _pictures(questions)]
        self.processor.tokenizer.padding_side = "left"
        inputs = self.processor(
            text=texts, images=pictures or None, padding=True, return_tensors="pt"
        )
        return inputs.to(self.model.device)


def _pictures(questions: Sequence[Question]) -> list[Any]:
    return [part for _, parts in questions for part in parts if not isinstance(part, str)]


def _messages(instructions: str, parts: Sequence[Part]) -> list[dict[str, Any]]:
    content = [
        {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
        for part in parts
    ]
    system = {"role": "system", "content": [{"type": "text", "text": instructions}]}
    return [*([system] if instructions else []), {"role": "user", "content": content}]


def load_chat(name: str, device: str = "auto", dtype: str = "auto") -> LocalChat:
    """Load a vision-language model from a folder, or a hub id that is on this machine.

    Args:
        name: folder or hub id.
        device: where it runs; `auto` is a GPU if there is one.
        dtype: fp32, bf16 or fp16; `auto` is bf16 on a GPU and fp32 elsewhere.

    Raises:
        MissingWeights: it is not on this machine.
        ModelError: it is damaged, or no such model.
    """
    if is_url(name):
        raise ModelError(
            f"`{name}` is a server, which does not tell the chance of every word",
            hint="give the model's folder or hub id",
        )
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto":
        dtype = "fp32" if device == "cpu" else "bf16"
    precision = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    try:
        kind = AutoConfig.from_pretrained(name, local_files_only=True).model_type
        processor = (
            load_inputs(name)
            if re.fullmatch(QWEN, kind)
            else AutoProcessor.from_pretrained(name, local_files_only=True)
        )
        model = AutoModelForImageTextToText.from_pretrained(
            name, dtype=precision, use_safetensors=True, local_files_only=True
        )
    except OSError as error:
        raise MissingWeights(
            f"the model `{name}` is neither a folder nor on this machine",
            hint=f"where there is a network: hf download {name}",
        ) from error
    except (ValueError, ImportError, KeyError) as error:
        raise ModelError(
            f"cannot load the model `{name}`: {str(error).splitlines()[0]}",
            hint="a vision-language model that transformers knows is wanted",
        ) from error
    return LocalChat(name, model.to(device).eval(), processor)
