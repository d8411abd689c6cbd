"""How the denoiser computes: what it keeps of a forward pass, in which layout, compiled or not."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from vipo_cli.errors import VipoError
from vipo_cli.recipe import Recipe


def quantization(recipe: Recipe, device: torch.device) -> Any:
    """Return how diffusers is to quantise the frozen weights of the denoiser, or None.

    Raises:
        VipoError: bitsandbytes is missing, or there is no GPU that it needs.
    """
    kind = recipe.model.quantize
    if kind == "none":
        return None
    if device.type != "cuda":
        raise VipoError(f"model.quantize: `{kind}` needs a GPU", hint="leave model.quantize out")
    if find_spec("bitsandbytes") is None:
        raise VipoError(
            f"model.quantize: `{kind}` needs bitsandbytes, which is not installed",
            hint='pip install "vipo[quant]"',
        )
    from diffusers import BitsAndBytesConfig

    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )


def set_up(recipe: Recipe, denoiser: nn.Module, device: torch.device) -> None:
    """Let a denoiser compute as the recipe says; its weights are loaded and adapted.

    Args:
        recipe: its precision and whether blocks are compiled.
        denoiser: changed in place.
        device: that it computes on.
    """
    if device.type == "cuda":
        if recipe.model.precision == "bf16":  # what is left in float32 may use tensor cores too
            torch.set_float32_matmul_precision("high")
        if any(isinstance(module, nn.Conv2d) for module in denoiser.modules()):
            denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if recipe.model.compile:
        compile_blocks(denoiser)


def compile_blocks(denoiser: Any, **options: Any) -> None:
    """Compile the blocks that a denoiser repeats; which those are, diffusers' classes say.

    The first forward pass of each shape waits for the compiler, and so does the first with the
    adapters off; after that nothing is compiled again.

    Args:
        denoiser: changed in place.
        options: for `torch.compile`.
    """
    names = getattr(denoiser, "_repeated_blocks", None) or denoiser._no_split_modules
    for module in denoiser.modules():
        if type(module).__name__ in names:
            module.compile(**options)


def keep_less(denoiser: Any) -> None:
    """Compute activations again in the backward pass instead of keeping them."""
    denoiser.enable_gradient_checkpointing()
