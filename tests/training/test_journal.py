"""Alarms of real runs, and the return to a checkpoint before records that spoil a run."""

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from vipo_cli.analysis.history import read_history, skipped_steps, standing
from vipo_cli.errors import RecipeError, TrainingDiverged
from vipo_cli.evaluation.dynamics import measure_dynamics
from vipo_cli.run import finish, read_lines
from vipo_cli.training import checkpoint, loop
from vipo_cli.training.train import document, new_run, train

SPOILT = 25
"""The place in the stream of batches whose records explode."""


def weights(folder):
    return load_file(folder / "resume" / "state.safetensors")


def same(a, b):
    a, b = weights(a), weights(b)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def losses(run):
    lines = standing(read_lines(run / "metrics.jsonl"))
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture
def spoil(monkeypatch):
    """Return a function that lets the loss of some batches explode, and tells what was read."""
    real, read = loop.training_batch, []

    def make(batches, factor=1e6):
        def spoilt(setup, positions):
            place = positions[0] // 4
            read.append(place)
            batch = real(setup, positions)
            return replace(batch, weight=batch.weight * factor) if place in batches else batch

        monkeypatch.setattr(loop, "training_batch", spoilt)
        return read

    return make


@pytest.fixture
def returning(recipe):
    def make(**settings):
        chosen = {
            "run__on_spike": "return", "run__steps": 32, "run__checkpoint_every": 6,
            "run__keep_checkpoints": 4, "data__held_out": 8, "run__held_out_every": 8,
            "model__ema": 0.9,
        }  # fmt: skip
        return recipe(**chosen | settings)

    return make


def test_a_spike_leads_back_past_what_caused_it(returning, spoil, tmp_path):
    read = spoil({SPOILT})
    small = returning()
    run = new_run(small, tmp_path / "run")
    warnings = []
    result = finish(train(small, run), lambda progress: warnings.append(progress.warning))
    lines = read_lines(run / "metrics.jsonl")
    (back,) = [line for line in lines if "returned_to" in line]
    # the checkpoint of step 24 was written too shortly before, that of step 18 too
    assert (back["step"], back["returned_to"]) == (26, 12)
    assert back["alarm"]["name"] == "spike"
    assert read == [*range(26), *range(26, 46)]  # twelve steps stand, twenty more are made
    assert skipped_steps(lines) == 14

    records = [line for line in standing(lines) if "loss" in line]
    assert [record["step"] for record in records] == list(range(1, 33))
    assert max(record["gradient_norm"] for record in records) < 1e4
    assert sum("loss" in line for line in lines) == 32 + 14  # what was undone is not thrown away
    measured = [line["step"] for line in standing(lines) if "held_out" in line]
    assert measured == [8, 16, 24, 32]
    assert checkpoint.latest(run).name == "step-000032"

    (warning,) = filter(None, warnings)
    assert warning.startswith("step 26: gradient spike: a norm of ")
    assert warning.endswith("; returned to step 12, and going on past the records of 14 steps")
    (alarm,) = json.loads(json.dumps(document(small, result)))["alarms"]
    assert (alarm["step"], alarm["returned_to"], alarm["name"]) == (26, 12, "spike")
    assert result.final["loss"] == pytest.approx(
        sum(record["loss"] for record in records) / 32, rel=1e-9
    )
    found, _ = measure_dynamics(run)
    assert list(found.history.step) == list(range(1, 33))
    assert [each["step"] for each in found.history.alarms] == [26]


@pytest.mark.parametrize("stops", [(10,), (20,), (27,), (14, 31)])
def test_stopped_around_a_return_equals_not_stopped(returning, spoil, tmp_path, stops):
    """Stops are counted in steps made, those that are undone later included."""
    spoil({SPOILT})
    small = returning()
    whole = finish(train(small, new_run(small, tmp_path / "whole")))
    run = new_run(small, tmp_path / "stopped")
    resume = False
    for stop in stops:
        work = train(small, run, resume=resume)
        made = 0
        for progress in work:
            made += progress.stage == "training" and not progress.warning
            if made == stop:
                work.close()
        resume = True
    resumed = finish(train(small, run, resume=True))
    assert same(whole.checkpoint, resumed.checkpoint)
    assert losses(whole.run) == losses(resumed.run)


