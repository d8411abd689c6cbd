"""Stable Diffusion XL: two CLIP text encoders, and a UNet that is told sizes and crops."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vipo_cli.models.base import module_device, pad_prompts
from vipo_cli.models.family import Condition, Framing
from vipo_cli.models.load import ModelSpec
from vipo_cli.models.sd import StableDiffusion
from vipo_cli.schedules import Latents


class StableDiffusionXL(StableDiffusion):
    """Family of the pipelines that diffusers calls StableDiffusionXLPipeline.

    The empty prompt of caption dropout is encoded like any other, as in the public training
    scripts. Guidance at sampling is away from what the pipeline itself takes for no prompt: zeros
    if its configuration says `force_zeros_for_empty_prompt`, as that of the base model does.
    """

    def __init__(self, pipeline: Any) -> None:
        super().__init__(pipeline)
        self._zeros_for_empty = bool(pipeline.config.force_zeros_for_empty_prompt)

    def encode_prompts(self, prompts: list[str]) -> Condition:
        """Return both encoders' last hidden state but one, and the second's pooled projection."""
        hidden, pooled = [], torch.empty(0)
        for number in ("", "_2"):
            encoder = getattr(self.pipeline, f"text_encoder{number}")
            tokens = pad_prompts(getattr(self.pipeline, f"tokenizer{number}"), prompts)
            output = encoder(tokens.input_ids.to(module_device(encoder)), output_hidden_states=True)
            hidden.append(output.hidden_states[-2])
            pooled = output[0]
        return {"encoder_hidden_states": torch.cat(hidden, dim=-1), "text_embeds": pooled}

    def media_condition(self, framings: Sequence[Framing]) -> Condition:
        """Return height and width of the file, top and left of the crop, height and width."""
        rows = [
            (*framing.original[::-1], *framing.crop[::-1], framing.size.height, framing.size.width)
            for framing in framings
        ]
        return {"time_ids": torch.tensor(rows, dtype=torch.float32)}

    def predict(self, x_t: Latents, time: Float[Tensor, " b"], condition: Condition) -> Latents:
        """Return the UNet's output."""
        prediction: Latents = self.denoiser(
            x_t,
            self._schedule.step(time),
            condition["encoder_hidden_states"],
            added_cond_kwargs={name: condition[name] for name in ("text_embeds", "time_ids")},
            return_dict=False,
        )[0]
        return prediction

    def sampling_arguments(
        self, noise: Latents, condition: Condition, empty: Condition | None
    ) -> dict[str, Any]:
        """Return noise, its size in pixels and embeddings under the pipeline's own names."""
        if empty is not None and self._zeros_for_empty:
            empty = {name: torch.zeros_like(value) for name, value in empty.items()}
        arguments = super().sampling_arguments(noise, condition, empty)
        arguments["pooled_prompt_embeds"] = condition["text_embeds"]
        if empty is not None:
            arguments["negative_pooled_prompt_embeds"] = empty["text_embeds"]
        return arguments

    def _shift_and_scale(self) -> tuple[Any, Any]:
        """Return one shift and scale a channel where the autoencoder has them."""
        vae = self.pipeline.vae
        mean, std = (getattr(vae.config, f"latents_{name}", None) for name in ("mean", "std"))
        if mean is None or std is None:
            return super()._shift_and_scale()
        shift, spread = (
            torch.tensor(values, device=vae.device).view(1, -1, 1, 1) for values in (mean, std)
        )
        return shift, vae.config.scaling_factor / spread


def sdxl() -> ModelSpec:
    """Stable Diffusion XL base 1.0, 1024 px."""
    return ModelSpec(
        "sdxl",
        "stabilityai/stable-diffusion-xl-base-1.0",
        recipe="families/sdxl",
        sampling_steps=50,
        guidance=5.0,
        licence="CreativeML Open RAIL++-M",
    )
