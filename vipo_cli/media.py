"""Pictures in and out: bytes or files to arrays, content hashes, contact sheets."""

import hashlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from vipo_cli.errors import DataError

Media = bytes | Path
Pixels = NDArray[np.uint8]

PREPROCESSING = "pil-rgb-bicubic-centre-crop-1"
"""Name of what `read_image` does to a picture; part of every cache key."""


def media_bytes(media: Media) -> bytes:
    """Return the encoded bytes of a picture."""
    if isinstance(media, bytes):
        return media
    try:
        return media.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read `{media}`: {error.strerror}") from error


def content_hash(data: bytes) -> str:
    """Return the name of some bytes by content: 128 bits of SHA-256, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()[:32]


def decode(data: bytes) -> Image.Image:
    """Decode a picture completely to RGB.

    Raises:
        DataError: the bytes are no picture, are cut short, or unpack to an unreasonable size.
    """
    try:
        # whatever can be decoded is good enough
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as picture:
            return picture.convert("RGB")
    except UnidentifiedImageError as error:
        raise DataError("not a picture") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"broken picture: {error}") from error


def read_image(data: bytes, width: int, height: int) -> Pixels:
    """Decode, scale (bicubic) to cover width x height, crop the centre; (height, width, 3)."""
    picture = decode(data)
    if picture.size != (width, height):
        scale = max(width / picture.width, height / picture.height)
        size = (
            max(width, round(picture.width * scale)),
            max(height, round(picture.height * scale)),
        )
        picture = picture.resize(size, Image.Resampling.BICUBIC)
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        picture = picture.crop((left, top, left + width, top + height))
    return np.asarray(picture, dtype=np.uint8)


def encode_png(pixels: Pixels) -> bytes:
    """Encode (height, width, 3) uint8 as PNG; the same pixels always give the same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


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
