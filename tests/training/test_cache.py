import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from vipo_cli.data import LabelledSample, PreferencePair, RankedList
from vipo_cli.data.sources import open_pairs
from vipo_cli.errors import DataError
from vipo_cli.media import Size, encode_png, read_framed
from vipo_cli.models import load_family, open_family
from vipo_cli.models.parts import encoder_parts
from vipo_cli.recipe.sections import Data
from vipo_cli.run import finish
from vipo_cli.training import cache
from vipo_cli.training.arrays import RaggedArray
from vipo_cli.training.buckets import buckets_of
from vipo_cli.training.cache import EncodedData


@pytest.fixture
def family(tiny):
    return open_family(str(tiny))


@pytest.fixture
def pairs():
    return list(open_pairs("shapes", {"pairs": 6}))


def encode(family, pairs, name, limit=0.05, **data):
    return finish(cache.encode(family, pairs, name, limit, buckets_of(family, Data(**data))))


def test_cached_latents_are_those_of_the_encoder(family, tiny, pairs):
    encoded = encode(family, pairs, "same")
    picture, _ = read_framed(pairs[3].loser, Size(32, 32))
    pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None]
    family = load_family(str(tiny))
    with torch.no_grad():
        posterior = family.pipeline.vae.encode(pixels / 127.5 - 1).latent_dist
    scale = family.pipeline.vae.config.scaling_factor
    row = encoded.items[[3], 1]
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
    assert encoded.items[6].tolist() == encoded.items[0, ::-1].tolist()
    assert encoded.prompt[6] == encoded.prompt[0]
    prompts = len({pair.prompt for pair in pairs})
    assert len(encoded.conditions["encoder_hidden_states"]) == prompts + 1


def test_a_second_run_reads_no_picture(family, pairs):
    first = encode(family, pairs, "cached")
    again = encode(family, [None] * len(pairs), "cached")
    assert np.array_equal(first.mean.whole, again.mean.whole)
    assert again.fingerprint == first.fingerprint


def test_encoders_are_loaded_only_where_they_are_needed(family, pairs):
    parts = encoder_parts(family)
    assert parts == ("text_encoder", "vae")
    steps = list(cache.encode(family, pairs, "lazy", 0.05, buckets_of(family, Data())))
    assert steps[0].stage == "loading the encoders"
    assert all(getattr(family.pipeline, part) is None for part in parts)
    assert family.denoiser.device.type == "meta"
    assert not list(cache.encode(family, pairs, "lazy", 0.05, buckets_of(family, Data())))


def test_another_encoder_never_gets_the_cache(family, tiny, pairs, tmp_path):
    first = encode(family, pairs, "encoder")
    copy = shutil.copytree(tiny, tmp_path / "copy")
    assert encode(open_family(str(copy)), pairs, "encoder").fingerprint == first.fingerprint
    weights = load_family(str(tiny)).pipeline.vae
    with torch.no_grad():
        next(weights.parameters()).add_(0.1)
    weights.save_pretrained(copy / "vae")
    assert encode(open_family(str(copy)), pairs, "encoder").fingerprint != first.fingerprint


def picture(width, height, shade):
    return encode_png(np.full((height, width, 3), shade, np.uint8))


def test_a_pair_shares_its_bucket_and_batches_hold_one(family):
    shapes = [(32, 32), (64, 32), (32, 64), (48, 32)]
    pairs = [
        PreferencePair("p", picture(*shape, 10 + number), picture(*shape[::-1], 90 + number))
        for number, shape in enumerate(shapes)
    ]
    wide = [
        PreferencePair("p", picture(64, 32, 200 + n), picture(60, 32, 210 + n)) for n in range(2)
    ]
    encoded = encode(family, [*pairs, *wide], "buckets")
    assert [encoded.shape(n) for n in range(6)] == [(4, 8, 8)] * 4 + [(4, 6, 10)] * 2
    assert [encoded.mean.shape(row) for row in encoded.items[4]] == [(4, 6, 10)] * 2
    assert encoded.bucket.tolist()[:4] == [encoded.bucket[0]] * 4
    assert encoded.bucket[4] != encoded.bucket[0]
    alike = encode(family, [*pairs, *wide], "buckets", buckets=False)
    assert len(set(alike.bucket.tolist())) == 1


def test_a_picture_in_two_buckets_is_encoded_in_each(family):
    wide, tall = picture(64, 32, 10), picture(32, 64, 90)
    pairs = [PreferencePair("p", wide, picture(64, 32, 11)), PreferencePair("p", tall, wide)]
    encoded = encode(family, pairs, "two sizes")
    assert len(encoded.mean) == 4
    assert encoded.mean.shape(encoded.items[0, 0]) != encoded.mean.shape(encoded.items[1, 1])


def test_pictures_smaller_than_the_model_takes_are_broken(family, pairs):
    small = PreferencePair("p", picture(8, 6, 10), picture(32, 32, 10))
    encoded = encode(family, [*pairs, small], "small", limit=0.5)
    reason = "8 x 6 pixels are too small: the model takes 8 x 8 at least"
    assert [found.reason for found in encoded.broken] == [reason]


