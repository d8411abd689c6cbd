"""How weights follow their gradient: AdamW, or one of two that keep less beside each weight."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from vipo_cli.errors import VipoError
from vipo_cli.recipe import Recipe

EIGHT_BIT_FROM = 4096
"""Numbers in a tensor from which bitsandbytes keeps what it knows of it in 8 bits."""
EIGHT_BIT_BLOCK = 256
"""Numbers that share one scale in float32 there."""


def make_optimizer(recipe: Recipe, weights: Iterable[Tensor]) -> torch.optim.Optimizer:
    """Return the optimizer of some weights, which are kept in float32.

    Adafactor (arXiv 1804.04235) is run at the recipe's rate, without a schedule of its own, a scale
    by the size of the weights, or a first moment: so the public Diffusion-DPO code trains SDXL.

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


def state_bytes(recipe: Recipe, weights: Iterable[Tensor]) -> int:
    """Return how many bytes the optimizer will keep beside some weights; they may have no values.

    AdamW keeps two numbers of each weight. Adafactor keeps sums over rows and over columns of the
    last two dimensions, which is little for a matrix and a good part for a convolution's kernel.
    """
    keeps = {"adamw": _kept_whole, "adafactor": _kept_factored, "adamw-8bit": _kept_in_8_bits}
    return sum(keeps[recipe.optimizer.name](weight) for weight in weights)


def _kept_whole(weight: Tensor) -> int:
    return 8 * weight.numel()


def _kept_factored(weight: Tensor) -> int:
    if weight.ndim < 2:
        return 4 * weight.numel()
    return 4 * (weight.numel() // weight.shape[-1] + weight.numel() // weight.shape[-2])


def _kept_in_8_bits(weight: Tensor) -> int:
    if weight.numel() < EIGHT_BIT_FROM:
        return _kept_whole(weight)
    return 2 * (weight.numel() + 4 * -(-weight.numel() // EIGHT_BIT_BLOCK))


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
