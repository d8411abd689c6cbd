import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from vipo_cli.data.entry import Entry
from vipo_cli.media import encode_clip, encode_png
from vipo_cli.reporting.pages import LARGEST
from vipo_cli.reporting.pairs_page import write_pairs_page
from vipo_cli.shapes.source import shapes


@pytest.fixture
def page(tmp_path):
    """Return a function that shows entries, and returns the page."""

    def page(*entries):
        target = tmp_path / "new" / "page.html"
        write_pairs_page(target, "a <set>", "pair", 1000, list(enumerate(entries)))
        return target.read_text()

    return page


def pictures(text):
    found = re.findall(r'src="data:image/(?:png|jpeg);base64,([^"]+)"', text)
    return [Image.open(io.BytesIO(base64.b64decode(each))) for each in found]


def test_the_page_needs_nothing_else(page):
    pair = shapes(pairs=1)[0]
    text = page(Entry("<b>a & b</b>", pair.media, "a"))
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert "&lt;b&gt;a &amp; b&lt;/b&gt;" in text
    assert "a &lt;set&gt;" in text
    assert "1 of 1,000 pairs" in text
    assert [picture.size for picture in pictures(text)] == [(32, 32)] * 2


def test_winners_come_first_with_what_is_said_of_them(page):
    red, blue = (encode_png(np.full((8, 8, 3), c, np.uint8)) for c in ((255, 0, 0), (0, 0, 255)))
    text = page(
        Entry(
            "p",
            (red, blue),
            "b",
            votes=(1.0, 3.0),
            models=("first-model", "second-model"),
            scores={"pickscore": (21.5, 20.25)},
            dimensions={"text": "a"},
            annotator="somebody",
        )
    )
    assert [picture.getpixel((0, 0)) for picture in pictures(text)] == [(0, 0, 255), (255, 0, 0)]
    assert text.index("second-model") < text.index("first-model")
    assert text.index("20.25") < text.index("21.5")
    assert '<td class="best">21.5</td>' in text
    assert "certain to 75%" in text
    assert all(word in text for word in ("3 votes", "somebody", "text (dimension)"))


def test_large_pictures_are_made_small_and_clips_shown_by_three_frames(page):
    large = encode_png(np.random.default_rng(0).integers(0, 256, (600, 900, 3), np.uint8))
    frames = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.full((16, 16, 3), 50, np.uint8)
    text = page(Entry("p", (large, encode_clip(frames, 8)), "a"))
    found = pictures(text)
    assert [max(picture.size) for picture in found] == [LARGEST, 16, 16, 16]
    assert [picture.getpixel((0, 0))[0] for picture in found[1:]] == [0, 100, 200]
    assert "900x600, PNG" in text
    assert "16x16, 5 frames at 8/s, PNG" in text


def test_what_is_broken_is_said_to_be(page, tmp_path):
    text = page(
        Entry("p", (b"no picture", tmp_path / "missing.png"), "tie"),
        Entry("q", (b"", b""), "none"),
    )
    assert text.count('class="problem"') == 4
    assert "not a picture" in text
    assert "missing.png" in text
    assert "a tie" in text
    assert "no label" in text
