import json
import math

import pytest
import torch

from vipo_cli.data.sources import open_pairs
from vipo_cli.errors import VipoError
from vipo_cli.run import finish, read_lines
from vipo_cli.training import checkpoint, loop, memory
from vipo_cli.training import prepare as preparing
from vipo_cli.training.cached import MEASURED, forward_size
from vipo_cli.training.loop import save, steps, update
from vipo_cli.training.memory import free_memory
from vipo_cli.training.out_of_memory import is_out_of_memory, need_less, way_of
from vipo_cli.training.prepare import prepare
from vipo_cli.training.reference import trainable


def ready(recipe, folder):
    records = open_pairs(recipe.data.name, recipe.data.parameters)
    return finish(prepare(recipe, records, folder))


@pytest.fixture
def counted(monkeypatch):
    """Count even tiny models."""
    monkeypatch.setattr(memory, "SMALL", 0)

    def free(size):
        monkeypatch.setattr(memory, "free_memory", lambda _: size)

    return free


def needed(recipe, folder, monkeypatch):
    """Return the bytes of an update with all, and with one record at once."""
    chosen = []
    real = memory.standing

    def standing(asked, cost, processes):
        found = real(asked, cost, processes)
        chosen.append((sum(found.values()), cost.each))
        return found

    monkeypatch.setattr(memory, "standing", standing)
    ready(recipe, folder)
    fixed, each = chosen[0]
    return lambda records: memory.MARGIN * (fixed + records * each) + 1


def test_as_many_records_as_fit_go_through_the_model_at_once(
    recipe, tmp_path, counted, monkeypatch
):
    chosen = recipe(**{"data.held_out": 0, "optimizer.batch_size": 8})
    counted(2**40)
    bytes_for = needed(chosen, tmp_path, monkeypatch)
    assert ready(chosen, tmp_path).micro_batch == 8
    for records in (1, 3, 5):
        counted(bytes_for(records))
        setup = ready(chosen, tmp_path)
        assert setup.micro_batch == records
        assert not setup.family.denoiser.is_gradient_checkpointing


def test_activations_are_computed_again_only_where_memory_asks_for_it(
    recipe, tmp_path, counted, monkeypatch
):
    chosen = recipe(**{"data.held_out": 0})
    counted(2**40)
    bytes_for = needed(chosen, tmp_path, monkeypatch)
    counted(bytes_for(0.8))
    setup = ready(chosen, tmp_path)
    assert setup.family.denoiser.is_gradient_checkpointing
    assert setup.micro_batch >= 1
    assert update(setup, 0).record().loss == pytest.approx(math.log(2), abs=1e-6)


def test_what_is_computed_again_comes_out_the_same(recipe, tmp_path):
    results = []
    for checkpointing in ("off", "on"):
        setup = ready(recipe(**{"model.checkpointing": checkpointing}), tmp_path)
        update(setup, 0)
        results.append({name: value.clone() for name, value in trainable(setup.family).items()})
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], atol=1e-7, rtol=1e-5)


def test_a_device_that_is_too_small_is_told_before_anything_is_encoded(
    recipe, tmp_path, counted, monkeypatch
):
    monkeypatch.setattr(preparing, "encode", None)
    monkeypatch.setattr(preparing, "load_denoiser", None)
    counted(2**16)
    with pytest.raises(VipoError, match=r"needs about .* GB, and 0.0 GB are free") as raised:
        ready(recipe(), tmp_path)
    assert "--set model.precision=bf16" in raised.value.hint
    assert "--set optimizer.backward=decoupled" in raised.value.hint


def test_what_was_foreseen_is_counted_once(recipe, tmp_path, counted, monkeypatch):
    real, counts = memory.measure_cost, []

    def measured(*args, **kwargs):
        counts.append(args[2].latents)
        return real(*args, **kwargs)

    monkeypatch.setattr(memory, "measure_cost", measured)
    counted(2**40)
    chosen = recipe(**{"data.held_out": 0})
    setup = ready(chosen, tmp_path)
    assert counts == [(4, 8, 8)]
    assert (setup.micro_batch, setup.checkpointing) == (4, False)
    assert forward_size(setup) == MEASURED
    setup.room = 6
    assert forward_size(setup) == 6
    setup.micro_batch = 2
    assert forward_size(setup) == 2


