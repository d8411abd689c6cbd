"""Wan 2.1 with random weights."""

from pathlib import Path

import torch

from tests.tiny.t5 import WIDTH, make_t5_tokenizer, make_umt5_encoder


def build(folder: Path, seed: int = 0) -> Path:
    """Write a Wan pipeline for clips of 13 frames, 32 x 32, to a folder."""
    from diffusers import (
        AutoencoderKLWan,
        UniPCMultistepScheduler,
        WanPipeline,
        WanTransformer3DModel,
    )

    torch.manual_seed(seed)
    tokenizer = make_t5_tokenizer()
    vae = AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1, 1], num_res_blocks=1,
        temperal_downsample=[True, True], scale_factor_spatial=4, scale_factor_temporal=4,
        latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[0.5, 1.5, 2.0, 0.8],
    )  # fmt: skip
    transformer = WanTransformer3DModel(
        num_attention_heads=1, attention_head_dim=12, in_channels=4, out_channels=4,
        text_dim=WIDTH, freq_dim=16, ffn_dim=16, num_layers=1, rope_max_seq_len=4,
    )  # fmt: skip
    scheduler = UniPCMultistepScheduler(
        use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
    )
    WanPipeline(
        tokenizer=tokenizer,
        text_encoder=make_umt5_encoder(tokenizer),
        vae=vae,
        transformer=transformer,
        scheduler=scheduler,
    ).save_pretrained(folder)
    return folder