@pytest.mark.parametrize("line", ["last", "all"])
def test_killed_while_returning(returning, spoil, tmp_path, line):
    """As if killed after later checkpoints were removed, and before or after that was told."""
    spoil({SPOILT})
    small = returning()
    whole = finish(train(small, new_run(small, tmp_path / "whole")))
    run = new_run(small, tmp_path / "killed")
    work = train(small, run)
    while not next(work).warning:
        pass
    metrics = run / "metrics.jsonl"
    text = metrics.read_text().splitlines(keepends=True)
    assert "returned_to" in text[-1]
    assert [folder.name for folder in checkpoint.checkpoints(run)] == ["step-000006", "step-000012"]
    work.close()
    if line == "last":
        metrics.write_text("".join(text[:-1]))
    resumed = finish(train(small, run, resume=True))
    assert same(whole.checkpoint, resumed.checkpoint)


def test_what_is_no_number_leads_back_too(returning, spoil, tmp_path):
    spoil({SPOILT}, math.nan)
    small = returning()
    run = new_run(small, tmp_path / "run")
    result = finish(train(small, run))
    assert [alarm["name"] for alarm in result.alarms] == ["diverged"]
    text = (run / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert len(read_history(read_lines(run / "metrics.jsonl"))) == 32


def test_a_run_that_goes_wrong_wherever_it_goes_ends(returning, spoil, tmp_path):
    spoil(range(SPOILT, 1000))
    small = returning()
    run = new_run(small, tmp_path / "run")
    with pytest.raises(TrainingDiverged, match="after 3 returns to a checkpoint") as caught:
        finish(train(small, run))
    lines = read_lines(run / "metrics.jsonl")
    assert sum("returned_to" in line for line in lines) == 3
    assert "step-0000" in caught.value.hint
    for folder in checkpoint.checkpoints(run):
        checkpoint.verify(folder)


def test_without_the_wish_a_spike_is_told_alone(returning, spoil, tmp_path):
    spoil({SPOILT})
    small = returning(run__on_spike="warn")
    run = new_run(small, tmp_path / "run")
    result = finish(train(small, run))
    assert result.alarms[0]["name"] == "spike"
    lines = read_lines(run / "metrics.jsonl")
    assert not any("returned_to" in line for line in lines)
    assert sum("loss" in line for line in lines) == 32


def test_before_the_first_good_checkpoint_there_is_no_going_back(returning, spoil, tmp_path):
    spoil({SPOILT})
    small = returning(run__checkpoint_every=20)
    result = finish(train(small, new_run(small, tmp_path / "run")))
    assert "returned_to" not in result.alarms[0]
    spoil({SPOILT}, math.nan)
    with pytest.raises(TrainingDiverged, match="diverged at step 26: loss nan"):
        finish(train(small, new_run(small, tmp_path / "other")))


def test_checkpoints_too_young_to_return_to_are_refused(recipe):
    with pytest.raises(RecipeError) as caught:
        recipe(run__on_spike="return", run__checkpoint_every=2, run__keep_checkpoints=3)
    assert "a checkpoint that 10 steps have followed" in caught.value.details[0]
    with pytest.raises(RecipeError):
        recipe(run__on_spike="return", run__keep_checkpoints=1)


def test_a_stop_takes_no_place_from_what_can_be_returned_to(returning, tmp_path):
    small = returning(run__steps=30, run__keep_checkpoints=3)
    run = new_run(small, tmp_path / "run")
    work = train(small, run)
    for progress in work:
        if progress.stage == "training" and progress.done == 20:
            work.close()
    names = [folder.name for folder in checkpoint.checkpoints(run)]
    assert names == ["step-000006", "step-000012", "step-000018", "step-000020"]
    finish(train(small, run, resume=True))
    names = [folder.name for folder in checkpoint.checkpoints(run)]
    assert names == ["step-000018", "step-000024", "step-000030"]
