"""CogVideoX: T5 prompts, a causal 3-D autoencoder, velocity with no signal left at the last step.

Yang et al., arXiv 2408.06072. The pipeline keeps frames before channels; here they come after.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vipo_cli.errors import ModelError
from vipo_cli.models.base import TARGETS, DiscreteSchedule, PipelineFamily, module_device
from vipo_cli.models.family import Condition, Size
from vipo_cli.models.load import ModelSpec
from vipo_cli.schedules import Latents, NoiseLevel, Target


class CogVideoX(PipelineFamily):
    """Family of the pipelines that diffusers calls CogVideoXPipeline, version 1.0."""

    lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")

    def __init__(self, pipeline: Any) -> None:
        config = pipeline.transformer.config
        _refuse_other_kinds(config)
        self.pipeline = pipeline
        self.denoiser: nn.Module = pipeline.transformer
        self.target: Target = TARGETS[pipeline.scheduler.config.prediction_type]
        # the decoder keeps the first frame apart only where the latents have an odd number of them
        self.frame_stride: int = 2 * pipeline.vae_scale_factor_temporal
        self._space: int = pipeline.vae_scale_factor_spatial
        self._config = config
        self.multiple = self._space * config.patch_size
        self.size = Size(
            config.sample_width * self._space,
            config.sample_height * self._space,
            config.sample_frames,
        )
        # the scheduler computes in double precision, but rounds before it takes roots
        self._schedule = DiscreteSchedule(pipeline.scheduler.alphas_cumprod.float())

    def encode_prompts(self, prompts: list[str]) -> Condition:
        """Return T5's last hidden state, encoded padding and all."""
        embeddings, _ = self.pipeline.encode_prompt(
            prompts,
            do_classifier_free_guidance=False,
            max_sequence_length=self._config.max_text_seq_length,
            device=module_device(self.pipeline.text_encoder),
        )
        return {"encoder_hidden_states": embeddings}

    def noise_level(self, time: Float[Tensor, " b"]) -> NoiseLevel:
        """Look the level up in the scheduler's table; at time 1 nothing is left of the clip."""
        return self._schedule.noise_level(time)

    def predict(self, x_t: Latents, time: Float[Tensor, " b"], condition: Condition) -> Latents:
        """Return the transformer's output."""
        prediction: Latents = self.denoiser(
            x_t.transpose(1, 2),
            timestep=self._schedule.step(time),
            image_rotary_emb=self._rotary(x_t),
            **condition,
            return_dict=False,
        )[0].transpose(1, 2)
        return prediction

    def _rotary(self, latents: Latents) -> tuple[Tensor, Tensor] | None:
        """Return cosines and sines of each patch's place; None where the transformer adds places.

        A clip of another size than the model was made for is laid over the middle of that size.
        """
        from diffusers.models.embeddings import get_3d_rotary_pos_embed
        from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

        config = self._config
        if not config.use_rotary_positional_embeddings:
            return None
        frames, rows, columns = latents.shape[2:]
        grid = rows // config.patch_size, columns // config.patch_size
        native = config.sample_width // config.patch_size, config.sample_height // config.patch_size
        cosines, sines = get_3d_rotary_pos_embed(
            config.attention_head_dim,
            crops_coords=get_resize_crop_region_for_grid(grid, *native),
            grid_size=grid,
            temporal_size=frames,
            device=latents.device,
        )
        return cosines, sines

    def sampling_arguments(
        self, noise: Latents, condition: Condition, empty: Condition | None
    ) -> dict[str, Any]:
        """Return noise, its size in pixels and embeddings under the pipeline's names."""
        frames, rows, columns = noise.shape[2:]
        arguments: dict[str, Any] = {
            "latents": noise.transpose(1, 2),
            "num_frames": 1 + (frames - 1) * self.pipeline.vae_scale_factor_temporal,
            "height": rows * self._space,
            "width": columns * self._space,
            "prompt_embeds": condition["encoder_hidden_states"],
        }
        if empty is not None:
            arguments["negative_prompt_embeds"] = empty["encoder_hidden_states"]
        return arguments

    def sampled_latents(self, output: Tensor, noise: Latents) -> Latents:  # noqa: ARG002
        """Return the output with its frames after its channels."""
        return output.transpose(1, 2)


def _refuse_other_kinds(config: Any) -> None:
    """Raise ModelError for what shares the pipeline, but not how it is trained."""
    kind = None
    if config.patch_size_t is not None:
        kind = "a CogVideoX 1.5 transformer, which joins frames in pairs,"
    elif config.use_learned_positional_embeddings or config.in_channels != config.out_channels:
        kind = "a CogVideoX transformer that continues a picture"
    if kind is not None:
        raise ModelError(
            f"{kind} cannot be trained yet",
            hint="supported: text to video of version 1.0, such as cogvideox-2b and cogvideox-5b",
        )


def cogvideox_2b() -> ModelSpec:
    """CogVideoX text to video, 2B, 720 x 480 px, 49 frames."""
    return _spec("cogvideox-2b", "zai-org/CogVideoX-2b", "Apache-2.0")


def cogvideox_5b() -> ModelSpec:
    """CogVideoX text to video, 5B, 720 x 480 px, 49 frames."""
    return _spec("cogvideox-5b", "zai-org/CogVideoX-5b", "CogVideoX License")


def _spec(name: str, source: str, licence: str) -> ModelSpec:
    return ModelSpec(
        name,
        source,
        recipe="families/cogvideox",
        sampling_steps=50,
        guidance=6.0,
        licence=licence,
    )
