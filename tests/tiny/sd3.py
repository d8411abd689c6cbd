"""Stable Diffusion 3 with random weights."""

from pathlib import Path

import torch

from tests.tiny.t5 import make_t5_encoder, make_t5_tokenizer
from vipo_cli.shapes.build import make_tokenizer


def build(folder: Path, seed: int = 0) -> Path:
    """Write a Stable Diffusion 3 pipeline for 32 x 32 pictures to a folder."""
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        SD3Transformer2DModel,
        StableDiffusion3Pipeline,
    )
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    encoders = [
        CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=len(tokenizer), hidden_size=width, intermediate_size=32,
                num_hidden_layers=2, num_attention_heads=2, projection_dim=width,
                max_position_embeddings=tokenizer.model_max_length,
                bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            )
        )
        for width in (8, 16)
    ]  # fmt: skip
    tokenizer_3 = make_t5_tokenizer()
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4,
        sample_size=32, mid_block_add_attention=False, shift_factor=0.0609, scaling_factor=1.5305,
        use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip
    transformer = SD3Transformer2DModel(
        sample_size=8, pos_embed_max_size=16, patch_size=2, in_channels=4, out_channels=4,
        num_layers=2, num_attention_heads=2, attention_head_dim=8, caption_projection_dim=16,
        joint_attention_dim=32, pooled_projection_dim=24,
        qk_norm="rms_norm", dual_attention_layers=(0,),
    )  # fmt: skip
    StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=encoders[0],
        tokenizer=tokenizer,
        text_encoder_2=encoders[1],
        tokenizer_2=tokenizer,
        text_encoder_3=make_t5_encoder(tokenizer_3, 32),
        tokenizer_3=tokenizer_3,
    ).save_pretrained(folder)
    return folder
