"""Stable Diffusion 3 and 3.5: two CLIP encoders and T5, SD3Transformer2DModel, rectified flow."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from vipo_cli.errors import ModelError
from vipo_cli.models.base import PipelineFamily, flow_noise_level, module_device, pad_prompts
from vipo_cli.models.family import Condition, Size
from vipo_cli.models.load import ModelSpec
from vipo_cli.schedules import Latents, NoiseLevel, Target

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
T5_TOKENS = 256
"""How many tokens of T5 the pipeline uses unless told otherwise."""


class StableDiffusion3(PipelineFamily):
    """Family of the pipelines that diffusers calls StableDiffusion3Pipeline.

    Any of the text encoders may be absent; the denoiser then sees zeros in its place, as it did in
    its own training whenever an encoder was dropped (Esser et al., arXiv 2403.03206, section 5).
    """

    lora_targets = (
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
        "add_q_proj",
        "add_k_proj",
        "add_v_proj",
        "to_add_out",
        "ff.net.0.proj",
        "ff.net.2",
        "ff_context.net.0.proj",
        "ff_context.net.2",
    )
    target: Target = "flow"

    def __init__(self, pipeline: Any) -> None:
        self._present = tuple(getattr(pipeline, name) is not None for name in ENCODERS)
        self._clip_tokens: int = pipeline.tokenizer_max_length
        super().__init__(pipeline)
        config = pipeline.transformer.config
        side = config.sample_size * pipeline.vae_scale_factor
        self.size = Size(side, side)
        self.multiple *= config.patch_size
        self._patch: int = config.patch_size
        self._text_width: int = config.joint_attention_dim
        self._clip_widths = _clip_widths(pipeline)
        self._steps: int = pipeline.scheduler.config.num_train_timesteps

    @property
    def denoiser(self) -> nn.Module:
        """The transformer, perhaps wrapped."""
        return self._denoiser

    @denoiser.setter
    def denoiser(self, network: nn.Module) -> None:
        if hasattr(network, "set_attn_processor"):
            from vipo_cli.models.sd3_attention import count_last_token

            count_last_token(network, self._clip_tokens + 1, T5_TOKENS)
        self._denoiser = network

    def encode_prompts(self, prompts: list[str]) -> Condition:
        """Return the encoders' states one after the other, and what CLIP pools.

        States of T5 that are the same at every token, as the zeros of an absent T5 are, are kept
        as one token; `predict` lets it count as often as it stood there.
        """
        clip, pooled = zip(*(self._encode_clip(i, prompts) for i in range(2)), strict=True)
        states = torch.cat(clip, -1)
        states = pad(states, (0, self._text_width - states.shape[-1]))
        return {
            "encoder_hidden_states": torch.cat([states, self._encode_t5(prompts, states)], 1),
            "pooled_projections": torch.cat(pooled, -1),
        }

    def _encode_clip(self, which: int, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """Return the last but one states and the pooled projection of one of the CLIP encoders."""
        length = self._clip_tokens
        if not self._present[which]:
            present = getattr(self.pipeline, ENCODERS[self._present.index(True)])
            zeros = torch.zeros(len(prompts), length, self._clip_widths[which])
            zeros = zeros.to(module_device(present), present.dtype)
            return zeros, zeros[:, 0]
        encoder = getattr(self.pipeline, ENCODERS[which])
        tokenizer = getattr(self.pipeline, ("tokenizer", "tokenizer_2")[which])
        tokens = pad_prompts(tokenizer, prompts, length)
        output = encoder(tokens.input_ids.to(module_device(encoder)), output_hidden_states=True)
        return output.hidden_states[-2], output.text_embeds

    def _encode_t5(self, prompts: list[str], clip: Tensor) -> Tensor:
        if not self._present[2]:
            return torch.zeros_like(clip[:, :1])
        encoder = self.pipeline.text_encoder_3
        tokens = pad_prompts(self.pipeline.tokenizer_3, prompts, T5_TOKENS)
        states: Tensor = encoder(tokens.input_ids.to(module_device(encoder)))[0]
        alike = bool((states == states[:, :1]).all())
        return states[:, :1] if alike else states

    def noise_level(self, time: Float[Tensor, " b"]) -> NoiseLevel:
        """Return the level of rectified flow: time is the scheduler's sigma."""
        return flow_noise_level(time)

    def predict(self, x_t: Latents, time: Float[Tensor, " b"], condition: Condition) -> Latents:
        """Return the transformer's output."""
        prediction: Latents = self.denoiser(
            x_t,
            encoder_hidden_states=self._states(condition, x_t),
            pooled_projections=condition["pooled_projections"],
            timestep=time * self._steps,
            return_dict=False,
        )[0]
        return prediction

    def _states(self, condition: Condition, latents: Latents) -> Tensor:
        """Return the states of a condition, with a token that stands for all of T5 as it is or not.

        One token that counts for all is much less work where the text is longer than the picture;
        larger pictures keep the attention kernels that know no mask.
        """
        states = condition["encoder_hidden_states"]
        small = latents.shape[-2:].numel() // self._patch**2 < T5_TOKENS
        if small or states.shape[1] > self._clip_tokens + 1:
            return states
        t5 = states[:, -1:].expand(-1, T5_TOKENS, -1)
        return torch.cat([states[:, :-1], t5], 1)

    def sampling_arguments(
        self, noise: Latents, condition: Condition, empty: Condition | None
    ) -> dict[str, Any]:
        """Return noise and embeddings under the names that the pipeline gives them."""
        arguments: dict[str, Any] = {
            "latents": noise,
            "prompt_embeds": self._states(condition, noise),
            "pooled_prompt_embeds": condition["pooled_projections"],
        }
        if empty is not None:
            arguments["negative_prompt_embeds"] = self._states(empty, noise)
            arguments["negative_pooled_prompt_embeds"] = empty["pooled_projections"]
        return arguments


def _clip_widths(pipeline: Any) -> tuple[int, int]:
    """Return how wide what each CLIP encoder pools is; an absent one takes what the other leaves.

    Raises:
        ModelError: no text encoder at all.
    """
    encoders = (pipeline.text_encoder, pipeline.text_encoder_2)
    if not any((*encoders, pipeline.text_encoder_3)):
        raise ModelError(
            "the pipeline has no text encoder: prompts cannot be encoded",
            hint="keep at least one of text_encoder, text_encoder_2 and text_encoder_3",
        )
    whole = pipeline.transformer.config.pooled_projection_dim
    first, second = (encoder and encoder.config.projection_dim for encoder in encoders)
    if first is None:
        first = whole - (second or 0)
    return first, whole - first if second is None else second


def sd35_medium() -> ModelSpec:
    """Stable Diffusion 3.5 Medium, 1024 px."""
    return ModelSpec(
        "sd35-medium",
        "stabilityai/stable-diffusion-3.5-medium",
        recipe="families/sd3",
        sampling_steps=40,
        guidance=4.5,
        licence="Stability AI Community License",
    )


def sd35_large() -> ModelSpec:
    """Stable Diffusion 3.5 Large, 1024 px."""
    return ModelSpec(
        "sd35-large",
        "stabilityai/stable-diffusion-3.5-large",
        recipe="families/sd3",
        sampling_steps=28,
        guidance=3.5,
        licence="Stability AI Community License",
    )
