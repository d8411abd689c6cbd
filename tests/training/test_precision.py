import math

import pytest
import torch
from torch._dynamo.utils import counters

from vipo_cli.data.sources import open_pairs
from vipo_cli.errors import RecipeError, VipoError
from vipo_cli.run import finish
from vipo_cli.training.batches import training_batch
from vipo_cli.training.loop import update
from vipo_cli.training.precision import compile_blocks, quantization, train_in_half
from vipo_cli.training.prepare import prepare
from vipo_cli.training.reference import trainable
from vipo_cli.training.step import measure


def ready(recipe, folder):
    records = open_pairs(recipe.data.name, recipe.data.parameters)
    return finish(prepare(recipe, records, folder))


@pytest.mark.parametrize("train", ["lora", "full"])
def test_in_half_precision_training_starts_where_it_must(recipe, tmp_path, train):
    chosen = recipe(**{"model.precision": "bf16", "model.train": train, "data.held_out": 0})
    setup = ready(chosen, tmp_path)
    frozen = {
        value.dtype for value in setup.family.denoiser.parameters() if not value.requires_grad
    }
    assert frozen == ({torch.bfloat16} if train == "lora" else set())
    assert {value.dtype for value in trainable(setup.family).values()} == {torch.float32}
    before = {name: value.detach().clone() for name, value in trainable(setup.family).items()}
    assert update(setup, 0).record().loss == pytest.approx(math.log(2), abs=1e-7)
    after = trainable(setup.family)
    assert any((after[name] != value).any() for name, value in before.items())


def test_half_precision_measures_about_the_same(recipe, tmp_path):
    errors = []
    for precision in ("fp32", "bf16"):
        setup = ready(recipe(**{"model.precision": precision, "data.held_out": 0}), tmp_path)
        with setup.accelerator.autocast(), torch.no_grad():
            errors.append(measure(setup.family, training_batch(setup, [0, 1, 2, 3])).policy)
    assert errors[1].dtype == torch.float32
    torch.testing.assert_close(errors[0], errors[1], atol=0, rtol=0.02)
    assert not torch.equal(errors[0], errors[1])


def test_a_copy_kept_in_half_precision_predicts_to_the_bit_the_same(recipe, tmp_path):
    chosen = recipe(**{"model.precision": "bf16", "model.train": "full", "data.held_out": 0})
    setup = ready(chosen, tmp_path)
    batch = training_batch(setup, [0, 1, 2, 3])
    with setup.accelerator.autocast(), torch.no_grad():
        measured = measure(setup.family, batch, setup.base)
    assert torch.equal(measured.policy, measured.reference)
    with setup.base() as frozen:
        types = {value.dtype for value in frozen.denoiser.parameters()}
    assert types == {torch.bfloat16, torch.float32}  # norms stay


def test_a_norm_follows_the_type_of_what_comes_in():
    network = torch.nn.Sequential(
        torch.nn.RMSNorm(8), torch.nn.RMSNorm(8, elementwise_affine=False)
    )
    values = torch.randn(2, 8)
    expected = network(values)
    train_in_half(network)
    assert torch.equal(network(values), expected)
    halved = network(values.bfloat16())
    assert halved.dtype == torch.bfloat16
    torch.testing.assert_close(halved.float(), expected, atol=0, rtol=0.02)
    halved.float().sum().backward()
    assert network[0].weight.grad.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler looks at everything
def test_compiled_blocks_are_compiled_once_though_adapters_go_on_and_off(recipe, tmp_path):
    chosen = recipe(**{"data.held_out": 0, "run.steps": 4})
    plain, compiled = ready(chosen, tmp_path), ready(chosen, tmp_path)
    compile_blocks(compiled.family.denoiser, backend="eager")
    torch._dynamo.reset()
    counters.clear()
    graphs = []
    for step in range(4):
        expected, found = update(plain, step).record(), update(compiled, step).record()
        assert found.loss == pytest.approx(expected.loss, abs=1e-6)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] > 0
    assert graphs[1:] == graphs[1:2] * 3


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_quantised_weights_need_a_gpu(recipe, tmp_path, kind):
    with pytest.raises(VipoError, match=f"model.quantize: `{kind}` needs a GPU"):
        ready(recipe(**{"model.quantize": kind, "data.held_out": 0}), tmp_path)
    assert quantization(recipe(), torch.device("cpu")) is None


def test_what_is_trained_cannot_be_quantised(recipe):
    with pytest.raises(RecipeError) as raised:
        recipe(**{"model.quantize": "nf4", "model.train": "full"})
    assert raised.value.details == ("model.quantize: weights that are trained cannot be quantised",)
