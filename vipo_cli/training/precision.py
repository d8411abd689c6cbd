"""How the denoiser computes: what it keeps of a forward pass, in which layout, compiled or not."""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

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


def set_up(recipe: Recipe, denoiser: Any, device: torch.device) -> None:
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
            denoiser.to(memory_format=torch.channels_last)
    if recipe.model.compile:
        compile_blocks(denoiser)


class RMSNorm(nn.RMSNorm):
    """Norm whose weights, kept in float32, are brought to the type of what comes in.

    Autocast does that for matrix products alone; here the two types together are slow and earn a
    warning.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Divide by the root of the mean square and multiply by the weights."""
        weight = self.weight.to(x.dtype) if self.elementwise_affine else None
        return functional.rms_norm(x, list(self.normalized_shape), weight, self.eps)


def train_in_half(denoiser: nn.Module) -> None:
    """Let a denoiser whose weights are all kept in float32 compute in half precision."""
    for module in denoiser.modules():
        if type(module) is nn.RMSNorm:
            module.__class__ = RMSNorm


def keep_in_half(reference: nn.Module) -> None:
    """Keep of a frozen copy in half precision what autocast would bring there in every pass.

    So it predicts to the bit what the denoiser did that it is a copy of, in about half the memory.
    """
    for module in reference.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            module.to(torch.bfloat16)


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
