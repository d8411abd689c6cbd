import io

import numpy as np
import pytest
from PIL import Image

from vipo_cli.data.perceptual import (
    BLOCKS,
    NEAR,
    alike,
    colours_of,
    differing_bits,
    group_alike,
    hash_of,
    is_blank,
    shrink,
)


def picture(seed, size=(256, 192)):
    """Smooth colours at random, as little like one another as photographs are."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def jpeg(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def signature(images):
    small = [shrink(image) for image in images]
    hashes = np.array([[hash_of(each)] * 3 for each in small], np.uint64)
    return hashes, np.stack([colours_of(each) for each in small])


COPIES = {
    "compressed": lambda image: jpeg(image, 60),
    "halved": lambda image: image.resize((image.width // 2, image.height // 2)),
    "enlarged": lambda image: image.resize((image.width * 2, image.height * 2)),
    "brighter": lambda image: image.point(lambda value: min(255, value + 6)),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_look_alike_and_others_do_not(name):
    images = [picture(seed) for seed in range(20)]
    one, other = signature(images), signature([COPIES[name](image) for image in images])
    assert alike(one, other).all()
    turned = tuple(np.roll(part, 1, axis=0) for part in other)
    assert not alike(one, turned).any()


def test_equal_brightness_is_not_enough():
    shape = np.zeros((64, 64, 3), np.uint8)
    shape[16:40, 20:50] = (200, 0, 0)
    green = np.zeros_like(shape)
    green[16:40, 20:50] = (0, 102, 0)  # about as bright as the red
    one, other = (signature([Image.fromarray(each)]) for each in (shape, green))
    assert differing_bits(one[0], other[0])[0] <= NEAR
    assert not alike(one, other)[0]


def test_blank_means_one_colour_not_a_fine_pattern():
    flat = Image.new("RGB", (300, 200), (0, 0, 0))
    assert is_blank(shrink(flat))
    assert is_blank(shrink(jpeg(flat, 30)))
    assert not is_blank(shrink(picture(0)))


def test_groups_are_those_of_comparing_all_with_all():
    rng = np.random.default_rng(0)
    centres = rng.integers(0, 2**63, 60, dtype=np.uint64)
    hashes = centres[rng.integers(0, 60, 200)]
    for _ in range(7):
        flipped = np.uint64(1) << rng.integers(0, 64, 200).astype(np.uint64)
        hashes = np.where(rng.random(200) < 0.5, hashes ^ flipped, hashes)
    hashes = np.repeat(hashes[:, None], 3, axis=1)
    colours = np.repeat(rng.integers(0, 2, (200, 1)) * 100, 12, axis=1).astype(np.uint8)
    expected = np.arange(200)
    for row in range(200):
        every = (hashes[row : row + 1], colours[row : row + 1])
        for near in np.flatnonzero(alike((hashes, colours), every)):
            expected[expected == expected[near]] = expected[row]
    found = group_alike(hashes, colours)
    same = found[:, None] == found
    assert (same == (expected[:, None] == expected)).all()
    assert 60 < len(np.unique(found)) < 200


def test_every_close_pair_shares_blocks():
    """No choice of differing bits hides a pair from the search."""
    rng = np.random.default_rng(1)
    base = rng.integers(0, 2**63, 500, dtype=np.uint64)
    other = base.copy()
    for row in range(500):
        for bit in rng.choice(64, NEAR, replace=False):
            other[row] ^= np.uint64(1) << np.uint64(bit)
    hashes = np.repeat(np.concatenate([base, other])[:, None], 3, axis=1)
    found = group_alike(hashes, np.zeros((1000, 12), np.uint8))
    assert (found[:500] == found[500:]).all()
    assert BLOCKS > NEAR


def test_clips_are_alike_only_if_all_their_frames_are():
    one = np.array([[1, 2, 3]], np.uint64)
    other = np.array([[1, 2, 3 ^ 0xFFFF]], np.uint64)
    colours = np.zeros((1, 12), np.uint8)
    assert not alike((one, colours), (other, colours))[0]


def test_nothing_to_group():
    assert len(group_alike(np.zeros((0, 3), np.uint64), np.zeros((0, 12), np.uint8))) == 0
