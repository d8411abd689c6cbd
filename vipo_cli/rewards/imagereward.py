"""ImageReward: a BLIP model that reads the prompt while looking at the picture."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vipo_cli.errors import ModelError
from vipo_cli.rewards import Reward
from vipo_cli.rewards.open_clip import count_layers
from vipo_cli.rewards.options import (
    Device,
    Dtype,
    FittingBatch,
    Place,
    filled,
    fitting,
    required,
    torch_device,
    torch_dtype,
)
from vipo_cli.rewards.pixels import Pixels, batches, clip_crop, normalised
from vipo_cli.run import fingerprint
from vipo_cli.weights import content, find_all, read_tensors

MEAN, SPREAD = 0.16717362830052426, 1.0333394966054072
"""Of rewards over the prompts that ImageReward was made with; scores are standardised by them."""

LENGTH = 35
"""Most token ids of a prompt."""

HEAD = 64
"""Width of an attention head in both parts of BLIP, which no tensor's shape tells."""

ADDED = ("[DEC]", "[ENC]")
"""Words that BLIP adds to BERT's vocabulary; they count only in a prompt that spells them."""

LOOK, READ, JUDGE = "blip.visual_encoder.", "blip.text_encoder.", "mlp.layers."

VISION_NAMES = (
    (r"cls_token", "embeddings.class_embedding"),
    (r"pos_embed", "embeddings.position_embedding"),
    (r"patch_embed\.proj\.(\w+)", r"embeddings.patch_embedding.\1"),
    (r"norm\.(\w+)", r"post_layernorm.\1"),
    (r"blocks\.(\d+)\.norm(\d)\.(\w+)", r"encoder.layers.\1.layer_norm\2.\3"),
    (r"blocks\.(\d+)\.attn\.qkv\.(\w+)", r"encoder.layers.\1.self_attn.qkv.\2"),
    (r"blocks\.(\d+)\.attn\.proj\.(\w+)", r"encoder.layers.\1.self_attn.projection.\2"),
    (r"blocks\.(\d+)\.mlp\.(fc\d\.\w+)", r"encoder.layers.\1.mlp.\2"),
)
"""What each tensor of the part that looks is called there and here."""


def imagereward(
    *,
    path: Place = None,
    batch_size: FittingBatch = None,
    device: Device = "auto",
    dtype: Dtype = "fp32",
) -> Reward:
    """ImageReward (arXiv 2304.05977): what people prefer, standardised; mostly -2.3 to 2."""
    files, vocabulary = find_all(("imagereward", "bert-tokenizer"), path)
    checkpoint = next(iter(files.values()))
    place = torch_device(device)
    look, read, judge = build(read_tensors(checkpoint), str(checkpoint))
    precision = torch_dtype(dtype)
    identity = fingerprint(
        {
            "reward": "imagereward",
            "weights": content(checkpoint),
            "preprocessing": "pil-clip_crop-1",
            "words": "bert-1",
            "dtype": dtype,
        }
    )
    return BlipReward(
        "imagereward",
        "overall",
        identity,
        look.to(place, precision),
        read.to(place, precision),
        judge.to(place).float(),  # as in the official code always in float32
        bert_words(vocabulary["tokenizer.json"]),
        fitting(batch_size, place),
    )


@dataclass(frozen=True, slots=True)
class BlipReward:
    """What a head makes of the first word of a prompt that was read while looking at a picture.

    Attributes:
        look, read, judge: the three parts of the model.
        encode: a tokenizer of transformers.
        batch_size: pictures judged at once.
    """

    name: str
    dimension: str
    fingerprint: str
    look: Any
    read: Any
    judge: Any
    encode: Any
    batch_size: int

    def score(self, media: Sequence[bytes], prompts: Sequence[str]) -> NDArray[np.float64]:
        """Score each picture for its prompt; NaN for one that cannot be decoded."""
        scores = np.full(len(media), np.nan)
        prepare = partial(_prepare, side=self.look.config.image_size)
        for places, pixels in batches(media, prepare, self.batch_size):
            scores[places] = self._rewards(pixels, [prompts[place] for place in places])
        return (scores - MEAN) / SPREAD

    def _rewards(self, pixels: Pixels, prompts: list[str]) -> NDArray[np.float64]:
        import torch

        words = self.encode(
            prompts, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt"
        )
        device = self.look.device
        with torch.inference_mode():
            seen = self.look(pixel_values=torch.from_numpy(pixels).to(device, self.look.dtype))
            read = self.read(
                input_ids=words.input_ids.to(device),
                attention_mask=words.attention_mask.to(device),
                encoder_hidden_states=seen.last_hidden_state,
                # every word sees every other: with the default mask scores are slightly wrong
                is_decoder=False,
            )
            rewards = self.judge(read.last_hidden_state[:, 0].float())[:, 0]
        result: NDArray[np.float64] = rewards.double().cpu().numpy()
        return result


