import json

import pytest
import torch

from tests.tiny.sd3 import build
from vipo_cli.errors import ModelError
from vipo_cli.models import Family, load_family, load_pipeline
from vipo_cli.models.family import Size
from vipo_cli.models.load import ModelSpec
from vipo_cli.schedules import NoiseLevel

PROMPTS = ["a red circle", "", "two blue squares " * 60]
TIME = torch.tensor([0.25, 0.9])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("sd3") / "whole")


@pytest.fixture(scope="module")
def family(folder):
    return load_family(str(folder))


@pytest.fixture(scope="module")
def without(folder, tmp_path_factory):
    """Return a function that opens the pipeline without some of its parts."""

    def make(*parts):
        copy = tmp_path_factory.mktemp("sd3") / "-".join(parts)
        copy.mkdir()
        for part in folder.iterdir():
            (copy / part.name).symlink_to(part)
        index = json.loads((folder / "model_index.json").read_text())
        (copy / "model_index.json").unlink()
        (copy / "model_index.json").write_text(
            json.dumps(index | {part: [None, None] for part in parts})
        )
        return load_family(str(copy))

    return make


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pipeline_embeddings(pipeline, prompts):
    states, _, pooled, _ = pipeline.encode_prompt(prompts, None, None, "cpu", 1, False)
    return states, pooled


def test_the_adapter_keeps_the_contract(family):
    assert isinstance(family, Family)
    assert family.denoiser is family.pipeline.transformer
    assert (family.size, family.multiple, family.target) == (Size(32, 32), 8, "flow")
    names = [name for name, _ in family.denoiser.named_modules()]
    for target in family.lora_targets:
        assert any(name.endswith(f".{target}") for name in names), target


def test_lora_reaches_both_streams_and_the_second_attention(family):
    found = {
        name.removeprefix("transformer_blocks.0.")
        for name, _ in family.denoiser.named_modules()
        if name.startswith("transformer_blocks.0.") and name.endswith(family.lora_targets)
    }
    assert {"attn.to_q", "attn2.to_q", "attn2.to_out.0", "attn.add_k_proj"} <= found
    assert {"ff.net.2", "ff_context.net.0.proj", "attn.to_add_out"} <= found
    assert not any("norm" in name for name in found)


