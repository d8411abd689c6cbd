"""Runs on two processes; the interpreters are started once for all that does not end them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.training.two_processes import (
    RUNS,
    SLICED,
    SMALL,
    STOPPED,
    ZERO,
    recipe_of,
    stop_after,
)
from vipo_cli.errors import VipoError
from vipo_cli.run import finish, read_lines
from vipo_cli.training import checkpoint, devices, launch, sharding
from vipo_cli.training.train import new_run, read_run, train

SCRIPT = Path(__file__).with_name("two_processes.py")
ROOT = Path(__file__).parents[2]


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


QUICK = ("lora", "full-fsdp")
"""Runs of every test session; the others are slow together."""


def marked(names):
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.fixture(scope="module")
def quick(tiny, tmp_path_factory):
    return on_two(tmp_path_factory.mktemp("quick"), tiny, QUICK)


@pytest.fixture(scope="module")
def others(tiny, tmp_path_factory):
    names = [name for name in (*RUNS, *SLICED) if name not in QUICK]
    return on_two(tmp_path_factory.mktemp("others"), tiny, names)


@pytest.fixture
def together(name, request):
    """The runs on two processes of which the test's is one, and what they found."""
    return request.getfixturevalue("quick" if name in QUICK else "others")


@pytest.fixture(scope="module")
def with_deepspeed(tiny, tmp_path_factory):
    """The runs for which DeepSpeed shares out the weights."""
    pytest.importorskip("deepspeed")
    return on_two(tmp_path_factory.mktemp("deepspeed"), tiny, list(ZERO))


def on_two(folder, tiny, names):
    """Run recipes on two processes; some go on with what one process began."""
    for name in names:
        if name in STOPPED:
            recipe = recipe_of(name, tiny)
            stop_after(2, train(recipe, new_run(recipe, folder / f"{name}-begun")))
    share(2, SCRIPT, tiny, folder, *names)
    return folder, json.loads((folder / "found.json").read_text())


def share(processes, *words):
    """Run a script on several processes, as a launcher does."""
    shared = os.environ | launch._addresses(processes) | {"PYTHONPATH": str(ROOT)}
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


@pytest.mark.parametrize("name", marked([*RUNS, *SLICED]))
def test_two_processes_come_to_the_same_as_one(name, alone, together):
    folder, found = together
    one, two = alone(name), folder / name
    expected, got = measured(one)[-1], measured(two)[-1]
    assert found[name]["held_out"] == got
    assert expected["metric"] == got["metric"]
    assert got["n"] == expected["n"] > 0
    if name == "half-fsdp":  # exact to three digits, and the signs of small margins follow no rule
        return
    assert_same(one, two)
    for key in ("value", "ci95", "winner_gain", "winner_gain_ci95"):
        assert got[key] == pytest.approx(expected[key], abs=1e-4)


@pytest.mark.parametrize("name", marked([*RUNS, *SLICED]))
def test_figures_are_those_of_all_records(name, alone, together):
    one, two = (
        [line for line in read_lines(run / "metrics.jsonl") if "loss" in line]
        for run in (alone(name), together[0] / name)
    )
    assert [line["step"] for line in two] == [1, 2, 3]  # written once
    loose = {"abs": 2e-2, "rel": 2e-2} if name == "half-fsdp" else {"abs": 1e-5, "rel": 2e-3}
    for expected, got in zip(one, two, strict=True):
        assert got.keys() == expected.keys()
        for key in expected.keys() - {"seconds", "saturated", "implicit_accuracy"}:
            near = expected[key] is None or pytest.approx(expected[key], **loose)
            assert got[key] == near or got[key] is expected[key], key


@pytest.mark.parametrize("name", marked(name for name in STOPPED if name not in ZERO))
def test_a_checkpoint_of_two_processes_goes_on_with_one(name, alone, together, tmp_path):
    run = shutil.copytree(together[0] / f"{name}-stopped", tmp_path / "run")
    assert checkpoint.latest(run).name == "step-000002"
    assert not (run / "checkpoints" / "step-000003").exists()
    finish(train(read_run(run), run, resume=True))
    assert_same(alone(name), run)


@pytest.mark.parametrize("name", marked(name for name in STOPPED if name not in ZERO))
def test_a_checkpoint_of_one_process_goes_on_with_two(name, alone, together):
    run = together[0] / f"{name}-begun"
    assert checkpoint.latest(run).name == "step-000003"
    assert_same(alone(name), run)


@pytest.mark.slow  # DeepSpeed compiles what it needs when it is first imported
@pytest.mark.parametrize("name", ZERO)
def test_deepspeed_comes_to_the_same(name, alone, with_deepspeed, tmp_path):
    test_two_processes_come_to_the_same_as_one(name, alone, with_deepspeed)
    test_figures_are_those_of_all_records(name, alone, with_deepspeed)
    test_a_checkpoint_of_two_processes_goes_on_with_one(name, alone, with_deepspeed, tmp_path)
    test_a_checkpoint_of_one_process_goes_on_with_two(name, alone, with_deepspeed)


@pytest.mark.parametrize("name", marked(["lora-fsdp", "full-fsdp"]))
def test_checkpoints_hold_the_same_tensors_however_weights_were_held(name, alone, together):
    one, two = (
        load_file(checkpoint.latest(run) / "resume" / "state.safetensors")
        for run in (alone(name), together[0] / name)
    )
    shapes = {name: value.shape for name, value in one.items()}
    assert {name: value.shape for name, value in two.items()} == shapes
    assert sum(name.startswith("optimizer.") for name in one) > 10


