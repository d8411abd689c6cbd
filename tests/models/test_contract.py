"""What every family keeps, checked on a tiny random pipeline of each."""

import inspect
import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.tiny import FAMILIES, build
from vipo_cli.models import Family, load_family, open_family
from vipo_cli.models.family import Framing
from vipo_cli.models.parts import encoder_parts, load_parts, release_parts
from vipo_cli.models.sample import decode_latents, sample_latents, spatial_factor
from vipo_cli.recipe import resolve_recipe
from vipo_cli.run import finish, read_lines
from vipo_cli.training import checkpoint
from vipo_cli.training.train import new_run, train

PROMPTS = ["a red circle", "two blue squares"]
SMALL = {
    "model.precision": "fp32",
    "data.pairs": 4,
    "data.held_out": 0,
    "objective.alpha": 0.0,
    "optimizer.batch_size": 2,
    "optimizer.learning_rate": 1e-2,
    "run.steps": 1,
}


@pytest.fixture(scope="session", params=FAMILIES)
def folder(request, tmp_path_factory):
    return build(request.param, tmp_path_factory.mktemp("families") / request.param)


@pytest.fixture(scope="session")
def family(folder):
    return load_family(str(folder))


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def media(family, size=None):
    """Return two pictures or clips."""
    return draw(2, 3, *(size or family.size).shape).clamp(-1, 1)


def narrower(family):
    """Return a size that is not square."""
    return replace(family.size, width=family.size.width - family.multiple)


def conditions(family, prompts=PROMPTS, size=None):
    size = size or family.size
    framing = Framing((size.width, size.height), (0, 0), size)
    return family.encode_prompts(prompts) | family.media_condition([framing] * len(prompts))


@cache
def latent_shape(family, size):
    with torch.no_grad():
        return family.encode_media(media(family, size))[0].shape


def latents(family, size=None):
    return draw(*latent_shape(family, size or family.size))


def adapted(family):
    """Return the layers that LoRA adapts, by name, matched as peft matches them."""
    return {
        name: layer
        for name, layer in family.denoiser.named_modules()
        if any(name == target or name.endswith(f".{target}") for target in family.lora_targets)
    }


def test_the_adapter_describes_its_pipeline(family):
    assert isinstance(family, Family)
    assert family.denoiser is getattr(family.pipeline, family.denoiser_name)
    assert family.target in ("epsilon", "sample", "velocity", "flow")
    size = family.size
    assert size.width % family.multiple == size.height % family.multiple == 0
    if family.frame_stride:
        assert size.frames > 1
        assert (size.frames - 1) % family.frame_stride == 0
    else:
        assert size.frames == 1


def test_lora_reaches_linear_layers_inside_the_blocks_and_no_others(family):
    layers = adapted(family)
    for target in family.lora_targets:
        assert any(name == target or name.endswith(f".{target}") for name in layers), target
    for name, layer in layers.items():
        assert isinstance(layer, nn.Linear | nn.Conv2d), name
        assert "blocks." in name or "mid_block." in name, name


