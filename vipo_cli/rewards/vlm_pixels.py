"""Pictures and clips as Qwen2-VL wants them: sizes, frames, and pixels cut into patches.

Two ways of scaling are in use: pictures go through Pillow, clips through torch. Both are bicubic,
and up to a few 255ths apart in single pixels. Nothing here needs torchvision; what it and the
processors of transformers 4.45.2 make of the same pixels is in `tests/rewards/golden/vlm.json`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vipo_cli.clips import read_frames
from vipo_cli.errors import DataError
from vipo_cli.media import is_clip, probe
from vipo_cli.rewards.pixels import MEAN, SPREAD

PATCH = 14
MERGE = 2
"""Patches a side that the model makes one token of."""
TOGETHER = 2
"""Frames that one patch spans."""
FACTOR = PATCH * MERGE
"""What widths and heights are multiples of."""
LONGEST = 200
"""Most that a side may be longer than the other."""
FEWEST_FRAMES = 4
"""Of a clip that has as many."""
MOST_FRAMES = 768

Patches = NDArray[np.float32]
"""One row a patch: colour, then frame, then row, then column."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A picture or clip cut into patches.

    Attributes:
        patches: all of them, those of one token together.
        grid: patches in time, height and width.
    """

    patches: Patches
    grid: tuple[int, int, int]

    @property
    def tokens(self) -> int:
        """Return how many tokens the model makes of it."""
        return math.prod(self.grid) // MERGE**2


def fitting_size(height: int, width: int, least: int, most: int) -> tuple[int, int]:
    """Return the height and width that a picture is scaled to: multiples of 28, the shape kept.

    Where `least` is `most` no size may have just so many pixels; small ones then come out above it,
    and large ones below.

    Args:
        height: of the picture.
        width: likewise.
        least: fewest pixels.
        most: most pixels.

    Raises:
        DataError: one side is over 200 times as long as the other.
    """
    if max(height, width) > LONGEST * min(height, width):
        raise DataError(f"one side is over {LONGEST} times as long as the other")
    found = [max(FACTOR, round(side / FACTOR) * FACTOR) for side in (height, width)]
    pixels = found[0] * found[1]
    if pixels > most:
        scale = math.sqrt(height * width / most)
        found = [math.floor(side / scale / FACTOR) * FACTOR for side in (height, width)]
    elif pixels < least:
        scale = math.sqrt(least / (height * width))
        found = [math.ceil(side * scale / FACTOR) * FACTOR for side in (height, width)]
    if 0 in found:
        raise DataError("too narrow to be scaled")
    return found[0], found[1]


def see_picture(picture: Image.Image, least: int, most: int) -> Seen:
    """Scale a picture with Pillow, and cut it into patches; time is filled by showing it twice."""
    height, width = fitting_size(picture.height, picture.width, least, most)
    scaled = picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    return cut(np.repeat(np.asarray(scaled)[None], TOGETHER, 0))


def see_clip(frames: Sequence[Image.Image], least: int, most: int) -> Seen:
    """Scale an even number of frames of one size with torch, and cut them into patches."""
    height, width = fitting_size(frames[0].height, frames[0].width, least, most)
    return cut(np.concatenate([scale_frame(frame, height, width) for frame in frames]))


def scale_frame(frame: Image.Image, height: int, width: int) -> NDArray[np.uint8]:
    """Scale a frame as torchvision scales tensors of whole numbers: (1, h, w, 3)."""
    import torch
    from torch.nn.functional import interpolate

    colours = np.asarray(frame.convert("RGB"))
    if colours.shape[:2] == (height, width):
        return colours[None]
    pixels = torch.from_numpy(np.ascontiguousarray(colours.transpose(2, 0, 1)))[None].float()
    scaled = interpolate(
        pixels, (height, width), mode="bicubic", align_corners=False, antialias=True
    )
    whole = scaled.clamp_(0, 255).round_().to(torch.uint8)
    found: NDArray[np.uint8] = whole.permute(0, 2, 3, 1).numpy()
    return found


def cut(frames: NDArray[np.uint8]) -> Seen:
    """Cut (t, h, w, 3) into patches, t being even and both sides multiples of 28."""
    count, height, width, _ = frames.shape
    grid = count // TOGETHER, height // PATCH, width // PATCH
    pixels = (frames * (1 / 255)).astype(np.float32)  # in float64 first, as the processors do
    pixels = (pixels - MEAN) / SPREAD
    parts = pixels.reshape(
        grid[0], TOGETHER, grid[1] // MERGE, MERGE, PATCH, grid[2] // MERGE, MERGE, PATCH, 3
    )
    rows = parts.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(math.prod(grid), -1)
    return Seen(np.ascontiguousarray(rows, np.float32), grid)


def frame_places(count: int, rate: float, wanted: float) -> list[int]:
    """Return which of a clip's frames are looked at: an even number, evenly spaced, first and last.

    Args:
        count: frames that it has.
        rate: its frames per second.
        wanted: frames per second that are looked at.

    Raises:
        DataError: it has fewer than two frames, or does not say its rate.
    """
    most = min(MOST_FRAMES, count) // TOGETHER * TOGETHER
    if most < TOGETHER:
        raise DataError(f"a clip of {count} frames, where {TOGETHER} are needed")
    if rate <= 0:
        raise DataError("a clip that does not say how many frames a second it has")
    number = min(max(count / rate * wanted, FEWEST_FRAMES), most)
    number = round(number / TOGETHER) * TOGETHER
    return _spread(count, number)


def _spread(count: int, number: int) -> list[int]:
    """Return `number` places from the first to the last, as torch spreads and rounds them."""
    import torch

    found: list[int] = torch.linspace(0, count - 1, number).round().long().tolist()
    return found


def sampled_frames(data: bytes, wanted: float) -> list[Image.Image]:
    """Return the frames of a clip that are looked at.

    Raises:
        DataError: it is broken, a picture, too short, or without a rate.
        VipoError: it needs PyAV, which is not installed.
    """
    if not is_clip(data):
        raise DataError("a picture, where a clip is needed")
    found = probe(data)
    places = frame_places(found.frames, found.frames_per_second, wanted)
    frames, count = frames_at(data, places)
    if len(set(places)) > len(frames):  # its header promises more frames than there are
        places = frame_places(count, found.frames_per_second, wanted)
        frames, count = frames_at(data, places)
    return [frames[place] for place in places]


def frames_at(data: bytes, places: Sequence[int]) -> tuple[dict[int, Image.Image], int]:
    """Return the frames at some places, and how many there are if one of them is missing."""
    wanted, found, count = set(places), {}, 0
    for number, frame in enumerate(_until(data, max(places))):
        count = number + 1
        if number in wanted:
            found[number] = frame
    return found, count


def _until(data: bytes, last: int) -> Iterator[Image.Image]:
    for number, frame in enumerate(read_frames(data)):
        yield frame
        if number == last:
            return


def stacked(seen: Sequence[Seen], device: Any, dtype: Any) -> tuple[Any, Any]:
    """Return the patches and grids of several pictures or clips as tensors."""
    import torch

    patches = torch.from_numpy(np.concatenate([each.patches for each in seen]))
    return patches.to(device, dtype), torch.tensor([each.grid for each in seen], device=device)
