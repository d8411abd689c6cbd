import io
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vipo_cli.errors import DataError
from vipo_cli.media import (
    Framing,
    Probe,
    Size,
    contact_sheet,
    content_hash,
    decode,
    encode_clip,
    encode_png,
    enlarge,
    media_bytes,
    probe,
    read_framed,
    stills,
    verify,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 40, 3), np.uint8)


def encoded(picture, form="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def read(data, width, height):
    return read_framed(data, Size(width, height))[0]


def test_png_gives_back_the_pixels_and_always_the_same_bytes():
    data = encode_png(PIXELS)
    assert data == encode_png(PIXELS.copy())
    assert np.array_equal(np.asarray(decode(data)), PIXELS)
    assert content_hash(data) == content_hash(bytes(data))
    assert len(content_hash(data)) == 32
    assert content_hash(data) != content_hash(data + b"x")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "1", "CMYK", "I;16"])
def test_any_mode_becomes_rgb(mode):
    grey = Image.fromarray(PIXELS).convert("L")
    picture = grey.convert("I") if mode == "I;16" else Image.fromarray(PIXELS).convert(mode)
    data = encoded(picture, "TIFF" if mode in ("CMYK", "I;16") else "PNG")
    assert decode(data).mode == "RGB"
    assert read(data, 8, 8).shape == (8, 8, 3)


def test_a_palette_with_transparency_is_no_cause_for_a_warning():
    data = encoded(Image.fromarray(PIXELS).convert("P"), transparency=bytes(range(50)))
    assert decode(data).mode == "RGB"


def test_a_picture_cut_short_is_broken():
    whole = encoded(Image.fromarray(PIXELS), "JPEG")
    for share in (0.5, 0.9):
        with pytest.raises(DataError, match=r"broken picture: .*truncated"):
            decode(whole[: int(share * len(whole))])


@pytest.mark.parametrize("data", [b"", b"a text named .jpg", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_told(data):
    with pytest.raises(DataError, match=r"not a picture|broken picture"):
        decode(data)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_damaged_bytes_are_decoded_or_refused_and_nothing_else(form):
    whole = encoded(Image.fromarray(PIXELS), form)
    rng = np.random.default_rng(1)
    for _ in range(40):
        data = bytearray(whole)
        for place in rng.integers(0, min(len(data), 200), 4):
            data[place] = rng.integers(256)
        with suppress(DataError):
            assert decode(bytes(data)).mode == "RGB"


def test_a_decompression_bomb_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match=r"broken picture: .*exceeds limit"):
        decode(encode_png(PIXELS))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # large, but not beyond reason
    assert decode(encode_png(PIXELS)).size == (40, 24)


def test_an_exact_size_is_left_alone():
    assert np.array_equal(read(encode_png(PIXELS), 40, 24), PIXELS)


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (500, 3), (33, 32), (31, 47), (64, 64)])
@pytest.mark.parametrize("wanted", [(32, 32), (24, 48)])
def test_any_size_fills_the_frame(size, wanted):
    picture = Image.new("RGB", size, (10, 200, 30))
    pixels = read(encoded(picture), *wanted)
    assert pixels.shape == (wanted[1], wanted[0], 3)
    assert pixels.dtype == np.uint8
    assert (pixels == (10, 200, 30)).all()


def test_the_centre_is_kept():
    stripes = np.zeros((30, 90, 3), np.uint8)
    stripes[:, 30:60] = 255  # the middle third is white
    assert (read(encode_png(stripes), 30, 30) == 255).all()
    assert read(encode_png(stripes), 10, 10).mean() > 245  # bicubic rings at the border
    tall = stripes.transpose(1, 0, 2)
    assert (read(encode_png(tall), 30, 30) == 255).all()


def test_the_framing_says_what_was_kept():
    assert read_framed(encode_png(PIXELS), Size(40, 24))[1] == Framing(
        (40, 24), (0, 0), Size(40, 24)
    )
    _, framing = read_framed(encode_png(PIXELS), Size(48, 48))
    assert framing == Framing((40, 24), (16, 0), Size(48, 48))  # scaled to 80 x 48
    assert framing.size.shape == (48, 48)


def corners(orientation, form="JPEG"):
    """A picture that is red at the upper left and blue at the upper right once it is turned."""
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8, :8], upright[:8, 24:] = (255, 0, 0), (0, 0, 255)
    turned = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright), 7: np.rot90(upright, 2).transpose(
            1, 0, 2), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if form == "JPEG" else {}
    return upright, encoded(
        Image.fromarray(np.ascontiguousarray(turned)), form, exif=exif, **options
    )


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_exif_says(orientation, form):
    upright, data = corners(orientation, form)
    pixels, framing = read_framed(data, Size(32, 16))
    assert np.abs(pixels.astype(int) - upright).max() < 12
    assert framing.original == (32, 16)
    assert probe(data) == verify(data) == Probe(32, 16, 1, 0.0)


def test_damaged_exif_turns_nothing():
    _, data = corners(6)
    place = data.index(b"MM\x00*")
    for damage in range(4, 30):
        broken = bytearray(data)
        broken[place + damage] ^= 0xFF
        with suppress(DataError):
            assert decode(bytes(broken)).size in ((16, 32), (32, 16))
    assert decode(data[: place + 4] + b"\xff" * 4 + data[place + 8 :]).size == (16, 32)


def test_media_are_bytes_or_files(tmp_path):
    assert media_bytes(b"x") == b"x"
    (tmp_path / "file").write_bytes(b"y")
    assert media_bytes(tmp_path / "file") == b"y"
    for wrong in (tmp_path / "none", tmp_path):
        with pytest.raises(DataError, match=f"cannot read `{wrong}`"):
            media_bytes(wrong)


def test_a_contact_sheet_holds_every_picture_large_enough_to_see():
    small, large = Image.new("RGB", (32, 32), "red"), Image.new("RGB", (200, 150), "blue")
    assert enlarge(small).size == (128, 128)
    assert enlarge(large).size == (200, 150)
    sheet = contact_sheet([[small, large], [large]])
    assert sheet.size == (4 + 132 + 204, 4 + 154 + 154)
    colours = {colour for _, colour in sheet.getcolors(10**6)}
    assert {(255, 0, 0), (0, 0, 255), (255, 255, 255)} <= colours


def test_what_shows_a_medium_is_itself_or_three_of_its_frames():
    assert [np.array_equal(shown, PIXELS) for shown in stills(encode_png(PIXELS))] == [True]
    for count, shown in ((2, (0, 1)), (3, (0, 1, 2)), (9, (0, 4, 8)), (10, (0, 4, 9))):
        frames = np.arange(count, dtype=np.uint8)[:, None, None, None] + np.zeros(
            (1, 4, 6, 3), np.uint8
        )
        assert [still.getpixel((0, 0))[0] for still in stills(encode_clip(frames, 8))] == [*shown]


@pytest.mark.parametrize("name", ["/dev/zero", "a\0b", "."])
def test_what_is_no_file_is_one_error(name):
    with pytest.raises(DataError):
        media_bytes(Path(name))
