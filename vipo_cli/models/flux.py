"""FLUX.1: CLIP and T5 prompts, latents packed 2 x 2, guidance distilled into the denoiser."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vipo_cli.models.base import (
    PipelineFamily,
    flow_noise_level,
    module_device,
    pad_prompts,
    two_stream_targets,
)
from vipo_cli.models.family import Condition, Size
from vipo_cli.models.load import ModelSpec
from vipo_cli.schedules import Latents, NoiseLevel, Target

MAX_TOKENS = 512
"""Tokens of T5 that the pipeline takes at most, and where nothing else is asked for."""


class Flux(PipelineFamily):
    """Family of the pipelines that diffusers calls FluxPipeline.

    Attributes:
        guidance: scale that the denoiser is told in training, where it wants to be told one.
    """

    target: Target = "flow"

    def __init__(self, pipeline: Any) -> None:
        super().__init__(pipeline)
        config = pipeline.transformer.config
        self._guided = bool(config.guidance_embeds)
        self.lora_targets = two_stream_targets(config.num_single_layers)
        self.multiple *= 2
        # the transformer knows no size of its own; its pipeline's default is the autoencoder's
        side = pipeline.vae.config.sample_size
        self.size = Size(side, side)

    def encode_prompts(self, prompts: list[str]) -> Condition:
        """Return T5's last hidden state, encoded padding and all, and what CLIP pooled."""
        clip, t5 = self.pipeline.text_encoder, self.pipeline.text_encoder_2
        tokenizer = self.pipeline.tokenizer_2
        short = pad_prompts(self.pipeline.tokenizer, prompts)
        long = pad_prompts(tokenizer, prompts, min(MAX_TOKENS, tokenizer.model_max_length))
        return {
            "encoder_hidden_states": t5(long.input_ids.to(module_device(t5)))[0],
            "pooled_projections": clip(short.input_ids.to(module_device(clip))).pooler_output,
        }

    def noise_level(self, time: Float[Tensor, " b"]) -> NoiseLevel:
        """Return the level of rectified flow."""
        return flow_noise_level(time)

    def predict(self, x_t: Latents, time: Float[Tensor, " b"], condition: Condition) -> Latents:
        """Return the transformer's output, unpacked."""
        height, width = x_t.shape[-2:]
        tokens: Tensor = self.denoiser(
            pack(x_t),
            timestep=time,
            guidance=torch.full_like(time, self.guidance) if self._guided else None,
            txt_ids=time.new_zeros(condition["encoder_hidden_states"].shape[1], 3),
            img_ids=positions(height // 2, width // 2, time.device),
            **condition,
            return_dict=False,
        )[0]
        return unpack(tokens, height, width)

    def sampling_arguments(
        self,
        noise: Latents,
        condition: Condition,
        empty: Condition | None,  # noqa: ARG002 - guidance is distilled into the denoiser
    ) -> dict[str, Any]:
        """Return packed noise, its size in pixels and embeddings under the pipeline's names."""
        height, width = noise.shape[-2:]
        return {
            "latents": pack(noise),
            "height": height * self.multiple // 2,
            "width": width * self.multiple // 2,
            "prompt_embeds": condition["encoder_hidden_states"],
            "pooled_prompt_embeds": condition["pooled_projections"],
        }

    def sampled_latents(self, output: Tensor, noise: Latents) -> Latents:
        """Return the output unpacked."""
        return unpack(output, *noise.shape[-2:])


def pack(latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b tokens 4*c"]:
    """Turn each 2 x 2 patch into one token, row by row."""
    b, c, h, w = latents.shape
    patches = latents.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(b, h // 2 * (w // 2), 4 * c)


def unpack(tokens: Float[Tensor, "b tokens d"], h: int, w: int) -> Float[Tensor, "b c h w"]:
    """Undo `pack`: put tokens back as patches of latents h high and w wide."""
    b, _, d = tokens.shape
    patches = tokens.reshape(b, h // 2, w // 2, d // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(b, d // 4, h, w)


def positions(rows: int, columns: int, device: torch.device) -> Float[Tensor, "tokens 3"]:
    """Return (0, row, column) of each token, row by row."""
    sides = (torch.arange(side, device=device) for side in (rows, columns))
    row, column = torch.meshgrid(*sides, indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], dim=-1).flatten(0, 1).float()


def flux_dev() -> ModelSpec:
    """FLUX.1 [dev], 1024 px, guidance-distilled."""
    return ModelSpec(
        "flux-dev",
        "black-forest-labs/FLUX.1-dev",
        recipe="families/flux",
        sampling_steps=50,
        guidance=3.5,
        licence="FLUX.1 [dev] Non-Commercial License",
    )
