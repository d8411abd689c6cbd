"""Wan 2.1: UMT5 prompts, a causal 3-D autoencoder, rectified flow over clips."""

from math import lcm
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vipo_cli.errors import ModelError
from vipo_cli.models.base import PipelineFamily, flow_noise_level, module_device
from vipo_cli.models.family import Condition, Size, Videos
from vipo_cli.models.load import ModelSpec
from vipo_cli.schedules import Latents, NoiseLevel, Target

MAX_TOKENS = 512
"""Tokens of UMT5 that the pipeline takes where nothing else is asked for."""
LARGEST = Size(832, 480, 81)
"""Clips of Wan 2.1 at 480p: five seconds."""
PIPELINE_MULTIPLE = 16
"""The pipeline refuses other widths and heights, whatever its parts could do."""


class Wan(PipelineFamily):
    """Family of the pipelines that diffusers calls WanPipeline, with one transformer."""

    target: Target = "flow"
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")

    def __init__(self, pipeline: Any) -> None:
        _refuse_other_kinds(pipeline)
        self.pipeline = pipeline
        self.denoiser: nn.Module = pipeline.transformer
        space, self.frame_stride = (
            pipeline.vae_scale_factor_spatial,
            pipeline.vae_scale_factor_temporal,
        )
        config = pipeline.transformer.config
        _, rows, columns = config.patch_size
        self.multiple: int = lcm(space * rows, space * columns, PIPELINE_MULTIPLE)
        self.size = _size(config, space, self.frame_stride, self.multiple)
        self._steps: int = pipeline.scheduler.config.num_train_timesteps

    def encode_media(self, pixels: Videos) -> tuple[Latents, Latents]:
        """Return the posterior, scaled channel by channel; a picture is a clip of one frame."""
        vae = self.pipeline.vae
        clips = pixels if pixels.ndim == 5 else pixels.unsqueeze(2)
        posterior = vae.encode(clips.to(vae.dtype)).latent_dist
        mean, std = self._statistics(pixels.device)
        return (posterior.mean.float() - mean) / std, posterior.std.float() / std

    def decode_media(self, latents: Latents) -> Videos:
        """Return what the autoencoder makes of latents; it clamps by itself."""
        vae = self.pipeline.vae
        mean, std = self._statistics(latents.device)
        pixels: Videos = vae.decode((latents * std + mean).to(vae.dtype), return_dict=False)[0]
        return pixels.float()

    def _statistics(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the autoencoder's latents, by channel."""
        config = self.pipeline.vae.config
        mean, std = (
            torch.tensor(values, device=device).view(-1, 1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return mean, std

    def encode_prompts(self, prompts: list[str]) -> Condition:
        """Return UMT5's last hidden state of the cleaned prompts, zero from their ends on."""
        tokenizer, encoder = self.pipeline.tokenizer, self.pipeline.text_encoder
        embeddings, _ = self.pipeline.encode_prompt(
            prompts,
            do_classifier_free_guidance=False,
            max_sequence_length=min(MAX_TOKENS, tokenizer.model_max_length),
            device=module_device(encoder),
        )
        return {"encoder_hidden_states": embeddings}

    def noise_level(self, time: Float[Tensor, " b"]) -> NoiseLevel:
        """Return the level of rectified flow."""
        return flow_noise_level(time)

    def predict(self, x_t: Latents, time: Float[Tensor, " b"], condition: Condition) -> Latents:
        """Return the transformer's output; its timestep is the time in the scheduler's steps."""
        prediction: Latents = self.denoiser(
            x_t, timestep=time * self._steps, **condition, return_dict=False
        )[0]
        return prediction

    def sampling_arguments(
        self, noise: Latents, condition: Condition, empty: Condition | None
    ) -> dict[str, Any]:
        """Return noise and embeddings under the names that the pipeline gives them."""
        arguments: dict[str, Any] = {
            "latents": noise,
            "prompt_embeds": condition["encoder_hidden_states"],
        }
        if empty is not None:
            arguments["negative_prompt_embeds"] = empty["encoder_hidden_states"]
        return arguments


def _refuse_other_kinds(pipeline: Any) -> None:
    """Raise ModelError for what shares the pipeline, or its class, but not how it is trained."""
    if getattr(pipeline, "transformer_2", None) is not None or pipeline.config.boundary_ratio:
        raise ModelError(
            "a Wan 2.2 pipeline with two transformers cannot be trained yet",
            hint="supported: pipelines with one, such as wan-1.3b and wan-14b",
        )
    config = pipeline.transformer.config
    if config.image_dim is not None or config.in_channels != config.out_channels:
        raise ModelError(
            "a Wan transformer that continues a picture cannot be trained yet",
            hint="supported: text to video, such as wan-1.3b and wan-14b",
        )
    scheduler = pipeline.scheduler.config
    if scheduler.get("prediction_type", "flow_prediction") != "flow_prediction":
        raise ModelError(
            f"a Wan pipeline predicts flow, but its scheduler says `{scheduler.prediction_type}`",
            hint="compare `scheduler/scheduler_config.json` with where the model came from",
        )


def _size(config: Any, space: int, stride: int, multiple: int) -> Size:
    """Return the size of Wan 2.1, or what the rotary embedding has places for if that is less."""
    places = config.rope_max_seq_len
    time, rows, columns = config.patch_size
    return Size(
        min(LARGEST.width, places * columns * space // multiple * multiple),
        min(LARGEST.height, places * rows * space // multiple * multiple),
        min(LARGEST.frames, 1 + stride * (places * time - 1)),
    )


def wan_1_3b() -> ModelSpec:
    """Wan 2.1 text to video, 1.3B, 832 x 480 px, 81 frames."""
    return _spec("wan-1.3b", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers")


def wan_14b() -> ModelSpec:
    """Wan 2.1 text to video, 14B, 832 x 480 px, 81 frames."""
    return _spec("wan-14b", "Wan-AI/Wan2.1-T2V-14B-Diffusers")


def _spec(name: str, source: str) -> ModelSpec:
    return ModelSpec(
        name,
        source,
        recipe="families/wan",
        sampling_steps=50,
        guidance=5.0,
        licence="Apache-2.0",
    )
