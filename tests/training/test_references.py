"""References that move, and errors of the reference that were measured before."""

import json
import shutil

import numpy as np
import pytest
import torch

from vipo_cli.data.sources import open_pairs
from vipo_cli.errors import ModelError, RecipeError
from vipo_cli.run import finish, read_lines
from vipo_cli.training.loop import steps
from vipo_cli.training.prepare import prepare
from vipo_cli.training.train import train


def prepared(recipe, run):
    return finish(prepare(recipe, open_pairs(recipe.data.name, recipe.data.parameters), run))


def trained(recipe, run):
    """Return the weights after a whole run, and its records without their times."""
    run.mkdir()
    (run / "recipe.yaml").write_text(recipe.to_yaml())
    finish(train(recipe, run))
    from safetensors.torch import load_file

    newest = sorted((run / "checkpoints").iterdir())[-1]
    records = [
        {key: value for key, value in line.items() if key != "seconds"}
        for line in read_lines(run / "metrics.jsonl")
    ]
    return load_file(newest / "resume" / "state.safetensors"), records


@pytest.mark.parametrize("part", ["lora", "full"])
@pytest.mark.parametrize("method", ["poly-dpo", "sipo", "kto"])
def test_cached_errors_train_as_live_ones_do_bit_for_bit(recipe, tmp_path, method, part):
    settings = {
        "noise.draws": 2,
        "data.pairs": 20,
        "data.held_out": 6,
        "run.steps": 5,  # one epoch and the first steps of the next, which uses other draws
        "data.caption_dropout": 0.2,
        "model.train": part,
        "optimizer.learning_rate": 1e-4,
    }
    if method == "sipo":
        settings["objective.mask"] = "none"
    live, live_records = trained(recipe(method, **settings), tmp_path / "live")
    cached, cached_records = trained(
        recipe(method, **settings, **{"reference.kind": "cached"}), tmp_path / "cached"
    )
    assert live_records == cached_records
    assert len(live_records) >= 5
    for name, value in live.items():
        assert torch.equal(value, cached[name]), name


def test_fixed_draws_come_round_again_every_few_epochs(recipe, tmp_path):
    setup = prepared(recipe(**{"noise.draws": 2, "data.held_out": 0, "data.pairs": 4}), tmp_path)
    from vipo_cli.training.batches import training_batch

    def times(epoch):
        positions = list(range(4 * epoch, 4 * epoch + 4))
        return sorted(training_batch(setup, positions).time.tolist())

    assert times(0) == times(2) != times(1)
    assert times(1) == times(3)


def cache(recipe, tmp_path, **settings):
    settings = {"reference.kind": "cached", "noise.draws": 2} | settings
    return recipe(**settings, **{"reference.path": str(tmp_path / "errors")})


def test_errors_cached_with_other_settings_are_refused_with_what_differs(recipe, tmp_path):
    prepared(cache(recipe, tmp_path), tmp_path)
    with pytest.raises(ModelError) as caught:
        prepared(cache(recipe, tmp_path, **{"data.caption_dropout": 0.1}), tmp_path)
    assert "were measured with other settings" in caught.value.message
    assert list(caught.value.details) == ["data.caption_dropout: `0.0` there, `0.1` here"]
    assert "reference.path" in caught.value.hint


def moved(chosen, folder):
    """Return a recipe for a copy of its model."""
    model = chosen.model.model_copy(update={"name": str(folder)})
    return chosen.model_copy(update={"model": model})


def test_the_same_weights_under_another_scheduler_are_another_model(recipe, tmp_path):
    chosen = cache(recipe, tmp_path)
    prepared(chosen, tmp_path)
    other = tmp_path / "other"
    shutil.copytree(chosen.model.name, other)
    file = other / "scheduler" / "scheduler_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"prediction_type": "v_prediction"}))
    with pytest.raises(ModelError) as caught:
        prepared(moved(chosen, other), tmp_path)
    assert list(caught.value.details) == ["predicts: `epsilon` there, `velocity` here"]


