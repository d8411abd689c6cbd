import io

import numpy as np
import pytest
from PIL import Image

from vipo_cli.data import PreferencePair
from vipo_cli.data.bias import share_of
from vipo_cli.data.check import check
from vipo_cli.run import finish


def test_a_share_of_independent_trials_has_wilsons_interval():
    share = share_of(np.arange(100) < 70, np.arange(100))
    assert (share.value, share.n, share.n_clusters) == (0.7, 100, 100)
    # Wilson's interval of 70 out of 100
    assert (share.low, share.high) == pytest.approx((0.604, 0.781), abs=2e-3)


def test_pairs_of_one_prompt_are_worth_less():
    hits = np.repeat(np.arange(20) < 14, 10)
    apart, together = share_of(hits, np.arange(200)), share_of(hits, np.repeat(np.arange(20), 10))
    assert together.value == apart.value
    assert together.high - together.low > 2.5 * (apart.high - apart.low)
    assert share_of(np.ones(50, bool), np.zeros(50)).low < 0.25


def encoded(side, kind, seed):
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    buffer = io.BytesIO()
    picture = Image.fromarray(noise).resize(side, Image.Resampling.BICUBIC)
    picture.save(buffer, format=kind)
    return buffer.getvalue()


def found(pairs):
    return {finding.problem: finding for finding in finish(check(pairs)).found}


def pairs_of(winner, loser, count=24, first=0):
    return [
        PreferencePair(f"prompt {n}", encoded(*winner, 2 * n), encoded(*loser, 2 * n + 1))
        for n in range(first, first + count)
    ]


def test_larger_winners_are_a_serious_bias():
    findings = found(pairs_of(((80, 64), "PNG"), ((64, 64), "PNG")))
    assert findings.keys() == {"different sizes", "size bias", "shape bias"}
    size = findings["size bias"]
    assert size.serious
    assert size.measured["value"] == 1
    assert size.measured["ci95"][0] > 0.8
    assert "larger in 100%" in size.examples[0]
    assert size.mend == []
    assert "before importing" in size.advice


def test_a_bias_of_a_minority_can_be_filtered_out():
    even = pairs_of(((64, 64), "PNG"), ((64, 64), "PNG"), 40)
    findings = found(even + pairs_of(((80, 80), "PNG"), ((64, 64), "PNG"), 12, 40))
    assert findings["size bias"].mend == ["--drop", "different-sizes"]
    assert "shape bias" not in findings


def test_sizes_that_go_with_nothing_are_no_bias():
    large, small = ((80, 80), "PNG"), ((64, 64), "PNG")
    pairs = pairs_of(large, small, 10) + pairs_of(small, large, 10, 10)
    assert found(pairs).keys() == {"different sizes"}


def test_formats_that_tell_winners_are_a_bias():
    findings = found(pairs_of(((64, 64), "PNG"), ((64, 64), "JPEG")))
    assert findings.keys() == {"format bias"}
    (words,) = findings["format bias"].examples
    assert words.startswith("PNG wins over JPEG in 100%")
