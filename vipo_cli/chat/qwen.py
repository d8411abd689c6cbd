"""What Qwen's vision-language models are given, made without torchvision.

Their processors in transformers also prepare clips, for which they ask for torchvision, even where
only pictures are shown. So their tokenizer, template and the Pillow backend of their picture
processor are put together here. The same inputs, with torchvision installed or not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vipo_cli.errors import DataError

PICTURE = "<|image_pad|>"


@dataclass(frozen=True, slots=True)
class QwenInputs:
    """Stands in for a processor of transformers, as far as pictures and words go.

    Attributes:
        tokenizer: with the model's template.
        pictures: what cuts pictures into patches.
    """

    tokenizer: Any
    pictures: Any

    def apply_chat_template(self, messages: Sequence[Any], add_generation_prompt: bool) -> str:
        """Return a conversation as text, with one word for each picture."""
        text: str = self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt
        )
        return text

    def __call__(
        self, text: Sequence[str], images: Sequence[Any] | None, padding: bool, return_tensors: str
    ) -> Any:
        """Return token ids and patches; a picture's word is repeated for each of its tokens.

        Raises:
            DataError: what is asked spells that word itself.
        """
        from transformers import BatchFeature

        seen: dict[str, Any] = {}
        counts: list[int] = []
        if images:
            seen = dict(self.pictures(images=list(images), return_tensors=return_tensors))
            counts = (seen["image_grid_thw"].prod(1) // self.pictures.merge_size**2).tolist()
        parts = "\0".join(text).split(PICTURE)
        if len(parts) != len(counts) + 1:
            raise DataError(f"a text that spells `{PICTURE}`, the model's word for a picture")
        whole = parts[0] + "".join(
            PICTURE * count + part for count, part in zip(counts, parts[1:], strict=True)
        )
        found = self.tokenizer(whole.split("\0"), padding=padding, return_tensors=return_tensors)
        kinds = (found["input_ids"] == self.tokenizer.convert_tokens_to_ids(PICTURE)).int()
        return BatchFeature({**found, **seen, "mm_token_type_ids": kinds})

    def batch_decode(self, ids: Any, skip_special_tokens: bool) -> list[str]:
        """Return the words of token ids."""
        texts: list[str] = self.tokenizer.batch_decode(ids, skip_special_tokens=skip_special_tokens)
        return texts


def load_inputs(name: str) -> QwenInputs:
    """Load tokenizer and picture processor of a model that is on this machine.

    Raises:
        OSError, ValueError: it is not, or not of this kind.
    """
    from transformers import AutoImageProcessor, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=True)
    pictures = AutoImageProcessor.from_pretrained(name, local_files_only=True, backend="pil")
    return QwenInputs(tokenizer, pictures)
