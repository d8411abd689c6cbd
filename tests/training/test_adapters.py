import json
import math
import shutil
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import FAMILIES
from vipo_cli.errors import ModelError, RecipeError, VipoError
from vipo_cli.evaluation.target import find_target
from vipo_cli.models import load_family
from vipo_cli.models.family import Framing
from vipo_cli.models.lora_files import LORA_FILE, check_safetensors, read_lora
from vipo_cli.recipe import resolve_recipe
from vipo_cli.run import finish, read_lines
from vipo_cli.training import checkpoint
from vipo_cli.training.adapters import (
    START_FILE,
    add_adapter,
    check_adapters,
    make_trainable,
    merge,
    save_lora,
)
from vipo_cli.training.reference import trainable
from vipo_cli.training.timesteps import load_policy
from vipo_cli.training.train import new_run, read_run, train


@pytest.fixture(scope="session", params=FAMILIES)
def folder(request, tmp_path_factory):
    if find_spec(f"tests.tiny.{request.param}") is None:
        pytest.skip(f"tests/tiny/{request.param}.py does not exist yet")
    build = import_module(f"tests.tiny.{request.param}").build
    return build(tmp_path_factory.mktemp("adapted") / request.param)


def predictor(family):
    """Return a function that predicts with a model as it is, always for the same inputs."""
    size = family.size
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        pixels = torch.randn(2, 3, *size.shape, generator=generator).clamp(-1, 1)
        x_t = torch.randn(family.encode_media(pixels)[0].shape, generator=generator)
        framing = Framing((size.width, size.height), (0, 0), size)
        condition = family.encode_prompts(["a red circle", "two blue squares"])
        condition |= family.media_condition([framing] * 2)

    @torch.no_grad()
    def predict(model=family, precision=None):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return model.predict(x_t, torch.tensor([0.3, 0.7]), condition).float()

    return predict


def adapted(folder, precision="fp32", **model):
    """Return a family with fresh adapters, and the recipe that they are of."""
    family = load_family(str(folder), precision)
    settings = {f"model.{key}": value for key, value in model.items()}
    settings["model.precision"] = precision
    recipe = resolve_recipe(None, model=str(folder), settings=settings)
    return family, recipe


@torch.no_grad()
def shake(family, size=0.1):
    """Change the trained weights as training would, only more."""
    generator = torch.Generator().manual_seed(1)
    for value in trainable(family).values():
        value.add_(size * torch.randn(value.shape, generator=generator))


def plain(folder, lora, family):
    """Return plain diffusers' model with a LoRA on, behind an adapter of the same kind."""
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.load_lora_weights(lora)
    return type(family)(pipeline)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("adapter", ["lora", "dora"])
def test_fresh_adapters_change_nothing_to_the_last_bit_and_are_in_fp32(folder, adapter, precision):
    family, recipe = adapted(folder, precision, adapter=adapter, rank=4)
    predict = predictor(family)
    before = predict(precision=precision)
    reference = make_trainable(family, recipe, None, copied=True)
    assert torch.equal(predict(precision=precision), before)
    assert {value.dtype for value in trainable(family).values()} == {torch.float32}
    magnitudes = [name for name in trainable(family) if "magnitude" in name]
    assert bool(magnitudes) == (adapter == "dora")
    shake(family)
    assert not torch.equal(predict(precision=precision), before)
    with reference() as base:
        assert torch.equal(predict(base, precision), before)


@pytest.mark.parametrize(
    "settings",
    [{"rank": 4, "lora_alpha": 10.0}, {"rank": 4, "adapter": "dora", "lora_alpha": 2.0}],
    ids=["alpha", "dora"],
)
def test_plain_diffusers_predicts_what_was_trained(folder, tmp_path, settings):
    family, recipe = adapted(folder, **settings)
    predict = predictor(family)
    before = predict()
    add_adapter(family, recipe)
    shake(family)
    save_lora(tmp_path, family, trainable(family), {"vipo.base": str(folder)})
    other = plain(folder, tmp_path, family)
    torch.testing.assert_close(predict(other), predict(), atol=1e-6, rtol=1e-5)
    config = next(iter(other.denoiser.peft_config.values()))
    assert (config.r, config.lora_alpha) == (4, settings["lora_alpha"])
    if "adapter" not in settings:  # DoRA at scale 0 still scales its layers, in peft itself
        other.pipeline.set_adapters(other.pipeline.get_active_adapters(), 0.0)
        assert torch.equal(predict(other), before)
    other.pipeline.disable_lora()
    assert torch.equal(predict(other), before)


