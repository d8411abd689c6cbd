"""The dimensions of VBench that pixels, DINO and CLIP give, without the public package.

Each prepares frames as the public implementation does, oddities included: tensors are scaled
without a low-pass filter, and only appearance_style goes through Pillow. DINO sees whole frames,
CLIP their centre. All is in float32, where that implementation runs CLIP in half precision on GPUs
and rounds its weights to it everywhere; OpenAI's are that round already. Frames are those of
decord, but for temporal_flickering OpenCV's, which does not heed that a clip's colours are BT.709.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vipo_cli.clips import read_frames
from vipo_cli.errors import DataError

Frames = NDArray[np.uint8]
"""A clip: (t, h, w, 3)."""

SIDE = 224
DINO_MEAN, DINO_SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_SPREAD = (0.26862954, 0.26130258, 0.27577711)
PREPROCESSING = "vbench-frames-1"
"""Name of what is done to frames; part of every fingerprint."""


@dataclass(frozen=True, slots=True)
class Judged:
    """What a dimension says of a clip, and of how many numbers that is the mean."""

    value: float
    weight: int = 1


class Scorer(Protocol):
    """A dimension of VBench."""

    @property
    def dimension(self) -> str:
        """Return its name."""
        ...

    @property
    def fingerprint(self) -> str:
        """Return what changes whenever the same clip may be judged differently."""
        ...

    @property
    def pooled(self) -> bool:
        """Tell whether the dimension is the mean over all frames, not over clips."""
        ...

    @property
    def bt601(self) -> bool:
        """Tell whether it takes the colours of all clips for BT.601."""
        ...

    def score(self, frames: Frames, asked: Mapping[str, Any]) -> Judged:
        """Judge a clip that was made for a prompt.

        Raises:
            DataError: it cannot be judged.
        """
        ...


def frames_of(data: bytes, *, bt601: bool = False) -> Frames:
    """Decode all frames of a clip, heeding what it says of its colours or not.

    Raises:
        DataError: it is broken, or has a single frame.
    """
    frames = np.stack([np.asarray(frame) for frame in read_frames(data, bt601=bt601)])
    if len(frames) < 2:
        raise DataError("a clip of one frame, where two are needed")
    return frames


@dataclass(frozen=True, slots=True)
class TemporalFlickering:
    """How little neighbouring frames differ: (255 - mean absolute difference) / 255."""

    dimension: str = "temporal_flickering"
    fingerprint: str = "temporal_flickering-2"
    pooled: bool = False
    bt601: bool = True

    def score(self, frames: Frames, asked: Mapping[str, Any]) -> Judged:  # noqa: ARG002
        """Judge a clip by its pixels."""
        blue_first = frames[..., ::-1].astype(np.float32)  # sums in float32 depend on the order
        steps = [np.mean(np.abs(a - b)) for a, b in pairwise(blue_first)]
        return Judged((255.0 - np.mean(np.array(steps)).item()) / 255.0)


@dataclass(frozen=True, slots=True)
class Consistency:
    """How like the first and the previous frame each frame is: the mean cosine, not below 0.

    Attributes:
        dimension: subject_consistency, with DINO, or background_consistency, with CLIP.
        fingerprint: of the model and what it sees.
        embed: turns frames into unit vectors.
        pooled: always; clips with more frames count more.
    """

    dimension: str
    fingerprint: str
    embed: Any
    pooled: bool = True
    bt601: bool = False

    def score(self, frames: Frames, asked: Mapping[str, Any]) -> Judged:  # noqa: ARG002
        """Judge a clip by the embeddings of its frames."""
        from torch.nn.functional import cosine_similarity

        found = self.embed(frames)
        first = cosine_similarity(found[:1], found[1:]).clamp(min=0)
        previous = cosine_similarity(found[:-1], found[1:]).clamp(min=0)
        both = (first.double() + previous.double()) / 2
        return Judged(float(both.mean()), len(both))


@dataclass(frozen=True, slots=True)
class AestheticQuality:
    """What LAION's linear head makes of CLIP's view of the frames, divided by ten."""

    fingerprint: str
    embed: Any
    head: Any
    dimension: str = "aesthetic_quality"
    pooled: bool = False
    bt601: bool = False

    def score(self, frames: Frames, asked: Mapping[str, Any]) -> Judged:  # noqa: ARG002
        """Judge a clip by the mean over its frames."""
        return Judged(float((self.head(self.embed(frames)).squeeze(-1) / 10).mean()))


@dataclass(frozen=True, slots=True)
class AppearanceStyle:
    """How near frames are to the words for the style: CLIP's logit divided by 100."""

    fingerprint: str
    embed: Any
    embed_text: Any
    scale: float
    dimension: str = "appearance_style"
    pooled: bool = True
    bt601: bool = False

    def score(self, frames: Frames, asked: Mapping[str, Any]) -> Judged:
        """Judge a clip by the mean over its frames."""
        style = _style(asked)
        logits = self.scale * (self.embed(frames) @ self.embed_text(style))
        return Judged(float(logits.double().mean()) / 100, len(frames))


def _style(asked: Mapping[str, Any]) -> str:
    auxiliary = asked.get("auxiliary_info") or {}
    own = auxiliary.get("appearance_style", auxiliary)
    style = own.get("appearance_style") if isinstance(own, Mapping) else own
    if not isinstance(style, str):
        raise DataError(f"the prompt `{asked['prompt']}` does not say which style it asks for")
    return style


