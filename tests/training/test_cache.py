import numpy as np
import pytest
import torch

from vipo_cli.data import PreferencePair
from vipo_cli.data.sources import open_pairs
from vipo_cli.errors import DataError
from vipo_cli.media import read_image
from vipo_cli.models import load_family
from vipo_cli.run import finish
from vipo_cli.training.cache import encode_pairs, encoder_fingerprint


@pytest.fixture(scope="module")
def family(tiny):
    return load_family(str(tiny))


@pytest.fixture
def pairs():
    return list(open_pairs("shapes", {"pairs": 6}))


def encode(family, pairs, name, limit=0.05):
    return finish(encode_pairs(family, pairs, name, limit))


def test_cached_latents_are_those_of_the_encoder(family, pairs):
    encoded = encode(family, pairs, "same")
    pixels = torch.from_numpy(read_image(pairs[3].loser, 32, 32).copy()).permute(2, 0, 1)[None]
    with torch.no_grad():
        posterior = family.pipeline.vae.encode(pixels / 127.5 - 1).latent_dist
    scale = family.pipeline.vae.config.scaling_factor
    row = encoded.loser[[3]]
    noise = torch.randn(posterior.mean.shape)
    torch.testing.assert_close(
        encoded.latents(row, noise), (posterior.mean + posterior.std * noise) * scale,
        atol=1e-5, rtol=1e-4,
    )  # fmt: skip
    embedded = family.encode_prompts([pairs[3].prompt])["encoder_hidden_states"]
    found = encoded.condition(encoded.prompt[[3]])["encoder_hidden_states"]
    torch.testing.assert_close(found, embedded, atol=1e-5, rtol=1e-4)


def test_the_same_picture_and_prompt_are_encoded_once(family, pairs):
    again = PreferencePair(pairs[0].prompt, pairs[0].loser, pairs[0].winner)
    encoded = encode(family, [*pairs, again], "twice")
    assert len(encoded.mean) == 12
    assert encoded.winner[6] == encoded.loser[0]
    assert encoded.prompt[6] == encoded.prompt[0]
    prompts = len({pair.prompt for pair in pairs})
    assert len(encoded.conditions["encoder_hidden_states"]) == prompts + 1


def test_a_second_run_reads_no_picture(family, pairs):
    first = encode(family, pairs, "cached")
    again = encode(family, [None] * len(pairs), "cached")
    assert np.array_equal(first.mean, again.mean)
    assert again.fingerprint == first.fingerprint


def test_another_encoder_never_gets_the_cache(family, pairs):
    first = encode(family, pairs, "encoder")
    weight = next(family.pipeline.vae.parameters())
    before = encoder_fingerprint(family)
    with torch.no_grad():
        weight.add_(0.1)
    try:
        assert encoder_fingerprint(family) != before
        assert encode(family, pairs, "encoder").fingerprint != first.fingerprint
    finally:
        with torch.no_grad():
            weight.sub_(0.1)


def test_broken_pictures_are_left_out_counted_and_limited(family, pairs):
    pairs[2] = PreferencePair("cut", pairs[2].winner[:90], pairs[2].loser)
    pairs[4] = PreferencePair("text", pairs[4].winner, b"hello")
    encoded = encode(family, pairs, "broken", limit=0.5)
    assert len(encoded) == 4
    assert [found.index for found in encoded.broken] == [2, 4]
    with pytest.raises(DataError, match=r"2 of 6 pairs have broken media") as raised:
        encode(family, pairs, "broken", limit=0.1)
    assert "pair 2" in raised.value.details[0]


def test_no_pairs_are_an_error(family):
    with pytest.raises(DataError, match="no pairs"):
        encode(family, [], "nothing")
