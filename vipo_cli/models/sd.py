"""Stable Diffusion 1 and 2: CLIP text encoder, AutoencoderKL, UNet2DConditionModel."""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vipo_cli.models.family import Condition
from vipo_cli.models.load import ModelSpec
from vipo_cli.schedules import Latents, NoiseLevel, Target

TARGETS: dict[str, Target] = {
    "epsilon": "epsilon",
    "v_prediction": "velocity",
    "sample": "sample",
}


class StableDiffusion:
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
        self.pipeline = pipeline
        self.denoiser: nn.Module = pipeline.unet
        self.target: Target = TARGETS[pipeline.scheduler.config.prediction_type]
        factor = pipeline.vae_scale_factor
        side = pipeline.unet.config.sample_size * factor
        self.size = (side, side)
        self._signal: Float[Tensor, " steps"] = pipeline.scheduler.alphas_cumprod.clone()

    def encode_media(self, pixels: Float[Tensor, "b 3 h w"]) -> tuple[Latents, Latents]:
        """Return the scaled posterior, so that each use may draw its own sample."""
        vae = self.pipeline.vae
        posterior = vae.encode(pixels.to(vae.dtype)).latent_dist
        scale = vae.config.scaling_factor
        return posterior.mean * scale, posterior.std * scale

    def encode_prompts(self, prompts: list[str]) -> Condition:
        """Return the text encoder's last hidden state, padded as the pipeline pads it."""
        tokenizer, encoder = self.pipeline.tokenizer, self.pipeline.text_encoder
        tokens = tokenizer(
            prompts,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        hidden = encoder(tokens.input_ids.to(encoder.device))[0]
        return {"encoder_hidden_states": hidden}

    def noise_level(self, time: Float[Tensor, " b"]) -> NoiseLevel:
        """Look the level up in the scheduler's table."""
        signal = self._signal.to(time.device)[self._step(time)]
        return NoiseLevel(signal.sqrt(), (1 - signal).sqrt())

    def predict(self, x_t: Latents, time: Float[Tensor, " b"], condition: Condition) -> Latents:
        """Return the UNet's output."""
        prediction: Latents = self.denoiser(x_t, self._step(time), **condition, return_dict=False)[
            0
        ]
        return prediction

    def _step(self, time: Float[Tensor, " b"]) -> Tensor:
        """Turn a time in [0, 1] into the scheduler's integer step: N equal bins."""
        steps = len(self._signal)
        return (time * steps).long().clamp(max=steps - 1)


def sd15() -> ModelSpec:
    """Stable Diffusion 1.5, 512 px."""
    return ModelSpec(
        "sd15",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        sampling_steps=50,
        guidance=7.5,
        licence="CreativeML Open RAIL-M",
    )