def test_broken_pictures_are_left_out_counted_and_limited(family, pairs):
    pairs[2] = PreferencePair("cut", pairs[2].winner[:90], pairs[2].loser)
    pairs[4] = PreferencePair("text", pairs[4].winner, b"hello")
    encoded = encode(family, pairs, "broken", limit=0.5)
    assert len(encoded) == 4
    assert [found.index for found in encoded.broken] == [2, 4]
    with pytest.raises(DataError, match=r"2 of 6 pairs cannot be used") as raised:
        encode(family, pairs, "broken", limit=0.1)
    assert "pair 2" in raised.value.details[0]


def test_no_pairs_are_an_error(family):
    with pytest.raises(DataError, match="no pairs"):
        encode(family, [], "nothing")


def test_a_pair_keeps_its_weight_its_probability_and_its_seeds(family, pairs):
    pairs[1] = replace(pairs[1], weight=0.5, probability=0.75, noise_seeds=(3, 4))
    encoded = encode(family, pairs, "numbers")
    assert encoded.weight.tolist() == [1, 0.5, 1, 1, 1, 1]
    assert encoded.probability.tolist() == [1, 0.75, 1, 1, 1, 1]
    assert encoded.noise_seeds[:2].tolist() == [[-1, -1], [3, 4]]
    assert encoded.liked.all()
    assert not encoded.labelled


def test_pairs_without_a_loser_have_an_empty_place(family, pairs):
    encoded = encode(family, [PreferencePair(pair.prompt, pair.winner) for pair in pairs], "single")
    assert encoded.items.shape == (6, 2)
    assert (encoded.items[:, 1] == -1).all()


def test_lists_keep_their_order_whatever_their_length(family, pairs):
    first, second = (pair.media for pair in pairs[:2])
    lists = [RankedList("a", (*first, *second)), RankedList("b", second, weight=2.0)]
    encoded = encode(family, lists, "lists")
    assert encoded.items.tolist() == [[0, 1, 2, 3], [2, 3, -1, -1]]
    assert encoded.weight.tolist() == [1, 2]


def test_labelled_samples_keep_their_label(family, pairs):
    samples = [
        LabelledSample(pair.prompt, pair.winner, liked=index % 2 == 0)
        for index, pair in enumerate(pairs)
    ]
    encoded = encode(family, samples, "labels")
    assert encoded.labelled
    assert encoded.items.shape == (6, 1)
    assert encoded.liked.tolist() == [True, False] * 3


def test_records_of_several_kinds_are_an_error(family, pairs):
    with pytest.raises(DataError, match="PreferencePair and RankedList"):
        encode(family, [pairs[0], RankedList("p", pairs[1].media)], "mixed")


def grey(weights):
    return encode_png(np.repeat(np.uint8(weights * 255)[..., None], 3, axis=2))


def test_region_maps_are_averaged_over_the_cells_of_the_latents(family, pairs):
    half = np.zeros((32, 32), np.float32)
    half[:, :16] = 1
    nothing = np.zeros((4, 4), np.float32)
    pairs[1] = replace(pairs[1], regions=(half, None))
    pairs[2] = replace(pairs[2], regions=(nothing, grey(half)))
    encoded = encode(family, pairs, "regions")
    shape = encoded.shape(1)
    rows, columns = shape[-2:]
    assert encoded.region_rows.tolist()[:3] == [[-1, -1], [0, -1], [1, 0]]
    found = encoded.region(encoded.region_rows[1:3].ravel(), shape)
    assert found.shape == (4, 1, rows, columns)
    assert found[0, 0, :, : columns // 2].min() == 1
    assert found[0, 0, :, columns // 2 :].max() == 0
    assert (found[1] == 1).all()  # none
    assert (found[2] == 1).all()  # one that would teach nothing
    torch.testing.assert_close(found[3], found[0])


def test_a_broken_region_map_breaks_its_pair(family, pairs):
    pairs[3] = replace(pairs[3], regions=(None, b"hello"))
    pairs[5] = replace(pairs[5], regions=(np.full((2, 2), np.nan), None))
    encoded = encode(family, pairs, "broken regions", limit=0.5)
    assert [found.index for found in encoded.broken] == [3, 5]
    assert encoded.broken[0].reason == "region of the loser: not a picture"


def test_latents_that_a_model_made_are_data_too():
    latents = np.random.default_rng(0).standard_normal((4, 2, 3, 5, 6), np.float32)
    rows = np.arange(4).reshape(2, 2)
    encoded = EncodedData.of_latents(
        RaggedArray.of(latents),
        {"c": RaggedArray.of(np.zeros((2, 7), np.float32))},
        rows,
        np.zeros(2, int),
        fingerprint="made",
    )
    assert len(encoded) == 2
    drawn = encoded.latents(rows[:, 0], torch.ones(2, *latents.shape[1:]))
    torch.testing.assert_close(drawn, torch.from_numpy(latents[[0, 2]]))
    assert encoded.region(encoded.region_rows[:, 0], encoded.shape(0)).shape == (2, 1, 1, 5, 6)
    assert encoded.noise is None
