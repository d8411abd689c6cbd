"""Clips in and out: bytes to frames, and frames to bytes.

Animated PNG, WebP, GIF and AVIF are read with Pillow. Containers such as MP4, MOV, Matroska, WebM
and AVI are read with PyAV, which the extra `video` brings.
"""

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from vipo_cli.errors import DataError, VipoError

Pixels = NDArray[np.uint8]

LARGEST_FRAME = 2**26
"""Pixels of one frame of a clip that are decoded: 8192 x 8192."""
MP4 = "h264-crf23-cpu-independent"
MP4_OPTIONS = {"crf": "23", "preset": "medium", "x264-params": "cpu-independent=1"}
"""The encoder's defaults; without the last, one clip in a hundred differs from run to run."""
LARGEST = 2**33
"""Pixels of all frames together that are decoded of one clip: 4,142 frames of 1920 x 1080."""

PILLOW_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    RuntimeError,
    struct.error,
    Image.DecompressionBombError,
)
"""What Pillow raises at damaged files."""

_ANIMATED = ("PNG", "GIF", "WEBP", "AVIF")
"""Pillow's names of the formats whose frames are a clip; other formats have pages."""
_PICTURE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1")


@dataclass(frozen=True, slots=True)
class Probe:
    """What the header of a picture or clip says.

    Attributes:
        width: in pixels, as it is shown: turned as the file says.
        height: likewise.
        frames: 1 for a picture.
        frames_per_second: 0 for a picture, and where a file does not say.
    """

    width: int
    height: int
    frames: int
    frames_per_second: float

    def __str__(self) -> str:
        size = f"{self.width}x{self.height}"
        return size if self.frames == 1 else f"{size}, {self.frames} frames"


def is_clip(data: bytes) -> bool:
    """Say whether bytes are a container of video, or an animation of several frames."""
    if _is_container(data):
        return True
    if not data.startswith((b"\x89PNG", b"GIF8", b"RIFF")) and data[8:12] != b"avis":
        return False
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as picture:
            return _frame_count(picture) > 1
    except PILLOW_ERRORS:
        return False


def probe(data: bytes) -> Probe:
    """Read size, number of frames and rate; decodes the first frame at most.

    Raises:
        DataError: the bytes are neither a picture nor a clip.
        VipoError: the clip needs PyAV, which is not installed.
    """
    if _is_container(data):
        with _complaints("clip"):
            return _probe_container(data)
    with _complaints("picture"):
        return _probe_picture(data)


def read_frames(data: bytes, *, bt601: bool = False) -> Iterator[Image.Image]:
    """Yield the frames of a clip in RGB; no more than one of them is in memory.

    Args:
        data: the clip.
        bt601: take colours for BT.601 whatever the clip says of them, as OpenCV does.

    Raises:
        DataError: the clip is broken, or unpacks to an unreasonable size.
        VipoError: it needs PyAV, which is not installed.
    """
    pixels = 0
    with _complaints("clip"):
        found = _container_frames(data, bt601) if _is_container(data) else _animation_frames(data)
        for frame in found:
            pixels += frame.width * frame.height
            _refuse_bomb(pixels, LARGEST)
            yield frame


def encode_clip(frames: Pixels, frames_per_second: float) -> bytes:
    """Encode (t, h, w, 3) uint8 as animated PNG without loss; the same pixels, the same bytes.

    A single frame becomes a picture.
    """
    pictures = [Image.fromarray(frame) for frame in frames]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer,
        format="PNG",
        save_all=True,
        append_images=pictures[1:],
        duration=1000 / frames_per_second,
        # Pillow merges equal neighbours unless they are blended differently; both ways of blending
        # look the same without transparency
        blend=[number % 2 for number in range(len(pictures))],
        compress_level=1,
    )
    return buffer.getvalue()


def encode_mp4(frames: Pixels, frames_per_second: float) -> bytes:
    """Encode (t, h, w, 3) uint8 as H.264 in MP4; the same pixels, the same bytes.

    Raises:
        VipoError: PyAV is not installed.
    """
    require_av()
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream: Any = container.add_stream(
            "libx264", rate=Fraction(frames_per_second).limit_denominator(1001)
        )
        stream.height, stream.width = frames.shape[1:3]
        odd = stream.height % 2 or stream.width % 2  # chroma is only halved where it can be
        stream.pix_fmt = "yuv444p" if odd else "yuv420p"
        stream.options = MP4_OPTIONS
        stream.thread_count = 1
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def require_av() -> None:
    """Complain before long work if clips cannot be written as MP4.

    Raises:
        VipoError: PyAV is not installed.
    """
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise VipoError(
            "clips are written as MP4 with PyAV, which is not installed",
            hint='pip install "vipo[video]"',
        ) from error


