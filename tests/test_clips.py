import io
import sys
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from vipo_cli import clips
from vipo_cli.clips import Probe, encode_clip, is_clip, probe, read_frames
from vipo_cli.data.check import check
from vipo_cli.data.preview import preview
from vipo_cli.data.record import PreferencePair
from vipo_cli.errors import DataError, VipoError
from vipo_cli.media import Size, content_hash, decode, encode_png, read_framed, verify

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 24, 40, 3), np.uint8)
FRAMES[2] = FRAMES[3] = FRAMES[1]
ANIMATED = ["PNG", "WEBP", "GIF"]


def animation(form="PNG", frames=FRAMES, **options):
    if form == "WEBP":
        options = {"lossless": True} | options
    pictures = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer, form, save_all=True, append_images=pictures[1:], **{"duration": 125} | options
    )
    return buffer.getvalue()


def moving(count=6, width=40, height=24):
    """Frames that all differ."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    for number, frame in enumerate(frames):
        frame[:, 4 * number : 4 * number + 8] = (250, 30 * number, 60)
    return frames


def test_a_clip_gives_back_the_pixels_and_always_the_same_bytes():
    for frames in (FRAMES, np.repeat(FRAMES[:1], 7, 0), moving()):
        data = encode_clip(frames, 8)
        assert data == encode_clip(frames.copy(), 8)
        pixels, framing = read_framed(data, Size(40, 24, len(frames)))
        assert np.array_equal(pixels, frames)
        assert pixels.dtype == np.uint8
        assert framing.size.shape == frames.shape[:-1]
    assert content_hash(encode_clip(FRAMES, 8)) != content_hash(encode_clip(FRAMES[::-1], 8))


@pytest.mark.parametrize("rate", [0.5, 1, 8, 15, 16, 23.976, 24, 29.97, 30, 60])
def test_the_rate_of_frames_is_kept(rate):
    assert probe(encode_clip(FRAMES, rate)) == Probe(40, 24, 5, rate)


def test_a_clip_of_one_frame_is_a_picture():
    data = encode_clip(FRAMES[:1], 8)
    assert not is_clip(data)
    assert np.array_equal(decode(data), FRAMES[0])


@pytest.mark.parametrize("form", ANIMATED)
def test_animations_are_clips(form):
    data = animation(form, moving())
    assert is_clip(data)
    assert probe(data) == verify(data)
    assert (probe(data).width, probe(data).height, probe(data).frames) == (40, 24, 6)
    assert probe(data).frames_per_second == pytest.approx(8, rel=0.05)  # GIF counts in 10 ms
    pixels, _ = read_framed(data, Size(40, 24, 5))
    tolerance = {"GIF": 40}.get(form, 0)  # a palette
    assert np.abs(pixels.astype(int) - moving()[:5]).max() <= tolerance


@pytest.mark.parametrize("form", [*ANIMATED, "JPEG", "BMP", "TIFF"])
def test_pictures_are_no_clips(form):
    buffer = io.BytesIO()
    Image.fromarray(FRAMES[0]).save(buffer, form)
    assert not is_clip(buffer.getvalue())
    assert probe(buffer.getvalue()) == Probe(40, 24, 1, 0.0)


def test_the_stand_in_of_an_animated_png_is_none_of_its_frames():
    data = animation(default_image=True, frames=moving())
    assert probe(data).frames == 5
    pixels, _ = read_framed(data, Size(40, 24, 5))
    assert np.array_equal(pixels, moving()[1:])


def test_the_pages_of_a_tiff_are_no_frames():
    buffer = io.BytesIO()
    pages = [Image.fromarray(frame) for frame in FRAMES]
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    assert not is_clip(buffer.getvalue())
    assert np.array_equal(decode(buffer.getvalue()), FRAMES[0])


def test_the_first_frames_are_scaled_and_cropped_alike():
    stripes = np.zeros((3, 30, 90, 3), np.uint8)
    stripes[:, :, 30:60] = np.array([50, 150, 250])[:, None, None, None]
    pixels, framing = read_framed(encode_clip(stripes, 8), Size(10, 10, 2))
    assert pixels.shape == (2, 10, 10, 3)
    assert np.abs(pixels[:, 5, 5, 0].astype(int) - (50, 150)).max() <= 1
    assert (framing.original, framing.crop) == ((90, 30), (10, 0))
    one, _ = read_framed(encode_png(stripes[1]), Size(10, 10))
    assert np.array_equal(pixels[1], one)


def test_a_clip_stands_for_a_picture_by_its_first_frame():
    pixels, _ = read_framed(encode_clip(FRAMES, 8), Size(40, 24))
    assert np.array_equal(pixels, FRAMES[0])


def test_too_few_frames_and_the_wrong_kind_of_medium_are_told():
    with pytest.raises(DataError, match=r"^a clip of 5 frames, where 9 are needed$"):
        read_framed(encode_clip(FRAMES, 8), Size(40, 24, 9))
    with pytest.raises(DataError, match=r"^a picture, where a clip of 5 frames is needed$"):
        read_framed(encode_png(FRAMES[0]), Size(40, 24, 5))
    for size in (Size(8, 8), Size(8, 8, 5)):
        with pytest.raises(DataError, match="not a picture"):
            read_framed(b"a text", size)
    with pytest.raises(DataError, match="neither a picture nor a clip"):
        probe(b"a text")


@pytest.mark.parametrize("form", ANIMATED)
def test_damaged_animations_are_decoded_or_refused_and_nothing_else(form):
    whole = animation(form)
    rng = np.random.default_rng(1)
    refused = 0
    for trial in range(40):
        data = bytearray(whole)
        for place in rng.integers(0, 200 if trial % 2 else len(data), 4):
            data[place] = rng.integers(256)
        if trial % 5 == 0:
            del data[int(rng.integers(1, len(data))) :]
        assert is_clip(bytes(data)) in (True, False)
        try:
            assert verify(bytes(data)).frames > 0
        except DataError:
            refused += 1
        with suppress(DataError):
            probe(bytes(data))
    assert refused > 5


def test_an_animation_cut_short_is_broken():
    whole = encode_clip(FRAMES, 8)
    with pytest.raises(DataError, match="broken clip"):
        verify(whole[: len(whole) * 2 // 3])
    pixels, _ = read_framed(
        whole[: len(whole) * 2 // 3], Size(40, 24, 2)
    )  # what is needed is there
    assert np.array_equal(pixels, FRAMES[:2])


def test_clips_that_unpack_to_too_much_are_refused(monkeypatch):
    data = encode_clip(FRAMES, 8)
    monkeypatch.setattr(clips, "LARGEST", 4 * 24 * 40)
    assert len(read_framed(data, Size(8, 8, 4))[0]) == 4
    with pytest.raises(DataError, match=r"broken clip: it unpacks to over 3,840 pixels"):
        read_framed(data, Size(8, 8, 5))
    monkeypatch.setattr(clips, "LARGEST_FRAME", 24 * 40 - 1)
    for read in (probe, verify, lambda data: next(read_frames(data))):
        with pytest.raises(DataError, match=r"broken clip: it unpacks to over 959 pixels"):
            read(data)


def test_a_bomb_of_many_large_frames_is_refused_before_it_is_unpacked():
    black = animation("GIF", np.arange(3, dtype=np.uint8)[:, None, None, None] + np.zeros(
        (1, 8, 8, 3), np.uint8))  # fmt: skip
    bomb = black[:6] + (9000).to_bytes(2, "little") * 2 + black[10:]
    with pytest.raises(DataError, match="it unpacks to over 67,108,864 pixels"):
        verify(bomb)


def test_a_data_set_of_clips_is_checked_and_shown():
    winner, loser = encode_clip(moving(), 8), encode_clip(moving(4), 8)
    pairs = [
        PreferencePair("a red circle", winner, encode_clip(moving()[::-1], 8)),
        PreferencePair("a blue square", winner, loser),
        PreferencePair("a green circle", winner[:-300], loser),
    ]
    work = check(pairs)
    with pytest.raises(StopIteration) as finished:
        while True:
            next(work)
    problems = {found.problem: found.examples for found in finished.value.value.found}
    assert problems["different sizes"] == ["pair 1 (40x24, 6 frames against 40x24, 4 frames)"]
    assert problems["broken media"][0].startswith("pair 2, winner: broken clip: ")
    assert preview(pairs[:2]).width > 6 * 192  # three frames of each clip


HEADS = {
    "MP4": b"\x00\x00\x00\x20ftypisom",
    "MOV": b"\x00\x00\x00\x14ftypqt  ",
    "old MOV": b"\x00\x00\x00\x08wide",
    "Matroska": b"\x1aE\xdf\xa3\x01\x00",
    "AVI": b"RIFF\x00\x10\x00\x00AVI LIST",
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_containers_are_clips_by_their_first_bytes(head):
    assert is_clip(head + bytes(100))
    with pytest.raises(DataError, match="a clip, where a picture is needed"):
        decode(head + bytes(100))


@pytest.mark.parametrize("head", [b"\x00\x00\x00\x20ftypheic", b"\x00\x00\x00\x20ftypavif", b""])
def test_pictures_in_containers_are_no_clips(head):
    assert not is_clip(head + bytes(20))


def test_containers_say_what_they_need(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    for read in (probe, verify, lambda data: read_framed(data, Size(8, 8, 5))):
        with pytest.raises(VipoError, match="PyAV, which is not installed") as caught:
            read(HEADS["MP4"] + bytes(100))
        assert not isinstance(caught.value, DataError)  # no reason to call a record broken
        assert caught.value.hint.startswith('pip install "vipo[video]"')
    assert verify(encode_clip(FRAMES, 8)).frames == 5


def recorded(frames, form="mp4", codec="libx264", rate=8):
    """Encode frames as people do."""
    av = pytest.importorskip("av")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def fading(count=6):
    """Plain frames, which video codecs keep as they are."""
    colours = np.array([[40 * number, 200 - 30 * number, 20] for number in range(count)], np.uint8)
    return np.broadcast_to(colours[:, None, None], (count, 48, 64, 3)).copy()


@pytest.mark.parametrize(
    ("form", "codec"),
    [("mp4", "libx264"), ("mov", "mpeg4"), ("matroska", "libx264"), ("webm", "libvpx-vp9"),
     ("avi", "mpeg4")],
)  # fmt: skip
def test_recorded_clips_are_read(form, codec):
    data = recorded(fading(), form, codec)
    assert is_clip(data)
    assert probe(data) == verify(data) == Probe(64, 48, 6, 8.0)
    pixels, framing = read_framed(data, Size(64, 48, 5))
    assert np.abs(pixels.astype(int) - fading()[:5]).max() <= 4
    assert framing.original == (64, 48)
    with pytest.raises(DataError, match="a clip of 6 frames, where 9 are needed"):
        read_framed(data, Size(32, 32, 9))


def test_a_recorded_clip_is_turned_as_its_container_says():
    frames = np.zeros((3, 48, 64, 3), np.uint8)
    frames[:, :, :32] = (255, 0, 0)
    data = recorded(frames)
    one, zero, minus = ((0x10000 * unit).to_bytes(4, "big", signed=True) for unit in (1, 0, -1))
    last = (0x40000000).to_bytes(4, "big")
    upright = one + 3 * zero + one + 3 * zero + last
    sideways = zero + one + zero + minus + 2 * zero + (48 << 16).to_bytes(4, "big") + zero + last
    place = data.index(upright, data.index(b"tkhd"))
    turned = data[:place] + sideways + data[place + len(sideways) :]
    assert probe(turned) == Probe(48, 64, 3, 8.0)
    pixels, _ = read_framed(turned, Size(48, 64, 3))
    assert (pixels[:, :28, :, 0] > 240).all()  # left has become top
    assert (pixels[:, 36:] < 15).all()


@pytest.mark.parametrize("form", ["mp4", "matroska"])
def test_damaged_recordings_are_decoded_or_refused_and_nothing_else(form):
    whole = recorded(fading(), form)
    rng = np.random.default_rng(1)
    refused = 0
    for trial in range(40):
        data = bytearray(whole)
        for place in rng.integers(12, len(data), 4):
            data[place] = rng.integers(256)
        if trial % 5 == 0:
            del data[int(rng.integers(20, len(data))) :]
        try:
            assert verify(bytes(data)).frames >= 0
        except DataError as error:
            refused += 1
            assert error.message.startswith("broken clip: ")
    assert refused > 5


def test_a_recording_without_video_is_broken():
    av = pytest.importorskip("av")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(DataError, match="broken clip: it holds no video"):
        probe(buffer.getvalue())
