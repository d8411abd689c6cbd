"""HunyuanVideo: LLaMA and CLIP prompts, guidance distilled into the denoiser, rectified flow.

Kong et al., arXiv 2412.03603.
"""

from math import lcm
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from vipo_cli.errors import ModelError
from vipo_cli.models.base import PipelineFamily, flow_noise_level, module_device, two_stream_targets
from vipo_cli.models.family import Condition, Size
from vipo_cli.models.load import ModelSpec
from vipo_cli.schedules import Latents, NoiseLevel, Target

NATIVE = Size(1280, 720, 129)
"""What the pipeline makes where nothing else is asked for."""
PIPELINE_MULTIPLE = 16
"""The pipeline refuses other widths and heights, whatever its parts could do."""


class HunyuanVideo(PipelineFamily):
    """Family of the pipelines that diffusers calls HunyuanVideoPipeline.

    Attributes:
        guidance: scale that the denoiser is told in training.
    """

    target: Target = "flow"

    def __init__(self, pipeline: Any) -> None:
        config = pipeline.transformer.config
        _refuse_other_kinds(config)
        self.pipeline = pipeline
        _restore_tokenizer(pipeline)
        self.denoiser: nn.Module = pipeline.transformer
        self.frame_stride: int = pipeline.vae_scale_factor_temporal
        self._space: int = pipeline.vae_scale_factor_spatial
        self.multiple: int = lcm(self._space * config.patch_size, PIPELINE_MULTIPLE)
        self.size = _size(config, self._space)
        self._steps: int = pipeline.scheduler.config.num_train_timesteps
        self.lora_targets = two_stream_targets(config.num_single_layers)

    def encode_prompts(self, prompts: list[str]) -> Condition:
        """Return LLaMA's states after the instruction, which of them count, and what CLIP pooled.

        The instruction asks LLaMA to describe a clip; it precedes every prompt.
        """
        states, pooled, mask = self.pipeline.encode_prompt(
            prompts, device=module_device(self.pipeline.text_encoder)
        )
        return {
            "encoder_hidden_states": states,
            "encoder_attention_mask": mask.to(states.dtype),
            "pooled_projections": pooled,
        }

    def noise_level(self, time: Float[Tensor, " b"]) -> NoiseLevel:
        """Return the level of rectified flow."""
        return flow_noise_level(time)

    def predict(self, x_t: Latents, time: Float[Tensor, " b"], condition: Condition) -> Latents:
        """Return the transformer's output."""
        told = condition["pooled_projections"]
        prediction: Latents = self.denoiser(
            x_t,
            timestep=time * self._steps,
            # rounded as the pipeline does, which matters in half precision
            guidance=told.new_full((len(told),), self.guidance) * 1000,
            **condition,
            return_dict=False,
        )[0]
        return prediction

    def sampling_arguments(
        self,
        noise: Latents,
        condition: Condition,
        empty: Condition | None,  # noqa: ARG002 - guidance is distilled into the denoiser
    ) -> dict[str, Any]:
        """Return noise, its size in pixels and embeddings under the pipeline's names."""
        frames, rows, columns = noise.shape[2:]
        return {
            "latents": noise,
            "num_frames": 1 + (frames - 1) * self.frame_stride,
            "height": rows * self._space,
            "width": columns * self._space,
            "prompt_embeds": condition["encoder_hidden_states"],
            "prompt_attention_mask": condition["encoder_attention_mask"],
            "pooled_prompt_embeds": condition["pooled_projections"],
        }


def _restore_tokenizer(pipeline: Any) -> None:
    """Put the tokenizer that `tokenizer.json` describes in the place of one that is not it.

    The class that the published model names builds LLaMA 2's word boundaries from transformers 5
    on, whatever the file says (huggingface/transformers#45488): LLaMA 3's tokens fall to pieces,
    and the instruction in front of a prompt is then longer than the pipeline takes it to be.
    """
    from transformers import PreTrainedTokenizerFast

    folder = Path(pipeline.tokenizer.name_or_path)
    if (folder / "tokenizer.json").is_file():
        pipeline.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)


def _refuse_other_kinds(config: Any) -> None:
    """Raise ModelError for what shares the pipeline, but not how it is trained or sampled."""
    kind = None
    if config.image_condition_type is not None or config.in_channels != config.out_channels:
        kind = "that continues a picture"
    elif not config.guidance_embeds:
        kind = "without distilled guidance"
    elif config.patch_size_t != 1:
        kind = "that joins frames"
    if kind is not None:
        raise ModelError(
            f"a HunyuanVideo transformer {kind} cannot be trained yet",
            hint="supported: text to video with distilled guidance, such as hunyuan-video",
        )


def _size(config: Any, space: int) -> Size:
    """Return the native size, or what a configuration gives under the names of CogVideoX's.

    HunyuanVideo's own has no size; one that was made for another may say so.
    """
    return Size(
        config.get("sample_width", NATIVE.width // space) * space,
        config.get("sample_height", NATIVE.height // space) * space,
        config.get("sample_frames", NATIVE.frames),
    )


def hunyuan_video() -> ModelSpec:
    """HunyuanVideo text to video, 13B, 1280 x 720 px, 129 frames."""
    return ModelSpec(
        "hunyuan-video",
        "hunyuanvideo-community/HunyuanVideo",
        recipe="families/hunyuan",
        sampling_steps=50,
        guidance=6.0,
        licence="Tencent Hunyuan Community License",
    )
