"""What the engine asks of a kind of diffusers pipeline."""

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from vipo_cli.schedules import Latents, NoiseLevel, Target

Condition = dict[str, Tensor]
"""What the denoiser is conditioned on: tensors, batch first, passed on by keyword."""


@runtime_checkable
class Family(Protocol):
    """An adapter over a diffusers pipeline; sampling stays the pipeline's own."""

    pipeline: Any
    denoiser: nn.Module
    """The network that is trained."""
    denoiser_name: str
    """What the pipeline calls it: `unet` or `transformer`."""
    target: Target
    """What it predicts."""
    size: tuple[int, int]
    """Width and height in pixels that it was made for."""
    lora_targets: tuple[str, ...]
    """Names of the linear layers that LoRA adapts."""

    def encode_media(self, pixels: Float[Tensor, "b 3 h w"]) -> tuple[Latents, Latents]:
        """Return mean and standard deviation of the scaled latents; pixels lie in [-1, 1]."""

    def encode_prompts(self, prompts: list[str]) -> Condition:
        """Return the condition of each prompt."""

    def noise_level(self, time: Float[Tensor, " b"]) -> NoiseLevel:
        """Return the noise level at times in [0, 1]; 0 is clean, 1 is noise."""

    def predict(self, x_t: Latents, time: Float[Tensor, " b"], condition: Condition) -> Latents:
        """Return the denoiser's prediction of `target`."""
