"""Qwen2-VL as the body of reward models: what it makes of the words that stand for rewards.

The models were made with transformers 4.45, whose decoder, when it is given no places, counts
tokens from 0 and uses that number for all three axes of its rotation (time, height and width).
Qwen2-VL's own places, which today's transformers fills in, are others wherever a picture is. So
places are given here.

Checked with random weights in the official layouts against the reference code of HPSv3 and
VideoAlign on transformers 4.45.2: the same rewards with these places, and others with Qwen2-VL's
own (`tests/rewards/golden/vlm.json` has the figures). Padding is behind, where nothing looks at it.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vipo_cli.errors import DataError, ModelError
from vipo_cli.rewards.options import filled
from vipo_cli.rewards.vlm_pixels import Seen, stacked

T = TypeVar("T")

PICTURE, CLIP = "<|image_pad|>", "<|video_pad|>"
"""The words in whose place pictures and clips are seen."""
START = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
END = "<|im_end|>\n<|im_start|>assistant\n"
"""What Qwen2-VL's template puts around what a user shows and says."""

NAMES = (("visual.", "visual."), ("model.", "language_model."))
"""How the names of tensors begin in checkpoints of that time, and in the model of today."""
UNUSED = "lm_head.weight"
"""What checkpoints hold beside, to write answers with."""


@dataclass(frozen=True, slots=True)
class Body:
    """A Qwen2-VL without what writes answers.

    Attributes:
        model: that of transformers.
        tokenizer: that of the tokenizers library, with the reward words added.
        rewards: the ids of the reward words, in the order in which they stand in a text.
    """

    model: Any
    tokenizer: Any
    rewards: tuple[int, ...]

    def encode(self, text: str, seen: Seen, word: str, prompt: str) -> list[int]:
        """Return the token ids of a whole conversation, a picture or clip in it.

        Args:
            text: what the user says behind it, prompt and all.
            seen: the picture or clip.
            word: that in whose place it stands.
            prompt: what is judged; it must not spell the model's special words.

        Raises:
            DataError: the prompt spells one.
        """
        specials = [token.content for token in self.tokenizer.get_added_tokens_decoder().values()]
        if any(special in prompt for special in specials):
            raise DataError("the prompt spells a special word of the model")
        shown = f"<|vision_start|>{word * seen.tokens}<|vision_end|>"
        whole = self.tokenizer.encode(f"{START}{shown}{text}{END}", add_special_tokens=False)
        ids: list[int] = whole.ids
        if [each for each in ids if each in self.rewards] != list(self.rewards):
            raise ModelError("the instructions do not hold each reward word once, in order")
        return ids

    def read(self, rows: Sequence[Sequence[int]], seen: Sequence[Seen], word: str) -> Any:
        """Return what the model makes of the reward words: (rows, reward words, width)."""
        import torch

        device = self.model.device
        width = max(map(len, rows))
        filler = rows[0][-1]
        ids = torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows], device=device)
        patches, grids = stacked(seen, device, self.model.dtype)
        names = {PICTURE: ("pixel_values", "image_grid_thw")}.get(
            word, ("pixel_values_videos", "video_grid_thw")
        )
        places = torch.arange(width, device=device).expand(3, len(rows), -1)
        with torch.inference_mode():
            found = self.model(
                input_ids=ids,
                position_ids=places,
                use_cache=False,
                **dict(zip(names, (patches, grids), strict=True)),
            ).last_hidden_state
        return found[torch.isin(ids, ids.new_tensor(self.rewards))].view(
            len(rows), len(self.rewards), -1
        )


def load_tokenizer(file: Path, words: Sequence[str]) -> tuple[Any, tuple[int, ...]]:
    """Return the tokenizer in a file with reward words added behind, and their ids.

    Raises:
        ModelError: the file is damaged.
    """
    from tokenizers import AddedToken, Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more particular
        raise ModelError(f"cannot load the tokenizer in `{file}`: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in words])
    found = [tokenizer.token_to_id(word) for word in words]
    return tokenizer, tuple(number for number in found if number is not None)


def load_body(
    config: Path, tokenizer: Path, words: Sequence[str], tensors: Mapping[str, Any], where: str
) -> Body:
    """Build a Qwen2-VL of the tensors of a checkpoint, its reward head left out.

    Args:
        config: the file that describes the Qwen2-VL that it was made of.
        tokenizer: the vocabulary of that model.
        words: the reward words, which were added to the vocabulary.
        tensors: by the names that transformers 4.45 gave them.
        where: what they came from, for messages.

    Raises:
        ModelError: a file is damaged, or a tensor missing, left over or of another shape.
    """
    from accelerate import init_empty_weights
    from transformers import Qwen2VLConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLModel

    spelled, rewards = load_tokenizer(tokenizer, words)
    try:
        described = json.loads(config.read_text(encoding="utf-8"))
        described["vocab_size"] = spelled.get_vocab_size(with_added_tokens=True)
        of_model = Qwen2VLConfig(**described)
        with init_empty_weights(include_buffers=False):
            model = Qwen2VLModel(of_model)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"`{config}` describes no Qwen2-VL: {str(error).splitlines()[0]}",
            hint="see that it is the config.json of the model that the reward was made of",
        ) from error
    for kind, word in (("image", PICTURE), ("video", CLIP)):
        if spelled.token_to_id(word) != getattr(of_model, f"{kind}_token_id"):
            raise ModelError(f"`{config}` and `{tokenizer}` do not belong together")
    return Body(filled(model, renamed(tensors), where), spelled, rewards)


def renamed(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return tensors by the names of today; what has no such name keeps its own."""
    found = {}
    for name, tensor in tensors.items():
        if name == UNUSED:
            continue
        old, new = next((pair for pair in NAMES if name.startswith(pair[0])), ("", ""))
        found[new + name.removeprefix(old)] = tensor
    return found


def judged_batches(
    count: int, prepare: Callable[[int], T], batch_size: int
) -> Iterator[tuple[list[int], list[T]]]:
    """Yield batches of what was prepared, with its places; what cannot be judged is left out."""
    places: list[int] = []
    ready: list[T] = []
    for place in range(count):
        try:
            ready.append(prepare(place))
        except DataError:
            continue
        places.append(place)
        if len(ready) == batch_size:
            yield places, ready
            places, ready = [], []
    if ready:
        yield places, ready
