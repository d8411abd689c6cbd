import json
import shutil

import numpy as np
import pytest
import torch

from tests.calls import assert_same_call, recorded
from tests.tiny.hunyuan import build, make_llama_tokenizer
from vipo_cli.errors import ModelError
from vipo_cli.models import find_model, load_family
from vipo_cli.models.family import Size

PROMPTS = ["a red circle", "", "two blue squares " * 90]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("hunyuan") / "tiny")


@pytest.fixture(scope="module")
def family(folder):
    return load_family(str(folder))


@pytest.fixture
def changed(folder, tmp_path):
    """Return a function that opens a copy with another configuration of the transformer."""

    def make(without=(), **values):
        copy = shutil.copytree(folder, tmp_path / "copy")
        file = copy / "transformer" / "config.json"
        config = json.loads(file.read_text()) | values
        file.write_text(json.dumps({key: config[key] for key in config if key not in without}))
        return load_family(str(copy))

    return make


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_adapter_reads_its_configuration(family):
    assert (family.size, family.multiple, family.frame_stride) == (Size(32, 32, 9), 16, 4)
    assert (family.target, family.guidance) == ("flow", 1.0)


def test_a_transformer_that_knows_no_size_has_that_of_the_pipeline(changed):
    family = changed(without=("sample_width", "sample_height", "sample_frames"))
    assert family.size == Size(1280, 720, 129)
    assert family.size.width % family.multiple == family.size.height % family.multiple == 0


def test_noise_levels_are_the_schedulers_own(family):
    scheduler = family.pipeline.scheduler
    scheduler.set_timesteps(sigmas=np.linspace(1, 0, 51)[:-1])
    x0, eps = draw(50, 4, 3, 2, 2), draw(50, 4, 3, 2, 2, seed=1)
    level = family.noise_level(scheduler.timesteps / 1000)
    torch.testing.assert_close(
        level.mix(x0, eps), scheduler.scale_noise(x0, scheduler.timesteps, eps), atol=1e-6, rtol=0
    )
    # one step of the sampler along the true target, down to no noise at all, ends at the clip
    target = level.target(family.target, x0, eps)
    last = scheduler.timesteps[-1]
    end = scheduler.step(target[-1:], last, level.mix(x0, eps)[-1:]).prev_sample
    torch.testing.assert_close(end, x0[-1:], atol=1e-6, rtol=0)


@torch.no_grad()
def test_prompts_are_encoded_as_the_pipeline_does(family):
    condition = family.encode_prompts(PROMPTS)
    states, pooled, mask = family.pipeline.encode_prompt(PROMPTS, device="cpu")
    assert condition["encoder_hidden_states"].shape == (3, 256, 16)
    torch.testing.assert_close(condition["encoder_hidden_states"], states)
    torch.testing.assert_close(condition["pooled_projections"], pooled)
    torch.testing.assert_close(condition["encoder_attention_mask"], mask.float())
    # words, the end of the turn, and nothing of the instruction
    assert condition["encoder_attention_mask"].sum(1).tolist() == [4, 1, 256]


@torch.no_grad()
def test_words_behind_the_end_of_a_prompt_do_not_count(family):
    x_t, time = draw(1, 4, 2, 4, 4), torch.tensor([0.5])
    condition = family.encode_prompts(PROMPTS[:1])
    prediction = family.predict(x_t, time, condition)
    states = condition["encoder_hidden_states"].clone()
    states[:, 4:] += 1
    changed = family.predict(x_t, time, condition | {"encoder_hidden_states": states})
    torch.testing.assert_close(changed, prediction, atol=1e-5, rtol=1e-5)
    states[:, 3] += 1
    changed = family.predict(x_t, time, condition | {"encoder_hidden_states": states})
    assert (changed - prediction).abs().max() > 1e-4


def test_llama_3_keeps_its_words(family, folder):
    """The class that the index names would take the tokens of LLaMA 3 apart."""
    from transformers import LlamaTokenizerFast

    index = json.loads((folder / "model_index.json").read_text())
    assert index["tokenizer"] == ["transformers", "LlamaTokenizerFast"]
    text = "a red circle and two blue squares"
    right = make_llama_tokenizer()(text).input_ids
    assert family.pipeline.tokenizer(text).input_ids == right
    assert family.pipeline.tokenizer.decode(right, skip_special_tokens=True) == text
    named = LlamaTokenizerFast.from_pretrained(folder / "tokenizer")
    if named(text).input_ids == right:
        pytest.fail("transformers reads the file again: `_restore_tokenizer` can go")


def test_the_instruction_is_as_long_as_the_pipeline_takes_it_to_be(family):
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE

    tokenizer = family.pipeline.tokenizer
    tokens = tokenizer(DEFAULT_PROMPT_TEMPLATE["template"].format("a red circle")).input_ids
    after = tokenizer.decode(tokens[DEFAULT_PROMPT_TEMPLATE["crop_start"] :])
    assert after == "a red circle<|eot_id|>"


