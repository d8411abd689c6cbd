"""How weights follow their gradient: AdamW, or one of two that keep less beside each weight."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from vipo_cli.errors import VipoError
from vipo_cli.recipe import Recipe

STATE = {"adamw": 8.0, "adafactor": 0.1, "adamw-8bit": 2.1}
"""Bytes that an optimizer keeps of each weight; of Adafactor, about, for matrices."""


def make_optimizer(recipe: Recipe, weights: Iterable[Tensor]) -> torch.optim.Optimizer:
    """Return the optimizer of some weights, which are kept in float32.

    Adafactor is run at the recipe's rate, without its own schedule, scaling or clipping, so that
    one rate means the same for all (arXiv 1804.04235, section 9, of which only the factored second
    moment is left).

    Raises:
        VipoError: its package is missing, or there is no GPU that it needs.
    """
    chosen = recipe.optimizer
    rates: dict[str, Any] = {"lr": chosen.learning_rate, "weight_decay": chosen.weight_decay}
    weights = list(weights)
    if chosen.name == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(  # type: ignore[no-any-return]
            weights, **rates, scale_parameter=False, relative_step=False, warmup_init=False
        )
    if chosen.name == "adamw-8bit":
        return _eight_bit(weights, rates)
    fused = all(weight.device.type == "cuda" for weight in weights)
    return torch.optim.AdamW(weights, **rates, fused=fused)


def _eight_bit(weights: list[Tensor], rates: dict[str, Any]) -> torch.optim.Optimizer:
    hint = "--set optimizer.name=adafactor keeps little too, and needs nothing"
    if not torch.cuda.is_available():
        raise VipoError("optimizer.name: `adamw-8bit` needs a GPU", hint=hint)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise VipoError(
            "optimizer.name: `adamw-8bit` needs bitsandbytes, which is not installed",
            hint='pip install "vipo[quant]"; or ' + hint,
        ) from error
    optimizer: torch.optim.Optimizer = AdamW8bit(weights, **rates)
    return optimizer
