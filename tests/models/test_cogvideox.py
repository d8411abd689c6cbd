import json
import shutil

import pytest
import torch

from tests.calls import assert_same_call, recorded
from tests.tiny.cogvideox import build
from vipo_cli.errors import ModelError
from vipo_cli.models import find_model, load_family
from vipo_cli.models.cogvideox import CogVideoX
from vipo_cli.models.family import Size
from vipo_cli.models.sample import sample_latents

PROMPTS = ["a red circle", "", "two blue squares " * 90]
EVERY_STEP = (torch.arange(1000) + 0.5) / 1000


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The 5B model turns its places into angles, the 2B model adds them."""
    return {
        kind: build(tmp_path_factory.mktemp("cogvideox") / kind, rotary=kind == "5b")
        for kind in ("2b", "5b")
    }


@pytest.fixture(scope="module", params=["2b", "5b"])
def family(request, folders):
    return load_family(str(folders[request.param]))


@pytest.fixture
def changed(folders, tmp_path):
    """Return a function that opens a copy of a pipeline with another configuration of a part."""

    def make(part, **values):
        copy = shutil.copytree(folders["5b"], tmp_path / "copy")
        file = next((copy / part).glob("*config.json"))
        file.write_text(json.dumps(json.loads(file.read_text()) | values))
        return load_family(str(copy))

    return make


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_adapter_reads_its_configuration(family):
    assert (family.size, family.multiple, family.frame_stride) == (Size(32, 32, 17), 8, 8)
    assert family.target == "velocity"
    with_places_added = hasattr(family.denoiser.patch_embed, "pos_embedding")
    assert with_places_added is (family.pipeline.scheduler.config.snr_shift_scale == 3.0)


def assert_levels_are_the_schedulers(family):
    scheduler = family.pipeline.scheduler
    steps = torch.arange(1000)
    x0, eps = draw(1000, 3, 2), draw(1000, 3, 2, seed=1)
    level = family.noise_level(EVERY_STEP)
    x_t = level.mix(x0, eps)
    assert x_t.dtype == torch.float32
    torch.testing.assert_close(x_t, scheduler.add_noise(x0, eps, steps), atol=1e-6, rtol=0)
    target = level.target(family.target, x0, eps)
    torch.testing.assert_close(target, scheduler.get_velocity(x0, eps, steps), atol=1e-6, rtol=0)
    return level


def test_noise_levels_and_targets_are_the_schedulers_own(family):
    level = assert_levels_are_the_schedulers(family)
    assert (level.alpha.diff() < 0).all()


def test_nothing_is_left_of_the_clip_at_the_last_step(family):
    x0, eps = draw(1, 4, 3, 8, 8), draw(1, 4, 3, 8, 8, seed=1)
    level = family.noise_level(torch.tensor([1.0]))
    assert (level.alpha.item(), level.sigma.item()) == (0.0, 1.0)
    torch.testing.assert_close(level.mix(x0, eps), eps, atol=0, rtol=0)
    torch.testing.assert_close(level.target("velocity", x0, eps), -x0, atol=0, rtol=0)


def test_another_sampler_has_the_same_noise(folders):
    from diffusers import CogVideoXDPMScheduler

    pipeline = load_family(str(folders["5b"])).pipeline
    pipeline.scheduler = CogVideoXDPMScheduler.from_config(pipeline.scheduler.config)
    family = CogVideoX(pipeline)
    family.folder = folders["5b"]
    assert_levels_are_the_schedulers(family)
    with torch.no_grad():
        condition = family.encode_prompts(["a red circle"])
        latents = sample_latents(
            family, draw(1, 4, 2, 8, 8), condition, condition, [torch.Generator().manual_seed(0)],
            steps=3, guidance=2.0,
        )  # fmt: skip
    assert latents.shape == (1, 4, 2, 8, 8)
    assert latents.isfinite().all()


@torch.no_grad()
def test_prompts_are_encoded_as_the_pipeline_does(family):
    condition = family.encode_prompts(PROMPTS)
    embeddings, _ = family.pipeline.encode_prompt(PROMPTS, None, False)
    assert list(condition) == ["encoder_hidden_states"]
    assert condition["encoder_hidden_states"].shape[1] == 226
    torch.testing.assert_close(condition["encoder_hidden_states"], embeddings)


@torch.no_grad()
@pytest.mark.parametrize("size", [Size(32, 32, 17), Size(48, 24, 9), Size(16, 40, 1)])
def test_the_transformer_is_called_as_its_pipeline_calls_it(family, size):
    with recorded(family.pipeline.transformer) as calls:
        family.pipeline(
            PROMPTS[:1], num_inference_steps=2, guidance_scale=6.0, output_type="latent",
            width=size.width, height=size.height, num_frames=size.frames,
        )  # fmt: skip
    assert len(calls) == 2
    condition = family.encode_prompts(["", PROMPTS[0]])
    for expected in calls:
        x_t = expected["hidden_states"].transpose(1, 2)
        assert x_t.shape == (2, 4, (size.frames + 3) // 4, size.height // 4, size.width // 4)
        with recorded(family.denoiser) as found:
            prediction = family.predict(x_t, (expected["timestep"] + 0.5) / 1000, condition)
        assert prediction.shape == x_t.shape
        assert_same_call(found[0], expected)
        assert found[0]["timestep"].dtype == expected["timestep"].dtype
    assert [call["timestep"][0].item() for call in calls] == [999, 499]
    turned = {"image_rotary_emb.0", "image_rotary_emb.1"} <= calls[0].keys()
    assert turned is family.denoiser.config.use_rotary_positional_embeddings


@torch.no_grad()
def test_places_are_told_apart_and_the_prediction_comes_back_in_their_order(family):
    x_t, condition = draw(2, 4, 3, 8, 8), family.encode_prompts(PROMPTS[:2])
    prediction = family.predict(x_t, torch.tensor([0.2, 0.9]), condition)
    expected = family.pipeline.transformer(
        x_t.transpose(1, 2), condition["encoder_hidden_states"], torch.tensor([200, 900]),
        image_rotary_emb=family._rotary(x_t),
    ).sample  # fmt: skip
    torch.testing.assert_close(prediction.transpose(1, 2), expected)
    later = family.predict(x_t.flip(2), torch.tensor([0.2, 0.9]), condition).flip(2)
    assert (later - prediction).abs().max() > 1e-3


def test_angles_keep_their_precision_under_autocast(folders):
    family = load_family(str(folders["5b"]))
    exact = family._rotary(draw(1, 4, 13, 8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        found = family._rotary(draw(1, 4, 13, 8, 8))
    for mine, expected in zip(found, exact, strict=True):
        assert torch.equal(mine, expected)


@torch.no_grad()
def test_media_are_scaled_as_the_pipeline_scales_them(family):
    pixels = draw(2, 3, 9, 32, 32).clamp(-1, 1)
    posterior = family.pipeline.vae.encode(pixels).latent_dist
    scale = family.pipeline.vae.config.scaling_factor
    mean, std = family.encode_media(pixels)
    torch.testing.assert_close(mean, posterior.mean * scale)
    torch.testing.assert_close(std, posterior.std * scale)
    decoded = family.pipeline.decode_latents(mean.transpose(1, 2))
    torch.testing.assert_close(family.decode_media(mean), decoded)


@torch.no_grad()
def test_what_is_inverted_for_pictures_is_not_for_clips(changed):
    family = changed("vae", invert_scale_latents=True)
    latents = draw(1, 4, 2, 8, 8)
    decoded = family.pipeline.decode_latents(latents.transpose(1, 2))
    torch.testing.assert_close(family.decode_media(latents), decoded)


@torch.no_grad()
@pytest.mark.parametrize(("frames", "latent_frames"), [(1, 1), (5, 2), (9, 3), (13, 4), (17, 5)])
def test_four_frames_become_one_but_for_the_first(family, frames, latent_frames):
    mean, _ = family.encode_media(draw(1, 3, frames, 16, 16).clamp(-1, 1))
    assert mean.shape == (1, 4, latent_frames, 4, 4)
    restored = family.decode_media(mean)
    if frames % family.frame_stride == 1:
        assert restored.shape == (1, 3, frames, 16, 16)
    else:  # which is why such clips are not taken
        assert restored.shape == (1, 3, 4 * latent_frames, 16, 16)


@torch.no_grad()
def test_slices_of_a_batch_are_encoded_alike(family):
    pixels = draw(2, 3, 5, 16, 16).clamp(-1, 1)
    whole, _ = family.encode_media(pixels)
    family.pipeline.vae.enable_slicing()
    try:
        torch.testing.assert_close(family.encode_media(pixels)[0], whole)
    finally:
        family.pipeline.vae.disable_slicing()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"patch_size_t": 2}, "a CogVideoX 1.5 transformer, which joins frames in pairs"),
        ({"use_learned_positional_embeddings": True}, "that continues a picture"),
        ({"in_channels": 8}, "that continues a picture"),
    ],
)
def test_other_kinds_are_refused(changed, values, message):
    with pytest.raises(ModelError, match=message) as caught:
        changed("transformer", **values)
    assert "cogvideox-5b" in caught.value.hint


def test_registered_models_say_how_they_are_sampled():
    small, large = find_model("cogvideox-2b"), find_model("cogvideox-5b")
    assert (small.guidance, small.sampling_steps, small.licence) == (6.0, 50, "Apache-2.0")
    assert large.licence == "CogVideoX License"
    assert small.source != large.source
