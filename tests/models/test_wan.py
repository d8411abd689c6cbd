import json
import shutil

import pytest
import torch

from tests.calls import assert_same_call, recorded
from tests.tiny.wan import build
from vipo_cli.errors import ModelError
from vipo_cli.models import Family, find_model, load_family
from vipo_cli.models.family import Size

PROMPTS = ["a red circle", "", "two blue squares " * 60, " &lt;a red\n circle  "]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("wan"))


@pytest.fixture(scope="module")
def family(folder):
    return load_family(str(folder))


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_the_adapter_keeps_the_contract(family):
    assert isinstance(family, Family)
    assert family.denoiser is family.pipeline.transformer
    assert family.size == Size(32, 32, 13)
    assert (family.multiple, family.frame_stride) == (16, 4)
    names = [name for name, _ in family.denoiser.named_modules()]
    for target in family.lora_targets:
        assert any(name.endswith(target) for name in names), target


def test_noise_levels_are_those_of_flow_matching(family):
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(10)
    x0, eps = draw(10, 4, 3, 8, 8), draw(10, 4, 3, 8, 8).flip(0)
    level = family.noise_level(scheduler.timesteps / 1000)
    torch.testing.assert_close(
        level.mix(x0, eps), scheduler.scale_noise(x0, scheduler.timesteps, eps), atol=1e-6, rtol=0
    )


def test_noise_levels_and_target_are_those_of_the_pipelines_own_scheduler(family):
    scheduler = family.pipeline.scheduler
    scheduler.set_timesteps(10)
    sigmas = scheduler.sigmas[:-1]
    level = family.noise_level(sigmas)
    alphas, sigma = scheduler._sigma_to_alpha_sigma_t(sigmas)
    torch.testing.assert_close(level.alpha, alphas, atol=1e-6, rtol=0)
    torch.testing.assert_close(level.sigma, sigma, atol=1e-6, rtol=0)
    x0, eps = draw(10, 4, 3, 8, 8), draw(10, 4, 3, 8, 8).flip(0)
    target = level.target(family.target, x0, eps)
    x_t = level.mix(x0, eps)
    for row in range(10):
        scheduler._step_index = row
        found = scheduler.convert_model_output(target[row], sample=x_t[row])
        torch.testing.assert_close(found, x0[row], atol=2e-6, rtol=0)


@torch.no_grad()
def test_prompts_are_encoded_as_the_pipeline_does(family):
    condition = family.encode_prompts(PROMPTS)
    assert list(condition) == ["encoder_hidden_states"]
    length = family.pipeline.tokenizer.model_max_length
    expected, _ = family.pipeline.encode_prompt(
        PROMPTS, do_classifier_free_guidance=False, max_sequence_length=length
    )
    torch.testing.assert_close(condition["encoder_hidden_states"], expected)
    assert expected.shape[1] == length
    words = len(family.pipeline.tokenizer(PROMPTS[0]).input_ids)
    assert (condition["encoder_hidden_states"][0, words:] == 0).all()
    assert (condition["encoder_hidden_states"][0, :words] != 0).any(dim=1).all()


@torch.no_grad()
def test_prompts_hold_512_tokens_where_the_tokenizer_takes_them(family, monkeypatch):
    monkeypatch.setattr(family.pipeline.tokenizer, "model_max_length", 10**30)
    found = family.encode_prompts(["a red circle"])["encoder_hidden_states"]
    assert found.shape[1] == 512


@torch.no_grad()
def test_clips_are_encoded_to_the_posterior_scaled_by_channel(family):
    vae = family.pipeline.vae
    pixels = draw(2, 3, 9, 32, 32).clamp(-1, 1)
    mean, std = family.encode_media(pixels)
    posterior = vae.encode(pixels).latent_dist
    assert mean.shape == (2, 4, 3, 8, 8)
    for channel, (centre, width) in enumerate(
        zip(vae.config.latents_mean, vae.config.latents_std, strict=True)
    ):
        expected = (posterior.mean[:, channel] - centre) / width
        torch.testing.assert_close(mean[:, channel], expected)
        torch.testing.assert_close(std[:, channel], posterior.std[:, channel] / width)


@torch.no_grad()
def test_a_picture_is_a_clip_of_one_frame(family):
    pixels = draw(2, 3, 32, 32).clamp(-1, 1)
    mean, _ = family.encode_media(pixels)
    clips, _ = family.encode_media(pixels[:, :, None])
    assert mean.shape == (2, 4, 1, 8, 8)
    torch.testing.assert_close(mean, clips)


