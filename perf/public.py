"""Pipelines of the public sizes with random weights: true speed and memory without downloads.

    python perf/public.py sdxl out/sdxl

Shapes are those of the published configurations; tokenizers know the words of the shapes world
only, which changes nothing that is measured.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

CLIP_L = {
    "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "projection_dim": 768, "hidden_act": "quick_gelu",
}  # fmt: skip
CLIP_G = {
    "vocab_size": 49408, "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
    "num_attention_heads": 20, "projection_dim": 1280, "hidden_act": "gelu",
}  # fmt: skip
VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2,
}  # fmt: skip
SDXL = {
    "sample_size": 128, "block_out_channels": (320, 640, 1280), "cross_attention_dim": 2048,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20),
    "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816, "use_linear_projection": True,
}  # fmt: skip
SCALED_LINEAR = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1,
    "clip_sample": False, "set_alpha_to_one": False,
}  # fmt: skip


def sd15() -> Any:
    """Stable Diffusion 1.5: 0.86 billion parameters in the UNet."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )

    return StableDiffusionPipeline(
        vae=AutoencoderKL(**VAE, latent_channels=4, sample_size=512, scaling_factor=0.18215),
        text_encoder=_clip(CLIP_L),
        tokenizer=_clip_tokenizer(),
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768),
        scheduler=DDIMScheduler(**SCALED_LINEAR),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl() -> Any:
    """SDXL: 2.57 billion parameters in the UNet."""
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )

    scheduler = {key: SCALED_LINEAR[key] for key in list(SCALED_LINEAR)[:4]}
    return StableDiffusionXLPipeline(
        vae=AutoencoderKL(
            **VAE, latent_channels=4, sample_size=1024, scaling_factor=0.13025, force_upcast=True
        ),
        text_encoder=_clip(CLIP_L),
        text_encoder_2=_clip(CLIP_G, projected=True),
        tokenizer=_clip_tokenizer(),
        tokenizer_2=_clip_tokenizer(),
        unet=UNet2DConditionModel(**SDXL),
        scheduler=EulerDiscreteScheduler(**scheduler),
    )


PIPELINES = {"sd15": sd15, "sdxl": sdxl}


def _clip(config: dict[str, Any], *, projected: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    kind = CLIPTextModelWithProjection if projected else CLIPTextModel
    return kind(CLIPTextConfig(**config, max_position_embeddings=77))


def _clip_tokenizer() -> Any:
    from vipo_cli.shapes.build import make_tokenizer

    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 77
    return tokenizer


@torch.no_grad()
def fill(network: torch.nn.Module, generator: torch.Generator) -> None:
    """Give a network of the meta device small random weights in half precision.

    Each matrix is scaled by its inputs, so that activations stay finite; norms keep their identity.
    """
    network.to_empty(device="cpu").half()
    for name, weight in network.named_parameters():
        if weight.ndim < 2:
            weight.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
            continue
        inputs = weight[0].numel() if "embed" not in name else weight.shape[-1]
        weight.copy_(torch.randn(weight.shape, generator=generator) / inputs**0.5)


def make(name: str, folder: Path) -> None:
    """Write a pipeline to a folder."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        pipeline = PIPELINES[name]()
    generator = torch.Generator().manual_seed(0)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            buffers = {key: value.clone() for key, value in part.named_buffers()}
            fill(part, generator)
            for key, value in part.named_buffers():
                value.copy_(buffers[key])
    pipeline.save_pretrained(folder, safe_serialization=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(PIPELINES))
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    make(given.name, given.folder)
