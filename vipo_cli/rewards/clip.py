"""PickScore and CLIP: how near a picture is to its prompt in a space that both are embedded in."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from vipo_cli.errors import DataError, MissingWeights, ModelError
from vipo_cli.media import decode
from vipo_cli.rewards import Reward
from vipo_cli.run import fingerprint

Crop = Callable[[bytes, int], Image.Image]
Folder = Annotated[
    str | None, Field(description="Folder with model and tokenizer; by default the hub's cache.")
]
Batch = Annotated[int, Field(ge=1, description="Pictures embedded at once.")]
Device = Annotated[str, Field(description="Where to run; auto: on a GPU if there is one.")]

WEIGHTS = "model.safetensors"
VOCABULARY = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
SPREAD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


def pickscore(*, path: Folder = None, batch_size: Batch = 32, device: Device = "auto") -> Reward:
    """PickScore (arXiv 2305.01569): what people pick; exp(scale) * cosine, mostly 15 to 25."""
    source = "yuvalkirstain/PickScore_v1", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    folder, words = _folders(path, *source, size="3.9 GB")
    identity = _identity("pickscore", folder, pickscore_crop)
    model, tokenizer = _load(folder, words, device)
    scale = float(model.logit_scale.exp())
    return ClipReward(
        "pickscore", "overall", identity, model, tokenizer, pickscore_crop, scale, batch_size
    )


def clip(*, path: Folder = None, batch_size: Batch = 32, device: Device = "auto") -> Reward:
    """CLIP ViT-L/14 (arXiv 2103.00020): the cosine of picture and prompt, mostly 0.1 to 0.35."""
    source = "openai/clip-vit-large-patch14"
    folder, words = _folders(path, source, source, size="1.7 GB")
    identity = _identity("clip", folder, clip_crop)
    model, tokenizer = _load(folder, words, device)
    return ClipReward("clip", "alignment", identity, model, tokenizer, clip_crop, 1.0, batch_size)


@dataclass(frozen=True, slots=True)
class ClipReward:
    """A scaled cosine between embeddings of picture and prompt."""

    name: str
    dimension: str
    fingerprint: str
    model: Any
    tokenizer: Any
    crop: Crop
    scale: float
    batch_size: int

    def score(self, media: Sequence[bytes], prompts: Sequence[str]) -> NDArray[np.float64]:
        """Score each picture for its prompt; NaN for one that cannot be decoded."""
        scores = np.full(len(media), np.nan)
        for start in range(0, len(media), self.batch_size):
            batch = range(start, min(start + self.batch_size, len(media)))
            prepared = {index: self._prepare(media[index]) for index in batch}
            judged = {index: pixels for index, pixels in prepared.items() if pixels is not None}
            if judged:
                pixels = np.stack(list(judged.values()))
                scores[list(judged)] = self._cosines(pixels, [prompts[i] for i in judged])
        return scores * self.scale

    def _prepare(self, data: bytes) -> NDArray[np.float32] | None:
        try:
            picture = self.crop(data, self.model.config.vision_config.image_size)
        except DataError:
            return None
        pixels = np.asarray(picture, np.float32) / np.float32(255)
        return ((pixels - MEAN) / SPREAD).transpose(2, 0, 1)

    def _cosines(self, pixels: NDArray[np.float32], prompts: list[str]) -> NDArray[np.float64]:
        import torch

        device = self.model.device
        tokens = self.tokenizer(
            prompts,
            padding=True,
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
            return_tensors="pt",
        )
        with torch.inference_mode():
            pictures = self.model.get_image_features(
                pixel_values=torch.from_numpy(pixels).to(device)
            )
            texts = self.model.get_text_features(
                input_ids=tokens.input_ids.to(device),
                attention_mask=tokens.attention_mask.to(device),
            )
            cosines = torch.cosine_similarity(pictures.pooler_output, texts.pooler_output)
        result: NDArray[np.float64] = cosines.double().cpu().numpy()
        return result


def pickscore_crop(data: bytes, side: int) -> Image.Image:
    """Prepare a picture as PickScore's processor does: to RGB first, crop rounded down."""
    picture = _shortest_side(decode(data), side)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def clip_crop(data: bytes, side: int) -> Image.Image:
    """Prepare a picture as CLIP's own code does: to RGB last, crop rounded half to even.

    So a palette is not interpolated, and transparent pixels weigh nothing.
    """
    picture = decode(data)  # complains about what is no picture
    with Image.open(BytesIO(data)) as original:
        scaled = _shortest_side(picture if original.mode == "RGB" else original, side)
    left, top = round((scaled.width - side) / 2), round((scaled.height - side) / 2)
    return scaled.crop((left, top, left + side, top + side)).convert("RGB")


def _shortest_side(picture: Image.Image, side: int) -> Image.Image:
    width, height = picture.size
    shortest = min(width, height)
    size = int(side * width / shortest), int(side * height / shortest)
    return picture.resize(size, Image.Resampling.BICUBIC)


def _folders(path: str | None, model: str, tokenizer: str, *, size: str) -> tuple[Path, Path]:
    """Return where model and tokenizer lie: both in the folder given, or in the hub's cache.

    Raises:
        MissingWeights: they are in neither.
    """
    if path is not None:
        if not Path(path, WEIGHTS).is_file():
            raise MissingWeights(
                f"`{path}` holds no `{WEIGHTS}`",
                hint=f"to fill it: {_download(model, tokenizer, f' --local-dir {path}')}",
            )
        return Path(path), Path(path)
    from huggingface_hub import try_to_load_from_cache

    weights = try_to_load_from_cache(model, WEIGHTS)
    vocabulary = try_to_load_from_cache(tokenizer, VOCABULARY[0])
    if not (isinstance(weights, str) and isinstance(vocabulary, str)):
        raise MissingWeights(
            f"the weights of `{model}` are not on this machine ({size})",
            hint=f"where there is a network: {_download(model, tokenizer)}",
        )
    return Path(weights).parent, Path(vocabulary).parent


def _download(model: str, tokenizer: str, options: str = "") -> str:
    """Return the commands that fetch the files needed and none of the other formats."""
    files = {model: ("config.json", WEIGHTS)}
    files[tokenizer] = (*files.get(tokenizer, ()), *VOCABULARY)
    commands = (f"hf download {name} {' '.join(wanted)}{options}" for name, wanted in files.items())
    return " && ".join(commands)


def _load(folder: Path, words: Path, device: str) -> tuple[Any, Any]:
    """Load a CLIP model in float32, and its tokenizer, from local files.

    Raises:
        ModelError: the files are damaged or make no CLIP model.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import CLIPModel, CLIPTokenizer

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = CLIPModel.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, local_files_only=True
        )
        tokenizer = CLIPTokenizer.from_pretrained(words, local_files_only=True)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"cannot load the model in `{folder}`: {str(error).splitlines()[0]}",
            hint="the folder may be incomplete: compare it with where it came from",
        ) from error
    return model.to(device).eval().requires_grad_(False), tokenizer


def _identity(name: str, folder: Path, crop: Crop) -> str:
    """Return the fingerprint of a reward: its weights and what happens to a picture before them."""
    weights = _content(folder / WEIGHTS)
    preprocessing = f"pil-{crop.__name__}-1"
    return fingerprint(
        {"reward": name, "weights": weights, "preprocessing": preprocessing, "dtype": "float32"}
    )


def _content(file: Path) -> str:
    """Return the SHA-256 of a file; the hub's cache names its files by it."""
    name = file.resolve().name
    if re.fullmatch("[0-9a-f]{64}", name):
        return name
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
