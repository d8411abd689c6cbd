"""CogVideoX with random weights."""

from pathlib import Path

import torch

from tests.tiny.t5 import WIDTH, make_t5_encoder, make_t5_tokenizer

TOKENS = 226
"""How many tokens of T5 the pipeline takes unless told otherwise."""


def build(folder: Path, seed: int = 0, *, rotary: bool = True) -> Path:
    """Write a CogVideoX pipeline for clips of 17 frames, 32 x 32, to a folder.

    Places are told by rotation, as in the 5B model, or added, as in the 2B model, whose noise is
    shifted too.
    """
    from diffusers import (
        AutoencoderKLCogVideoX,
        CogVideoXDDIMScheduler,
        CogVideoXPipeline,
        CogVideoXTransformer3DModel,
    )

    torch.manual_seed(seed)
    tokenizer = make_t5_tokenizer(TOKENS)
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 3, up_block_types=("CogVideoXUpBlock3D",) * 3,
        block_out_channels=(4, 4, 8), layers_per_block=1, latent_channels=4, norm_num_groups=2,
        # of tiles, twice over; diffusers makes clips larger if a tile's overlap is no whole latent
        sample_height=48, sample_width=40, scaling_factor=0.7 if rotary else 1.15258426,
    )  # fmt: skip
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=1, attention_head_dim=16, in_channels=4, out_channels=4,
        time_embed_dim=8, text_embed_dim=WIDTH, num_layers=1, sample_width=8, sample_height=8,
        sample_frames=17, max_text_seq_length=TOKENS, use_rotary_positional_embeddings=rotary,
    )  # fmt: skip
    scheduler = CogVideoXDDIMScheduler(
        prediction_type="v_prediction", timestep_spacing="trailing", clip_sample=False,
        rescale_betas_zero_snr=True, snr_shift_scale=1.0 if rotary else 3.0,
    )  # fmt: skip
    CogVideoXPipeline(
        tokenizer=tokenizer,
        text_encoder=make_t5_encoder(tokenizer),
        vae=vae,
        transformer=transformer,
        scheduler=scheduler,
    ).save_pretrained(folder)
    return folder