def test_noise_levels_are_the_schedulers_own(family):
    scheduler = family.pipeline.scheduler
    count = len(scheduler.timesteps)
    x0, eps = draw(count, 1, 2, 2), draw(count, 1, 2, 2, seed=1)
    level = family.noise_level(scheduler.timesteps / 1000)
    assert isinstance(level, NoiseLevel)
    expected = scheduler.scale_noise(x0, scheduler.timesteps, eps)
    torch.testing.assert_close(level.mix(x0, eps), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(level.target("flow", x0, eps), eps - x0)


def test_a_step_of_the_scheduler_along_the_target_leads_to_the_clean_latents(family):
    scheduler = family.pipeline.scheduler
    x0, eps = draw(1, 4, 8, 8), draw(1, 4, 8, 8, seed=1)
    scheduler.set_timesteps(5)
    x_t = eps
    for t in scheduler.timesteps:
        target = family.noise_level(t[None] / 1000).target("flow", x0, eps)
        x_t = scheduler.step(target, t, x_t, return_dict=False)[0]
    torch.testing.assert_close(x_t, x0)


@torch.no_grad()
def test_prompts_are_encoded_as_the_pipeline_does(family):
    condition = family.encode_prompts(PROMPTS)
    states, pooled = pipeline_embeddings(family.pipeline, PROMPTS)
    assert torch.equal(condition["encoder_hidden_states"], states)
    assert torch.equal(condition["pooled_projections"], pooled)
    assert states.shape == (3, 16 + 256, 32)


@torch.no_grad()
def test_media_are_encoded_to_the_shifted_and_scaled_posterior(family):
    pixels = draw(3, 3, 32, 32).clamp(-1, 1)
    mean, std = family.encode_media(pixels)
    vae = family.pipeline.vae
    posterior = vae.encode(pixels).latent_dist
    torch.testing.assert_close(mean, (posterior.mean - 0.0609) * 1.5305)
    torch.testing.assert_close(std, posterior.std * 1.5305)
    torch.testing.assert_close(family.decode_media(mean), vae.decode(posterior.mean).sample)


@torch.no_grad()
@pytest.mark.parametrize("absent", [[], ["text_encoder_3"]])
def test_predictions_are_what_the_pipeline_gives_its_transformer(family, without, absent):
    """Each call of a real run of the pipeline, from text to its last step, is predicted alike."""
    family = without(*absent) if absent else family
    transformer, calls = family.pipeline.transformer, []
    handle = transformer.register_forward_hook(
        lambda _, __, inputs, output: calls.append((inputs, output)), with_kwargs=True
    )
    prompt = "a red circle left of a blue square"
    family.pipeline.set_progress_bar_config(disable=True)
    family.pipeline(prompt, num_inference_steps=2, guidance_scale=2.0, output_type="latent")
    handle.remove()
    assert len(calls) == 2
    condition = family.encode_prompts(["", prompt])
    for inputs, (output,) in calls:
        assert inputs["encoder_hidden_states"].shape == (2, 16 + 256, 32)
        prediction = family.predict(inputs["hidden_states"], inputs["timestep"] / 1000, condition)
        torch.testing.assert_close(prediction, output, atol=2e-6, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("absent", [[], ["text_encoder_3"]])
def test_sampling_from_embeddings_is_sampling_from_text(family, without, absent):
    family = without(*absent) if absent else family
    condition, empty = (family.encode_prompts([text]) for text in ("two blue squares", ""))
    noise = draw(1, 4, 8, 8)
    options = {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "latent"}
    family.pipeline.set_progress_bar_config(disable=True)
    by_text = family.pipeline("two blue squares", latents=noise, **options).images
    arguments = family.sampling_arguments(noise, condition, empty)
    torch.testing.assert_close(
        family.sampled_latents(family.pipeline(**arguments, **options).images, noise),
        by_text,
        atol=1e-5,
        rtol=1e-5,
    )


@torch.no_grad()
def test_zeros_of_an_absent_t5_are_kept_as_one_token(without):
    family = without("text_encoder_3")
    condition = family.encode_prompts(PROMPTS)
    states, pooled = pipeline_embeddings(family.pipeline, PROMPTS)
    assert condition["encoder_hidden_states"].shape == (3, 17, 32)
    assert torch.equal(condition["encoder_hidden_states"], states[:, :17])
    assert not states[:, 16:].any()
    assert torch.equal(condition["pooled_projections"], pooled)
    x_t = draw(3, 4, 8, 8)
    whole, one = (
        family.predict(x_t, torch.full((3,), 0.5), condition | {"encoder_hidden_states": each})
        for each in (states, condition["encoder_hidden_states"])
    )
    torch.testing.assert_close(whole, one, atol=2e-6, rtol=1e-5)
    # a picture with more tokens than that: the zeros are given as they are
    wide = draw(1, 4, 32, 32)
    arguments = family.sampling_arguments(
        wide, {key: value[:1] for key, value in condition.items()}, None
    )
    assert torch.equal(arguments["prompt_embeds"], states[:1])


def test_gradients_pass_the_one_token_as_they_pass_the_many(without):
    family = without("text_encoder_3")
    with torch.no_grad():
        condition = family.encode_prompts(["a red circle", ""])
        states, _ = pipeline_embeddings(family.pipeline, ["a red circle", ""])
    found = []
    weights = [family.denoiser.context_embedder.weight, family.denoiser.pos_embed.proj.weight]
    for each in (states, condition["encoder_hidden_states"]):
        given = condition | {"encoder_hidden_states": each}
        for weight in weights:
            weight.requires_grad_(True)
        loss = family.predict(draw(2, 4, 8, 8), TIME, given).square().mean()
        found.append(torch.autograd.grad(loss, weights))
    for one, many in zip(*found, strict=True):
        torch.testing.assert_close(one, many, atol=1e-6, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    ("absent", "columns", "pooled"), [("text_encoder", slice(8), slice(8)),
                                      ("text_encoder_2", slice(8, 24), slice(8, 24))],
)  # fmt: skip
def test_zeros_stand_in_for_an_absent_clip(family, without, absent, columns, pooled):
    whole, left = (each.encode_prompts(PROMPTS) for each in (family, without(absent)))
    states, other = whole["encoder_hidden_states"].clone(), whole["pooled_projections"].clone()
    states[:, :16, columns] = 0
    other[:, pooled] = 0
    assert torch.equal(left["encoder_hidden_states"], states)
    assert torch.equal(left["pooled_projections"], other)


@torch.no_grad()
def test_t5_alone_is_enough_to_sample(without):
    family = without("text_encoder", "text_encoder_2")
    condition = family.encode_prompts(["a red circle"])
    assert condition["pooled_projections"].shape == (1, 24)
    assert not condition["pooled_projections"].any()
    arguments = family.sampling_arguments(draw(1, 4, 8, 8), condition, condition)
    family.pipeline.set_progress_bar_config(disable=True)
    output = family.pipeline(**arguments, num_inference_steps=1, output_type="latent").images
    assert output.shape == (1, 4, 8, 8)


def test_a_pipeline_without_any_text_encoder_is_refused(without):
    with pytest.raises(ModelError, match="no text encoder") as caught:
        without("text_encoder", "text_encoder_2", "text_encoder_3")
    assert "text_encoder_3" in caught.value.hint


@torch.no_grad()
def test_a_lora_made_here_loads_in_plain_diffusers(folder, tmp_path):
    from peft import LoraConfig, get_peft_model_state_dict

    pipeline = load_pipeline(ModelSpec("tiny", str(folder)))
    targets = list(load_family(str(folder)).lora_targets)
    transformer = pipeline.transformer
    transformer.add_adapter(
        LoraConfig(r=2, lora_alpha=2, target_modules=targets, init_lora_weights=False)
    )
    inputs = {
        "hidden_states": draw(1, 4, 8, 8),
        "encoder_hidden_states": draw(1, 20, 32),
        "pooled_projections": draw(1, 24),
        "timestep": torch.tensor([500.0]),
    }
    adapted = transformer(**inputs).sample
    pipeline.save_lora_weights(tmp_path, get_peft_model_state_dict(transformer))
    plain = load_pipeline(ModelSpec("tiny", str(folder)))
    before = plain.transformer(**inputs).sample
    plain.load_lora_weights(tmp_path)
    torch.testing.assert_close(plain.transformer(**inputs).sample, adapted)
    assert (before - adapted).abs().max() > 1e-3
