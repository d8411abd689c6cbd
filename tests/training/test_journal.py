"""Alarms of real runs, and the return to a checkpoint before records that spoil a run."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from vipo_cli.analysis.history import read_history, skipped_steps, standing
from vipo_cli.errors import RecipeError, TrainingDiverged
from vipo_cli.evaluation.dynamics import measure_dynamics
from vipo_cli.recipe import combinations
from vipo_cli.run import finish, read_lines
from vipo_cli.training import alarms, checkpoint, journal, loop
from vipo_cli.training.train import document, new_run, train

SPOILT = 10
"""The place in the stream of batches whose records explode."""


class Spoiler:
    """Lets the loss of some batches explode.

    Attributes:
        read: places of the batches that were read.
    """

    def __init__(self, patch):
        self._patch, self._real, self.read = patch, loop.training_batch, []

    def __call__(self, batches, factor=1e6):
        def spoilt(setup, positions):
            place = positions[0] // 4
            self.read.append(place)
            batch = self._real(setup, positions)
            return replace(batch, weight=batch.weight * factor) if place in batches else batch

        self._patch.setattr(loop, "training_batch", spoilt)


def hasten(patch):
    """Let a spike be seen, and a checkpoint be good, after fewer steps than in earnest."""
    patch.setattr(alarms, "FEWEST", 8)
    for module in (combinations, journal):
        patch.setattr(module, "HEALTHY", 4)


def returning(recipe, **settings):
    chosen = {
        "run__on_spike": "return", "run__steps": 14, "run__checkpoint_every": 2,
        "run__keep_checkpoints": 4, "data__held_out": 8, "run__held_out_every": 4,
        "model__ema": 0.9, "model__targets": ["to_q"], "model__rank": 2,
    }  # fmt: skip
    return recipe("orpo", **chosen | settings)  # without a reference, which takes time


@pytest.fixture
def spoil(monkeypatch):
    hasten(monkeypatch)
    return Spoiler(monkeypatch)


@pytest.fixture(scope="module")
def whole(recipe, tmp_path_factory):
    """A run that is not stopped and returns once: its recipe, result, reads and warnings."""
    warnings = []
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIPO_CACHE", str(folder / "cache"))
        hasten(patch)
        spoiler = Spoiler(patch)
        spoiler({SPOILT})
        small = returning(recipe)
        work = train(small, new_run(small, folder / "run"))
        result = finish(work, lambda progress: warnings.append(progress.warning))
    return SimpleNamespace(
        recipe=small, result=result, read=spoiler.read, warnings=[*filter(None, warnings)]
    )


def weights(folder):
    return load_file(folder / "resume" / "state.safetensors")


def same(a, b):
    a, b = weights(a), weights(b)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def losses(run):
    lines = standing(read_lines(run / "metrics.jsonl"))
    return [line["loss"] for line in lines if "loss" in line]


def test_a_spike_leads_back_past_what_caused_it(whole):
    run, result = whole.result.run, whole.result
    lines = read_lines(run / "metrics.jsonl")
    (back,) = [line for line in lines if "returned_to" in line]
    # the checkpoint of step 10 was written too shortly before, that of step 8 too
    assert (back["step"], back["returned_to"]) == (11, 6)
    assert back["alarm"]["name"] == "spike"
    assert whole.read == [*range(11), *range(11, 19)]  # six steps stand, eight more are made
    assert skipped_steps(lines) == 5

    records = [line for line in standing(lines) if "loss" in line]
    assert [record["step"] for record in records] == list(range(1, 15))
    assert max(record["gradient_norm"] for record in records) < 1e4
    assert sum("loss" in line for line in lines) == 14 + 5  # what was undone is not thrown away
    measured = [line["step"] for line in standing(lines) if "held_out" in line]
    assert measured == [4, 8, 12, 14]
    assert checkpoint.latest(run).name == "step-000014"

    (warning,) = whole.warnings
    assert warning.startswith("step 11: gradient spike: a norm of ")
    assert warning.endswith("; returned to step 6, and going on past the records of 5 steps")
    (alarm,) = json.loads(json.dumps(document(whole.recipe, result)))["alarms"]
    assert (alarm["step"], alarm["returned_to"], alarm["name"]) == (11, 6, "spike")
    assert result.final["loss"] == pytest.approx(
        sum(record["loss"] for record in records) / 14, rel=1e-9
    )
    found, _ = measure_dynamics(run)
    assert list(found.history.step) == list(range(1, 15))
    assert [each["step"] for each in found.history.alarms] == [11]


@pytest.mark.parametrize("stops", [(5,), (9,), (12,), (7, 15)])
def test_stopped_around_a_return_equals_not_stopped(whole, spoil, tmp_path, stops):
    """Stops are counted in steps made, those that are undone later included."""
    spoil({SPOILT})
    run = new_run(whole.recipe, tmp_path / "stopped")
    resume = False
    for stop in stops:
        work = train(whole.recipe, run, resume=resume)
        made = 0
        for progress in work:
            made += progress.stage == "training" and not progress.warning
            if made == stop:
                work.close()
        resume = True
    resumed = finish(train(whole.recipe, run, resume=True))
    assert same(whole.result.checkpoint, resumed.checkpoint)
    assert losses(whole.result.run) == losses(run)


@pytest.mark.parametrize("line", ["last", "all"])
def test_killed_while_returning(whole, spoil, tmp_path, line):
    """As if killed after later checkpoints were removed, and before or after that was told."""
    spoil({SPOILT})
    run = new_run(whole.recipe, tmp_path / "killed")
    work = train(whole.recipe, run)
    while not next(work).warning:
        pass
    metrics = run / "metrics.jsonl"
    text = metrics.read_text().splitlines(keepends=True)
    assert "returned_to" in text[-1]
    assert [folder.name for folder in checkpoint.checkpoints(run)] == ["step-000004", "step-000006"]
    work.close()
    if line == "last":
        metrics.write_text("".join(text[:-1]))
    resumed = finish(train(whole.recipe, run, resume=True))
    assert same(whole.result.checkpoint, resumed.checkpoint)


def test_what_is_no_number_leads_back_too(recipe, spoil, tmp_path):
    spoil({SPOILT}, math.nan)
    small = returning(recipe)
    run = new_run(small, tmp_path / "run")
    result = finish(train(small, run))
    assert [alarm["name"] for alarm in result.alarms] == ["diverged"]
    text = (run / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert len(read_history(read_lines(run / "metrics.jsonl"))) == 14


def test_a_run_that_goes_wrong_wherever_it_goes_ends(recipe, spoil, tmp_path):
    spoil(range(SPOILT, 1000))
    small = returning(recipe)
    run = new_run(small, tmp_path / "run")
    with pytest.raises(TrainingDiverged, match="after 3 returns to a checkpoint") as caught:
        finish(train(small, run))
    lines = read_lines(run / "metrics.jsonl")
    assert sum("returned_to" in line for line in lines) == 3
    assert "step-0000" in caught.value.hint
    for folder in checkpoint.checkpoints(run):
        checkpoint.verify(folder)


def test_without_the_wish_a_spike_is_told_alone(recipe, spoil, tmp_path):
    spoil({SPOILT})
    small = returning(recipe, run__on_spike="warn")
    run = new_run(small, tmp_path / "run")
    result = finish(train(small, run))
    assert result.alarms[0]["name"] == "spike"
    lines = read_lines(run / "metrics.jsonl")
    assert not any("returned_to" in line for line in lines)
    assert sum("loss" in line for line in lines) == 14


def test_before_the_first_good_checkpoint_there_is_no_going_back(recipe, spoil, tmp_path):
    spoil({SPOILT})
    small = returning(recipe, run__checkpoint_every=8)
    result = finish(train(small, new_run(small, tmp_path / "run")))
    assert "returned_to" not in result.alarms[0]
    spoil({SPOILT}, math.nan)
    with pytest.raises(TrainingDiverged, match="diverged at step 11: loss nan"):
        finish(train(small, new_run(small, tmp_path / "other")))


def test_checkpoints_too_young_to_return_to_are_refused(recipe):
    with pytest.raises(RecipeError) as caught:
        recipe(run__on_spike="return", run__checkpoint_every=2, run__keep_checkpoints=3)
    assert "a checkpoint that 10 steps have followed" in caught.value.details[0]
    with pytest.raises(RecipeError):
        recipe(run__on_spike="return", run__keep_checkpoints=1)


def test_a_stop_takes_no_place_from_what_can_be_returned_to(recipe, monkeypatch, tmp_path):
    hasten(monkeypatch)
    small = returning(recipe, run__steps=10, run__keep_checkpoints=3)
    run = new_run(small, tmp_path / "run")
    work = train(small, run)
    for progress in work:
        if progress.stage == "training" and progress.done == 7:
            work.close()
    names = [folder.name for folder in checkpoint.checkpoints(run)]
    assert names == ["step-000002", "step-000004", "step-000006", "step-000007"]
    finish(train(small, run, resume=True))
    names = [folder.name for folder in checkpoint.checkpoints(run)]
    assert names == ["step-000006", "step-000008", "step-000010"]
