"""Objectives: pure functions from prediction errors to a loss for each sample.

from vipo_cli.objectives import PairErrors, objectives
errors = PairErrors(policy_w, policy_l, reference_w, reference_l)
loss = objectives["poly-dpo"](errors, beta=2000.0, alpha=8.0)
"""

from collections.abc import Callable

from torch import Tensor

from vipo_cli.objectives.errors import PairErrors, SampleErrors
from vipo_cli.registry import Registry

Objective = Callable[..., Tensor]

objectives: Registry[Objective] = Registry(
    "method",
    "vipo.objectives",
    {
        "diffusion-dpo": "vipo_cli.objectives.pairwise:diffusion_dpo",
        "poly-dpo": "vipo_cli.objectives.pairwise:poly_dpo",
        "sft": "vipo_cli.objectives.unary:sft",
    },
)

__all__ = ["Objective", "PairErrors", "SampleErrors", "objectives"]
