"""PickScore, CLIP and CLIPScore: how near a picture is to its prompt in a space of both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from vipo_cli.errors import ModelError
from vipo_cli.rewards import Reward
from vipo_cli.rewards.cosine import CosineReward, Encode
from vipo_cli.rewards.options import (
    Device,
    Dtype,
    FittingBatch,
    Place,
    fitting,
    torch_device,
    torch_dtype,
)
from vipo_cli.rewards.pixels import Pixels, clip_crop, normalised, pickscore_crop
from vipo_cli.rewards.words import read_clip_words
from vipo_cli.run import fingerprint
from vipo_cli.weights import SOURCES, content, find_all

Backbone = Annotated[
    Literal["vit-b-32", "vit-l-14"],
    Field(description="OpenAI's model: B/32 as its authors publish it, L/14 as others use it."),
]
PREFIX = "A photo depicts "
WEIGHTS = "model.safetensors"


def pickscore(
    *,
    path: Place = None,
    batch_size: FittingBatch = None,
    device: Device = "auto",
    dtype: Dtype = "fp32",
) -> Reward:
    """PickScore (arXiv 2305.01569): what people pick; exp(scale) * cosine, mostly 15 to 25."""
    files, vocabulary = find_all(("pickscore", "clip-h-tokenizer"), path)
    model = load_clip(files, device, dtype)
    return CosineReward(
        "pickscore",
        "overall",
        _identity("pickscore", files, dtype, preprocessing="pil-pickscore_crop-1"),
        model,
        _hub_words(vocabulary, model.config.text_config.max_position_embeddings),
        partial(pickscore_pixels, side=model.config.vision_config.image_size),
        scale=float(model.logit_scale.float().exp()),
        batch_size=fitting(batch_size, model.device),
    )


def clip(
    *,
    path: Place = None,
    batch_size: FittingBatch = None,
    device: Device = "auto",
    dtype: Dtype = "fp32",
) -> Reward:
    """CLIP ViT-L/14 (arXiv 2103.00020): the cosine of picture and prompt, mostly 0.1 to 0.35."""
    found = openai_clip("clip-l", path, device, dtype)
    identity = _identity(
        "clip", found.files, dtype, preprocessing="pil-clip_crop-1", words="clip-1"
    )
    return CosineReward(
        "clip",
        "alignment",
        identity,
        found.model,
        read_clip_words(found.vocabulary, found.length),
        found.prepare,
        batch_size=fitting(batch_size, found.model.device),
    )


def clipscore(
    *,
    backbone: Backbone = "vit-b-32",
    path: Place = None,
    batch_size: FittingBatch = None,
    device: Device = "auto",
    dtype: Dtype = "fp32",
) -> Reward:
    """CLIPScore (arXiv 2104.08718): 2.5 * max(cosine, 0) for `A photo depicts ...`, 0 to 2.5."""
    found = openai_clip({"vit-b-32": "clip-b", "vit-l-14": "clip-l"}[backbone], path, device, dtype)
    identity = _identity(
        "clipscore", found.files, dtype, preprocessing="pil-clip_crop-1", words="clip-1"
    )
    return CosineReward(
        "clipscore",
        "alignment",
        identity,
        found.model,
        read_clip_words(found.vocabulary, found.length),
        found.prepare,
        scale=2.5,
        floor=0.0,
        prefix=PREFIX,
        batch_size=fitting(batch_size, found.model.device),
    )


@dataclass(frozen=True, slots=True)
class OpenaiClip:
    """One of OpenAI's CLIP models.

    Attributes:
        model: that of transformers.
        files: where its own files lie.
        vocabulary: where its vocabulary lies.
    """

    model: Any
    files: Mapping[str, Path]
    vocabulary: Path

    @property
    def length(self) -> int:
        """Return how many token ids a prompt has at most."""
        length: int = self.model.config.text_config.max_position_embeddings
        return length

    def prepare(self, data: bytes) -> Pixels:
        """Prepare a picture as CLIP's own code does."""
        return normalised(clip_crop(data, self.model.config.vision_config.image_size))


def openai_clip(name: str, path: str | None, device: str, dtype: str) -> OpenaiClip:
    """Load one of OpenAI's CLIP models.

    Raises:
        MissingWeights: it is neither here nor to be had from here.
        ModelError: it is damaged, or is no model with OpenAI's activation.
    """
    files, vocabulary = find_all((name, f"{name}-tokenizer"), path)
    model = load_clip(files, device, dtype)
    parts = model.config.text_config, model.config.vision_config
    if any(part.hidden_act != "quick_gelu" for part in parts):
        raise ModelError(
            f"the model in `{files[WEIGHTS].parent}` is not OpenAI's: it has the activation "
            f"`{parts[1].hidden_act}`, not `quick_gelu`",
            hint=f"give the files of {SOURCES[name].repository}",
        )
    return OpenaiClip(model, files, vocabulary["tokenizer.json"])


def pickscore_pixels(data: bytes, side: int) -> Pixels:
    """Prepare a picture as PickScore's processor does."""
    return normalised(pickscore_crop(data, side))


def load_clip(files: Mapping[str, Path], device: str, dtype: str) -> Any:
    """Load a CLIP model of the hub from local files.

    Raises:
        ModelError: the files are damaged or make no CLIP model.
    """
    from safetensors import SafetensorError
    from transformers import CLIPModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = files[WEIGHTS].parent
    place = torch_device(device)
    try:
        model, report = CLIPModel.from_pretrained(
            folder,
            use_safetensors=True,
            dtype=torch_dtype(dtype),
            local_files_only=True,
            output_loading_info=True,
        )
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"cannot load the model in `{folder}`: {str(error).splitlines()[0]}",
            hint="the folder may be incomplete: compare it with where it came from",
        ) from error
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"the model in `{folder}` lacks {len(missing)} tensors",
            details=[f"missing: {name}" for name in missing[:5]],
            hint="see that it is the published file of this very model",
        )
    return model.to(place).eval().requires_grad_(False)


def hub_tokenizer(vocabulary: Mapping[str, Path]) -> Any:
    """Load the tokenizer of the hub, which PickScore and MPS were made with.

    Raises:
        ModelError: the files are damaged.
    """
    from transformers import CLIPTokenizer

    folder = vocabulary["tokenizer.json"].parent
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot load the tokenizer in `{folder}`: {str(error).splitlines()[0]}"
        ) from error


def _hub_words(vocabulary: Mapping[str, Path], length: int) -> Encode:
    tokenizer = hub_tokenizer(vocabulary)

    def encode(prompts: Sequence[str]) -> list[list[int]]:
        found = tokenizer(list(prompts), truncation=True, max_length=length)
        ids: list[list[int]] = found.input_ids
        return ids

    return encode


def _identity(name: str, files: Mapping[str, Path], dtype: str, **ways: str) -> str:
    """Return the fingerprint of a reward: its weights and what happens before and in them."""
    full = str(torch_dtype(dtype)).removeprefix("torch.")
    return fingerprint({"reward": name, "weights": content(files[WEIGHTS]), "dtype": full, **ways})
