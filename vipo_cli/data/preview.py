"""Pairs to look at: winner, loser and prompt side by side on one sheet."""

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from vipo_cli.data.pair import PreferencePair
from vipo_cli.errors import DataError
from vipo_cli.media import Media, contact_sheet, decode, media_bytes

SIDE = 192
CHARACTERS = 34


def preview(pairs: Sequence[PreferencePair]) -> Image.Image:
    """Draw a row for each pair: winner on the left, then loser, then prompt.

    Raises:
        DataError: there are no pairs.
    """
    if not len(pairs):
        raise DataError("the data set has no pairs")
    return contact_sheet([_row(pairs[index]) for index in range(len(pairs))])


def _row(pair: PreferencePair) -> list[Image.Image]:
    loser = _caption("(no loser)") if pair.loser is None else _picture(pair.loser)
    return [_picture(pair.winner), loser, _caption(pair.prompt)]


def _picture(media: Media) -> Image.Image:
    """Scale a picture to the height of a row; one that is broken is said to be."""
    try:
        picture = decode(media_bytes(media))
    except DataError as error:
        return _caption(error.message)
    scale = SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    cell = Image.new("RGB", (SIDE, SIDE), "white")
    cell.paste(picture.resize(size, Image.Resampling.BICUBIC), (0, 0))
    return cell


def _caption(text: str) -> Image.Image:
    font = ImageFont.load_default(size=15)
    cell = Image.new("RGB", (CHARACTERS * 9, SIDE), "white")
    lines = textwrap.wrap(text, CHARACTERS, max_lines=SIDE // 20, placeholder=" ...")
    ImageDraw.Draw(cell).multiline_text((8, 4), "\n".join(lines), fill="black", font=font)
    return cell
