"""HPSv2 and HPSv2.1: what people prefer, by a CLIP model that was trained on their choices."""

from functools import partial
from typing import Annotated, Literal

from pydantic import Field

from vipo_cli.rewards import Reward, open_clip
from vipo_cli.rewards.cosine import CosineReward
from vipo_cli.rewards.options import (
    Device,
    Dtype,
    FittingBatch,
    Place,
    fitting,
    torch_device,
    torch_dtype,
)
from vipo_cli.rewards.pixels import fitted
from vipo_cli.rewards.words import read_clip_words
from vipo_cli.run import fingerprint
from vipo_cli.weights import content, find_all, read_tensors

Antialias = Annotated[
    Literal["on", "off"],
    Field(description="How pictures are shrunk; off is what torchvision did before 0.17."),
]
SPECIALS = ("<start_of_text>", "<end_of_text>")
"""How HPSv2's copy of open_clip spells the first and the last word."""


def hpsv2_0(
    *,
    antialias: Antialias = "on",
    path: Place = None,
    batch_size: FittingBatch = None,
    device: Device = "auto",
    dtype: Dtype = "fp32",
) -> Reward:
    """HPSv2 (arXiv 2306.09341): what people prefer; a cosine, mostly 0.2 to 0.35."""
    return _hpsv2("hpsv2.0", antialias, path, batch_size, device, dtype)


def hpsv2_1(
    *,
    antialias: Antialias = "on",
    path: Place = None,
    batch_size: FittingBatch = None,
    device: Device = "auto",
    dtype: Dtype = "fp32",
) -> Reward:
    """HPSv2.1 (arXiv 2306.09341): as HPSv2 with better data; not to be compared with it."""
    return _hpsv2("hpsv2.1", antialias, path, batch_size, device, dtype)


def _hpsv2(
    name: str, antialias: str, path: str | None, batch_size: int | None, device: str, dtype: str
) -> Reward:
    files, vocabulary = find_all((name, "clip-h-tokenizer"), path)
    checkpoint = next(iter(files.values()))
    place = torch_device(device)
    model = open_clip.build(read_tensors(checkpoint, "state_dict"), str(checkpoint))
    model = model.to(place, torch_dtype(dtype))
    config = model.config
    identity = fingerprint(
        {
            "reward": name,
            "weights": content(checkpoint),
            "preprocessing": f"torch-fitted-antialias-{antialias}-1",
            "words": "hpsv2-1",
            "dtype": dtype,
        }
    )
    return CosineReward(
        name,
        "overall",
        identity,
        model,
        read_clip_words(
            vocabulary["tokenizer.json"], config.text_config.max_position_embeddings, SPECIALS
        ),
        partial(fitted, side=config.vision_config.image_size, antialias=antialias == "on"),
        batch_size=fitting(batch_size, place),
    )