def orientation(picture: Image.Image) -> int:
    """Return the EXIF orientation of a picture; 1, which is upright, where none can be read."""
    try:
        found = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except PILLOW_ERRORS:
        return 1
    return found if isinstance(found, int) else 1


def _is_container(data: bytes) -> bool:
    """Say whether bytes begin as MP4 and MOV, Matroska and WebM, or AVI do."""
    kind = data[4:8]
    if kind == b"ftyp":
        return data[8:12] not in _PICTURE_BRANDS
    if data.startswith(b"RIFF"):
        return data[8:12] == b"AVI "
    return data.startswith(b"\x1aE\xdf\xa3") or kind in (b"moov", b"mdat", b"wide")


def _probe_picture(data: bytes) -> Probe:
    with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as picture:
        if picture.format == "TIFF":
            picture.load()  # turns it
        width, height = picture.size
        # what stands behind the pixels of a PNG is not worth decoding them
        if (picture.format != "PNG" or "exif" in picture.info) and orientation(picture) > 4:
            width, height = height, width
        count, rate = _frame_count(picture), 0.0
        if count > 1:
            _refuse_bomb(width * height, LARGEST_FRAME)
            picture.seek(_first_frame(picture))
            picture.load()
            milliseconds = float(picture.info.get("duration", 0))
            rate = round(1000 / milliseconds, 3) if milliseconds > 0 else 0.0
        return Probe(width, height, count, rate)


def _probe_container(data: bytes) -> Probe:
    with _open_container(data) as (container, stream):
        frame = next(container.decode(stream), None)
        if frame is None:
            raise DataError("broken clip: it has no frames")
        width, height = _upright(frame).size
        count, rate = stream.frames, float(stream.average_rate or 0)
    return Probe(width, height, count or _count_packets(data), rate)


def _count_packets(data: bytes) -> int:
    """Return how many frames a container holds whose header does not say it, without decoding."""
    with _open_container(data) as (container, stream):
        return sum(packet.size > 0 for packet in container.demux(stream))


def _first_frame(picture: Any) -> int:
    """Return the number of the first frame; a PNG may hold a stand-in before its animation."""
    return int(getattr(picture, "default_image", False))


def _frame_count(picture: Any) -> int:
    if picture.format not in _ANIMATED:
        return 1
    return max(1, int(getattr(picture, "n_frames", 1)) - _first_frame(picture))


def _animation_frames(data: bytes) -> Iterator[Image.Image]:
    with warnings.catch_warnings(action="ignore"):
        opened = Image.open(io.BytesIO(data))
    with opened as picture:
        _refuse_bomb(picture.width * picture.height, LARGEST_FRAME)
        first = _first_frame(picture)
        for number in range(_frame_count(picture)):
            with warnings.catch_warnings(action="ignore"):
                picture.seek(first + number)
                frame = picture.convert("RGB")
            yield frame


def _container_frames(data: bytes, bt601: bool = False) -> Iterator[Image.Image]:
    with _open_container(data) as (container, stream):
        for frame in container.decode(stream):
            yield _upright(frame, bt601)


@contextmanager
def _open_container(data: bytes) -> Iterator[tuple[Any, Any]]:
    try:
        import av
    except ImportError as error:
        raise VipoError(
            "clips such as MP4 and WebM are read with PyAV, which is not installed",
            hint='pip install "vipo[video]"; animated PNG, WebP and GIF need nothing more',
        ) from error
    try:
        with av.open(io.BytesIO(data), metadata_errors="replace") as container:
            stream: Any = next(iter(container.streams.video), None)
            codec = stream and stream.codec_context
            if codec is None:
                raise DataError("broken clip: it holds no video that can be decoded")
            _refuse_bomb(codec.width * codec.height, LARGEST_FRAME)
            stream.thread_type = "AUTO"
            yield container, stream
    except av.error.FFmpegError as error:
        raise DataError(f"broken clip: {error.strerror}") from error


def _upright(frame: Any, bt601: bool = False) -> Image.Image:
    """Turn a decoded frame as its container says that it is to be shown."""
    picture: Image.Image = frame.to_image(**({"src_colorspace": "ITU601"} if bt601 else {}))
    return picture.rotate(frame.rotation, expand=True) if frame.rotation else picture


def _refuse_bomb(pixels: int, limit: int) -> None:
    if pixels > limit:
        raise DataError(f"broken clip: it unpacks to over {limit:,} pixels")


@contextmanager
def _complaints(kind: str) -> Iterator[None]:
    """Say in one way that a clip, or a picture, cannot be decoded."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise DataError("neither a picture nor a clip") from error
    except PILLOW_ERRORS as error:
        raise DataError(f"broken {kind}: {error}") from error
