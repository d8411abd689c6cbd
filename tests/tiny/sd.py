"""Stable Diffusion with random weights."""

import warnings
from pathlib import Path

import torch

from tests.tiny.clip import WIDTH, make_clip_encoder
from vipo_cli.shapes.build import make_tokenizer


def build(
    folder: Path, seed: int = 0, *, prediction: str = "epsilon", linear: bool = False
) -> Path:
    """Write a Stable Diffusion pipeline for 32 x 32 pictures to a folder."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )

    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    text_encoder = make_clip_encoder(tokenizer)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4,
        sample_size=32, mid_block_add_attention=False,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH, attention_head_dim=2, norm_num_groups=4,
        use_linear_projection=linear,
    )  # fmt: skip
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear", clip_sample=False, timestep_spacing="trailing",
        prediction_type=prediction,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        StableDiffusionPipeline(
            vae, text_encoder, tokenizer, unet, scheduler, None, None, requires_safety_checker=False
        ).save_pretrained(folder)
    return folder
