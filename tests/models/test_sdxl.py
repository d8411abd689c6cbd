import json
import shutil

import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler

from tests.calls import assert_same_call, recorded
from tests.tiny.sdxl import build
from vipo_cli.models import load_family
from vipo_cli.models.family import Framing, Size

PROMPTS = ["a red circle", "", "two blue squares " * 60]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="module")
def family(folder):
    return load_family(str(folder))


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_noise_levels_are_the_schedulers_own(family):
    times = torch.tensor([0.0, 0.001, 0.25, 0.5, 0.7503, 0.999, 1.0])
    steps = (times * 1000).long().clamp(max=999)
    x0, eps = draw(7, 4, 8, 8), draw(7, 4, 8, 8).flip(0)
    level = family.noise_level(times)
    training = DDPMScheduler.from_config(family.pipeline.scheduler.config)
    torch.testing.assert_close(
        level.mix(x0, eps), training.add_noise(x0, eps, steps), atol=1e-6, rtol=0
    )
    # the Euler sampler adds noise without shrinking the picture, and shrinks its input instead
    for at in range(5):
        sampler = EulerDiscreteScheduler.from_config(family.pipeline.scheduler.config)
        sampler.set_timesteps(5)
        step = sampler.timesteps[at]
        noisy = sampler.scale_model_input(sampler.add_noise(x0, eps, step.expand(7)), step)
        level = family.noise_level((step.expand(7) + 0.5) / 1000)
        torch.testing.assert_close(level.mix(x0, eps), noisy, atol=1e-6, rtol=0)


@torch.no_grad()
def test_prompts_are_encoded_as_the_pipeline_does(family):
    condition = family.encode_prompts(PROMPTS)
    expected = family.pipeline.encode_prompt(
        PROMPTS, device="cpu", do_classifier_free_guidance=False
    )
    assert list(condition) == ["encoder_hidden_states", "text_embeds"]
    torch.testing.assert_close(condition["encoder_hidden_states"], expected[0])
    torch.testing.assert_close(condition["text_embeds"], expected[2])


def test_sizes_and_crops_are_height_first(family):
    wide = Framing(original=(640, 480), crop=(107, 3), size=Size(width=48, height=32))
    square = Framing(original=(32, 32), crop=(0, 0), size=Size(32, 32))
    ids = family.media_condition([wide, square])["time_ids"]
    assert ids.tolist() == [[480, 640, 3, 107, 32, 48], [32, 32, 0, 0, 32, 32]]


@torch.no_grad()
def test_the_unet_is_called_as_its_pipeline_calls_it(family):
    texts = ["a red circle", "two blue squares"]
    size = Size(width=48, height=32)
    framing = Framing(original=(100, 75), crop=(5, 2), size=size)
    with recorded(family.pipeline.unet) as calls:
        family.pipeline(
            texts, num_inference_steps=2, guidance_scale=1.0, output_type="latent",
            height=32, width=48, original_size=(75, 100), crops_coords_top_left=(2, 5),
            target_size=(32, 48),
        )  # fmt: skip
    condition = family.encode_prompts(texts) | family.media_condition([framing] * 2)
    assert len(calls) == 2
    for expected in calls:
        time = (expected["timestep"].float().expand(2) + 0.5) / 1000
        with recorded(family.denoiser) as found:
            family.predict(expected["sample"], time, condition)
        assert_same_call(found[0], expected)
    assert {"added_cond_kwargs.time_ids", "added_cond_kwargs.text_embeds"} < expected.keys()


@torch.no_grad()
@pytest.mark.parametrize("zeros", [True, False])
def test_guidance_is_away_from_what_the_pipeline_takes_for_no_prompt(folder, tmp_path, zeros):
    copy = shutil.copytree(folder, tmp_path / "copy")
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(
        json.dumps(index | {"force_zeros_for_empty_prompt": zeros})
    )
    family = load_family(str(copy))
    texts = ["a red circle", "two blue squares"]
    arguments = family.sampling_arguments(
        draw(2, 4, 8, 8), family.encode_prompts(texts), family.encode_prompts(["", ""])
    )
    names = ["prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds",
             "negative_pooled_prompt_embeds"]  # fmt: skip
    expected = family.pipeline.encode_prompt(texts, device="cpu")
    for name, value in zip(names, expected, strict=True):
        torch.testing.assert_close(arguments[name], value)
    assert (arguments["negative_prompt_embeds"].abs().max() == 0) == zeros


@torch.no_grad()
def test_latents_are_normalised_where_the_autoencoder_says_so(family):
    pixels = draw(2, 3, 32, 32).clamp(-1, 1)
    vae = family.pipeline.vae
    mean, std = vae.encode(pixels).latent_dist.mean, vae.encode(pixels).latent_dist.std
    found = family.encode_media(pixels)
    torch.testing.assert_close(found[0], mean * 0.13025)
    torch.testing.assert_close(found[1], std * 0.13025)
    shift, spread = torch.tensor([0.1, -0.2, 0.3, 0.4]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    vae.register_to_config(latents_mean=shift.tolist(), latents_std=spread.tolist())
    try:
        a, b = (values.view(1, 4, 1, 1) for values in (shift, spread))
        found = family.encode_media(pixels)
        torch.testing.assert_close(found[0], (mean - a) / b * 0.13025)
        torch.testing.assert_close(found[1], std / b * 0.13025)
        image = family.pipeline(
            "a red circle", latents=found[0][:1], num_inference_steps=1, output_type="pt"
        ).images
        latents = family.pipeline(
            "a red circle", latents=found[0][:1], num_inference_steps=1, output_type="latent"
        ).images
        torch.testing.assert_close((family.decode_media(latents) / 2 + 0.5).clamp(0, 1), image)
    finally:
        vae.register_to_config(latents_mean=None, latents_std=None)
