import pytest
import torch
import yaml
from accelerate import init_empty_weights

from perf.public import sd15
from vipo_cli.errors import RecipeError
from vipo_cli.models.sd import StableDiffusion
from vipo_cli.recipe import resolve_recipe
from vipo_cli.run import finish
from vipo_cli.training import memory, plan
from vipo_cli.training.cost import encodings, measure_cost
from vipo_cli.training.plan import matrix_throughput


@pytest.fixture
def counted(monkeypatch):
    """Count even tiny models, on a device whose speed is known."""
    monkeypatch.setattr(memory, "SMALL", 0)
    monkeypatch.setattr(plan, "matrix_throughput", lambda *_: 1e9)


def test_a_small_model_is_tried(recipe):
    found = finish(plan.plan(recipe("poly-dpo")))
    assert found.how == "measured"
    assert found.seconds_per_step > 0
    assert found.pairs == 40
    assert found.epochs == pytest.approx(4 * 4 / 40)
    assert found.pairs_per_second == pytest.approx(4 / found.seconds_per_step)


def test_a_large_model_is_counted_and_not_loaded(recipe, counted, monkeypatch):
    monkeypatch.setattr(plan, "load_family", None)
    asked = recipe("poly-dpo", **{"optimizer.batch_size": 8})
    found = finish(plan.plan(asked))
    assert found.how == "estimated"
    speed = 1e9 * plan.EFFICIENCY
    assert found.seconds_per_step == pytest.approx(8 * found.flops / speed)
    assert found.seconds == pytest.approx(
        found.steps * found.seconds_per_step + found.encoding_seconds
    )
    assert set(found.memory) >= {"weights", "gradients", "optimizer", "reference", "activations"}
    assert found.memory["gradients"] == 4 * found.trained_parameters
    assert found.memory["optimizer"] == 8 * found.trained_parameters
    assert found.peak_memory_bytes < found.available_bytes
    text = found.text(asked)
    assert yaml.safe_load(text)["optimizer"]["batch_size"] == 8
    assert "# how       operations counted; time at 40% of the 0.001 TFLOP/s" in text


def test_full_fine_tuning_keeps_a_copy_and_lora_none(recipe, counted):
    lora = finish(plan.plan(recipe("poly-dpo")))
    full = finish(plan.plan(recipe("poly-dpo", **{"model.train": "full"})))
    assert lora.memory["reference"] == 0
    assert full.memory["reference"] == 4 * full.parameters
    assert full.trained_parameters == full.parameters


def test_what_a_loop_samples_is_counted(recipe, counted):
    settings = {
        "loop.kind": "spin", "loop.rounds": 2, "loop.prompts": 10, "loop.sampling_steps": 5,
        "loop.guidance": 1.0,
    }  # fmt: skip
    found = finish(plan.plan(recipe("diffusion-dpo", **settings)))
    assert found.samples == 2 * 10 + 12
    guided = finish(plan.plan(recipe("diffusion-dpo", **settings | {"loop.guidance": 3.0})))
    assert guided.sampling_seconds == pytest.approx(2 * found.sampling_seconds)
    assert found.seconds > found.sampling_seconds > 0


def test_operations_of_stable_diffusion_are_those_that_others_count():
    """0.80 TFLOP a forward pass at 512 px and 4.8 for a pair under LoRA, adapters not counted."""
    with init_empty_weights(include_buffers=False):
        family = StableDiffusion(sd15())
    looks = encodings_of(family)
    recipe = resolve_recipe(None, model="shapes-sd", method="diffusion-dpo")
    cost = measure_cost(recipe, family, looks, device="cuda")
    assert cost.parameters == pytest.approx(0.86e9, rel=0.01)
    assert cost.forward_flops == pytest.approx(0.80e12, rel=0.03)
    assert cost.record_flops == pytest.approx(4.8e12, rel=0.07)
    assert looks.latents == (4, 64, 64)


def encodings_of(family):
    """Return what pictures look like to a family that lies in no folder."""
    from vipo_cli.training.cost import Encodings

    width = family.pipeline.text_encoder.config.hidden_size
    return Encodings(
        size=family.size, latents=(4, 64, 64),
        condition={"encoder_hidden_states": torch.randn(1, 77, width)}, media_condition={},
        media_flops=0, prompt_flops=0, media_peak=0, encoder_weights=0, decoder_weights=0,
    )  # fmt: skip


def test_encoding_is_counted_on_paper(tiny):
    from vipo_cli.models import open_family

    family = open_family(str(tiny))
    looks = encodings(family, family.size)
    assert looks.latents == (4, 8, 8)
    assert looks.bytes_a_picture == 8 * 4 * 8 * 8
    assert looks.condition["encoder_hidden_states"].shape == (1, 16, 16)
    assert looks.media_flops > 0
    assert family.pipeline.vae.device.type == "meta"


def test_a_devices_speed_is_measured(monkeypatch):
    monkeypatch.setattr(plan, "SIDE", 256)
    assert 1e8 < matrix_throughput(torch.device("cpu"), torch.float32) < 1e15


def test_of_several_processes_one_is_planned(recipe, counted):
    asked = recipe("poly-dpo", **{"optimizer.batch_size": 8, "run.sharding": "fsdp"})
    one, four = finish(plan.plan(asked)), finish(plan.plan(asked, 4))
    assert four.seconds_per_step == pytest.approx(one.seconds_per_step / 4)
    assert four.encoding_seconds == one.encoding_seconds
    assert (one.micro_batch, four.micro_batch) == (8, 2)
    for part in ("weights", "gradients", "optimizer"):
        assert four.memory[part] == one.memory[part] // 4
    assert four.epochs == one.epochs
    assert "# processes 4, each with 2 pairs of a batch" in four.text(asked)
    assert "# processes" not in one.text(asked)
    with pytest.raises(RecipeError, match="multiple of the number of processes, got `8` for 3"):
        finish(plan.plan(asked, 3))


def test_of_several_processes_one_is_tried_with_its_share(recipe):
    asked = recipe("poly-dpo", **{"optimizer.batch_size": 8})
    found = finish(plan.plan(asked, 4))
    assert (found.how, found.micro_batch) == ("measured", 2)
    assert found.pairs_per_second == pytest.approx(8 / found.seconds_per_step)
