import copy

import pytest
import torch

from vipo_cli.run import finish
from vipo_cli.shapes.build_video import (
    MAX_TOKENS,
    WholeClips,
    assemble,
    make_autoencoder,
    make_tokenizer,
    train_text_encoder,
    words,
)
from vipo_cli.shapes.motion import COLOURS, DIRECTIONS, SHAPES, ClipCaption, Mover


@pytest.fixture(scope="module")
def vae():
    return make_autoencoder().eval()


def clips(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


@torch.no_grad()
def test_all_frames_at_once_are_encoded_and_decoded_as_four_by_four(vae):
    pixels = clips(2, 3, 9, 32, 32)
    expected = vae.encode(pixels).latent_dist
    restored = vae.decode(expected.mean).sample
    whole = WholeClips(vae)
    found = whole.encode(pixels)
    assert found.mean.shape == (2, 8, 5, 8, 8)
    torch.testing.assert_close(found.mean, expected.mean, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.std, expected.std, atol=1e-5, rtol=0)
    decoded = whole.decode(found.mean)
    torch.testing.assert_close(decoded.clamp(-1, 1), restored, atol=1e-5, rtol=0)
    whole.close()
    torch.testing.assert_close(vae.encode(pixels).latent_dist.mean, expected.mean)


def test_all_frames_at_once_have_the_same_gradients(vae):
    one, other = copy.deepcopy(vae), copy.deepcopy(vae)
    pixels = clips(1, 3, 9, 32, 32)
    one.decode(one.encode(pixels).latent_dist.mean).sample.square().mean().backward()
    whole = WholeClips(other)
    whole.decode(whole.encode(pixels).mean).clamp(-1, 1).square().mean().backward()
    for expected, found in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, atol=1e-5, rtol=1e-3)


def test_the_tokenizer_keeps_each_word_whole_and_spells_out_others():
    tokenizer = make_tokenizer()
    longest = max(SHAPES, key=len), max(COLOURS, key=len), "still"
    caption = ClipCaption((Mover(*longest), Mover(*longest)), "a video of")
    tokens = tokenizer.tokenize(str(caption))
    assert len(tokens) == len(str(caption).split()) <= MAX_TOKENS - 1
    assert all(len(tokenizer.tokenize(word)) == 1 for word in words())
    assert {*SHAPES, *COLOURS, *DIRECTIONS} < {*words()}
    assert tokenizer.decode(tokenizer("a zebra").input_ids, skip_special_tokens=True) == "a zebra"
    ids = tokenizer("a red circle").input_ids
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.unk_token_id not in ids


def test_parts_make_a_pipeline_that_plain_diffusers_loads(tmp_path):
    from diffusers import WanPipeline

    tokenizer = make_tokenizer()
    encoder = finish(train_text_encoder(tokenizer, steps=1))
    assemble(tokenizer, encoder, make_autoencoder(), tmp_path)
    pipeline = WanPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    clip = pipeline(
        "a red circle moving left", height=32, width=32, num_frames=9, num_inference_steps=1,
        max_sequence_length=MAX_TOKENS, output_type="np",
    ).frames  # fmt: skip
    assert clip.shape == (1, 9, 32, 32, 3)
    weights = sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors"))
    rest = sum(file.stat().st_size for file in tmp_path.rglob("*.json"))
    assert weights / 2 + rest < 3.4e6  # in half precision
