"""FLUX with random weights."""

from pathlib import Path

import torch

from tests.tiny.clip import WIDTH, make_clip_encoder
from tests.tiny.t5 import make_t5_encoder, make_t5_tokenizer
from vipo_cli.shapes.build import make_tokenizer


def build(folder: Path, seed: int = 0) -> Path:
    """Write a FLUX pipeline for 32 x 32 pictures to a folder."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        FluxPipeline,
        FluxTransformer2DModel,
    )

    torch.manual_seed(seed)
    tokenizer, tokenizer_2 = make_tokenizer(), make_t5_tokenizer()
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4,
        sample_size=32, mid_block_add_attention=False, scaling_factor=0.3611, shift_factor=0.1159,
        use_quant_conv=False, use_post_quant_conv=False, force_upcast=True,
    )  # fmt: skip
    transformer = FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=1, joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH,
        guidance_embeds=True, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    FluxPipeline(
        vae=vae,
        text_encoder=make_clip_encoder(tokenizer),
        text_encoder_2=make_t5_encoder(tokenizer_2),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    ).save_pretrained(folder)
    return folder
