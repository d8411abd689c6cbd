import pytest
import torch
from transformers.optimization import Adafactor

from vipo_cli.data.sources import open_pairs
from vipo_cli.errors import VipoError
from vipo_cli.run import finish
from vipo_cli.training import checkpoint
from vipo_cli.training.loop import save, update
from vipo_cli.training.optimizers import make_optimizer, state_bytes
from vipo_cli.training.prepare import prepare
from vipo_cli.training.reference import trainable


def ready(recipe, folder):
    records = open_pairs(recipe.data.name, recipe.data.parameters)
    return finish(prepare(recipe, records, folder))


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
@pytest.mark.parametrize("train", ["lora", "full"])
def test_a_checkpoint_holds_all_that_an_optimizer_keeps(recipe, tmp_path, name, train):
    settings = {"optimizer.name": name, "model.train": train, "data.held_out": 0}
    setup = ready(recipe(**settings), tmp_path)
    for step in range(2):
        update(setup, step)
    saved = save(setup, tmp_path, 2)
    update(setup, 2)
    again = ready(recipe(**settings), tmp_path)
    assert checkpoint.load(saved, again) == 2
    update(again, 2)
    for key, value in trainable(setup.family).items():
        assert torch.equal(value, trainable(again.family)[key]), key


def test_adafactor_keeps_next_to_nothing_of_a_matrix(recipe):
    weight = torch.nn.Parameter(torch.randn(64, 32))
    optimizer = make_optimizer(recipe(**{"optimizer.name": "adafactor"}), [weight])
    assert isinstance(optimizer, Adafactor)
    weight.grad = torch.randn(64, 32)
    optimizer.step()
    kept = sum(torch.as_tensor(value).numel() for value in optimizer.state[weight].values())
    assert kept < 64 + 32 + 4


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_what_an_optimizer_keeps_is_known_before(recipe, name):
    shapes = [(64, 32), (16, 8, 3, 3), (40,)]
    weights = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    chosen = recipe(**{"optimizer.name": name})
    optimizer = make_optimizer(chosen, weights)
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    optimizer.step()
    kept = sum(
        value.nbytes
        for entry in optimizer.state.values()
        for value in entry.values()
        if isinstance(value, torch.Tensor) and value.ndim
    )
    on_paper = [torch.empty(shape, device="meta") for shape in shapes]
    assert state_bytes(chosen, on_paper) == kept


def test_eight_bits_are_about_a_quarter(recipe):
    chosen = recipe(**{"optimizer.name": "adamw-8bit"})
    large, small = torch.empty(1024, 512, device="meta"), torch.empty(64, device="meta")
    assert state_bytes(chosen, [large]) == pytest.approx(2 * large.numel(), rel=0.02)
    assert state_bytes(chosen, [small]) == 8 * 64


def test_adafactor_follows_the_recipes_rate(recipe):
    moved = []
    for rate in (1e-3, 2e-3):
        weight = torch.nn.Parameter(torch.zeros(8, 8))
        chosen = recipe(**{"optimizer.name": "adafactor", "optimizer.learning_rate": rate})
        optimizer = make_optimizer(chosen, [weight])
        weight.grad = torch.linspace(0.1, 1, 64).reshape(8, 8)
        optimizer.step()
        moved.append(weight.detach().clone())
    torch.testing.assert_close(moved[1], 2 * moved[0])


def test_eight_bits_need_a_gpu(recipe):
    with pytest.raises(VipoError, match="`adamw-8bit` needs a GPU") as raised:
        make_optimizer(recipe(**{"optimizer.name": "adamw-8bit"}), [torch.zeros(2)])
    assert "adafactor" in raised.value.hint
