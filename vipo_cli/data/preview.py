"""Records to look at: their media and prompts side by side on one sheet."""

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from vipo_cli.data.record import LabelledSample, PreferencePair, Record
from vipo_cli.errors import DataError
from vipo_cli.media import Media, contact_sheet, media_bytes, stills

SIDE = 192
CHARACTERS = 34


def preview(records: Sequence[Record]) -> Image.Image:
    """Draw a row for each record: its media, the best on the left, then its prompt.

    A clip is shown by its first, middle and last frame.

    Raises:
        DataError: there are no records.
    """
    if not len(records):
        raise DataError("the data set has no pairs")
    return contact_sheet([_row(records[index]) for index in range(len(records))])


def _row(record: Record) -> list[Image.Image]:
    cells = [cell for medium in record.media for cell in _shown(medium)]
    prompt = record.prompt
    if isinstance(record, PreferencePair) and record.loser is None:
        cells.append(_caption("(no loser)"))
    if isinstance(record, LabelledSample):
        prompt = f"{record.roles[0]}: {prompt}"
    return [*cells, _caption(prompt)]


def _shown(media: Media) -> list[Image.Image]:
    """Return a picture, or three frames of a clip; a medium that is broken is said to be."""
    try:
        return [_cell(picture) for picture in stills(media_bytes(media))]
    except DataError as error:
        return [_caption(error.message)]


def _cell(picture: Image.Image) -> Image.Image:
    """Scale a picture to the height of a row."""
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