@torch.no_grad()
def test_media_become_latents_and_come_back(family):
    pixels = media(family)
    mean, std = family.encode_media(pixels)
    assert mean.dtype == std.dtype == torch.float32
    assert mean.shape == std.shape
    assert mean.isfinite().all()
    assert (std > 0).all()
    assert mean.ndim == pixels.ndim == (5 if family.frame_stride else 4)
    assert len(mean) == 2
    factor = spatial_factor(family.pipeline)
    assert family.multiple % factor == 0
    assert tuple(mean.shape[-2:]) == (family.size.height // factor, family.size.width // factor)
    restored = family.decode_media(mean)
    assert restored.shape == pixels.shape
    assert restored.dtype == torch.float32
    assert restored.isfinite().all()


@torch.no_grad()
def test_tiles_and_slices_of_the_autoencoder_give_the_same_shape(family):
    vae, size = family.pipeline.vae, family.size
    wide = replace(size, width=2 * size.width, frames=min(size.frames, 1 + family.frame_stride))
    pixels = media(family, wide)
    tiles = {
        "tile_sample_min_height": size.height,
        "tile_sample_min_width": size.width,
        "tile_sample_stride_height": size.height // 2,
        "tile_sample_stride_width": size.width // 2,
        "tile_overlap_factor_height": 0.25,
        "tile_overlap_factor_width": 0.25,
    }
    accepted = inspect.signature(vae.enable_tiling).parameters
    vae.enable_tiling(**{name: value for name, value in tiles.items() if name in accepted})
    vae.enable_slicing()
    try:
        mean, _ = family.encode_media(pixels)
        factor = spatial_factor(family.pipeline)
        assert tuple(mean.shape[-2:]) == (wide.height // factor, wide.width // factor)
        assert mean.isfinite().all()
        assert family.decode_media(mean).shape == pixels.shape
    finally:
        vae.disable_tiling()
        vae.disable_slicing()


@torch.no_grad()
def test_prompts_are_encoded_alike_together_and_alone(family):
    together = family.encode_prompts([*PROMPTS, ""])
    for row, prompt in enumerate([*PROMPTS, ""]):
        alone = family.encode_prompts([prompt])
        assert alone.keys() == together.keys()
        for name, value in alone.items():
            assert value.shape == (1, *together[name].shape[1:])
            torch.testing.assert_close(value[0], together[name][row], atol=1e-5, rtol=1e-4)


def test_noise_grows_with_time(family):
    level = family.noise_level(torch.tensor([0.0, 0.5, 1.0]))
    assert (level.sigma.diff() > 0).all()
    assert (level.alpha.diff() < 0).all()
    assert level.sigma[0] < 0.1
    assert level.alpha[-1] < 0.1


@torch.no_grad()
def test_the_prediction_depends_on_prompt_and_time(family):
    x_t, condition = latents(family), conditions(family)
    time = torch.tensor([0.3, 0.7])
    prediction = family.predict(x_t, time, condition)
    assert prediction.shape == x_t.shape
    assert prediction.isfinite().all()
    other_prompts = family.predict(x_t, time, conditions(family, PROMPTS[::-1]))
    other_time = family.predict(x_t, time.flip(0), condition)
    for other in (other_prompts, other_time):
        assert ((other - prediction).abs().amax(dim=(1, 2, 3)) > 1e-5).all()
    # rows of a batch know nothing of each other
    first = {name: value[:1] for name, value in condition.items()}
    torch.testing.assert_close(
        family.predict(x_t[:1], time[:1], first), prediction[:1], atol=1e-5, rtol=1e-4
    )


@torch.no_grad()
def test_other_sizes_and_lengths_are_encoded_and_predicted(family):
    sizes = [narrower(family)]
    if family.frame_stride:
        sizes += [replace(family.size, frames=family.size.frames - family.frame_stride)]
    for size in sizes:
        x_t = latents(family, size)
        assert x_t.shape != latent_shape(family, family.size)
        prediction = family.predict(x_t, torch.tensor([0.3, 0.7]), conditions(family, size=size))
        assert prediction.shape == x_t.shape


def plain_arguments(family, size):
    """Return what somebody would call the pipeline with who knows nothing of this project."""
    accepted = inspect.signature(type(family.pipeline).__call__).parameters
    arguments = {"prompt": PROMPTS, "height": size.height, "width": size.width}
    if "num_frames" in accepted:
        arguments["num_frames"] = size.frames
    if "max_sequence_length" in accepted:
        # tiny tokenizers are shorter than what pipelines pad to by default
        tokens = family.encode_prompts([""])["encoder_hidden_states"].shape[1]
        arguments["max_sequence_length"] = min(accepted["max_sequence_length"].default, tokens)
    return arguments


def generators():
    return [torch.Generator().manual_seed(seed) for seed in (3, 4)]


@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_samples_are_those_of_the_plain_pipeline(family, guidance):
    size = narrower(family)
    family.pipeline.set_progress_bar_config(disable=True)
    plain = {
        "num_inference_steps": 2,
        "guidance_scale": guidance,
        "return_dict": False,
    } | plain_arguments(family, size)
    own = generators()
    shape = latent_shape(family, size)[1:]
    # CogVideoX draws its noise frame by frame
    frames_first = type(family.pipeline).__name__.startswith("CogVideoX")
    drawn = (shape[1], shape[0], *shape[2:]) if frames_first else shape
    noise = torch.stack([torch.randn(drawn, generator=generator) for generator in own])
    noise = noise.transpose(1, 2) if frames_first else noise
    with torch.no_grad():
        condition, empty = family.encode_prompts(PROMPTS), family.encode_prompts(["", ""])
        found = sample_latents(family, noise, condition, empty, own, steps=2, guidance=guidance)
        expected = family.pipeline(**plain, generator=generators(), output_type="latent")[0]
    assert found.shape == noise.shape
    assert found.isfinite().all()
    torch.testing.assert_close(
        found, family.sampled_latents(expected, noise).float(), atol=1e-5, rtol=1e-5
    )
    pictures = family.pipeline(**plain, generator=generators(), output_type="np")[0]
    for picture, pixels in zip(pictures, decode_latents(family, found), strict=True):
        assert pixels.dtype == np.uint8
        assert np.abs(picture * 255 - pixels).max() <= 1


def test_samples_are_drawn_when_nothing_but_the_denoiser_is_there(family, folder):
    bare = open_family(str(folder))
    release_parts(bare, encoder_parts(bare))
    load_parts(bare, [bare.denoiser_name], dtype=torch.float32, device="cpu")
    noise = latents(family)
    with torch.no_grad():
        condition, empty = family.encode_prompts(PROMPTS), family.encode_prompts(["", ""])
    found, expected = (
        sample_latents(one, noise, condition, empty, generators(), steps=1, guidance=2.5)
        for one in (bare, family)
    )
    torch.testing.assert_close(found, expected)


def trained(family, folder, tmp_path, part):
    """Train for one step and return the result; before it, policy and reference are one."""
    source = "shapes-clips" if family.frame_stride else "shapes"
    settings = SMALL | {"data.name": source, "model.train": part}
    recipe = resolve_recipe(None, model=str(folder), method="poly-dpo", settings=settings)
    result = finish(train(recipe, new_run(recipe, tmp_path / part)))
    first = read_lines(result.run / "metrics.jsonl")[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["margin"] == 0
    assert first["implicit_accuracy"] == 0.5
    return result


def plain_pipeline(folder):
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def plain(folder):
    """The model before training, for eyes that know nothing of this project."""
    return plain_pipeline(folder)


def plain_sample(pipeline, family):
    return pipeline(
        **plain_arguments(family, family.size), num_inference_steps=1, output_type="latent",
        generator=generators(), return_dict=False,
    )[0]  # fmt: skip


def test_trains_an_adapter_that_plain_diffusers_loads(family, folder, plain, tmp_path):
    result = trained(family, folder, tmp_path, "lora")
    weights = load_file(result.checkpoint / checkpoint.LORA_FILE)
    assert len(weights) == 2 * len(adapted(family))
    changed = [value for name, value in weights.items() if ".lora_B." in name]
    assert any(value.abs().max() > 0 for value in changed)
    before = plain_sample(plain, family)
    plain.load_lora_weights(result.checkpoint)
    try:
        layers = getattr(plain, family.denoiser_name).named_modules()
        found = {name for name, layer in layers if hasattr(layer, "lora_A")}
        assert found == adapted(family).keys()
        assert (plain_sample(plain, family) - before).abs().max() > 1e-4
        plain.set_adapters(plain.get_active_adapters(), 0.0)
        torch.testing.assert_close(plain_sample(plain, family), before, atol=1e-6, rtol=0)
    finally:
        plain.unload_lora_weights()


def test_trains_all_weights_of_a_pipeline_that_plain_diffusers_loads(
    family, folder, plain, tmp_path
):
    result = trained(family, folder, tmp_path, "full")
    after = plain_pipeline(result.checkpoint)
    old, new = (getattr(pipeline, family.denoiser_name).state_dict() for pipeline in (plain, after))
    assert old.keys() == new.keys()
    assert any(not torch.equal(old[name], new[name]) for name in old)
    assert (plain_sample(after, family) - plain_sample(plain, family)).abs().max() > 1e-4
