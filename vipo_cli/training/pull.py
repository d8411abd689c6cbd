"""From measurements to the loss, and how hard each error is pulled.

The loss depends on the weights only through the errors, so the step goes backward in two parts:
from the loss to the errors here, (k, b) numbers, and from the errors to the weights in the loop.
Between the two the loser's pull can be held back, and winners and losers can go one by one.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from vipo_cli.objectives import LabelledErrors, has_logit
from vipo_cli.objectives.safeguard import safeguard_scale
from vipo_cli.training.devices import shared_mean
from vipo_cli.training.setup import Setup
from vipo_cli.training.step import Batch, Items, Measured, as_record
from vipo_cli.training.trajectory import StepBatch


@dataclass(frozen=True, slots=True)
class Pull:
    """Each record's loss, and its slope in each error of the policy.

    Attributes:
        loss: (b,), weighted as the records are.
        policy: dloss / dpolicy error.
        drift: dloss / ddrift, where the objective sees drifts.
    """

    loss: Float[Tensor, " b"]
    policy: Items
    drift: Items | None


def pull(setup: Setup, measured: Measured, batch: Batch | StepBatch) -> Pull:
    """Evaluate the objective, and all that is composed with it, at the errors measured."""
    policy = measured.policy.detach().requires_grad_()
    leaves, drift = [policy], None
    if measured.drift is not None:
        drift = measured.drift.detach().requires_grad_()
        leaves.append(drift)
    loss = composed(setup, replace(measured, policy=policy, drift=drift), batch)
    slopes = torch.autograd.grad(loss.sum(), leaves)
    return Pull(
        loss.detach(),
        held_back(setup, measured, slopes[0]),
        slopes[1] if drift is not None else None,
    )


def composed(setup: Setup, measured: Measured, batch: Batch | StepBatch) -> Float[Tensor, " b"]:
    """Return the objective with soft labels, a term for the winner and weights.

    loss = weight * (q * L(w, l) + (1 - q) * L(l, w) + sft_weight * policy_w),   q = P(w preferred)
    """
    beta = current_beta(setup)
    chosen = {} if beta is None else {"beta": beta}

    def loss_of(values: Measured) -> Tensor:
        kl = divergence(values) if setup.kind is LabelledErrors else None
        return setup.objective(as_record(setup.kind, values, batch, setup.family, kl), **chosen)

    loss = loss_of(measured)
    if not batch.certain:
        loss = batch.probability * loss + (1 - batch.probability) * loss_of(measured.flipped())
    if weight := setup.recipe.objective.sft_weight:
        loss = loss + weight * measured.policy[0]
    return batch.weight * loss


def divergence(measured: Measured) -> Tensor:
    """Estimate the divergence from the reference, as Diffusion-KTO does.

    Over the records that go forward together, on all processes.
    """
    assert measured.reference is not None
    gain = (measured.reference - measured.policy).detach().float()
    return shared_mean(gain).clamp(min=0)


def held_back(setup: Setup, measured: Measured, slopes: Items) -> Items:
    """Scale the losers' pull as far down as the safeguard says.

    Over the batch means, as published, over the records that go forward together: here on all
    processes, so that their number does not matter, but the size of a micro-batch does.
    """
    objective = setup.recipe.objective
    if objective.safeguard is None:
        return slopes
    assert measured.squared is not None
    assert measured.product is not None
    squared_w, product = measured.squared[0], measured.product
    if objective.safeguard_over == "batch":
        squared_w, product = (shared_mean(each).expand_as(each) for each in (squared_w, product))
    scale = safeguard_scale(
        squared_w, product, mu=objective.safeguard, over=objective.safeguard_over
    )
    return torch.stack([slopes[0], slopes[1] * scale])


def current_beta(setup: Setup) -> float | None:
    """Return the automatic beta: at most the recipe's, lower once margins have grown.

    None where beta is fixed.
    """
    wanted = setup.recipe.objective.typical_logit
    if wanted is None:
        return None
    given = setup.recipe.objective.parameters
    typical = float(setup.typical_margin)
    highest: float = given["beta"]
    return min(highest, wanted / (given["kappa"] * typical)) if typical > 0 else highest


def saturation(setup: Setup, margin: Tensor) -> Tensor | None:
    """Tell which pairs have an implicit probability beyond 1 or 99 %; None without a logit."""
    given = setup.recipe.objective.parameters
    if not has_logit(setup.kind, given):
        return None
    z = given["kappa"] * (current_beta(setup) or given["beta"]) * margin
    beyond: Tensor = (z.abs() > SATURATED).to(margin.dtype)
    return beyond


SATURATED = 4.595
"""The logit of 99 %."""
