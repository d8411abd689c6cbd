"""Rewards that are a cosine between the embeddings of picture and prompt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vipo_cli.rewards.pixels import Pixels, Prepare, batches

Encode = Callable[[Sequence[str]], list[list[int]]]
"""Prompts to token ids, start and end included."""


@dataclass(frozen=True, slots=True)
class CosineReward:
    """A scaled cosine between embeddings of a picture and its prompt.

    Attributes:
        model: a CLIP model of transformers.
        encode: makes token ids of prompts.
        prepare: makes pixels of a picture.
        scale: what cosines are multiplied by.
        floor: what a score is raised to if it is lower.
        prefix: what every prompt is preceded by.
        batch_size: pictures, or prompts, embedded at once.
    """

    name: str
    dimension: str
    fingerprint: str
    model: Any
    encode: Encode
    prepare: Prepare
    scale: float = 1.0
    floor: float = -np.inf
    prefix: str = ""
    batch_size: int = 32

    def score(self, media: Sequence[bytes], prompts: Sequence[str]) -> NDArray[np.float64]:
        """Score each picture for its prompt; NaN for one that cannot be decoded.

        A prompt is embedded once, however many pictures are scored for it.
        """
        scores = np.full(len(media), np.nan)
        rows = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        texts: Any = None
        for places, pixels in batches(media, self.prepare, self.batch_size):
            if texts is None:
                texts = self._texts([self.prefix + prompt for prompt in rows])
            pictures = embed_pictures(self.model, pixels)
            paired = texts[[rows[prompts[place]] for place in places]]
            scores[places] = (pictures.double() * paired.double()).sum(1).cpu().numpy()
        return np.maximum(scores * self.scale, self.floor)

    def _texts(self, prompts: Sequence[str]) -> Any:
        import torch

        encoded = self.encode(prompts)
        parts = [
            embed_prompts(self.model, encoded[start : start + self.batch_size])
            for start in range(0, len(encoded), self.batch_size)
        ]
        return torch.cat(parts)


def embed_pictures(model: Any, pixels: Pixels) -> Any:
    """Return the embeddings of prepared pictures in a CLIP model, of length one and in float32."""
    import torch
    from torch.nn.functional import normalize

    batch = torch.from_numpy(pixels).to(model.device, model.dtype)
    with torch.inference_mode():
        return normalize(model.get_image_features(pixel_values=batch).pooler_output.float())


def embed_prompts(model: Any, encoded: Sequence[Sequence[int]]) -> Any:
    """Return the embeddings of token ids in a CLIP model, of length one and in float32.

    CLIP looks back only and takes its result from the first end, so what is behind counts nothing.
    """
    import torch
    from torch.nn.functional import normalize

    width = max(map(len, encoded))
    ids = [[*row, *[row[-1]] * (width - len(row))] for row in encoded]
    batch = torch.tensor(ids, device=model.device)
    with torch.inference_mode():
        return normalize(model.get_text_features(input_ids=batch).pooler_output.float())
