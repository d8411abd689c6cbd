"""A contact sheet: pictures of each kind of prompt with their verdicts, the baseline's above."""

import re
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from vipo_cli.media import contact_sheet, enlarge
from vipo_cli.reporting.read import (
    Found,
    Key,
    read_baseline,
    read_evaluation,
    spread,
    tag_title,
)
from vipo_cli.run import writing

PICTURE = 160
"""Width and height in pixels that a picture is shown at."""
STILLS_GAP = 2
"""Pixels between the frames of a clip."""
STRIP = 48
"""Height of the strip below a picture that holds its prompt."""
LABEL = 132
"""Width of the column that names task and model; cells under 128 pixels would be enlarged."""
PER_TAG = 6
MOST_TAGS = 12
_BREAKS = re.compile(r"(?<=[-/_])")
INK, FAINT = "#1c1c22", "#6b6b76"
RIGHT, WRONG, UNKNOWN = "#1a8f4c", "#d23c3c", "#8a8a94"


def write_sheet(folder: Path) -> Path:
    """Write `samples.png` into an evaluation's folder and return its path."""
    found = read_evaluation(folder)
    baseline = read_baseline(folder)[1]
    rows = []
    for tag in found.tags[:MOST_TAGS]:
        keys = found.of_tag(tag)
        wide = len(found.stills(keys[0])) if keys else 1
        keys = spread(keys, PER_TAG // wide)
        if baseline is not None:
            rows.append([_label(tag, baseline), *(_cell(baseline, key) for key in keys)])
            rows.append([_label("", found), *(_cell(found, key) for key in keys)])
        else:
            rows.append([_label(tag, found), *(_cell(found, key) for key in keys)])
    sheet = contact_sheet(rows or [[_label("no pictures", found)]], gap=8)
    target = folder / "samples.png"
    with writing(target) as temporary:
        sheet.save(temporary, format="PNG", optimize=True)
    return target


def _cell(found: Found, key: Key) -> Image.Image:
    """Draw one medium with a mark for its verdict and its prompt below."""
    pictures = [enlarge(still, PICTURE) for still in found.stills(key)]
    width = len(pictures) * (PICTURE + STILLS_GAP) - STILLS_GAP
    cell = Image.new("RGB", (width, PICTURE + STRIP), "white")
    for place, picture in enumerate(pictures):
        picture.thumbnail((PICTURE, PICTURE))
        left = place * (PICTURE + STILLS_GAP) + (PICTURE - picture.width) // 2
        cell.paste(picture, (left, (PICTURE - picture.height) // 2))
    draw = ImageDraw.Draw(cell)
    sample = found.samples.get(key, {})
    font = _font(11.5)
    if found.is_share or found.score(key) is None:
        _mark(draw, found.score(key))
    else:
        label = found.verdict(key)
        draw.rectangle((0, 0, 8 + font.getlength(label), 17), fill=INK)
        draw.text((4, 1), label, "white", font)
    lines = _wrap(str(sample.get("prompt", "")), font, width - 22)[:3]
    for number, line in enumerate(lines):
        draw.text((22, PICTURE + 4 + 14 * number), line, INK, font)
    return cell


def _mark(draw: ImageDraw.ImageDraw, correct: float | None) -> None:
    """Draw a tick, a cross, or a dash where there is no verdict, that need no colour to be read."""
    left, top = 2, PICTURE + 4
    colour = UNKNOWN if correct is None else RIGHT if correct else WRONG
    draw.ellipse((left, top, left + 15, top + 15), fill=colour)
    if correct is None:
        strokes = [[(4, 8), (11, 8)]]
    elif correct:
        strokes = [[(4, 8), (7, 11), (12, 5)]]
    else:
        strokes = [[(5, 5), (10, 10)], [(10, 5), (5, 10)]]
    for stroke in strokes:
        draw.line([(left + x, top + y) for x, y in stroke], "white", 2)


def _label(tag: str, found: Found) -> Image.Image:
    """Draw the cell at the start of a row: the kind of prompt and the model."""
    cell = Image.new("RGB", (LABEL, PICTURE + STRIP), "white")
    draw = ImageDraw.Draw(cell)
    top = 6
    for line in _wrap(tag_title(tag), _font(16), LABEL - 12):
        draw.text((6, top), line, INK, _font(16))
        top += 20
    for line in _wrap(str(found.manifest["model"]), _font(12), LABEL - 12):
        draw.text((6, top + 4), line, FAINT, _font(12))
        top += 15
    return cell


def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> list[str]:
    """Break a text into lines of a width in pixels, long words at slashes and hyphens."""
    lines: list[str] = []
    for word in text.split():
        if font.getlength(word) > width and (parts := _BREAKS.split(word))[1:]:
            lines.append("")
            for part in parts:
                if lines[-1] and font.getlength(lines[-1] + part) > width:
                    lines.append("")
                lines[-1] += part
            continue
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
