import json
import math

import pytest
import torch
from safetensors.torch import load_file

from vipo_cli.errors import DataError, ModelError, TrainingDiverged, VipoError
from vipo_cli.run import finish, read_lines
from vipo_cli.training import checkpoint
from vipo_cli.training.draw import order
from vipo_cli.training.train import document, new_run, read_run, train

CASES = [("diffusion-dpo", "lora"), ("poly-dpo", "full"), ("sft", "lora")]


def weights(folder):
    return load_file(folder / "resume" / "state.safetensors")


def same(a, b):
    a, b = weights(a), weights(b)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("method", "part"), CASES)
def test_stopped_and_resumed_equals_uninterrupted_bit_for_bit(recipe, tmp_path, method, part):
    small = recipe(method, model__train=part, model__ema=0.9)
    whole = finish(train(small, new_run(small, tmp_path / "whole")))

    run = new_run(small, tmp_path / "halves")
    work = train(small, run)
    for progress in work:
        if progress.stage == "training" and progress.done == 3:
            work.close()
    assert checkpoint.latest(run).name == "step-000003"  # closing saved what was trained
    resumed = finish(train(read_run(run), run, resume=True))

    assert same(whole.checkpoint, resumed.checkpoint)
    losses = [
        [r["loss"] for r in read_lines(r.run / "metrics.jsonl") if "loss" in r]
        for r in (whole, resumed)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4


def test_killed_without_warning_resumes_from_the_last_checkpoint(recipe, tmp_path):
    small = recipe()
    whole = finish(train(small, new_run(small, tmp_path / "whole")))
    run = new_run(small, tmp_path / "killed")
    finish(train(small, run))
    # as if killed in step 4: its checkpoint half written, its record cut short
    last = checkpoint.latest(run)
    last.rename(last.with_name(f".{last.name}.0000.tmp"))
    metrics = run / "metrics.jsonl"
    metrics.write_text(metrics.read_text()[:-30])
    resumed = finish(train(small, run, resume=True))
    assert same(whole.checkpoint, resumed.checkpoint)
    assert not list((run / "checkpoints").glob(".*"))


def test_two_micro_batches_equal_one_batch(recipe, tmp_path):
    whole, halves = recipe(), recipe(optimizer__micro_batch=2)
    a = finish(train(whole, new_run(whole, tmp_path / "a")))
    b = finish(train(halves, new_run(halves, tmp_path / "b")))
    a, b = weights(a.checkpoint), weights(b.checkpoint)
    for name in a:
        if name.startswith("weights."):
            torch.testing.assert_close(a[name], b[name], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("part", ["lora", "full"])
def test_before_the_first_step_the_loss_is_ln_2(recipe, tmp_path, part):
    small = recipe(model__train=part, run__steps=1)
    run = new_run(small, tmp_path / "run")
    finish(train(small, run))
    first = read_lines(run / "metrics.jsonl")[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert first["margin"] == 0
    assert first["implicit_accuracy"] == 0.5


def test_the_seed_changes_the_run_and_nothing_else_does(recipe, tmp_path):
    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        small = recipe(run__seed=seed, run__steps=2)
        runs.append(finish(train(small, new_run(small, tmp_path / name))).checkpoint)
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_training_lowers_the_error(recipe, tmp_path):
    small = recipe(
        "sft", model__train="full", run__steps=40, data__held_out=0, optimizer__batch_size=8,
        run__checkpoint_every=40, optimizer__learning_rate=1e-2,
    )  # fmt: skip
    run = new_run(small, tmp_path / "run")
    result = finish(train(small, run))
    losses = [record["loss"] for record in read_lines(run / "metrics.jsonl")]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert result.held_out is None


def test_a_lora_checkpoint_loads_in_plain_diffusers_and_changes_the_picture(recipe, tiny, tmp_path):
    from diffusers import StableDiffusionPipeline

    small = recipe(optimizer__learning_rate=1e-2)
    result = finish(train(small, new_run(small, tmp_path / "run")))
    pipeline = StableDiffusionPipeline.from_pretrained(tiny)
    pipeline.set_progress_bar_config(disable=True)

    def sample(**options):
        generator = torch.Generator().manual_seed(0)
        return pipeline(
            "a red circle", num_inference_steps=2, generator=generator, output_type="np", **options
        ).images

    before = sample()
    pipeline.load_lora_weights(result.checkpoint)
    assert abs(sample() - before).max() > 1e-3
    assert abs(sample(cross_attention_kwargs={"scale": 0.0}) - before).max() < 1e-6


def test_a_full_checkpoint_is_a_diffusers_pipeline_with_the_averaged_weights(recipe, tmp_path):
    from diffusers import StableDiffusionPipeline

    small = recipe(model__train="full", model__ema=0.5)
    result = finish(train(small, new_run(small, tmp_path / "run")))
    unet = StableDiffusionPipeline.from_pretrained(result.checkpoint).unet.state_dict()
    state = weights(result.checkpoint)
    for name, value in unet.items():
        assert torch.equal(value, state[f"average.{name}"])
    assert any(not torch.equal(unet[name], state[f"weights.{name}"]) for name in unet)


def test_the_lora_file_says_where_it_comes_from(recipe, tiny, tmp_path):
    from safetensors import safe_open

    small = recipe()
    result = finish(train(small, new_run(small, tmp_path / "run")))
    with safe_open(result.checkpoint / checkpoint.LORA_FILE, "pt") as file:
        header = file.metadata()
    assert header["vipo.base"] == str(tiny)
    assert header["vipo.method"] == "diffusion-dpo"
    assert header["vipo.step"] == "4"


def test_only_the_newest_checkpoints_stay(recipe, tmp_path):
    small = recipe(run__checkpoint_every=1, run__keep_checkpoints=2)
    result = finish(train(small, new_run(small, tmp_path / "run")))
    assert [path.name for path in checkpoint.checkpoints(result.run)] == [
        "step-000003",
        "step-000004",
    ]


def test_a_checkpoint_cut_short_is_one_clear_error(recipe, tmp_path):
    small = recipe()
    run = new_run(small, tmp_path / "run")
    last = finish(train(small, run)).checkpoint
    file = last / "resume" / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="is damaged") as raised:
        finish(train(small, run, resume=True))
    assert str(last) in raised.value.hint


def test_divergence_stops_the_run_and_keeps_the_last_good_checkpoint(recipe, tmp_path):
    small = recipe(optimizer__learning_rate=1e6, run__checkpoint_every=1, run__steps=30)
    run = new_run(small, tmp_path / "run")
    with pytest.raises(TrainingDiverged, match="diverged at step") as raised:
        finish(train(small, run))
    assert "step-" in raised.value.hint or "no checkpoint" in raised.value.hint
    for record in read_lines(run / "metrics.jsonl"):
        assert math.isfinite(record["loss"])


def test_a_full_disk_is_one_error_and_the_checkpoint_before_stays(recipe, tmp_path, monkeypatch):
    import errno

    import safetensors.torch

    small = recipe()
    run = new_run(small, tmp_path / "run")
    real, calls = safetensors.torch.save_file, []

    def full(tensors, file, *args, **kwargs):
        calls.append(file)
        if len(calls) > 3:  # LoRA and state of step 2 fit, and the LoRA of step 4
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(tensors, file, *args, **kwargs)

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(VipoError, match="No space left on device"):
        finish(train(small, run))
    assert [path.name for path in checkpoint.checkpoints(run)] == ["step-000002"]
    checkpoint.verify(checkpoint.latest(run))


def test_the_directory_of_another_run_is_left_alone(recipe, tmp_path):
    small = recipe()
    run = new_run(small, tmp_path / "run")
    before = (run / "recipe.yaml").read_text()
    with pytest.raises(VipoError, match="another run"):
        new_run(recipe(run__steps=9), run)
    assert (run / "recipe.yaml").read_text() == before
    with pytest.raises(VipoError, match="holds no run"):
        read_run(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("method", "settings", "message", "hint"),
    [
        ("diffusion-dpo", {"data.kind": "captions"}, "without losers", "--method sft"),
        ("mapo", {"data.kind": "captions"}, "without losers", "--method sft"),
        ("plackett-luce", {"data.kind": "captions"}, "compared with none", "--method sft"),
        ("kto", {"data.kind": "captions"}, "holds no dislikes", "column `liked`"),
        ("diffusion-dpo", {"data.kind": "labelled"}, "single labelled pictures", "--method kto"),
        ("sft", {"data.kind": "labelled"}, "single labelled pictures", "--method kto"),
        ("diffusion-dpo", {"data.kind": "ranked"}, "ranked lists", "--method plackett-luce"),
        ("diffusion-dpo", {"noise.source": "stored"}, "which noise", "noise_seed_w"),
    ],
)
def test_data_that_a_method_cannot_use_are_refused(
    recipe, tmp_path, method, settings, message, hint
):
    small = recipe(method, **settings)
    run = new_run(small, tmp_path / "run")
    with pytest.raises(DataError, match=message) as caught:
        finish(train(small, run))
    assert hint in caught.value.hint
    assert not run.exists()


def test_the_result_has_the_documented_keys(recipe, tmp_path):
    small = recipe()
    result = finish(train(small, new_run(small, tmp_path / "run")))
    found = json.loads(json.dumps(document(small, result)))
    assert {
        "status",
        "run",
        "checkpoint",
        "method",
        "model",
        "data",
        "steps",
        "pairs_seen",
    } <= found.keys()
    assert {"loss", "implicit_accuracy"} <= found["final"].keys()
    assert {"implicit_accuracy", "ci95", "n"} <= found["held_out"].keys()
    assert {"pairs_per_second", "seconds", "peak_memory_bytes"} == found["throughput"].keys()
    assert found["pairs_seen"] == 16


def test_order_visits_every_record_once_an_epoch():
    import numpy as np

    train = np.arange(10, 17)
    two_epochs = order(train, range(14), [3])
    assert sorted(two_epochs.records[:7]) == sorted(two_epochs.records[7:]) == list(train)
    assert list(two_epochs.records[:7]) != list(two_epochs.records[7:])
    assert list(two_epochs.epochs) == [0] * 7 + [1] * 7
    part = order(train, range(5, 9), [3])
    assert list(part.records) == list(two_epochs.records[5:9])
    assert list(part.epochs) == [0, 0, 1, 1]
