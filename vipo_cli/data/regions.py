"""Region maps: how much each place of a picture counts, brought to the grid of its latents."""

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vipo_cli.errors import DataError
from vipo_cli.media import Media, decode, media_bytes

NUMPY = b"\x93NUMPY"
"""How the bytes of a stored array begin."""

Weights = NDArray[np.float32]

RegionMap = Media | Weights
"""A grey picture of which white counts fully and black not at all, or an array (h, w) from 0.

It covers its picture whole, in any resolution.
"""


def read_region(region: RegionMap) -> Weights:
    """Return the weights of a map, (h, w).

    Raises:
        DataError: no picture, or an array that cannot be weights.
    """
    if isinstance(region, bytes | Path):
        if (data := media_bytes(region)).startswith(NUMPY):
            try:
                return read_region(np.load(io.BytesIO(data), allow_pickle=False))
            except (ValueError, EOFError, OSError) as error:
                raise DataError(f"broken region map: {error}") from error
        grey = decode(data).convert("L")
        return np.asarray(grey, np.float32) / np.float32(255)
    weights = np.asarray(region, np.float32)
    if weights.ndim != 2 or not weights.size:
        raise DataError(f"an array of shape {weights.shape} is no region map: (h, w) is needed")
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise DataError("a region map has weights that are negative or not finite")
    return weights


def on_grid(
    weights: Weights,
    picture: tuple[int, int],
    crop: tuple[int, int],
    grid: tuple[int, int],
) -> Weights:
    """Average a map over the cells of a grid laid over what is left of its picture.

    A map without any weight there becomes one that counts everywhere alike: nothing could be learnt
    from it otherwise.

    Args:
        weights: the map, (h, w).
        picture: width and height of the picture that it belongs to.
        crop: width and height to which the picture is scaled and cropped, as `read_framed` does.
        grid: rows and columns.
    """
    scale = max(crop[0] / picture[0], crop[1] / picture[1])
    height, width = weights.shape
    across = min(1.0, crop[0] / scale / picture[0]) * width
    down = min(1.0, crop[1] / scale / picture[1]) * height
    left, top = (width - across) / 2, (height - down) / 2
    box = (left, top, min(left + across, width), min(top + down, height))
    rows, columns = grid
    averaged = Image.fromarray(weights).resize((columns, rows), Image.Resampling.BOX, box)
    cells = np.maximum(np.asarray(averaged, np.float32), 0)
    return cells if cells.any() else np.ones(grid, np.float32)
