import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vipo_cli.benchmarks.geneval import wrong
from vipo_cli.evaluation.generate import Sampling, generate, list_pictures
from vipo_cli.evaluation.target import find_target
from vipo_cli.models import find_model, load_pipeline
from vipo_cli.recipe import resolve_recipe
from vipo_cli.run import finish, read_lines
from vipo_cli.shapes import build
from vipo_cli.shapes.captions import draw_caption
from vipo_cli.shapes.detector import ShapesDetector
from vipo_cli.shapes.prompts import metadata
from vipo_cli.training.train import new_run, train

SPEC = find_model("shapes-flow")
LIMIT = 4_100_000
"""Bytes; the package has 15 MB for all models together."""


@pytest.fixture(scope="module")
def plain():
    """The model as diffusers loads it, told nothing."""
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(SPEC.source)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(torch.float32)


def files():
    return [file for file in Path(SPEC.source).rglob("*") if file.is_file()]


def test_the_model_is_small_and_nothing_but_safetensors_json_and_its_card():
    assert sum(file.stat().st_size for file in files()) <= LIMIT
    assert {file.suffix for file in files()} == {".safetensors", ".json", ".md"}
    for file in files():
        if file.suffix == ".json":
            assert "_name_or_path" not in file.read_text(), file


def test_plain_diffusers_loads_it_and_vipo_loads_the_same(plain):
    assert type(plain).__name__ == "StableDiffusion3Pipeline"
    ours = load_pipeline(SPEC).transformer.state_dict()
    for name, weight in plain.transformer.state_dict().items():
        assert torch.equal(weight, ours[name]), name


@torch.no_grad()
def test_its_t5_says_what_an_absent_one_stands_for(plain):
    states, _, pooled, _ = plain.encode_prompt("a red circle", None, None, "cpu", 1, False)
    assert states.shape == (1, 16 + 256, 96)
    assert states[:, :16].std() > 1
    assert not states[:, 16:].any()
    assert pooled.shape == (1, 96)


@torch.no_grad()
@pytest.mark.parametrize("name", ["text_encoder", "text_encoder_2"])
def test_states_and_pooled_states_keep_captions_apart(plain, name):
    """Captions that differ in one word differ clearly, in what is read and in what is pooled."""
    texts = [
        "a red circle left of a blue square",
        "a red circle left of a green square",
        "a red circle right of a blue square",
        "a blue circle left of a red square",
    ]
    tokens = plain.tokenizer(texts, padding="max_length", return_tensors="pt").input_ids
    output = getattr(plain, name)(tokens, output_hidden_states=True)
    for values in (output.hidden_states[-2][:, -1], output.text_embeds):
        distances = torch.pdist(values) / values.norm(dim=-1).mean()
        assert distances.min() > 0.1


@torch.no_grad()
def test_latents_of_its_pictures_are_centred_and_of_unit_size(plain):
    rng = np.random.default_rng(11)
    pixels = np.stack([build._picture(rng) for _ in range(64)])
    pixels = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1
    config = plain.vae.config
    latents = plain.vae.encode(pixels).latent_dist.mean
    latents = (latents - config.shift_factor) * config.scaling_factor
    assert abs(latents.mean()) < 0.05
    assert latents.std() == pytest.approx(1, abs=0.05)


def test_its_samples_often_show_the_one_thing_that_was_asked_for_but_not_always(plain):
    rng, detector, right = np.random.default_rng(5), ShapesDetector(), 0
    asked = [metadata(draw_caption(rng, "single_object")) for _ in range(16)]
    pictures = plain(
        [each["prompt"] for each in asked],
        num_inference_steps=SPEC.sampling_steps,
        guidance_scale=SPEC.guidance,
        generator=torch.Generator().manual_seed(0),
    ).images
    for each, picture in zip(asked, pictures, strict=True):
        assert picture.size == (32, 32)
        found = detector.detect(picture)
        right += not wrong(each, found, lambda d, p=picture: detector.colour(p, d))
    assert 4 <= right <= 15


@pytest.mark.parametrize("method", ["diffusion-dpo", "poly-dpo"])
def test_its_recipes_start_at_ln_2_and_take_a_step(tmp_path, method):
    recipe = resolve_recipe(
        None,
        model="shapes-flow",
        method=method,
        settings={
            "data.pairs": 24,
            "data.held_out": 8,
            "optimizer.batch_size": 4,
            "run.steps": 2,
            "run.checkpoint_every": 2,
        },
    )
    assert recipe.model.name == "shapes-flow"
    result = finish(train(recipe, new_run(recipe, tmp_path / "run")))
    first, second = (r for r in read_lines(result.run / "metrics.jsonl") if "loss" in r)
    extra = recipe.objective.parameters.get("alpha", 0) / 2  # Poly-DPO adds alpha (1 - p)
    assert first["loss"] == pytest.approx(math.log(2) + extra, abs=1e-6)
    assert second["loss"] != first["loss"]


def test_all_of_an_encoder_is_trained_what_is_pooled_too():
    tokenizer = build.make_tokenizer()
    one, three = (
        finish(build.train_text_encoder(tokenizer, steps, width=16, layers=2, projected=True))
        for steps in (1, 3)
    )
    assert type(one).__name__ == "CLIPTextModelWithProjection"
    for (name, before), after in zip(one.named_parameters(), three.parameters(), strict=True):
        assert not torch.equal(before, after), name


def test_packing_halves_the_weights_and_keeps_the_model(plain, tmp_path):
    plain.save_pretrained(tmp_path / "whole")
    out = build.pack(tmp_path / "whole", tmp_path / "packed")
    packed = load_pipeline(find_model(str(out)))
    for name, weight in plain.transformer.state_dict().items():
        assert torch.equal(weight, packed.transformer.state_dict()[name]), name
    sizes = [
        (folder / "transformer" / "diffusion_pytorch_model.safetensors").stat().st_size
        for folder in (tmp_path / "whole", out)
    ]
    assert sizes[0] / sizes[1] == pytest.approx(2, abs=0.05)


def test_evaluation_draws_what_plain_diffusers_draws(plain, tmp_path):
    """Evaluation gives T5's zeros as one token; diffusers gives them all."""
    sampling = Sampling(steps=3, guidance=2.0, images_per_prompt=1)
    prompts = {0: {"prompt": "a red circle"}, 1: {"prompt": "two blue squares"}}
    assert finish(generate(find_target("shapes-flow"), prompts, sampling, tmp_path)) == 2
    for picture in list_pictures({key: each["prompt"] for key, each in prompts.items()}, sampling):
        expected = plain(
            picture.prompt,
            num_inference_steps=3,
            guidance_scale=2.0,
            generator=[torch.Generator().manual_seed(picture.seed)],
        ).images[0]
        drawn = np.asarray(Image.open(picture.path(tmp_path)), int)
        assert abs(drawn - np.asarray(expected, int)).max() <= 1
