"""Pictures as models want them, each the way that its official code prepares them.

The ways differ by up to 255/255 in single pixels, so which one was used is part of a reward's
fingerprint. Nothing here needs torchvision; `tests/rewards/golden` holds what it computes.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vipo_cli.errors import DataError
from vipo_cli.media import decode

Pixels = NDArray[np.float32]
Prepare = Callable[[bytes], Pixels]

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
SPREAD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)

THREADS = 4
"""Pictures decoded at once; decoding and resizing leave the interpreter to others."""


def batches(
    media: Sequence[bytes], prepare: Prepare, batch_size: int
) -> Iterator[tuple[list[int], Pixels]]:
    """Yield batches of prepared pictures with their places; what is no picture is left out.

    While one batch is judged the next is prepared.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        waiting: deque[Future[Pixels | None]] = deque()
        submitted = 0
        places: list[int] = []
        ready: list[Pixels] = []
        for place in range(len(media)):
            while submitted < min(len(media), place + 2 * batch_size):
                waiting.append(pool.submit(_prepared, prepare, media[submitted]))
                submitted += 1
            pixels = waiting.popleft().result()
            if pixels is not None:
                places.append(place)
                ready.append(pixels)
            if len(ready) == batch_size or (ready and place == len(media) - 1):
                yield places, np.stack(ready)
                places, ready = [], []


def _prepared(prepare: Prepare, data: bytes) -> Pixels | None:
    try:
        return prepare(data)
    except DataError:
        return None


def normalised(picture: Image.Image) -> Pixels:
    """Return a picture of 8 bits a colour as CLIP's mean and spread want it, colours first."""
    pixels = np.asarray(picture, np.float32) / np.float32(255)
    return ((pixels - MEAN) / SPREAD).transpose(2, 0, 1)


def pickscore_crop(data: bytes, side: int) -> Image.Image:
    """Prepare a picture as PickScore's processor does: to RGB first, crop rounded down."""
    picture = _shortest_side(decode(data), side)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def clip_crop(data: bytes, side: int) -> Image.Image:
    """Prepare a picture as CLIP's own code does: to RGB last, crop rounded half to even.

    So a palette is not interpolated, and transparent pixels weigh nothing.
    """
    picture = decode(data)  # complains about what is no picture
    with Image.open(BytesIO(data)) as original:
        scaled = _shortest_side(picture if original.mode == "RGB" else original, side)
    left, top = round((scaled.width - side) / 2), round((scaled.height - side) / 2)
    return scaled.crop((left, top, left + side, top + side)).convert("RGB")


def _shortest_side(picture: Image.Image, side: int) -> Image.Image:
    width, height = picture.size
    shortest = min(width, height)
    size = int(side * width / shortest), int(side * height / shortest)
    return picture.resize(size, Image.Resampling.BICUBIC)


def fitted(data: bytes, side: int, antialias: bool = True) -> Pixels:
    """Prepare a picture as HPSv2's code does: the longest side scaled, black around it.

    Colours become numbers before they are scaled, and what bicubic scaling makes of them is neither
    rounded nor clamped. Beyond that code, transparency is dropped instead of failing, a picture
    whose longest side needs no scaling gets its black bars too, and none gets thinner than a pixel.
    """
    import torch
    from torch.nn.functional import interpolate, pad

    colours = np.asarray(decode(data)).transpose(2, 0, 1)
    pixels = torch.from_numpy(np.ascontiguousarray(colours)).float().div_(255)[None]
    height, width = pixels.shape[2:]
    scale = side / max(height, width)
    if scale != 1:
        height, width = (max(1, round(length * scale)) for length in (height, width))
        pixels = interpolate(
            pixels, (height, width), mode="bicubic", align_corners=False, antialias=antialias
        )
    above, left = (side - height) // 2, (side - width) // 2
    around = (left, side - width - left, above, side - height - above)
    squared: Pixels = pad(pixels, around)[0].numpy()
    return (squared - MEAN[:, None, None]) / SPREAD[:, None, None]
