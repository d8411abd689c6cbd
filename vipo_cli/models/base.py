"""What most families have in common: parts that a family takes, and overrides where it differs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vipo_cli.models.family import Condition, Framing, Size, Videos
from vipo_cli.schedules import Latents, NoiseLevel, Target

TARGETS: dict[str, Target] = {
    "epsilon": "epsilon",
    "v_prediction": "velocity",
    "sample": "sample",
}


class PipelineFamily:
    """A pipeline with an AutoencoderKL whose configuration holds one scale and one shift.

    A subclass names its denoiser and LoRA targets, encodes prompts, predicts, and says how its
    pipeline is called.
    """

    denoiser_name = "transformer"
    lora_targets: tuple[str, ...] = ()
    frame_stride = 0
    guidance: float = 1.0
    folder = Path()
    target: Target
    size: Size

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self.denoiser: nn.Module = getattr(pipeline, self.denoiser_name)
        self.multiple: int = pipeline.vae_scale_factor

    def encode_media(self, pixels: Videos) -> tuple[Latents, Latents]:
        """Return the scaled posterior, so that each use may draw its own sample."""
        vae = self.pipeline.vae
        posterior = vae.encode(pixels.to(vae.dtype)).latent_dist
        shift, scale = self._shift_and_scale()
        return (posterior.mean.float() - shift) * scale, posterior.std.float() * scale

    def decode_media(self, latents: Latents) -> Videos:
        """Return what the autoencoder makes of latents."""
        vae = self.pipeline.vae
        shift, scale = self._shift_and_scale()
        pixels: Videos = vae.decode((latents / scale + shift).to(vae.dtype), return_dict=False)[0]
        return pixels.float()

    def _shift_and_scale(self) -> tuple[float, float]:
        config = self.pipeline.vae.config
        return getattr(config, "shift_factor", None) or 0.0, config.scaling_factor

    def media_condition(self, framings: Sequence[Framing]) -> Condition:  # noqa: ARG002
        """Return nothing: the denoiser is told of the prompt alone."""
        return {}

    def sampled_latents(self, output: Tensor, noise: Latents) -> Latents:  # noqa: ARG002
        """Return the output as it is."""
        return output


class DiscreteSchedule:
    """Noise levels from the table of a variance-preserving scheduler, N equal bins of time."""

    def __init__(self, alphas_cumprod: Float[Tensor, " steps"]) -> None:
        self._signal = alphas_cumprod.clone()
        self._copies: dict[torch.device, Tensor] = {}

    def noise_level(self, time: Float[Tensor, " b"]) -> NoiseLevel:
        """Look the level up."""
        if time.device not in self._copies:  # once: a copy in each step would stall it
            self._copies[time.device] = self._signal.to(time.device)
        signal = self._copies[time.device][self.step(time)]
        return NoiseLevel(signal.sqrt(), (1 - signal).sqrt())

    def step(self, time: Float[Tensor, " b"]) -> Tensor:
        """Turn a time in [0, 1] into the scheduler's integer step."""
        steps = len(self._signal)
        return (time * steps).long().clamp(max=steps - 1)


def flow_noise_level(time: Float[Tensor, " b"]) -> NoiseLevel:
    """Return the level of rectified flow, where time is sigma: x_t = (1 - t) x0 + t eps."""
    return NoiseLevel(1 - time, time)


def pad_prompts(tokenizer: Any, prompts: list[str], length: int | None = None) -> Any:
    """Return tokens and attention mask, padded and cut to a length as pipelines do."""
    return tokenizer(
        prompts,
        padding="max_length",
        max_length=length or tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )


def two_stream_targets(single_blocks: int) -> tuple[str, ...]:
    """Return the layers that LoRA adapts where blocks of two streams are followed by single ones.

    Args:
        single_blocks: number of blocks in which text and picture are one stream.
    """
    attention = (
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
        "add_q_proj",
        "add_k_proj",
        "add_v_proj",
        "to_add_out",
    )
    feed_forward = (
        "ff.net.0.proj",
        "ff.net.2",
        "ff_context.net.0.proj",
        "ff_context.net.2",
        "proj_mlp",
    )
    # `proj_out` alone would be the denoiser's last layer too
    outputs = (f"single_transformer_blocks.{block}.proj_out" for block in range(single_blocks))
    return (*(f"attn.{name}" for name in attention), *feed_forward, *outputs)


def module_device(module: nn.Module) -> torch.device:
    """Return where a network's weights lie."""
    return next(module.parameters()).device
