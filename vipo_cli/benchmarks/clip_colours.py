"""GenEval's colour of an object: what CLIP ViT-L/14 calls it, with all but the object turned grey.

What the public implementation does with `open_clip` and `clip_benchmark` is kept: three templates,
the last of which names no class, their embeddings averaged after normalisation, and the crop's
shortest side scaled to 224 by Pillow. It runs in half precision on a GPU, this in single precision.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vipo_cli.benchmarks.detection import Detection
from vipo_cli.errors import ModelError
from vipo_cli.vocabulary import COLOURS

TEMPLATES = (
    "a photo of a {colour} {name}",
    "a photo of a {colour}-colored {name}",
    "a photo of a {colour} object",
)
GREY = 0x99
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
SPREAD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)


class ColourNamer:
    """Names the colours of objects; holds a CLIP model and what it has embedded for each class."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._embedded: dict[str, Any] = {}

    def colour(self, picture: Image.Image, detection: Detection) -> str:
        """Return the colour that an object has, one of GenEval's ten."""
        return COLOURS[int(self.likenesses(picture, detection).argmax())]

    def likenesses(self, picture: Image.Image, detection: Detection) -> NDArray[np.float32]:
        """Return the cosines of an object with each colour."""
        import torch
        from torch.nn.functional import normalize

        side = self._model.config.vision_config.image_size
        pixels = torch.from_numpy(prepared(cut_out(picture, detection), side))
        with torch.inference_mode():
            found = self._model.get_image_features(
                pixel_values=pixels[None].to(self._model.device)
            ).pooler_output
            cosines = normalize(found, dim=-1) @ self._colours_of(detection.label)
        result: NDArray[np.float32] = cosines[0].cpu().numpy()
        return result

    def _colours_of(self, name: str) -> Any:
        """Return the embeddings of all colours of things of a class, one a column."""
        from torch import stack
        from torch.nn.functional import normalize

        if name not in self._embedded:
            columns = []
            for colour in COLOURS:
                texts = [template.format(colour=colour, name=name) for template in TEMPLATES]
                tokens = self._tokenizer(texts, padding=True, return_tensors="pt")
                found = self._model.get_text_features(
                    input_ids=tokens.input_ids.to(self._model.device),
                    attention_mask=tokens.attention_mask.to(self._model.device),
                ).pooler_output
                columns.append(normalize(normalize(found, dim=-1).mean(dim=0), dim=0))
            self._embedded[name] = stack(columns, dim=1)
        return self._embedded[name]


def cut_out(picture: Image.Image, detection: Detection) -> Image.Image:
    """Return what lies in an object's box, grey around its mask; black outside the picture."""
    if detection.mask is not None:
        pixels = np.asarray(picture.convert("RGB"))
        around = np.uint8(GREY)
        picture = Image.fromarray(np.where(detection.mask[..., None], pixels, around))
    left, top, right, bottom = (round(edge) for edge in detection.box)
    return picture.crop((left, top, right, bottom))


def prepared(picture: Image.Image, side: int) -> NDArray[np.float32]:
    """Scale the shortest side (bicubic), crop the middle, and normalise: (3, side, side)."""
    shortest = min(picture.size)
    size = int(side * picture.width / shortest), int(side * picture.height / shortest)
    scaled = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    middle = scaled.crop((left, top, left + side, top + side)).convert("RGB")
    pixels = np.asarray(middle, np.float32) / np.float32(255)
    return ((pixels - MEAN) / SPREAD).transpose(2, 0, 1)


def load_namer(model: Path, tokenizer: Path, device: str) -> ColourNamer:
    """Load CLIP from two folders, in float32.

    Raises:
        ModelError: the files are damaged, make no CLIP, or one without QuickGELU.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import CLIPModel, CLIPTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        loaded = CLIPModel.from_pretrained(
            model, use_safetensors=True, dtype=torch.float32, local_files_only=True
        )
        words = CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(
            f"cannot load CLIP from `{model}`: {str(error).splitlines()[0]}",
            hint="the folder may be incomplete: compare it with where it came from",
        ) from error
    check_activation(loaded, str(model))
    return ColourNamer(loaded.to(device).eval().requires_grad_(False), words)


def check_activation(model: Any, place: str) -> None:
    """Refuse a CLIP with another activation than OpenAI's: it would name other colours.

    Raises:
        ModelError: it has none or not everywhere QuickGELU.
    """
    activations = {model.config.vision_config.hidden_act, model.config.text_config.hidden_act}
    if activations != {"quick_gelu"}:
        raise ModelError(
            f"the CLIP in `{place}` has {', '.join(sorted(activations))} where OpenAI's has "
            "quick_gelu",
            hint="colours are named by openai/clip-vit-large-patch14",
        )