@torch.no_grad()
def test_latents_are_decoded_as_the_pipeline_does(family):
    pipeline, noise = family.pipeline, draw(1, 4, 3, 8, 8)
    condition = family.encode_prompts(["a red circle"])
    arguments = family.sampling_arguments(noise, condition, None)
    options = {"num_inference_steps": 1, "guidance_scale": 1.0, "return_dict": False}
    pipeline.set_progress_bar_config(disable=True)
    output = pipeline(**arguments, **options, output_type="latent")[0]
    latents = family.sampled_latents(output, noise)
    assert latents.shape == noise.shape
    clip = pipeline(**arguments, **options, output_type="pt")[0]
    pixels = family.decode_media(latents).movedim(1, 2)
    assert pixels.shape == (1, 9, 3, 32, 32)
    torch.testing.assert_close((pixels / 2 + 0.5).clamp(0, 1), clip)


@pytest.mark.parametrize("expanded", [False, True])
@torch.no_grad()
def test_the_transformer_is_called_as_its_pipeline_calls_it(family, expanded):
    texts, pipeline = ["a red circle", "two blue squares"], family.pipeline
    noise, condition = draw(2, 4, 2, 8, 8), family.encode_prompts(texts)
    empty = family.encode_prompts(["", ""])
    pipeline.register_to_config(expand_timesteps=expanded)
    pipeline.set_progress_bar_config(disable=True)
    try:
        with recorded(pipeline.transformer) as calls:
            pipeline(
                **family.sampling_arguments(noise, condition, empty),
                num_inference_steps=2, guidance_scale=5.0, output_type="latent",
            )  # fmt: skip
    finally:
        pipeline.register_to_config(expand_timesteps=False)
    assert len(calls) == 4
    torch.testing.assert_close(calls[0]["hidden_states"], noise)
    torch.testing.assert_close(calls[1]["encoder_hidden_states"], empty["encoder_hidden_states"])
    for call in calls[::2]:
        step = call["timestep"].reshape(2, -1)[:, 0]
        prediction = family.predict(call["hidden_states"], step / 1000, condition)
        expected = pipeline.transformer(**call)[0]
        torch.testing.assert_close(prediction, expected)
    # the scheduler rounds its timesteps down; training does not
    sigmas = pipeline.scheduler.sigmas[:-1] * 1000
    assert ((sigmas - pipeline.scheduler.timesteps) >= 0).all()
    assert ((sigmas - pipeline.scheduler.timesteps) < 1).all()
    if not expanded:
        time = calls[0]["timestep"] / 1000
        with recorded(family.denoiser) as found:
            family.predict(calls[0]["hidden_states"], time, condition)
        assert_same_call(found[0], calls[0])


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        pytest.param(1024, Size(832, 480, 81), id="official, 480p"),
        pytest.param(5, Size(80, 80, 17), id="few places"),
    ],
)
def test_its_size_is_what_the_rotary_embedding_has_places_for(
    family, monkeypatch, places, expected
):
    from vipo_cli.models.wan import Wan

    monkeypatch.setattr(family.pipeline, "vae_scale_factor_spatial", 8)
    transformer = family.pipeline.transformer
    before = transformer.config.rope_max_seq_len
    transformer.register_to_config(rope_max_seq_len=places)
    try:
        found = Wan(family.pipeline)
    finally:
        transformer.register_to_config(rope_max_seq_len=before)
    assert found.size == expected
    assert (found.multiple, found.frame_stride) == (16, 4)


def test_sides_are_multiples_that_the_pipeline_takes(family, monkeypatch):
    from vipo_cli.models.wan import Wan

    transformer = family.pipeline.transformer
    before = transformer.config.rope_max_seq_len
    monkeypatch.setattr(family.pipeline, "vae_scale_factor_spatial", 4)
    transformer.register_to_config(rope_max_seq_len=5)
    try:
        assert Wan(family.pipeline).size == Size(32, 32, 17)
    finally:
        transformer.register_to_config(rope_max_seq_len=before)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("model_index.json", {"boundary_ratio": 0.875}, "with two transformers"),
        ("transformer/config.json", {"in_channels": 36}, "that continues a picture"),
        ("scheduler/scheduler_config.json", {"prediction_type": "epsilon"}, "says `epsilon`"),
    ],
)
def test_relatives_that_are_trained_otherwise_are_refused(copy, file, values, message):
    change(copy / file, **values)
    with pytest.raises(ModelError, match=message) as caught:
        load_family(str(copy))
    assert caught.value.hint


def test_two_transformers_are_refused(copy):
    shutil.copytree(copy / "transformer", copy / "transformer_2")
    change(copy / "model_index.json", transformer_2=["diffusers", "WanTransformer3DModel"])
    with pytest.raises(ModelError, match="with two transformers"):
        load_family(str(copy))


@pytest.mark.parametrize("name", ["wan-1.3b", "wan-14b"])
def test_registered_names_say_how_they_want_to_be_used(name):
    spec = find_model(name)
    assert spec.source.startswith("Wan-AI/Wan2.1-T2V-")
    assert (spec.sampling_steps, spec.guidance, spec.licence) == (50, 5.0, "Apache-2.0")
