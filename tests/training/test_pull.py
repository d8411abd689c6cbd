"""What composes with an objective: weights, soft labels, the winner's term, safeguard, backward."""

import math
from dataclasses import replace

import pytest
import torch

from vipo_cli.data.sources import open_pairs
from vipo_cli.objectives import objectives
from vipo_cli.run import finish
from vipo_cli.training.batches import training_batch
from vipo_cli.training.loop import accumulate, update
from vipo_cli.training.prepare import prepare
from vipo_cli.training.pull import composed, current_beta, pull
from vipo_cli.training.reference import trainable
from vipo_cli.training.step import as_record, measure


@pytest.fixture
def prepared(recipe, tmp_path):
    """Return a function that prepares a run whose policy is no longer its base."""

    def make(method="diffusion-dpo", **settings):
        resolved = recipe(method, **{"data.held_out": 0, "data.pairs": 24} | settings)
        records = open_pairs(resolved.data.name, resolved.data.parameters)
        setup = finish(prepare(resolved, records, tmp_path))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, value in trainable(setup.family).items():
                if "lora_B" in name:
                    value.copy_(0.05 * torch.randn(value.shape, generator=generator))
        return setup

    return make


def gradients(setup, batch):
    setup.family.denoiser.zero_grad()
    accumulate(setup, batch, 1.0, last=True)
    found = torch.cat([value.grad.flatten() for value in trainable(setup.family).values()])
    setup.family.denoiser.zero_grad()
    return found


def direct(setup, batch):
    """The gradient of the summed loss, in one backward pass through everything."""
    measured = measure(setup.family, batch, setup.reference, drift=setup.needs_drift)
    setup.objective(as_record(setup.kind, measured, batch, setup.family)).sum().backward()
    found = torch.cat([value.grad.flatten() for value in trainable(setup.family).values()])
    setup.family.denoiser.zero_grad()
    return found


UNMASKED = {"sipo": {"objective.mask": "none"}, "dpo-cm": {"objective.mask": "none"}}
"""A random model's errors are so large that the mask would drop every pair."""

METHODS = ["diffusion-dpo", "poly-dpo", "dspo", "sipo", "mapo", "sft", "plackett-luce"]


@pytest.mark.parametrize("method", METHODS)
def test_backward_in_two_parts_is_backward_in_one(prepared, method):
    setup = prepared(method, **UNMASKED.get(method, {}))
    batch = training_batch(setup, [0, 1, 2, 3])
    torch.testing.assert_close(gradients(setup, batch), direct(setup, batch), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("method", ["diffusion-dpo", "poly-dpo", "dspo", "sipo", "mapo"])
def test_decoupled_winners_and_losers_have_the_joint_gradient(prepared, method):
    setup = prepared(method, **{"objective.safeguard": 0.9}, **UNMASKED.get(method, {}))
    batch = training_batch(setup, [0, 1, 2, 3])
    joint = gradients(setup, batch)
    optimizer = setup.recipe.optimizer.model_copy(update={"backward": "decoupled"})
    setup.recipe = setup.recipe.model_copy(update={"optimizer": optimizer})
    assert joint.abs().max() > 0
    torch.testing.assert_close(gradients(setup, batch), joint, rtol=1e-4, atol=1e-6)


def test_weights_multiply_the_loss_and_its_slopes(prepared):
    setup = prepared()
    batch = training_batch(setup, [0, 1, 2])
    measured = measure(setup.family, batch, setup.reference)
    plain = pull(setup, measured, batch)
    weighted = pull(setup, measured, replace(batch, weight=torch.tensor([0.0, 1.0, 2.5])))
    torch.testing.assert_close(weighted.loss, plain.loss * torch.tensor([0.0, 1.0, 2.5]))
    torch.testing.assert_close(weighted.policy, plain.policy * torch.tensor([0.0, 1.0, 2.5]))


def test_soft_labels_are_cross_entropy_and_a_tie_pulls_neither_way_at_first(prepared):
    setup = prepared()
    batch = training_batch(setup, [0, 1])
    measured = measure(setup.family, batch, setup.reference)
    z = (
        0.5
        * setup.recipe.objective.parameters["beta"]
        * as_record(setup.kind, measured, batch, setup.family).margin
    )
    soft = replace(batch, probability=torch.tensor([0.8, 0.5]), certain=False)
    p = z.double().sigmoid()
    q = soft.probability.double()
    expected = -(q * p.log() + (1 - q) * (1 - p).log())
    torch.testing.assert_close(composed(setup, measured, soft).double(), expected)
    even = replace(measured, reference=measured.policy.detach())
    assert (
        pull(setup, even, soft).policy[:, 1].abs().max()
        < 1e-6 * pull(setup, even, batch).policy[:, 1].abs().max()
    )


def test_the_winners_term_is_added_to_the_loss(prepared):
    setup = prepared(**{"objective.sft_weight": 0.25})
    batch = training_batch(setup, [0, 1])
    measured = measure(setup.family, batch, setup.reference)
    bare = setup.objective(as_record(setup.kind, measured, batch, setup.family))
    torch.testing.assert_close(composed(setup, measured, batch), bare + 0.25 * measured.policy[0])


def test_the_safeguard_changes_no_value_and_keeps_the_winners_error_from_rising(prepared):
    """To first order, one step along the negative gradient in prediction space."""
    setup = prepared(**{"objective.safeguard": 0.9})
    batch = training_batch(setup, [0, 1, 2, 3])
    measured = measure(setup.family, batch, setup.reference, residuals=True)
    guarded = pull(setup, measured, batch)
    free = setup.recipe.objective.model_copy(update={"safeguard": None})
    setup.recipe = setup.recipe.model_copy(update={"objective": free})
    unguarded = pull(setup, measured, batch)
    assert torch.equal(guarded.loss, unguarded.loss)
    assert torch.equal(guarded.policy[0], unguarded.policy[0])
    scale = guarded.policy[1] / unguarded.policy[1]
    assert (scale >= 0).all()
    assert (scale <= 1).all()
    assert (scale < 1).any()
    # along the loser's pull the winner's error rises by `product`, along its own falls by `squared`
    assert (scale * measured.product).sum() <= measured.squared[0].sum() * (1 + 1e-5)


def test_automatic_beta_starts_high_and_keeps_the_typical_logit(prepared):
    setup = prepared(**{"objective.typical_logit": 0.5, "objective.beta": 1e6, "run.steps": 400})
    assert current_beta(setup) == 1e6
    records = [update(setup, step).record() for step in range(12)]
    assert records[0].beta == 1e6
    for record in records[1:]:
        assert record.beta < 1e6
    logits = [
        0.5 * record.beta * math.hypot(record.margin, record.margin_std) for record in records[4:]
    ]
    assert 0.2 < sum(logits) / len(logits) < 1.5


@pytest.mark.parametrize("method", sorted(set(objectives.names()) - {"d3po"}))
def test_every_method_makes_an_update(prepared, method):
    data = {"data.kind": "ranked"} if method == "plackett-luce" else {}
    setup = prepared(method, **data, **UNMASKED.get(method, {}))
    before = {name: value.clone() for name, value in trainable(setup.family).items()}
    record = update(setup, 0).record()
    assert math.isfinite(record.loss)
    assert record.gradient_norm > 0
    assert 0 < record.kept_fraction <= 1
    assert any(
        not torch.equal(value, before[name]) for name, value in trainable(setup.family).items()
    )