@torch.no_grad()
@pytest.mark.parametrize("size", [Size(32, 32, 9), Size(48, 16, 5)])
def test_the_transformer_is_called_as_its_pipeline_calls_it(family, monkeypatch, size):
    monkeypatch.setattr(family, "guidance", 6.0)
    texts = PROMPTS[:2]
    with recorded(family.pipeline.transformer) as calls:
        family.pipeline(
            texts, num_inference_steps=2, guidance_scale=6.0, output_type="latent",
            width=size.width, height=size.height, num_frames=size.frames,
        )  # fmt: skip
    assert len(calls) == 2
    condition = family.encode_prompts(texts)
    for expected in calls:
        x_t = expected["hidden_states"]
        assert x_t.shape == (2, 4, (size.frames + 3) // 4, size.height // 8, size.width // 8)
        with recorded(family.denoiser) as found:
            prediction = family.predict(x_t, expected["timestep"] / 1000, condition)
        assert prediction.shape == x_t.shape
        assert_same_call(found[0], expected)
    assert calls[0]["guidance"].tolist() == [6000.0, 6000.0]
    assert {"encoder_attention_mask", "pooled_projections"} < calls[0].keys()


@torch.no_grad()
def test_guidance_is_rounded_as_the_pipeline_rounds_it(folder, monkeypatch):
    family = load_family(str(folder), "bf16")
    monkeypatch.setattr(family, "guidance", 6.1)
    texts = PROMPTS[:1]
    with recorded(family.pipeline.transformer) as calls:
        family.pipeline(
            texts, num_inference_steps=1, guidance_scale=6.1, output_type="latent",
            width=32, height=32, num_frames=5,
        )  # fmt: skip
    with recorded(family.denoiser) as found:
        family.predict(
            calls[0]["hidden_states"], calls[0]["timestep"] / 1000, family.encode_prompts(texts)
        )
    assert found[0]["guidance"].tolist() == calls[0]["guidance"].tolist()
    assert found[0]["guidance"].item() != pytest.approx(6100, abs=1)  # for so few digits


@torch.no_grad()
def test_the_denoiser_hears_its_guidance(family, monkeypatch):
    arguments = draw(1, 4, 2, 4, 4), torch.tensor([0.5]), family.encode_prompts(PROMPTS[:1])
    quiet = family.predict(*arguments)
    monkeypatch.setattr(family, "guidance", 6.0)
    assert (family.predict(*arguments) - quiet).abs().max() > 1e-6


@torch.no_grad()
def test_media_are_scaled_by_the_autoencoders_factor(family):
    pixels = draw(2, 3, 9, 32, 32).clamp(-1, 1)
    vae = family.pipeline.vae
    posterior = vae.encode(pixels).latent_dist
    mean, std = family.encode_media(pixels)
    torch.testing.assert_close(mean, posterior.mean * vae.config.scaling_factor)
    torch.testing.assert_close(std, posterior.std * vae.config.scaling_factor)
    torch.testing.assert_close(
        family.decode_media(mean), vae.decode(mean / vae.config.scaling_factor).sample
    )


@torch.no_grad()
@pytest.mark.parametrize(("frames", "latent_frames"), [(1, 1), (5, 2), (9, 3), (21, 6)])
def test_four_frames_become_one_but_for_the_first(family, frames, latent_frames):
    mean, _ = family.encode_media(draw(1, 3, frames, 16, 16).clamp(-1, 1))
    assert mean.shape == (1, 4, latent_frames, 2, 2)
    assert family.decode_media(mean).shape == (1, 3, frames, 16, 16)


@torch.no_grad()
def test_slices_of_a_batch_are_encoded_alike(family):
    pixels = draw(2, 3, 5, 16, 16).clamp(-1, 1)
    whole, _ = family.encode_media(pixels)
    family.pipeline.vae.enable_slicing()
    try:
        torch.testing.assert_close(family.encode_media(pixels)[0], whole)
    finally:
        family.pipeline.vae.disable_slicing()


def test_lora_adapts_both_kinds_of_block_but_not_the_last_layer(family):
    adapted = {
        name
        for name, _ in family.denoiser.named_modules()
        if any(name == target or name.endswith(f".{target}") for target in family.lora_targets)
    }
    assert {
        "transformer_blocks.0.attn.to_q",
        "transformer_blocks.0.attn.add_k_proj",
        "transformer_blocks.0.attn.to_add_out",
        "transformer_blocks.0.ff_context.net.2",
        "single_transformer_blocks.0.attn.to_v",
        "single_transformer_blocks.0.proj_out",
    } <= adapted
    assert not adapted & {"proj_out", "norm_out.linear"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"image_condition_type": "token_replace"}, "that continues a picture"),
        ({"in_channels": 9}, "that continues a picture"),
        ({"guidance_embeds": False}, "without distilled guidance"),
        ({"patch_size_t": 2}, "that joins frames"),
    ],
)
def test_other_kinds_are_refused(changed, values, message):
    with pytest.raises(ModelError, match=message) as caught:
        changed(**values)
    assert "hunyuan-video" in caught.value.hint


def test_the_registered_model_says_how_it_is_sampled():
    spec = find_model("hunyuan-video")
    assert (spec.guidance, spec.sampling_steps) == (6.0, 50)
    assert spec.licence == "Tencent Hunyuan Community License"
