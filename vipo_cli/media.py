"""Pictures and clips in and out: bytes or files to arrays, content hashes, contact sheets."""

import hashlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from vipo_cli.clips import PILLOW_ERRORS, orientation, read_frames
from vipo_cli.clips import Pixels as Pixels
from vipo_cli.clips import Probe as Probe
from vipo_cli.clips import encode_clip as encode_clip
from vipo_cli.clips import is_clip as is_clip
from vipo_cli.clips import probe as probe
from vipo_cli.errors import DataError

Media = bytes | Path

PREPROCESSING = "pil-rgb-exif-bicubic-centre-crop-2"
"""Name of what `read_framed` does to a picture or clip; part of every cache key."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings a picture of each EXIF orientation upright."""


@dataclass(frozen=True, slots=True)
class Size:
    """Width and height in pixels, and how many frames; a picture has one."""

    width: int
    height: int
    frames: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of pixels of this size, without batch and colour: (*frames, h, w)."""
        frames = (self.frames,) if self.frames > 1 else ()
        return (*frames, self.height, self.width)


@dataclass(frozen=True, slots=True)
class Framing:
    """How a picture or clip came to its size.

    Attributes:
        original: width and height of the file.
        crop: left and top of what was kept, in pixels after scaling.
        size: what it was brought to.
    """

    original: tuple[int, int]
    crop: tuple[int, int]
    size: Size


def media_bytes(media: Media) -> bytes:
    """Return the encoded bytes of a picture or clip."""
    if isinstance(media, bytes):
        return media
    try:
        if not media.is_file() and media.exists():  # a device may never end
            raise DataError(f"cannot read `{media}`: it is no file")
        return media.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read `{media}`: {error.strerror}") from error
    except ValueError as error:  # a NUL, or half of a surrogate pair, in its name
        raise DataError(f"cannot read `{media!s:.200}`: {error}") from error


def content_hash(data: bytes) -> str:
    """Return the name of some bytes by content: 128 bits of SHA-256, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()[:32]


def decode(data: bytes) -> Image.Image:
    """Decode a picture completely to RGB, turned upright as its EXIF says.

    Raises:
        DataError: the bytes are no picture, are cut short, or unpack to an unreasonable size.
    """
    if is_clip(data):
        raise DataError("a clip, where a picture is needed")
    try:
        # whatever can be decoded is good enough
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as picture:
            upright = picture.convert("RGB")
            turn = _TURNS.get(orientation(picture))
            return upright if turn is None else upright.transpose(turn)
    except UnidentifiedImageError as error:
        raise DataError("not a picture") from error
    except PILLOW_ERRORS as error:
        raise DataError(f"broken picture: {error}") from error


def verify(data: bytes) -> Probe:
    """Decode a picture or every frame of a clip, and return what was found.

    Raises:
        DataError: there is something that cannot be decoded.
    """
    if not is_clip(data):
        picture = decode(data)
        return Probe(*picture.size, 1, 0.0)
    found = probe(data)
    frames = sum(1 for _ in read_frames(data))
    return Probe(found.width, found.height, frames, found.frames_per_second)


def read_framed(data: bytes, size: Size) -> tuple[Pixels, Framing]:
    """Decode, scale (bicubic) to cover a size, and crop the centre; `size.shape` with colour last.

    Of a clip the first `size.frames` frames are taken, at whatever rate they are.

    Raises:
        DataError: broken media, too few frames, or a picture where a clip is needed.
    """
    if size.frames == 1:
        return _frame(next(read_frames(data)) if is_clip(data) else decode(data), size)
    if not is_clip(data):
        decode(data)  # complains about what is no picture
        raise DataError(f"a picture, where a clip of {size.frames} frames is needed")
    framed = [_frame(picture, size) for picture in islice(read_frames(data), size.frames)]
    if len(framed) < size.frames:
        raise DataError(f"a clip of {len(framed)} frames, where {size.frames} are needed")
    return np.stack([pixels for pixels, _ in framed]), framed[0][1]


def _frame(picture: Image.Image, size: Size) -> tuple[Pixels, Framing]:
    original = picture.size
    crop = (0, 0)
    if original != (size.width, size.height):
        scale = max(size.width / picture.width, size.height / picture.height)
        scaled = (
            max(size.width, round(picture.width * scale)),
            max(size.height, round(picture.height * scale)),
        )
        crop = left, top = (scaled[0] - size.width) // 2, (scaled[1] - size.height) // 2
        picture = picture.resize(scaled, Image.Resampling.BICUBIC)
        picture = picture.crop((left, top, left + size.width, top + size.height))
    return np.asarray(picture, dtype=np.uint8), Framing(original, crop, size)


def encode_png(pixels: Pixels) -> bytes:
    """Encode (height, width, 3) uint8 as PNG; the same pixels always give the same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def stills(data: bytes) -> list[Image.Image]:
    """Return what shows a picture or clip on paper: itself, or its first, middle and last frame.

    Raises:
        DataError: it cannot be decoded.
    """
    if not is_clip(data):
        return [decode(data)]
    middle = (probe(data).frames - 1) // 2
    shown: dict[int, Image.Image] = {}
    for number, frame in enumerate(read_frames(data)):
        shown = {kept: shown[kept] for kept in shown if kept in (0, middle)} | {number: frame}
    return list(shown.values())


def enlarge(picture: Image.Image, at_least: int = 128) -> Image.Image:
    """Scale a small picture up smoothly so that people can see it; large ones stay as they are."""
    factor = -(-at_least // min(picture.size))
    if factor <= 1:
        return picture
    size = (picture.width * factor, picture.height * factor)
    return picture.resize(size, Image.Resampling.BICUBIC)


def contact_sheet(rows: Sequence[Sequence[Image.Image]], gap: int = 4) -> Image.Image:
    """Lay pictures out in rows on white, enlarging small ones."""
    cells = [[enlarge(picture) for picture in row] for row in rows]
    width = max(sum(cell.width + gap for cell in row) for row in cells) + gap
    height = sum(max(cell.height for cell in row) + gap for row in cells) + gap
    sheet = Image.new("RGB", (width, height), "white")
    top = gap
    for row in cells:
        left = gap
        for cell in row:
            sheet.paste(cell, (left, top))
            left += cell.width + gap
        top += max(cell.height for cell in row) + gap
    return sheet