@pytest.mark.parametrize("adapter", ["lora", "dora"])
def test_training_goes_on_from_a_lora_that_is_the_reference_to_the_last_bit(
    folder, tmp_path, adapter
):
    family, recipe = adapted(folder, rank=3, lora_alpha=5.0, adapter=adapter)
    predict = predictor(family)
    add_adapter(family, recipe)
    shake(family)
    save_lora(tmp_path, family, trainable(family), {})
    started = predict()

    for precision in ("fp32", "bf16"):
        family, recipe = adapted(folder, precision, start_from=str(tmp_path))
        start = check_adapters(recipe, family)
        reference = make_trainable(family, recipe, start, copied=True)
        if precision == "fp32":
            torch.testing.assert_close(predict(family), started, atol=1e-6, rtol=1e-5)
        policy = predict(family, precision)
        with reference() as base:
            assert torch.equal(predict(base, precision), policy)
        shake(family)
        assert not torch.equal(predict(family, precision), policy)
        with reference() as base:
            assert torch.equal(predict(base, precision), policy)
    # what is saved stands alone on the base, rank and all
    family, recipe = adapted(folder, start_from=str(tmp_path))
    make_trainable(family, recipe, check_adapters(recipe, family), copied=True)
    shake(family)
    (tmp_path / "after").mkdir()
    save_lora(tmp_path / "after", family, trainable(family), {})
    other = plain(folder, tmp_path / "after", family)
    torch.testing.assert_close(predict(other), predict(family), atol=1e-6, rtol=1e-5)
    config = next(iter(other.denoiser.peft_config.values()))
    assert (config.r, config.lora_alpha) == (3, 5.0)
    # where all weights are trained, it becomes a part of them
    family, recipe = adapted(folder, start_from=str(tmp_path), train="full")
    make_trainable(family, recipe, check_adapters(recipe, family), copied=False)
    torch.testing.assert_close(predict(family), started, atol=1e-5, rtol=1e-4)


