"""What the engine asks of a kind of diffusers pipeline."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from vipo_cli.media import Framing as Framing
from vipo_cli.media import Size as Size
from vipo_cli.schedules import Latents, NoiseLevel, Target

Condition = dict[str, Tensor]
"""What the denoiser is conditioned on: tensors, batch first, passed on by keyword."""
Videos = Float[Tensor, "b 3 *frames h w"]
"""Pictures, or clips with their frames before height and width; values lie in [-1, 1]."""


@runtime_checkable
class Family(Protocol):
    """An adapter over a diffusers pipeline; sampling stays the pipeline's own.

    Latents have the layout (b, channels, *frames, h, w), scaled as the denoiser sees them; where a
    pipeline packs or transposes them, `predict` and the methods of sampling do so.
    """

    pipeline: Any
    folder: Path
    """Where its files lie."""
    denoiser: nn.Module
    """The network that is trained."""
    denoiser_name: str
    """What the pipeline calls it: `unet` or `transformer`."""
    target: Target
    """What it predicts."""
    size: Size
    """What it was made for."""
    multiple: int
    """Width and height must be multiples of this."""
    frame_stride: int
    """Clips have a multiple of this many frames, and one more; 0: pictures alone."""
    guidance: float
    """What a guidance-distilled denoiser is told in training; others are not told."""
    lora_targets: tuple[str, ...]
    """Names of the linear layers that LoRA adapts."""

    def encode_media(self, pixels: Videos) -> tuple[Latents, Latents]:
        """Return mean and standard deviation of the scaled latents, in float32."""

    def decode_media(self, latents: Latents) -> Videos:
        """Return the pixels that latents stand for, not clamped."""

    def encode_prompts(self, prompts: list[str]) -> Condition:
        """Return the condition of each prompt."""

    def media_condition(self, framings: Sequence[Framing]) -> Condition:
        """Return what the denoiser is told of each picture beside its prompt; often nothing."""

    def noise_level(self, time: Float[Tensor, " b"]) -> NoiseLevel:
        """Return the noise level at times in [0, 1]; 0 is clean, 1 is noise."""

    def predict(self, x_t: Latents, time: Float[Tensor, " b"], condition: Condition) -> Latents:
        """Return the denoiser's prediction of `target`."""

    def sampling_arguments(
        self, noise: Latents, condition: Condition, empty: Condition | None
    ) -> dict[str, Any]:
        """Return what the pipeline must be called with to sample from this noise.

        Args:
            noise: unit noise in the layout of latents; a pipeline scales it itself.
            condition: of each sample's prompt, from `encode_prompts`.
            empty: of the empty prompt, for each sample; None: without guidance.
        """

    def sampled_latents(self, output: Tensor, noise: Latents) -> Latents:
        """Return the pipeline's output of type `latent` in the layout and scale of latents."""