@dataclass(frozen=True, slots=True)
class DinoEmbedder:
    """Embeds frames with DINO ViT-B/16 in transformers' architecture."""

    model: Any
    batch_size: int = 16

    def __call__(self, frames: Frames) -> Any:
        """Return the unit vector of each frame's class token."""
        import torch
        from torch.nn.functional import normalize

        found = []
        with torch.inference_mode():
            for batch in _batches(frames, self.batch_size):
                pixels = scaled(batch, SIDE, "bilinear").div(255)
                pixels = normalised(pixels, DINO_MEAN, DINO_SPREAD).to(self.model.device)
                output = self.model(pixel_values=pixels, interpolate_pos_encoding=True)
                found.append(normalize(output.last_hidden_state[:, 0], dim=-1).float().cpu())
        return torch.cat(found)


@dataclass(frozen=True, slots=True)
class ClipEmbedder:
    """Embeds frames, and styles, with one of OpenAI's CLIP models in transformers' architecture.

    Attributes:
        model: that of transformers.
        words: turns texts into ids.
        pillow: scale with Pillow, which filters, instead of as a tensor.
        batch_size: frames at once.
    """

    model: Any
    words: Any = None
    pillow: bool = False
    batch_size: int = 16

    def __call__(self, frames: Frames) -> Any:
        """Return the unit vector of each frame."""
        import torch
        from torch.nn.functional import normalize

        side = self.model.config.vision_config.image_size
        found = []
        with torch.inference_mode():
            for batch in _batches(frames, self.batch_size):
                pixels = _by_pillow(batch, side) if self.pillow else _centre_of_tensor(batch, side)
                pixels = normalised(pixels.div(255), CLIP_MEAN, CLIP_SPREAD).to(self.model.device)
                vectors = self.model.get_image_features(pixel_values=pixels).pooler_output
                found.append(normalize(vectors, dim=-1).float().cpu())
        return torch.cat(found)

    def text(self, text: str) -> Any:
        """Return the unit vector of a text."""
        import torch
        from torch.nn.functional import normalize

        with torch.inference_mode():
            ids = torch.tensor(self.words([text]), device=self.model.device)
            vectors = self.model.get_text_features(input_ids=ids).pooler_output
            return normalize(vectors, dim=-1).float().cpu()[0]


def scaled(frames: Frames, side: int, mode: str) -> Any:
    """Return frames as float tensors (t, 3, h, w) in 0 to 255 whose shorter side has a length.

    Nothing is filtered, rounded or clamped.
    """
    import torch
    from torch.nn.functional import interpolate

    pixels = torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2))).float()
    height, width = pixels.shape[2:]
    if min(height, width) == side:
        return pixels
    long = int(side * max(height, width) / min(height, width))
    size = (side, long) if height <= width else (long, side)
    return interpolate(pixels, size, mode=mode, align_corners=False, antialias=False)


def normalised(pixels: Any, mean: tuple[float, ...], spread: tuple[float, ...]) -> Any:
    """Return pixels of a mean and a spread by colour."""
    import torch

    shift, scale = (torch.tensor(values).view(-1, 1, 1) for values in (mean, spread))
    return pixels.sub(shift).div(scale)


def dino_positions(embeddings: Any, tokens: Any, height: int, width: int) -> Any:
    """Return DINO's embeddings of positions for frames that are no squares of 224.

    DINO's own code scales by factors a tenth of a patch too large, and places the samples by these;
    transformers goes by the sizes.
    """
    import torch
    from torch.nn.functional import interpolate

    positions = embeddings.position_embeddings
    count = positions.shape[1] - 1
    if tokens.shape[1] - 1 == count and height == width:
        return positions
    side = math.sqrt(count)
    grid = positions[:, 1:].reshape(1, int(side), int(side), -1).permute(0, 3, 1, 2)
    patch = embeddings.patch_size
    factors = [(length // patch + 0.1) / side for length in (height, width)]
    grid = interpolate(grid, scale_factor=factors, mode="bicubic")
    return torch.cat((positions[:, :1], grid.flatten(2).transpose(1, 2)), dim=1)


def _centre_of_tensor(frames: Frames, side: int) -> Any:
    pixels = scaled(frames, side, "bicubic")
    top, left = (round((length - side) / 2) for length in pixels.shape[2:])
    return pixels[:, :, top : top + side, left : left + side]


def _by_pillow(frames: Frames, side: int) -> Any:
    import torch

    prepared = [np.asarray(_centre(Image.fromarray(frame), side)) for frame in frames]
    return torch.from_numpy(np.stack(prepared).transpose(0, 3, 1, 2).copy()).float()


def _centre(picture: Image.Image, side: int) -> Image.Image:
    short, long = min(picture.size), max(picture.size)
    if short != side:
        length = int(side * long / short)
        size = (side, length) if picture.width <= picture.height else (length, side)
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = round((picture.width - side) / 2), round((picture.height - side) / 2)
    return picture.crop((left, top, left + side, top + side))


def _batches(frames: Frames, size: int) -> Iterator[Frames]:
    for start in range(0, len(frames), size):
        yield frames[start : start + size]
