"""Aesthetic predictors: how pleasing a picture is by itself, from CLIP's view of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vipo_cli.rewards import Reward
from vipo_cli.rewards.clip import WEIGHTS, OpenaiClip, openai_clip
from vipo_cli.rewards.cosine import embed_pictures
from vipo_cli.rewards.imagereward import linear_head
from vipo_cli.rewards.options import Device, Dtype, FittingBatch, Place, filled, fitting
from vipo_cli.rewards.pixels import batches
from vipo_cli.run import fingerprint
from vipo_cli.weights import SOURCES, content, find_all, is_here, read_tensors


def aesthetic(
    *,
    path: Place = None,
    batch_size: FittingBatch = None,
    device: Device = "auto",
    dtype: Dtype = "fp32",
) -> Reward:
    """Aesthetic score, improved predictor `sac+logos+ava1-l14-linearMSE`; mostly 4 to 7."""
    return _aesthetic("aesthetic", path, batch_size, device, dtype)


def aesthetic_linear(
    *,
    path: Place = None,
    batch_size: FittingBatch = None,
    device: Device = "auto",
    dtype: Dtype = "fp32",
) -> Reward:
    """Aesthetic score, LAION's linear predictor `sa_0_4_vit_l_14_linear`; mostly 4 to 7."""
    return _aesthetic("aesthetic-linear", path, batch_size, device, dtype)


@dataclass(frozen=True, slots=True)
class AestheticReward:
    """What a linear head makes of a picture's embedding; the prompt counts nothing."""

    name: str
    dimension: str
    fingerprint: str
    clip: OpenaiClip
    head: Any
    batch_size: int

    def score(
        self,
        media: Sequence[bytes],
        prompts: Sequence[str],  # noqa: ARG002
    ) -> NDArray[np.float64]:
        """Score each picture; NaN for one that cannot be decoded."""
        import torch

        scores = np.full(len(media), np.nan)
        for places, pixels in batches(media, self.clip.prepare, self.batch_size):
            with torch.inference_mode():
                found = self.head(embed_pictures(self.clip.model, pixels))[:, 0]
            scores[places] = found.double().cpu().numpy()
        return scores


def _aesthetic(
    name: str, path: str | None, batch_size: int | None, device: str, dtype: str
) -> Reward:
    files, *_ = find_all((name, "clip-l", "clip-l-tokenizer"), path)
    checkpoint = next(iter(files.values()))
    folder = path if path is not None and is_here(SOURCES["clip-l"], path) else None
    found = openai_clip("clip-l", folder, device, dtype)
    head = head_of(read_tensors(checkpoint), str(checkpoint)).to(found.model.device)
    identity = fingerprint(
        {
            "reward": name,
            "weights": [content(checkpoint), content(found.files[WEIGHTS])],
            "preprocessing": "pil-clip_crop-1",
            "dtype": dtype,
        }
    )
    count = fitting(batch_size, found.model.device)
    return AestheticReward(name, "aesthetic", identity, found, head, count)


def head_of(tensors: Mapping[str, Any], where: str) -> Any:
    """Build a head: one linear layer, or the several of a checkpoint that keeps them in `layers`.

    Raises:
        ModelError: a tensor is missing, left over, or of another shape.
    """
    import torch

    layers = {
        name.removeprefix("layers.") if name.startswith("layers.") else f"0.{name}": tensor
        for name, tensor in tensors.items()
    }
    with torch.device("meta"):
        head = linear_head(layers, where)
    return filled(head, layers, where).float()
