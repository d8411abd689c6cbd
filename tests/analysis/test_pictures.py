import json

import numpy as np
import pytest

from vipo_cli.analysis.pictures import (
    LEAST,
    STATISTICS,
    Change,
    compare_pictures,
    drifted,
    picture_statistics,
)


def flat(value, side=32):
    return np.full((side, side, 3), value, np.uint8)


def noise(std, side=64, seed=0):
    grey = np.random.default_rng(seed).normal(128, 255 * std, (side, side, 1))
    return np.repeat(grey, 3, 2).clip(0, 255).round().astype(np.uint8)


def blurred(pixels):
    for axis in (0, 1):
        pixels = (np.roll(pixels, 1, axis).astype(int) + pixels + np.roll(pixels, -1, axis)) // 3
    return pixels.astype(np.uint8)


def test_one_colour_has_nothing():
    found = picture_statistics(flat(200))
    assert found == pytest.approx(dict.fromkeys(STATISTICS, 0.0), abs=1e-6)
    assert picture_statistics(flat((255, 0, 0)))["saturation"] == 1
    assert picture_statistics(flat(10))["dark_share"] == 1


def test_halves_are_known_exactly():
    pixels = flat(0)
    pixels[:, 16:] = 255
    found = picture_statistics(pixels)
    assert found["dark_share"] == 0.5
    assert found["colour_entropy"] == 1.0  # bits: two colours, equally often
    assert found["contrast"] == pytest.approx(0.5)
    assert found["edge_density"] == pytest.approx(1 / 31)  # one column of the 31 between places
    assert found["noise"] == pytest.approx(0, abs=1e-6)  # a straight edge is no noise


def test_every_colour_alike_is_the_most_entropy():
    steps = np.arange(0, 256, 32, dtype=np.uint8)
    red, green, blue = np.meshgrid(steps, steps, steps)
    pixels = np.stack([red, green, blue], -1).reshape(16, 32, 3)
    assert picture_statistics(pixels)["colour_entropy"] == pytest.approx(9)


@pytest.mark.parametrize("std", [0.01, 0.05, 0.1])
def test_noise_is_measured_in_units_of_luma(std):
    found = picture_statistics(noise(std, side=256))
    assert found["noise"] == pytest.approx(std, rel=0.03)
    assert found["contrast"] == pytest.approx(std, rel=0.03)


def test_blur_takes_edges_and_noise():
    sharp = noise(0.2)
    before, after = picture_statistics(sharp), picture_statistics(blurred(sharp))
    assert after["edge_density"] < 0.5 * before["edge_density"]
    assert after["noise"] < 0.5 * before["noise"]


def test_a_clip_is_the_mean_of_frames_spread_over_it():
    frames = np.stack([flat(0), flat(255), flat(255), flat(255)])
    assert picture_statistics(frames)["dark_share"] == 0.25
    long = np.concatenate([frames] * 20)
    assert 0 <= picture_statistics(long)["dark_share"] <= 0.5
    assert picture_statistics(frames[:1]) == picture_statistics(frames[0])


def test_changes_are_paired_by_prompt():
    rng = np.random.default_rng(0)
    base = [dict.fromkeys(STATISTICS, float(value)) for value in rng.uniform(0.2, 0.8, 8)]
    now = [{name: value + 0.05 for name, value in each.items()} for each in base]
    found = compare_pictures(base, now)
    for change in found.values():
        assert change.change == pytest.approx(0.05)
        assert change.value == pytest.approx(change.base + 0.05)
        # prompts differ much and the change does not
        assert change.ci95 == pytest.approx((0.05, 0.05), abs=1e-9)
    assert compare_pictures(base[:1], now[:1])["noise"].ci95 is None
    written = json.loads(json.dumps(found["noise"].document()))
    assert Change.read(written) == found["noise"]


def change(base, value, half=0.01):
    difference = value - base
    return Change(base, value, difference, (difference - half, difference + half))


@pytest.mark.parametrize(
    ("name", "found", "far"),
    [
        ("edge_density", change(0.2, 0.08), True),  # UniRL's issue 407: 60 % fewer edges
        ("colour_entropy", change(6.0, 2.8, 0.5), True),  # and 54 % less entropy
        ("dark_share", change(0.45, 0.93), True),
        ("edge_density", change(0.2, 0.15), False),
        ("edge_density", change(0.2, 0.08, half=0.2), False),  # not sure
        ("edge_density", change(0.004, 0.012), False),  # next to nothing before and now
        ("dark_share", change(0.01, 0.05), False),
        ("dark_share", change(0.9, 0.6), True),
        ("saturation", change(0.14, 0.39), True),
    ],
)
def test_what_counts_as_drift(name, found, far):
    still = {other: change(1.0, 1.0) for other in LEAST}
    assert list(drifted(still | {name: found})) == ([name] if far else [])