def test_what_cannot_be_counted_is_found_out_by_trying(recipe, tmp_path, counted, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("Tensor.item() cannot be called on meta tensors")

    monkeypatch.setattr(memory, "measure_cost", refuse)
    counted(2**40)
    setup = ready(recipe(**{"data.held_out": 0}), tmp_path)
    assert (setup.micro_batch, setup.checkpointing) == (4, False)
    assert forward_size(setup) == 4


@pytest.mark.parametrize("train", ["lora", "full"])
def test_inverted_noise_is_found_in_half_precision(recipe, tmp_path, counted, train):
    """On paper too."""
    counted(2**40)
    settings = {"model.precision": "bf16", "model.train": train, "noise.source": "inverted"}
    setup = ready(recipe(**settings, **{"data.held_out": 0}), tmp_path)
    assert setup.room is not None
    assert setup.room > 0
    assert math.isfinite(update(setup, 0).record().loss)


class Crowded:
    """Lets a denoiser run out of memory above a number of rows."""

    def __init__(self, denoiser, most):
        self.most, self.calls = most, []
        denoiser.register_forward_pre_hook(self.refuse)

    def refuse(self, _, arguments):
        self.calls.append(len(arguments[0]))
        if len(arguments[0]) > self.most:
            raise torch.OutOfMemoryError("out of memory")


def final(setup):
    return {name: value.detach().clone() for name, value in trainable(setup.family).items()}


def test_an_update_that_does_not_fit_is_made_in_smaller_parts(recipe, tmp_path):
    chosen = recipe("poly-dpo", **{"data.held_out": 0, "run.steps": 3, "optimizer.batch_size": 8})
    setup = ready(chosen, tmp_path)
    crowded = Crowded(setup.family.denoiser, most=5)
    told = [part for part in steps(setup, tmp_path) if getattr(part, "warning", None)]
    assert max(crowded.calls[2:]) <= 4
    assert setup.micro_batch == 2
    assert "out of memory; from here on 2 records" in told[0].warning
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [line["micro_batch"] for line in lines if "micro_batch" in line] == [2]

    by_hand = ready(chosen.model_copy(
        update={"optimizer": chosen.optimizer.model_copy(update={"micro_batch": 2})}
    ), tmp_path)  # fmt: skip
    for step in range(3):
        update(by_hand, step)
    for name, value in final(by_hand).items():
        assert torch.equal(value, final(setup)[name]), name
    json.dumps(lines)


def test_one_record_that_does_not_fit_is_one_error(recipe, tmp_path):
    setup = ready(recipe(**{"data.held_out": 0}), tmp_path)
    Crowded(setup.family.denoiser, most=1)
    with pytest.raises(VipoError, match="has not enough memory for one record") as raised:
        list(steps(setup, tmp_path))
    assert "--set optimizer.backward=decoupled" in raised.value.hint


def test_where_one_record_is_too_much_activations_are_computed_again(recipe, tmp_path):
    chosen = recipe(**{"data.held_out": 0, "optimizer.batch_size": 2, "run.steps": 3})
    setup = ready(chosen, tmp_path)
    denoiser = setup.family.denoiser

    def refuse(*_):
        if not denoiser.is_gradient_checkpointing:
            raise torch.OutOfMemoryError("out of memory")

    denoiser.register_forward_pre_hook(refuse)
    told = [part.warning for part in steps(setup, tmp_path) if getattr(part, "warning", None)]
    assert told == [
        "step 1: out of memory; from here on one record goes through the model at once, and "
        "activations are computed again, still 2 an update"
    ]
    assert way_of(setup) == (1, True)
    lines = read_lines(tmp_path / "metrics.jsonl")
    ways = [(line["micro_batch"], line["checkpointing"]) for line in lines if "micro_batch" in line]
    assert ways == [(1, True)]
    assert not need_less(setup)


def test_activations_are_kept_where_the_recipe_says_so(recipe, tmp_path):
    settings = {"model.checkpointing": "off", "optimizer.micro_batch": 1, "data.held_out": 0}
    setup = ready(recipe(**settings), tmp_path)
    assert not need_less(setup)
    assert way_of(setup) == (1, False)


@pytest.mark.parametrize("before", [(2, False), (1, True)])
def test_a_resumed_run_goes_on_in_the_way_of_its_checkpoint(recipe, tmp_path, before):
    """To the bit, though there is memory for more at once again."""
    chosen = recipe(**{"data.held_out": 0, "run.steps": 3, "optimizer.batch_size": 8})
    whole = ready(chosen, tmp_path)
    while way_of(whole) != before:
        assert need_less(whole)
    for step in range(2):
        update(whole, step)
    saved = save(whole, tmp_path, 2)
    update(whole, 2)
    resumed = ready(chosen, tmp_path)
    assert way_of(resumed) == (8, False)
    assert checkpoint.load(saved, resumed) == 2
    assert way_of(resumed) == before
    assert resumed.family.denoiser.is_gradient_checkpointing == before[1]
    update(resumed, 2)
    for name, value in final(resumed).items():
        assert torch.equal(value, final(whole)[name]), name


def test_a_checkpoint_of_an_older_version_says_nothing_of_the_way(recipe, tmp_path):
    setup = ready(recipe(**{"data.held_out": 0}), tmp_path)
    note = save(setup, tmp_path, 2) / "resume" / "state.json"
    said = json.loads(note.read_text())
    note.write_text(json.dumps({key: said[key] for key in ("step", "sha256")}))
    assert checkpoint.load(note.parents[1], setup) == 2
    assert way_of(setup) == (4, False)


def test_another_error_is_no_lack_of_memory(recipe, tmp_path, monkeypatch):
    setup = ready(recipe(**{"data.held_out": 0}), tmp_path)

    def fail(*_):
        raise RuntimeError("shapes cannot be multiplied")

    monkeypatch.setattr(loop, "accumulate", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        update(setup, 0)
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"))
    assert not is_out_of_memory(ValueError("can't allocate memory"))


@pytest.mark.parametrize(
    ("folder", "limit", "used", "files"),
    [
        (".", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ],
    ids=["second version", "first version"],
)
def test_a_containers_free_memory_is_known(tmp_path, folder, limit, used, files):
    assert memory._free_in_container(tmp_path) == 2**62
    place = tmp_path / folder
    place.mkdir(exist_ok=True)
    (place / limit).write_text("1000\n")
    (place / used).write_text("700\n")
    (place / "memory.stat").write_text(f"anon 400\n{files} 300\n")
    assert memory._free_in_container(tmp_path) == 600
    (place / limit).write_text("max\n" if folder == "." else "9223372036854771712\n")
    assert memory._free_in_container(tmp_path) == 2**62


def test_the_systems_free_memory_is_known():
    assert 2**26 < free_memory(torch.device("cpu")) < 2**50
