"""HPSv3: a vision-language model that reads how much people like a picture off one added word."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vipo_cli.media import decode
from vipo_cli.rewards import Reward
from vipo_cli.rewards.options import Batch, Device, Dtype, Place, filled, torch_device, torch_dtype
from vipo_cli.rewards.vlm_pixels import FACTOR, see_picture
from vipo_cli.rewards.vlm_qwen2 import PICTURE, Body, judged_batches, load_body
from vipo_cli.rewards.vlm_words import published_text
from vipo_cli.run import fingerprint
from vipo_cli.weights import content, find_all, read_tensors

PIXELS = 256 * FACTOR**2
"""Of every picture, as nearly as multiples of 28 allow."""
WORD = "<|Reward|>"
HEAD = "rm_head."
WIDTHS = (1024, 16, 2)
"""Of the layers of the head; the last gives the mean and the spread of what people would say."""

CODE = "hpsv3/dataset/data_collator_qwen.py"
TEXTS = ("INSTRUCTION", "prompt_with_special_token")
SHA256 = "f6ee57479d4e9eee76b49c00dc962e1e696a5a2b3cc32cebd9b1fa76fe27502c"


def hpsv3(
    *, path: Place = None, batch_size: Batch = 4, device: Device = "auto", dtype: Dtype = "bf16"
) -> Reward:
    """HPSv3 (arXiv 2508.03789): what people prefer, the mean of a distribution; mostly -5 to 15.

    Made for a GPU: 7 billion parameters. Checked with random weights against its own code on
    transformers 4.45.2; the published checkpoint was not at hand.
    """
    files, base, code = find_all(("hpsv3", "qwen2-vl-7b", "hpsv3-code"), path)
    (checkpoint,) = files.values()
    (wheel,) = code.values()
    instructions = published_text(wheel, TEXTS, SHA256, CODE)
    place, precision = torch_device(device), torch_dtype(dtype)
    where = str(checkpoint)
    tensors, head = split(read_tensors(checkpoint))
    body = load_body(base["config.json"], base["tokenizer.json"], (WORD,), tensors, where)
    judge = build_head(head, body.model.config.text_config.hidden_size, where)
    body.model.to(place, precision)
    identity = fingerprint(
        {
            "reward": "hpsv3",
            "weights": content(checkpoint),
            "words": SHA256,
            "preprocessing": "pil-qwen2vl-200704-1",
            "dtype": dtype,
        }
    )
    return Hpsv3Reward(
        "hpsv3", "overall", identity, body, judge.to(place).float(), instructions, batch_size
    )


@dataclass(frozen=True, slots=True)
class Hpsv3Reward:
    """The mean that a head makes of the reward word behind a picture and its prompt.

    Attributes:
        body: the vision-language model.
        head: what makes mean and spread of a word; in float32, as in the official code.
        instructions: what the model is told, with `{text_prompt}` for the prompt.
        batch_size: pictures judged at once.
    """

    name: str
    dimension: str
    fingerprint: str
    body: Body
    head: Any
    instructions: str
    batch_size: int

    def score(self, media: Sequence[bytes], prompts: Sequence[str]) -> NDArray[np.float64]:
        """Score each picture for its prompt; NaN for one that cannot be judged."""
        return self.distributions(media, prompts)[:, 0]

    def distributions(self, media: Sequence[bytes], prompts: Sequence[str]) -> NDArray[np.float64]:
        """Return mean and spread for each picture with its prompt, as the head gives them.

        The spread is not the one of a distribution yet: its authors make it so by exp.
        """

        def prepare(place: int) -> Any:
            prompt = prompts[place]
            seen = see_picture(decode(media[place]), PIXELS, PIXELS)
            text = self.instructions.replace("{text_prompt}", prompt)
            return self.body.encode(text, seen, PICTURE, prompt), seen

        found = np.full((len(media), 2), np.nan)
        for places, batch in judged_batches(len(media), prepare, self.batch_size):
            rows, seen = zip(*batch, strict=True)
            words = self.body.read(rows, seen, PICTURE)[:, 0]
            found[places] = self.head(words.float()).double().cpu().numpy()
        return found


def split(tensors: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tensors of the model and of its reward head, the latter without their prefix."""
    head = {
        name.removeprefix(HEAD): tensor for name, tensor in tensors.items() if name.startswith(HEAD)
    }
    return {name: each for name, each in tensors.items() if not name.startswith(HEAD)}, head


def build_head(tensors: Mapping[str, Any], width: int, where: str) -> Any:
    """Build HPSv3's head of its tensors.

    Raises:
        ModelError: a tensor is missing, left over, or of another shape.
    """
    import torch
    from torch import nn

    first, second, last = WIDTHS
    with torch.device("meta"):
        head = nn.Sequential(
            nn.Linear(width, first),
            nn.ReLU(),
            nn.Dropout(0.05),
            nn.Linear(first, second),
            nn.ReLU(),
            nn.Linear(second, last),
        )
    return filled(head, tensors, where)
