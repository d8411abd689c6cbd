"""Stable Diffusion XL with random weights."""

from pathlib import Path

import torch

from tests.tiny.clip import WIDTH, make_clip_encoder
from vipo_cli.shapes.build import make_tokenizer


def build(folder: Path, seed: int = 0) -> Path:
    """Write a Stable Diffusion XL pipeline for 32 x 32 pictures to a folder."""
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )

    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4,
        sample_size=32, mid_block_add_attention=False, scaling_factor=0.13025, force_upcast=True,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=2 * WIDTH, attention_head_dim=(1, 2), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=12 + 6 * 4,
    )  # fmt: skip
    StableDiffusionXLPipeline(
        vae=vae,
        # of two encoders with different depths, the second from last is different too
        text_encoder=make_clip_encoder(tokenizer, layers=1),
        text_encoder_2=make_clip_encoder(tokenizer, layers=2, projection=12),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
            timestep_spacing="leading", steps_offset=1,
        ),
        add_watermarker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder
