"""Which size a record's media are brought to: one of several of about the same area, or one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vipo_cli.errors import DataError, RecipeError
from vipo_cli.media import Probe, Size
from vipo_cli.models.family import Family
from vipo_cli.recipe.sections import Data

STEPS = 16
"""A bucket's sides are multiples of about this share of the side of a square of its area."""
WIDEST = 2.0
"""Largest ratio of a bucket's sides; what is longer is cropped."""


@dataclass(frozen=True, slots=True)
class Buckets:
    """The sizes that a family's media are brought to.

    Attributes:
        sizes: the sizes, of about the same area; the first is what the model was made for.
        multiple: what every side is a multiple of, and has to be at least.
        stride: of frames; clips have a multiple of it, and one more. 0: pictures.
    """

    sizes: tuple[Size, ...]
    multiple: int
    stride: int

    def fitting(self, media: Sequence[Probe]) -> Size:
        """Return the size for all media of a record.

        Raises:
            DataError: one is too small or too short for the model, or a clip where it makes
                pictures.
        """
        for found in media:
            if min(found.width, found.height) < self.multiple:
                raise DataError(
                    f"{found.width} x {found.height} pixels are too small: the model takes "
                    f"{self.multiple} x {self.multiple} at least"
                )
        ratio = sum(math.log(found.width / found.height) for found in media) / len(media)
        best = min(self.sizes, key=lambda size: abs(math.log(size.width / size.height) - ratio))
        if not self.stride:
            if any(found.frames > 1 for found in media):
                raise DataError("a clip, where a picture is needed")
            return best
        shortest = min(found.frames for found in media)
        if shortest <= self.stride and best.frames > 1:
            raise DataError(
                f"{shortest} frames are too few: the model takes {self.stride + 1} at least"
            )
        frames = min(best.frames, shortest)
        return replace(best, frames=frames - (frames - 1) % self.stride)


def buckets_of(family: Family, data: Data) -> Buckets:
    """Return the sizes that a recipe asks for.

    Raises:
        RecipeError: a size or a number of frames that the model cannot take.
    """
    width, height = data.size or (family.size.width, family.size.height)
    frames = data.frames or family.size.frames
    if width % family.multiple or height % family.multiple:
        raise RecipeError(
            f"data.size: the model takes multiples of {family.multiple} pixels, "
            f"got `{width}` x `{height}`"
        )
    stride = family.frame_stride
    if not stride and frames > 1:
        raise RecipeError(f"data.frames: the model makes pictures, got `{frames}` frames")
    if stride and (frames - 1) % stride:
        raise RecipeError(
            f"data.frames: the model takes a multiple of {stride} and one more, got `{frames}`"
        )
    native = Size(width, height, frames)
    sizes = aspect_sizes(native, family.multiple) if data.buckets else (native,)
    return Buckets(sizes, family.multiple, stride)


def aspect_sizes(native: Size, multiple: int) -> tuple[Size, ...]:
    """Return sizes of at most the native area, for each width the highest that fits.

    The native size is the first.
    """
    area = native.width * native.height
    step = multiple * math.ceil(math.sqrt(area) / STEPS / multiple)
    sizes = [native]
    width = step
    while width <= math.sqrt(area * WIDEST):
        height = area // width // step * step
        ratio = width / height
        if 1 / WIDEST <= ratio <= WIDEST and ratio != native.width / native.height:
            sizes.append(replace(native, width=width, height=height))
        width += step
    return tuple(sizes)