def test_a_lora_of_mixed_ranks_on_some_layers_is_gone_on_from(tiny, tmp_path):
    family, recipe = adapted(tiny, rank=2, lora_alpha=3.0, targets=["attn2.to_q", "to_v"])
    predict = predictor(family)
    add_adapter(family, recipe)
    shake(family)
    save_lora(tmp_path, family, trainable(family), {})
    tensors = load_file(tmp_path / LORA_FILE)
    header = check_safetensors(tmp_path / LORA_FILE)
    last = next(name for name in tensors if name.endswith("to_v.lora_A.weight"))
    for name, other in ((last, 0), (last.replace("lora_A", "lora_B"), 1)):
        tensors[name] = torch.cat([tensors[name], torch.zeros_like(tensors[name])], other)
    # twice the rank at the same alpha is half the strength
    tensors[last.replace("lora_A", "lora_B")] *= 2
    started = predict()
    save_file(tensors, tmp_path / LORA_FILE, metadata=header)

    family, recipe = adapted(tiny, start_from=str(tmp_path))
    make_trainable(family, recipe, check_adapters(recipe, family), copied=True)
    torch.testing.assert_close(predict(family), started, atol=1e-6, rtol=1e-5)
    assert len(trainable(family)) == len(tensors)
    (tmp_path / "after").mkdir()
    save_lora(tmp_path / "after", family, trainable(family), {})
    other = plain(tiny, tmp_path / "after", family)
    torch.testing.assert_close(predict(other), started, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("adapter", ["lora", "dora"])
def test_a_merged_lora_is_the_lora(tiny, tmp_path, adapter):
    family, recipe = adapted(tiny, rank=4, lora_alpha=6.0, adapter=adapter)
    predict = predictor(family)
    add_adapter(family, recipe)
    shake(family)
    save_lora(tmp_path, family, trainable(family), {})
    merged = load_family(str(tiny))
    merge(merged.denoiser, read_lora(tmp_path / LORA_FILE, merged.pipeline))
    torch.testing.assert_close(predict(merged), predict(), atol=1e-6, rtol=1e-5)


def test_only_the_named_targets_are_adapted(tiny):
    family, recipe = adapted(tiny, targets=["attn2.to_q", "mid_block.attentions.0.proj_in"])
    check_adapters(recipe, family)
    add_adapter(family, recipe)
    layers = {name.split(".lora_")[0] for name in trainable(family)}
    assert "mid_block.attentions.0.proj_in" in layers
    assert all(name.endswith(("attn2.to_q", "mid_block.attentions.0.proj_in")) for name in layers)
    assert len(layers) > 2


@pytest.mark.parametrize(
    ("targets", "named", "hint"),
    [
        (["to_q", "to_out"], "`to_out`", "did you mean `to_out.0`?"),
        (["norm1"], "`norm1`", "leave model.targets out"),
        (["xyz", "zyx"], "`xyz`, `zyx`", "leave model.targets out"),
    ],
)
def test_targets_that_are_no_linear_layers_are_told(tiny, targets, named, hint):
    family, recipe = adapted(tiny, targets=targets)
    with pytest.raises(RecipeError, match="has no linear layers called") as caught:
        check_adapters(recipe, family)
    assert caught.value.message.endswith(named)
    assert hint in caught.value.hint


def test_settings_of_adapters_that_exclude_each_other_are_told():
    for settings, line in (
        ({"model.train": "full", "model.adapter": "dora"}, "model.adapter: belongs to adapters"),
        ({"model.train": "full", "model.lora_alpha": 3}, "model.lora_alpha: belongs to adapters"),
        ({"model.start_from": "x", "model.targets": ["to_q"]}, "model.targets: the LoRA of"),
    ):
        with pytest.raises(RecipeError) as caught:
            resolve_recipe(settings=settings)
        (found,) = caught.value.details
        assert found.startswith(line)


@pytest.fixture
def first(recipe, tmp_path):
    small = recipe("sft", model__rank=2, model__lora_alpha=6, data__held_out=0, run__steps=2)
    return finish(train(small, new_run(small, tmp_path / "first")))


def test_a_run_on_top_of_a_run_begins_at_ln_2_and_resumes_without_it(recipe, first, tmp_path):
    small = recipe("poly-dpo", model__start_from=str(first.run), run__steps=3)
    whole = finish(train(small, new_run(small, tmp_path / "whole")))
    losses = [line for line in read_lines(whole.run / "metrics.jsonl") if "loss" in line]
    assert losses[0]["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert losses[0]["margin"] == 0
    assert losses[0]["implicit_accuracy"] == 0.5
    assert losses[1]["margin"] != 0

    run = new_run(small, tmp_path / "halves")
    work = train(small, run)
    for progress in work:
        if progress.stage == "training" and progress.done == 1:
            work.close()
    shutil.rmtree(first.run)
    resumed = finish(train(read_run(run), run, resume=True))
    for name in ("resume/state.safetensors", LORA_FILE):
        a, b = (load_file(each.checkpoint / name) for each in (whole, resumed))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)
    target = find_target(str(run))
    assert (target.base, target.lora) == (small.model.name, resumed.checkpoint / LORA_FILE)


def test_the_lora_that_a_run_started_from_is_named_by_content(recipe, first, tmp_path):
    small = recipe(model__start_from=str(first.checkpoint), run__steps=1, data__held_out=0)
    result = finish(train(small, new_run(small, tmp_path / "second")))
    kept = result.run / START_FILE
    assert kept.read_bytes() == (first.checkpoint / LORA_FILE).read_bytes()
    header = check_safetensors(result.checkpoint / LORA_FILE)
    about = json.loads((result.run / "provenance.json").read_text())
    assert header["vipo.start_from"] == about["start_from"] == str(first.checkpoint)
    assert header["vipo.start_from_fingerprint"] == about["start_from_fingerprint"]
    assert len(about["start_from_fingerprint"]) == 16


def test_cached_errors_of_the_reference_belong_to_the_lora(recipe, first, tmp_path):
    settings = {
        "noise__draws": 2, "reference__kind": "cached", "reference__path": str(tmp_path / "errors"),
        "run__steps": 2, "data__held_out": 0,
    }  # fmt: skip
    cached = recipe(model__start_from=str(first.run), **settings)
    small = recipe(model__start_from=str(first.run), noise__draws=2, run__steps=2, data__held_out=0)
    runs = [finish(train(each, new_run(each, tmp_path / name))) for each, name in (
        (cached, "cached"), (small, "measured"),
    )]  # fmt: skip
    a, b = (read_lines(each.run / "metrics.jsonl") for each in runs)
    assert [line["loss"] for line in a] == pytest.approx([line["loss"] for line in b], abs=1e-4)
    assert a[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    alone = recipe(**settings)
    with pytest.raises(ModelError, match="measured with other settings") as caught:
        finish(train(alone, new_run(alone, tmp_path / "alone")))
    assert caught.value.details[0].startswith("model: ")


@pytest.mark.parametrize(
    "settings",
    [
        {"reference__kind": "ema", "model__ema": 0.5},
        {"optimizer__backward": "decoupled", "model__ema": 0.5},
        {"optimizer__micro_batch": 2},
    ],
)
def test_a_lora_to_start_from_goes_with_other_references_and_ways_backward(
    recipe, first, tmp_path, settings
):
    small = recipe(
        "diffusion-dpo",
        model__start_from=str(first.run),
        run__steps=2,
        data__held_out=4,
        **settings,
    )
    result = finish(train(small, new_run(small, tmp_path / "run")))
    losses = [line for line in read_lines(result.run / "metrics.jsonl") if "loss" in line]
    assert losses[0]["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert losses[1]["gradient_norm"] > 0


def test_what_a_run_started_from_is_the_reference_of_its_analysis(recipe, first, tmp_path):
    small = recipe(model__start_from=str(first.run), run__steps=2, data__held_out=0)
    result = finish(train(small, new_run(small, tmp_path / "run")))
    start = find_target(str(result.run / START_FILE))
    assert (start.base, start.lora) == (small.model.name, result.run / START_FILE)
    base = load_family(small.model.name)
    predict = predictor(base)
    lora = result.checkpoint / LORA_FILE
    family, reference = load_policy(small.model.name, lora, start=result.run / START_FILE)
    merge(base.denoiser, read_lora(result.run / START_FILE, base.pipeline))
    with reference() as before:
        torch.testing.assert_close(predict(before), predict(base), atol=1e-5, rtol=1e-4)
    expected, _ = load_policy(small.model.name, lora)
    assert torch.equal(predict(family), predict(expected))
    assert not torch.equal(predict(family), predict(base))


def test_a_lora_that_does_not_fit_is_told_before_anything_is_encoded(recipe, tmp_path):
    weights = {"A": torch.ones(2, 3), "B": torch.ones(3, 2)}
    named = {f"unet.nowhere.lora_{side}.weight": value for side, value in weights.items()}
    save_file(named, tmp_path / "other.safetensors")
    small = recipe(model__start_from=str(tmp_path / "other.safetensors"))
    run = new_run(small, tmp_path / "run")
    seen = []
    with pytest.raises(ModelError, match="does not fit the unet"):
        finish(train(small, run), seen.append)
    assert not seen
    assert not run.exists()
    small = recipe(model__start_from=str(tmp_path / "nothing"))
    with pytest.raises(VipoError, match="no such LoRA file or folder"):
        finish(train(small, new_run(small, run)))
    assert not run.exists()


def test_a_checkpoint_of_another_model_is_told(recipe, first, tmp_path):
    small = recipe("sft", model__rank=5, data__held_out=0, run__steps=2)
    run = new_run(small, tmp_path / "run")
    shutil.copytree(first.run / "checkpoints", run / "checkpoints")
    with pytest.raises(ModelError, match="holds the weights of another model") as caught:
        finish(train(small, run, resume=True))
    assert str(checkpoint.latest(run)) in caught.value.message
    assert caught.value.details[0].startswith("96 of 96 tensors differ: `down_blocks.1.attentions")
    assert "is 2 x 16 x 1 x 1 there, 5 x 16 x 1 x 1 in this run" in caught.value.details[0]


def test_the_header_says_where_a_lora_comes_from_in_little_room(recipe, tiny, tmp_path):
    small = recipe("poly-dpo", run__steps=1, data__held_out=0, objective__alpha=0.5)
    result = finish(train(small, new_run(small, tmp_path / "run")))
    header = check_safetensors(result.checkpoint / LORA_FILE)
    assert {
        "vipo.version", "vipo.base", "vipo.base_fingerprint", "vipo.pipeline", "vipo.method",
        "vipo.objective", "vipo.data", "vipo.data_fingerprint", "vipo.step", "vipo.recipe",
    } <= header.keys()  # fmt: skip
    assert header["vipo.pipeline"] == "StableDiffusionPipeline"
    assert json.loads(header["vipo.objective"])["alpha"] == 0.5
    assert json.loads(header["vipo.recipe"])["model"]["name"] == str(tiny)
    assert len(header["vipo.base_fingerprint"]) == 16
    about = json.loads((result.run / "provenance.json").read_text())
    assert header["vipo.data_fingerprint"] == about["data"]["fingerprint"]
    assert sum(len(key) + len(value) for key, value in header.items()) < 20_000
