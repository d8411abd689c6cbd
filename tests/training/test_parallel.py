"""Runs on two processes; the interpreters are started once for all that does not end them."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.two_processes import RUNS, SLICED, STOPPED, ZERO, recipe_of, stop_after
from vipo_cli.run import finish, read_lines
from vipo_cli.training import checkpoint, launch
from vipo_cli.training.train import new_run, read_run, train

SCRIPT = Path(__file__).with_name("two_processes.py")


def weights(run):
    """Return the trained weights and what goes with them of a run's last checkpoint, by group."""
    state = load_file(checkpoint.latest(run) / "resume" / "state.safetensors")
    return {name: value for name, value in state.items() if not name.startswith("optimizer.")}


def assert_same(run, other):
    """Compare two runs up to the order of sums: AdamW's first steps magnify what is next to 0."""
    a, b = weights(run), weights(other)
    assert a.keys() == b.keys()
    for name, value in a.items():
        close = torch.isclose(value, b[name], atol=2e-4, rtol=1e-3)
        assert close.all(), (name, (value - b[name]).abs().max())


def measured(run):
    return [line["held_out"] for line in read_lines(run / "metrics.jsonl") if "held_out" in line]


@pytest.fixture(scope="module")
def alone(tiny, tmp_path_factory):
    """Return a function that gives a run on one process, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("alone")

    def run(name):
        place = folder / name
        if not place.exists():
            recipe = recipe_of(name, tiny)
            finish(train(recipe, new_run(recipe, place)))
        return place

    return run


@pytest.fixture(scope="module")
def together(tiny, tmp_path_factory):
    """All runs on two processes, and what they found; some go on with what one process began."""
    folder = tmp_path_factory.mktemp("together")
    names = [*RUNS, *SLICED, *(ZERO if find_spec("deepspeed") else ())]
    for name in STOPPED:
        recipe = recipe_of(name, tiny)
        stop_after(2, train(recipe, new_run(recipe, folder / f"{name}-begun")))
    share(2, SCRIPT, tiny, folder, *names)
    return folder, json.loads((folder / "found.json").read_text())


def share(processes, *words):
    """Run a script on several processes, as a launcher does."""
    root = str(Path(__file__).parents[2])
    shared = os.environ | launch._addresses(processes) | {"PYTHONPATH": root}
    team = [
        subprocess.Popen(
            [sys.executable, *map(str, words)],
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    told = [member.communicate(timeout=600)[1] for member in team]
    assert [member.returncode for member in team] == [0] * processes, told[0] + told[1]


@pytest.mark.parametrize("name", [*RUNS, *SLICED])
def test_two_processes_come_to_the_same_as_one(name, alone, together):
    folder, found = together
    one, two = alone(name), folder / name
    if name != "half-fsdp":  # half precision is as exact as three digits
        assert_same(one, two)
    keys = ("value", "ci95", "n", "winner_gain", "winner_gain_ci95")
    expected, got = measured(one)[-1], measured(two)[-1]
    assert expected["metric"] == got["metric"]
    assert got["n"] == expected["n"] > 0
    for key in keys:
        assert got[key] == pytest.approx(expected[key], abs=1e-4)
    assert found[name]["held_out"] == got


@pytest.mark.parametrize("name", [*RUNS, *SLICED])
def test_figures_are_those_of_all_records(name, alone, together):
    one, two = (
        [line for line in read_lines(run / "metrics.jsonl") if "loss" in line]
        for run in (alone(name), together[0] / name)
    )
    assert [line["step"] for line in two] == [1, 2, 3]  # written once
    loose = {"abs": 2e-2, "rel": 2e-2} if name == "half-fsdp" else {"abs": 1e-5, "rel": 2e-3}
    for expected, got in zip(one, two, strict=True):
        for key in expected.keys() - {"seconds", "saturated", "implicit_accuracy"}:
            assert got[key] == pytest.approx(expected[key], **loose), key


@pytest.mark.parametrize("name", STOPPED)
def test_a_checkpoint_of_two_processes_goes_on_with_one(name, alone, together, tmp_path):
    run = shutil.copytree(together[0] / f"{name}-stopped", tmp_path / "run")
    assert checkpoint.latest(run).name == "step-000002"
    assert not (run / "checkpoints" / "step-000003").exists()
    finish(train(read_run(run), run, resume=True))
    assert_same(alone(name), run)


@pytest.mark.parametrize("name", STOPPED)
def test_a_checkpoint_of_one_process_goes_on_with_two(name, alone, together):
    run = together[0] / f"{name}-begun"
    assert checkpoint.latest(run).name == "step-000003"
    assert_same(alone(name), run)


def test_checkpoints_hold_the_same_tensors_however_weights_were_held(alone, together):
    folder, _ = together
    for name in ("lora-fsdp", "full-fsdp"):
        one, two = (
            load_file(checkpoint.latest(run) / "resume" / "state.safetensors")
            for run in (alone(name), folder / name)
        )
        shapes = {name: value.shape for name, value in one.items()}
        assert {name: value.shape for name, value in two.items()} == shapes
        assert sum(name.startswith("optimizer.") for name in one) > 10


def test_a_sliced_model_is_saved_whole_for_diffusers(together):
    from diffusers import StableDiffusionPipeline

    folder = checkpoint.latest(together[0] / "full-fsdp")
    network = StableDiffusionPipeline.from_pretrained(folder).unet.state_dict()
    state = load_file(folder / "resume" / "state.safetensors")
    for name, value in network.items():
        assert torch.equal(value, state[f"average.{name}"])
