import numpy as np
import pytest
import torch

from vipo_cli.media import Size
from vipo_cli.models import load_family
from vipo_cli.models.sample import decode_latents, fitting_batch_size, shape_of, size_of


@pytest.fixture
def family(tiny):
    return load_family(str(tiny))


def test_pictures_are_rounded_to_the_nearest_of_256_levels(family, monkeypatch):
    levels = torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.001, 1.0, 1.5])
    pixels = levels.repeat(1, 3, 2, 1)
    monkeypatch.setattr(family, "decode_media", lambda latents: pixels)
    (picture,) = decode_latents(family, torch.zeros(1, 4, 1, 1))
    assert picture.dtype == np.uint8
    assert picture.shape == (2, 7, 3)
    assert picture[0, :, 0].tolist() == [0, 0, 64, 128, 128, 255, 255]


def test_clips_keep_their_frames_in_front(family, monkeypatch):
    clips = torch.linspace(-1, 1, 5).view(1, 1, 5, 1, 1).expand(2, 3, 5, 4, 6)
    monkeypatch.setattr(family, "decode_media", lambda latents: clips)
    decoded = decode_latents(family, torch.zeros(2, 4, 2, 1, 1))
    assert [clip.shape for clip in decoded] == [(5, 4, 6, 3)] * 2
    assert decoded[1][:, 0, 0, 0].tolist() == [0, 64, 128, 191, 255]


def test_batches_hold_four_megapixels_or_64_pictures():
    assert fitting_batch_size(Size(32, 32)) == 64
    assert fitting_batch_size(Size(512, 512)) == 16
    assert fitting_batch_size(Size(1024, 1024)) == 4
    assert fitting_batch_size(Size(832, 480, frames=81)) == 1


def test_latents_know_the_size_of_their_picture(family):
    assert size_of(family, (4, 8, 12)) == Size(width=48, height=32)


def test_the_shape_of_latents_is_that_of_encoded_pictures(family):
    size = family.size
    mean, _ = family.encode_media(torch.zeros(1, 3, size.height, size.width))
    assert shape_of(family) == tuple(mean.shape[1:])
