from dataclasses import dataclass

import numpy as np
import pytest

from vipo_cli.errors import DataError, RecipeError
from vipo_cli.media import Probe, Size
from vipo_cli.recipe.sections import Data
from vipo_cli.training.batches import deal, same_bucket
from vipo_cli.training.buckets import WIDEST, aspect_sizes, buckets_of


@dataclass
class Made:
    """What buckets ask of a family."""

    size: Size
    multiple: int
    frame_stride: int = 0


SDXL = Made(Size(1024, 1024), 32)
WAN = Made(Size(832, 480, 81), 16, 4)


def seen(width, height, frames=1):
    return Probe(width, height, frames, 0.0)


@pytest.mark.parametrize(
    ("native", "multiple"),
    [(Size(1024, 1024), 32), (Size(512, 512), 64), (Size(832, 480, 81), 16), (Size(32, 32), 8)],
)
def test_sizes_have_about_the_same_area_and_fit_the_model(native, multiple):
    sizes = aspect_sizes(native, multiple)
    area = native.width * native.height
    assert sizes[0] == native
    assert len(set(sizes)) == len(sizes) >= 3
    for size in sizes:
        assert size.width % multiple == size.height % multiple == 0
        assert 0.8 * area <= size.width * size.height <= area or native.width < 64
        assert 1 / WIDEST <= size.width / size.height <= WIDEST
        assert size.frames == native.frames


def test_sdxl_has_the_sizes_that_it_was_trained_at():
    sizes = {(size.width, size.height) for size in buckets_of(SDXL, Data()).sizes}
    assert {(1024, 1024), (1152, 896), (896, 1152), (1216, 832), (832, 1216)} <= sizes


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([(1000, 1000), (640, 640)], (1024, 1024)),
        ([(1920, 1280), (1920, 1280)], (1216, 832)),
        ([(1280, 1920), (1280, 1920)], (832, 1216)),
        ([(2000, 1000), (1000, 2000)], (1024, 1024)),  # between the two
        ([(9000, 1000)], (1408, 704)),  # longer than the longest
    ],
)
def test_a_record_goes_to_the_nearest_size(shapes, expected):
    size = buckets_of(SDXL, Data()).fitting([seen(*shape) for shape in shapes])
    assert (size.width, size.height) == expected


def test_without_buckets_there_is_one_size():
    assert buckets_of(SDXL, Data(buckets=False)).sizes == (Size(1024, 1024),)
    assert buckets_of(SDXL, Data(buckets=False, size=(512, 768))).sizes == (Size(512, 768),)


@pytest.mark.parametrize(
    ("lengths", "expected"), [((81, 100), 81), ((80, 90), 77), ((100, 9), 9), ((8, 8), 5)]
)
def test_clips_of_a_record_are_as_long_as_the_shortest_allows(lengths, expected):
    buckets = buckets_of(WAN, Data())
    assert buckets.fitting([seen(832, 480, frames) for frames in lengths]).frames == expected


def test_a_clip_model_can_be_trained_on_pictures_if_asked_to():
    pictures = [seen(832, 480), seen(832, 480, 81)]
    assert buckets_of(WAN, Data(frames=1)).fitting(pictures).frames == 1
    with pytest.raises(DataError, match="1 frames are too few: the model takes 5 at least"):
        buckets_of(WAN, Data()).fitting(pictures)


def test_media_too_small_or_too_short_are_refused():
    with pytest.raises(DataError, match="4 frames are too few: the model takes 5 at least"):
        buckets_of(WAN, Data()).fitting([seen(832, 480, 81), seen(832, 480, 4)])
    with pytest.raises(DataError, match=r"800 x 20 pixels are too small: .* 32 x 32 at least"):
        buckets_of(SDXL, Data()).fitting([seen(800, 20)])
    with pytest.raises(DataError, match="a clip, where a picture is needed"):
        buckets_of(SDXL, Data()).fitting([seen(1024, 1024, 9)])


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        (SDXL, {"size": (1000, 1024)}, "data.size: the model takes multiples of 32 pixels"),
        (SDXL, {"frames": 9}, "data.frames: the model makes pictures, got `9`"),
        (WAN, {"frames": 16}, "data.frames: the model takes a multiple of 4 and one more"),
    ],
)
def test_sizes_that_the_model_cannot_take_are_refused(family, settings, message):
    with pytest.raises(RecipeError, match=message):
        buckets_of(family, Data(**settings))


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("micro", [1, 3, 5, 64])
def test_every_place_is_dealt_once_and_no_chunk_mixes_buckets(processes, micro):
    buckets = np.random.default_rng(0).integers(0, 3, 24)
    chunks = deal(buckets, processes, micro)
    assert len(chunks) % processes == 0
    assert sorted(place for chunk in chunks for place in chunk) == list(range(24))
    for chunk in chunks:
        assert 1 <= len(chunk) <= micro
        assert len(set(buckets[chunk])) == 1
        assert chunk == sorted(chunk)


def test_one_bucket_that_fits_is_one_chunk():
    assert deal(np.zeros(8, int), 1, 8) == [list(range(8))]
    assert deal(np.zeros(8, int), 2, 8) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_records_are_parted_by_bucket_in_their_order():
    buckets = np.array([1, 0, 1, 1, 0])
    parts = [part.tolist() for part in same_bucket(buckets, np.array([4, 2, 0, 1, 3]), 2)]
    assert parts == [[4, 1], [2, 0], [3]]
