"""PickScore and CLIP: how near a picture is to its prompt in a space that both are embedded in."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from vipo_cli.errors import DataError, MissingWeights, ModelError
from vipo_cli.media import decode
from vipo_cli.run import fingerprint, folder_fingerprint

Floats = NDArray[np.float32]
Folder = Annotated[
    str | None, Field(description="Folder with the model and its tokenizer; none: the hub's cache.")
]
Batch = Annotated[int, Field(ge=1, description="Pictures embedded at once.")]
Device = Annotated[str, Field(description="Where to run; auto: a GPU if there is one.")]

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
SPREAD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def pickscore(*, path: Folder = None, batch_size: Batch = 32, device: Device = "auto") -> Any:
    """PickScore (arXiv 2305.01569): human choice between pictures, exp(scale) * cosine, about 15 to 25."""
    source = "yuvalkirstain/PickScore_v1", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    model, tokenizer = _folders(path, source, "3.9 GB")
    return load("pickscore", "overall", model, tokenizer, batch_size, device)


def clip(*, path: Folder = None, batch_size: Batch = 32, device: Device = "auto") -> Any:
    """CLIP ViT-L/14 (arXiv 2103.00020): the cosine of picture and prompt, about 0.1 to 0.35."""
    source = "openai/clip-vit-large-patch14", "openai/clip-vit-large-patch14"
    model, tokenizer = _folders(path, source, "1.7 GB")
    return load("clip", "alignment", model, tokenizer, batch_size, device)