def test_errors_of_another_model_are_noticed_before_the_first_step(recipe, tmp_path):
    prepared(cache(recipe, tmp_path), tmp_path)
    file = tmp_path / "errors" / "errors.npy"
    np.save(file, np.load(file) * 1.1)
    with pytest.raises(ModelError, match="are not those of this model: they differ by 1"):
        prepared(cache(recipe, tmp_path), tmp_path)


def test_a_cache_is_read_and_not_measured_again(recipe, tmp_path, monkeypatch):
    prepared(cache(recipe, tmp_path), tmp_path)
    monkeypatch.setattr("vipo_cli.training.cached._measure_all", None)
    assert prepared(cache(recipe, tmp_path), tmp_path).cached is not None


@pytest.mark.parametrize("kind", ["ema", "copied"])
@pytest.mark.parametrize("part", ["lora", "full"])
def test_a_moving_reference_survives_a_kill_bit_for_bit(recipe, tmp_path, kind, part):
    settings = {"reference.kind": kind, "reference.every": 3, "reference.decay": 0.8}
    settings |= {"model.train": part, "run.steps": 6, "objective.typical_logit": 0.5}
    settings |= {"data.pairs": 20, "data.held_out": 4}
    chosen = recipe("diffusion-dpo", **settings)
    whole, _ = trained(chosen, tmp_path / "whole")

    run = tmp_path / "cut"
    run.mkdir()
    (run / "recipe.yaml").write_text(chosen.to_yaml())
    for record in steps(prepared(chosen, run), run):
        if record.step == 5:
            break  # not closed: as if the process had died here
    shutil.rmtree(run / "checkpoints" / "step-000006", ignore_errors=True)
    finish(train(chosen, run, resume=True))
    from safetensors.torch import load_file

    resumed = load_file(run / "checkpoints" / "step-000006" / "resume" / "state.safetensors")
    assert resumed.keys() == whole.keys()
    assert any(name.startswith("reference.") for name in whole)
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_a_copied_reference_brings_the_loss_back_to_ln_2(recipe, tmp_path):
    chosen = recipe(
        "diffusion-dpo", **{"reference.kind": "copied", "reference.every": 2, "run.steps": 5}
    )
    setup = prepared(chosen, tmp_path)
    losses = [record.loss for record in steps(setup, tmp_path)]
    ln_2 = pytest.approx(np.log(2), abs=1e-6)
    assert losses[0] == losses[2] == losses[4] == ln_2
    assert losses[1] != ln_2


@pytest.mark.parametrize(
    ("method", "settings", "line"),
    [
        ("diffusion-dpo", {"reference.kind": "cached"}, "fixed draws of time and noise"),
        ("dspo", {"reference.kind": "cached", "noise.draws": 2}, "predictions, and cached errors"),
        ("mapo", {"reference.kind": "ema"}, "method `mapo` has no reference"),
        ("d3po", {}, "`d3po` learns from stored denoising trajectories"),
        ("sipo", {"objective.denominator": "old"}, "offline data have no rounds"),
        ("kto", {"objective.safeguard": 0.9}, "`kto` has no loser"),
        ("sft", {"objective.sft_weight": 0.5}, "`sft` is that already"),
        ("mapo", {"objective.typical_logit": 1.0}, "`mapo` has no logit"),
        ("diffusion-dpo", {"time.sampler": "list"}, "time.values: belongs to time.sampler=list"),
        ("diffusion-dpo", {"loop.kind": "iterative"}, "loop.reward: says what ranks the samples"),
        (
            "diffusion-dpo",
            {"loop.kind": "iterative", "loop.reward": "beauty"},
            "loop.reward: unknown reward `beauty`",
        ),
        (
            "diffusion-dpo",
            {"loop.kind": "spin", "noise.source": "stored"},
            "spin's winners come from the data, and no noise is stored",
        ),
        ("kto", {"loop.kind": "spin"}, "spin makes pairs"),
    ],
)
def test_a_wrong_combination_is_told_before_anything_starts(recipe, method, settings, line):
    with pytest.raises(RecipeError) as caught:
        recipe(method, **settings)
    assert line in " ".join(caught.value.details)
