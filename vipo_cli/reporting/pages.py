"""What the HTML pages share: their templates, and pictures that stand in the page itself."""

import base64
import io
from pathlib import Path

import jinja2
from PIL import Image

from vipo_cli.clips import is_clip, probe, read_frames
from vipo_cli.media import decode

TEMPLATES = Path(__file__).parent / "templates"
LARGEST = 320
"""Longer side in pixels of a picture in a page: full size would be hundreds of megabytes."""
MOST_FRAMES = 24
"""Of a clip in a page: of longer ones every second frame is left out, or more."""


def page_template(name: str) -> jinja2.Template:
    """Load a template; what it shows is escaped, and what it lacks is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(name)


def medium_uri(data: bytes) -> str:
    """Return a picture or clip as a page holds it; a clip moves.

    Raises:
        DataError: it cannot be decoded.
        VipoError: a clip needs PyAV, which is not installed.
    """
    if not is_clip(data):
        return data_uri(decode(data))
    found = probe(data)
    step = -(-found.frames // MOST_FRAMES)
    frames = [frame for number, frame in enumerate(read_frames(data)) if number % step == 0]
    lossless = max(frames[0].size) <= LARGEST
    for frame in frames:
        frame.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    frames[0].save(
        buffer,
        format="webp",
        save_all=True,
        append_images=frames[1:],
        duration=round(1000 * step / (found.frames_per_second or 8)),
        loop=0,
        lossless=lossless,
        quality=70,
    )
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def data_uri(picture: Image.Image, lossless: int = LARGEST) -> str:
    """Return a picture as a page holds it; it is made as small as it is shown.

    Args:
        picture: changed in place.
        lossless: longer side up to which nothing is lost.
    """
    buffer = io.BytesIO()
    kind = "jpeg" if max(picture.size) > lossless else "png"
    picture.thumbnail((LARGEST, LARGEST))
    picture.save(buffer, format=kind, quality=88)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
