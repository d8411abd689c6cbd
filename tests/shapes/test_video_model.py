import math
from pathlib import Path

import numpy as np
import pytest
import torch

from vipo_cli.models import find_model, load_pipeline
from vipo_cli.recipe import resolve_recipe
from vipo_cli.run import finish, read_lines
from vipo_cli.shapes.build_video import MAX_TOKENS
from vipo_cli.shapes.motion import (
    FRAMES,
    TASKS,
    draw_clip,
    draw_clip_caption,
    judge_clip,
    render_clip,
)
from vipo_cli.training.train import new_run, train

SPEC = find_model("shapes-video")
LIMIT = 3_400_000
"""Bytes; the package has 15 MB for all models together."""


@pytest.fixture(scope="module")
def plain():
    """The model as diffusers loads it, told nothing."""
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(SPEC.source)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(torch.float32)


def captions(number, task=None):
    rng = np.random.default_rng(5)
    return [draw_clip_caption(rng, task or TASKS[index % 2]) for index in range(number)]


def test_the_model_is_small_and_nothing_but_safetensors_json_and_its_card():
    files = [file for file in Path(SPEC.source).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= LIMIT
    assert {file.suffix for file in files} == {".safetensors", ".json", ".md"}
    for file in files:
        if file.suffix == ".json":
            assert "_name_or_path" not in file.read_text(), file


def test_plain_diffusers_loads_it_and_vipo_loads_the_same(plain):
    assert type(plain).__name__ == "WanPipeline"
    ours = load_pipeline(SPEC).transformer.state_dict()
    for name, weight in plain.transformer.state_dict().items():
        assert torch.equal(weight, ours[name]), name


@torch.no_grad()
def test_most_clips_are_read_as_they_were_after_the_autoencoder(plain):
    rng = np.random.default_rng(6)
    asked = captions(24)
    clips = np.stack([render_clip(draw_clip(rng, each)) for each in asked])
    pixels = torch.from_numpy(clips).movedim(-1, 1) / 127.5 - 1
    restored = plain.vae.decode(plain.vae.encode(pixels).latent_dist.mean).sample.clamp(-1, 1)
    frames = ((restored.movedim(1, -1) + 1) * 127.5).round().byte().numpy()
    verdicts = [judge_clip(clip, each) for clip, each in zip(frames, asked, strict=True)]
    assert sum(verdict.correct for verdict in verdicts) >= 18


@torch.no_grad()
def test_latents_of_its_clips_are_centred_and_of_unit_size(plain):
    rng = np.random.default_rng(7)
    clips = np.stack([render_clip(draw_clip(rng, each)) for each in captions(32)])
    latents = plain.vae.encode(torch.from_numpy(clips).movedim(-1, 1) / 127.5 - 1).latent_dist.mean
    mean, std = (
        torch.tensor(values).view(-1, 1, 1, 1)
        for values in (plain.vae.config.latents_mean, plain.vae.config.latents_std)
    )
    latents = (latents - mean) / std
    assert abs(latents.mean()) < 0.1
    assert latents.std() == pytest.approx(1, abs=0.1)


def test_its_samples_often_show_the_one_mover_that_was_asked_for_but_not_always(plain):
    asked, right = captions(16, "one_mover"), 0
    clips = plain(
        list(map(str, asked)), height=32, width=32, num_frames=FRAMES, output_type="np",
        num_inference_steps=SPEC.sampling_steps, guidance_scale=SPEC.guidance,
        max_sequence_length=MAX_TOKENS, generator=torch.Generator().manual_seed(0),
    ).frames  # fmt: skip
    for caption, clip in zip(asked, clips, strict=True):
        right += judge_clip((clip * 255).round().astype("uint8"), caption).correct
    assert 3 <= right <= 15


@pytest.mark.parametrize("method", ["diffusion-dpo", "poly-dpo"])
def test_its_recipes_start_at_ln_2_and_take_a_step(tmp_path, method):
    settings = {
        "data.pairs": 16, "data.held_out": 4, "optimizer.batch_size": 4, "run.steps": 2,
        "run.checkpoint_every": 2, "run.samples": 0,
    }  # fmt: skip
    recipe = resolve_recipe(None, model="shapes-video", method=method, settings=settings)
    assert recipe.model.name == "shapes-video"
    result = finish(train(recipe, new_run(recipe, tmp_path / "run")))
    assert result.clips
    first, second = (r for r in read_lines(result.run / "metrics.jsonl") if "loss" in r)
    extra = recipe.objective.parameters.get("alpha", 0) / 2  # Poly-DPO adds alpha (1 - p)
    assert first["loss"] == pytest.approx(math.log(2) + extra, abs=1e-6)
    assert second["loss"] != first["loss"]