def test_a_sliced_model_is_saved_whole_for_diffusers(quick):
    from diffusers import StableDiffusionPipeline

    folder = checkpoint.latest(quick[0] / "full-fsdp")
    network = StableDiffusionPipeline.from_pretrained(folder).unet.state_dict()
    state = load_file(folder / "resume" / "state.safetensors")
    for name, value in network.items():
        assert torch.equal(value, state[f"average.{name}"])


MANY = {"run.steps": 100_000, "run.checkpoint_every": 2, "run.held_out_every": 100_000}


@pytest.fixture
def started(tiny, tmp_path):
    """Start an endless run on two processes; return it and its directory after a few steps."""
    run = tmp_path / "run"
    settings = [f"--set={key}={value}" for key, value in (SMALL | MANY).items()]
    words = ["train", "--model", tiny, "--out", run, "--processes", 2, *settings]
    process = subprocess.Popen(
        [sys.executable, "-m", "vipo_cli", *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, cwd=ROOT,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 900
        while len(read_lines(run / "metrics.jsonl")) < 3:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield process, run
    finally:
        process.kill()
        process.communicate()


def assert_goes_on_as_if_nothing_had_happened(run, tiny, place):
    """Resume a run on one process for one step more; compare with a run that nobody disturbed."""
    steps = int(checkpoint.latest(run).name.removeprefix("step-")) + 1
    file = run / "recipe.yaml"
    file.write_text(file.read_text().replace("steps: 100000", f"steps: {steps}"))
    recipe = read_run(run)
    finish(train(recipe, run, resume=True))
    finish(train(recipe, new_run(recipe, place)))
    assert_same(run, place)
    records = [line["step"] for line in read_lines(run / "metrics.jsonl") if "loss" in line]
    assert records == list(range(1, steps + 1))


def test_ctrl_c_stops_all_at_one_step_and_saves_it(started, tiny, tmp_path):
    process, run = started
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "")
    assert err.count("error:") == 1
    assert "error: stopped on request; what was trained is saved" in err
    assert err.endswith(f"hint: go on: vipo train --resume {run} --processes 2\n")
    assert "Traceback" not in err
    assert "shared out to 2 processes" in err
    done = read_lines(run / "metrics.jsonl")[-1]["step"]
    assert checkpoint.latest(run).name == f"step-{done:06d}"
    assert_goes_on_as_if_nothing_had_happened(run, tiny, tmp_path / "whole")


def test_killing_one_process_ends_the_other_and_loses_nothing_saved(started, tiny, tmp_path):
    process, run = started
    children = psutil.Process(process.pid).children()
    other = next(child for child in children if child.environ()["RANK"] == "1")
    other.kill()
    before = time.monotonic()
    out, err = process.communicate(timeout=120)
    assert time.monotonic() - before < launch.GRACE + 20
    assert (process.returncode, out) == (1, "")
    assert err.count("error:") == 1
    assert "error: process 2 of 2 was ended by SIGKILL" in err
    assert err.endswith(f"hint: go on: vipo train --resume {run} --processes 2\n")
    assert "Traceback" not in err
    assert not psutil.pid_exists(children[0].pid)
    assert_goes_on_as_if_nothing_had_happened(run, tiny, tmp_path / "whole")


@pytest.mark.slow
def test_accelerate_launches_it_too(tiny, alone, tmp_path):
    method, settings = RUNS["lora"]
    settings = [f"--set={key}={value}" for key, value in (SMALL | settings).items()]
    words = ["train", "--model", tiny, "--method", method, "--out", tmp_path / "run", *settings]
    # with --cpu accelerate starts one process, whatever number it is told
    options = ["--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no"]
    found = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *options, "-m", "vipo_cli",
         *map(str, words), "--json"],
        capture_output=True, text=True, cwd=ROOT, timeout=600,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MASTER_PORT": str(free_port())},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    document = json.loads(found.stdout)  # once, though both came to it
    assert document["status"] == "complete"
    assert document["run"] == str(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["processes"] == 2
    assert found.stderr.count("run     ") == 1
    assert_same(alone("lora"), tmp_path / "run")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ("settings", "environment", "message"),
    [
        ({"optimizer.batch_size": 6}, {"WORLD_SIZE": "4"}, "multiple of the number of processes"),
        ({}, {"ACCELERATE_USE_FSDP": "true"}, "told to shard the weights with FSDP"),
    ],
)
def test_what_cannot_be_shared_out_is_refused_first(
    recipe, monkeypatch, settings, environment, message
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(VipoError, match=message):
        devices.start_accelerator(recipe(**settings))


def test_more_processes_than_devices_are_refused(recipe, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(VipoError, match="4 processes on this machine, which has 2 GPUs") as raised:
        devices.start_accelerator(recipe())
    assert raised.value.hint == "--processes 2 at most"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # two machines
    devices._refuse_launch(recipe())


def test_deepspeed_that_is_absent_is_told(recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    monkeypatch.setattr(sharding, "process_count", lambda: 2)
    with pytest.raises(VipoError, match="needs DeepSpeed") as raised:
        sharding.choose_sharding(recipe(**{"run.sharding": "zero3"}), None)
    assert "pip install deepspeed" in raised.value.hint


def test_one_process_holds_all_weights_whatever_the_recipe_says(recipe):
    found = sharding.choose_sharding(recipe(**{"run.sharding": "fsdp"}), None)
    assert isinstance(found, sharding.Whole)
