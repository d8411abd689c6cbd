"""Small pictures that differ by a number."""

import io

import numpy as np
from PIL import Image

from vipo_cli.media import encode_png


def picture(number):
    """A PNG of noise, always the same for a number."""
    return encode_png(np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8))


def heat(number):
    """A grey PNG, as heat maps are."""
    buffer = io.BytesIO()
    Image.new("L", (8, 8), number).save(buffer, format="PNG")
    return buffer.getvalue()
