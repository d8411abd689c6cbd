"""What the HTML pages share: their templates, and pictures that stand in the page itself."""

import base64
import io
from pathlib import Path

import jinja2
from PIL import Image

TEMPLATES = Path(__file__).parent / "templates"
LARGEST = 320
"""Longer side in pixels of a picture in a page: full size would be hundreds of megabytes."""


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