def _prepare(data: bytes, side: int) -> Pixels:
    return normalised(clip_crop(data, side))


def build(tensors: Mapping[str, Any], where: str) -> tuple[Any, Any, Any]:
    """Build the parts that look, read and judge from the tensors of an ImageReward checkpoint.

    What the score does not use, such as the projections that BLIP was trained with, is left out.

    Raises:
        ModelError: a tensor is missing, left over, or of another shape.
    """
    import torch
    from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel

    look = {_vision_name(name): tensor for name, tensor in _below(tensors, LOOK)}
    read = {
        name: tensor
        for name, tensor in _below(tensors, READ)
        if name != "embeddings.position_ids"  # stored by older releases of transformers
    }
    judge = dict(_below(tensors, JUDGE))
    grid, patches, fc1 = required(
        look,
        (
            "embeddings.position_embedding",
            "embeddings.patch_embedding.weight",
            "encoder.layers.0.mlp.fc1.weight",
        ),
        where,
    )
    words, positions, inner = required(
        read,
        (
            "embeddings.word_embeddings.weight",
            "embeddings.position_embeddings.weight",
            "encoder.layer.0.intermediate.dense.weight",
        ),
        where,
    )
    width, patch, text_width = grid.shape[2], patches.shape[2], words.shape[1]
    vision = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=len(fc1),
        num_hidden_layers=count_layers(look, "encoder.layers."),
        num_attention_heads=max(1, width // HEAD),
        image_size=round((grid.shape[1] - 1) ** 0.5) * patch,
        patch_size=patch,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
    )
    text = BlipTextConfig(
        vocab_size=len(words),
        hidden_size=text_width,
        encoder_hidden_size=width,
        intermediate_size=len(inner),
        num_hidden_layers=count_layers(read, "encoder.layer."),
        num_attention_heads=max(1, text_width // HEAD),
        max_position_embeddings=len(positions),
        hidden_act="gelu",
        layer_norm_eps=1e-12,
        is_decoder=True,  # builds the layers that look at the picture
    )
    with torch.device("meta"):
        parts = (
            BlipVisionModel(vision),
            BlipTextModel(text, add_pooling_layer=False),
            linear_head(judge, where),
        )
    return (
        filled(parts[0], look, where),
        filled(parts[1], read, where),
        filled(parts[2], judge, where),
    )


def linear_head(tensors: Mapping[str, Any], where: str) -> Any:
    """Return linear layers one after another, of the sizes and at the places that tensors tell.

    There is nothing between them: where the official code drops units out in training, no unit is
    dropped in use, and it has no activations.

    Raises:
        ModelError: the tensors are not those of linear layers.
    """
    from torch import nn

    layers: dict[str, nn.Module] = {}
    for name, tensor in tensors.items():
        place, _, kind = name.partition(".")
        if kind == "weight" and place.isdigit() and tensor.ndim == 2:
            layers[place] = nn.Linear(tensor.shape[1], tensor.shape[0])
    if not layers:
        raise ModelError(f"`{where}` holds no head of linear layers")
    count = 1 + max(map(int, layers))
    return nn.Sequential(*(layers.get(str(place), nn.Identity()) for place in range(count)))


def bert_words(file: Path) -> Any:
    """Return BERT's tokenizer with the words that BLIP adds.

    Raises:
        ModelError: the file is damaged.
    """
    from transformers import BertTokenizer

    try:
        tokenizer = BertTokenizer.from_pretrained(file.parent, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot load the tokenizer in `{file.parent}`: {str(error).splitlines()[0]}"
        ) from error
    tokenizer.add_tokens(list(ADDED), special_tokens=True)
    return tokenizer


def _below(tensors: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    return [
        (name[len(prefix) :], tensor) for name, tensor in tensors.items() if name.startswith(prefix)
    ]


def _vision_name(name: str) -> str:
    for pattern, replacement in VISION_NAMES:
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement)
    return name
