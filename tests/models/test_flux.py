import numpy as np
import pytest
import torch

from tests.calls import assert_same_call, recorded
from tests.tiny.flux import build
from vipo_cli.models import load_family
from vipo_cli.models.flux import pack, positions, unpack

PROMPTS = ["a red circle", "", "two blue squares " * 60]


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return load_family(str(build(tmp_path_factory.mktemp("flux"))))


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_noise_levels_are_the_schedulers_own(family):
    scheduler = family.pipeline.scheduler
    scheduler.set_timesteps(sigmas=np.linspace(1, 0.1, 10), mu=0.9)
    x0, eps = draw(10, 4, 8, 8), draw(10, 4, 8, 8).flip(0)
    level = family.noise_level(scheduler.timesteps / 1000)
    torch.testing.assert_close(
        level.mix(x0, eps), scheduler.scale_noise(x0, scheduler.timesteps, eps), atol=1e-6, rtol=0
    )
    # one step of the sampler along the true target, down to no noise at all, ends at the picture
    target = level.target(family.target, x0, eps)
    last = scheduler.timesteps[-1]
    end = scheduler.step(target[-1:], last, level.mix(x0, eps)[-1:]).prev_sample
    torch.testing.assert_close(end, x0[-1:], atol=1e-6, rtol=0)


@torch.no_grad()
def test_prompts_are_encoded_as_the_pipeline_does(family):
    condition = family.encode_prompts(PROMPTS)
    embeds, pooled, _ = family.pipeline.encode_prompt(
        PROMPTS, device="cpu", max_sequence_length=family.pipeline.tokenizer_2.model_max_length
    )
    assert list(condition) == ["encoder_hidden_states", "pooled_projections"]
    torch.testing.assert_close(condition["encoder_hidden_states"], embeds)
    torch.testing.assert_close(condition["pooled_projections"], pooled)


@torch.no_grad()
def test_prompts_hold_512_tokens_where_the_tokenizer_takes_them(family, monkeypatch):
    monkeypatch.setattr(family.pipeline.tokenizer_2, "model_max_length", 10**30)
    embeds, _, _ = family.pipeline.encode_prompt(PROMPTS, device="cpu")
    found = family.encode_prompts(PROMPTS)["encoder_hidden_states"]
    assert found.shape[1] == 512
    torch.testing.assert_close(found, embeds)


def test_packing_is_the_pipelines_own(family):
    latents = draw(2, 4, 6, 10)
    packed = pack(latents)
    torch.testing.assert_close(packed, family.pipeline._pack_latents(latents, 2, 4, 6, 10))
    torch.testing.assert_close(unpack(packed, 6, 10), latents)
    ids = family.pipeline._prepare_latent_image_ids(2, 3, 5, "cpu", torch.float32)
    torch.testing.assert_close(positions(3, 5, torch.device("cpu")), ids)


@torch.no_grad()
def test_the_transformer_is_called_as_its_pipeline_calls_it(family):
    texts = ["a red circle", "two blue squares"]
    with recorded(family.pipeline.transformer) as calls:
        family.pipeline(
            texts, num_inference_steps=2, guidance_scale=3.5, output_type="latent",
            height=32, width=48, max_sequence_length=16,
        )  # fmt: skip
    condition = family.encode_prompts(texts)
    family.guidance = 3.5
    try:
        assert len(calls) == 2
        for expected in calls:
            x_t = unpack(expected["hidden_states"], 8, 12)
            with recorded(family.denoiser) as found:
                family.predict(x_t, expected["timestep"], condition)
            assert_same_call(found[0], expected)
    finally:
        family.guidance = 1.0
    assert {"img_ids", "txt_ids", "guidance", "pooled_projections"} < expected.keys()


@torch.no_grad()
def test_guidance_is_told_only_to_those_who_want_to_hear_it(family, monkeypatch):
    arguments = draw(1, 4, 8, 8), torch.tensor([0.5]), family.encode_prompts(PROMPTS[:1])
    quiet = family.predict(*arguments)
    monkeypatch.setattr(family, "guidance", 3.5)
    assert (family.predict(*arguments) - quiet).abs().max() > 1e-6
    monkeypatch.setattr(family, "_guided", False)
    monkeypatch.setattr(
        family, "denoiser", lambda *args, guidance, **_: (args[0] if guidance is None else None,)
    )
    torch.testing.assert_close(family.predict(*arguments), arguments[0])


def test_lora_adapts_the_single_blocks_but_not_the_last_layer(family):
    assert "single_transformer_blocks.0.proj_out" in family.lora_targets
    assert not any("proj_out".endswith(target) for target in family.lora_targets)
