"""Samples of a model as it stands: latents from its pipeline's sampler, pictures from its VAE."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from vipo_cli.media import Pixels, Size
from vipo_cli.models.family import Condition, Family
from vipo_cli.schedules import Latents


@torch.no_grad()
def sample_latents(
    family: Family,
    noise: Latents,
    condition: Condition,
    empty: Condition,
    generators: Sequence[torch.Generator],
    *,
    steps: int,
    guidance: float,
) -> Latents:
    """Return clean latents, scaled as `encode_media` scales them.

    Args:
        family: the model; its adapters are on or off as they are.
        noise: unit noise to start from.
        condition: of each sample's prompt.
        empty: of the empty prompt, for each sample.
        generators: further noise of samplers that are random, one each.
        steps: denoising steps.
        guidance: scale; up to 1 there is none.
    """
    pipeline = family.pipeline
    pipeline.set_progress_bar_config(disable=True)
    arguments = family.sampling_arguments(noise, condition, empty if guidance > 1 else None)
    output = pipeline(
        **arguments,
        generator=list(generators),
        num_inference_steps=steps,
        guidance_scale=guidance,
        output_type="latent",
        return_dict=False,
    )[0]
    return family.sampled_latents(output, noise).float()


@torch.no_grad()
def decode_latents(family: Family, latents: Latents) -> list[Pixels]:
    """Return the pictures that latents stand for: (*frames, h, w, 3), rounded as pipelines do."""
    pixels = (family.decode_media(latents) / 2 + 0.5).clamp(0, 1).movedim(1, -1).cpu().numpy()
    return list((pixels * 255).round().astype(np.uint8))


def fitting_batch_size(size: Size) -> int:
    """Return how many pictures to draw at once: as many as make four megapixels, 64 at most."""
    return max(1, min(64, 2**22 // (size.width * size.height * size.frames)))


def size_of(family: Family, shape: Sequence[int]) -> Size:
    """Return the size in pixels of latents of a shape: (channels, *frames, h, w)."""
    factor = spatial_factor(family.pipeline)
    frames = 1 + (shape[1] - 1) * temporal_factor(family.pipeline) if len(shape) > 3 else 1
    return Size(shape[-1] * factor, shape[-2] * factor, frames)


def shape_of(family: Family) -> tuple[int, ...]:
    """Return the shape of latents of the size that a family was made for."""
    pipeline, size = family.pipeline, family.size
    config = pipeline.vae.config
    channels = getattr(config, "latent_channels", None) or config.z_dim
    space = spatial_factor(pipeline)
    frames = (1 + (size.frames - 1) // temporal_factor(pipeline),) if size.frames > 1 else ()
    return (int(channels), *frames, size.height // space, size.width // space)


def spatial_factor(pipeline: Any) -> int:
    """Return how many pixels a latent stands for in each direction; pipelines call it variously."""
    names = ("vae_scale_factor_spatial", "vae_spatial_compression_ratio", "vae_scale_factor")
    return int(next(getattr(pipeline, name) for name in names if hasattr(pipeline, name)))


def temporal_factor(pipeline: Any) -> int:
    """Return how many frames every latent frame stands for but the first, which is one alone."""
    names = ("vae_scale_factor_temporal", "vae_temporal_compression_ratio")
    return int(next(getattr(pipeline, name) for name in names if hasattr(pipeline, name)))
