"""MPS: a CLIP model that looks at a picture through the words that a condition makes relevant."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from vipo_cli.errors import ModelError
from vipo_cli.rewards import Reward
from vipo_cli.rewards.clip import hub_tokenizer, pickscore_pixels
from vipo_cli.rewards.open_clip import clip_like, count_layers
from vipo_cli.rewards.options import (
    Batch,
    Device,
    Dtype,
    Place,
    filled,
    required,
    torch_device,
    torch_dtype,
)
from vipo_cli.rewards.pixels import Pixels, batches
from vipo_cli.run import fingerprint
from vipo_cli.weights import content, find_all, read_tensors

Relevance = Annotated[
    float,
    Field(
        ge=0,
        lt=1,
        description="How related to the condition a word must be to count, the most related being "
        "1: 0.3 in its authors' benchmark code, 0.01 in their example.",
    ),
]

CONDITION = (
    "light, color, clarity, tone, style, ambiance, artistry, shape, face, hair, hands, limbs, "
    "structure, instance, texture, quantity, attributes, position, number, location, word, things."
)
"""What the overall preference is asked for with."""


def mps(
    *,
    relevance: Relevance = 0.3,
    path: Place = None,
    batch_size: Batch = 32,
    device: Device = "auto",
    dtype: Dtype = "fp32",
) -> Reward:
    """MPS, overall (arXiv 2405.14705): what people prefer; exp(scale) * cosine.

    The published checkpoint was not at hand: what its code does is checked with random weights, how
    the file is packed is known from that code alone.
    """
    files, vocabulary = find_all(("mps", "clip-h-tokenizer"), path)
    checkpoint = next(iter(files.values()))
    place = torch_device(device)
    model, cross = build(read_tensors(checkpoint), str(checkpoint))
    precision = torch_dtype(dtype)
    identity = fingerprint(
        {
            "reward": "mps",
            "weights": content(checkpoint),
            "preprocessing": "pil-pickscore_crop-1",
            "relevance": relevance,
            "dtype": dtype,
        }
    )
    return MpsReward(
        "mps",
        "overall",
        identity,
        model.to(place, precision),
        cross.to(place, precision),
        hub_tokenizer(vocabulary),
        relevance,
        batch_size,
    )


@dataclass(frozen=True, slots=True)
class MpsReward:
    """A scaled cosine between a prompt and a picture that was seen through the prompt's words.

    Attributes:
        model: the CLIP model.
        cross: what lets a picture's patches look at words and at each other.
        tokenizer: that of the hub.
        relevance: how related to the condition a word must be to be looked at.
        batch_size: pictures judged at once.
    """

    name: str
    dimension: str
    fingerprint: str
    model: Any
    cross: Any
    tokenizer: Any
    relevance: float
    batch_size: int

    def score(self, media: Sequence[bytes], prompts: Sequence[str]) -> NDArray[np.float64]:
        """Score each picture for its prompt; NaN for one that cannot be decoded."""
        scores = np.full(len(media), np.nan)
        prepare = partial(pickscore_pixels, side=self.model.config.vision_config.image_size)
        condition: Any = None
        for places, pixels in batches(media, prepare, self.batch_size):
            if condition is None:
                condition, _ = self._read([CONDITION])
            scores[places] = self._scores(pixels, [prompts[place] for place in places], condition)
        return scores

    def _scores(self, pixels: Pixels, prompts: list[str], condition: Any) -> NDArray[np.float64]:
        import torch
        from torch.nn.functional import cosine_similarity

        distinct = list(dict.fromkeys(prompts))
        rows = [distinct.index(prompt) for prompt in prompts]
        with torch.inference_mode():
            words, summaries = self._read(distinct)
            related = (words @ condition[0].T).amax(2)
            related = related / related.amax(1, keepdim=True)
            hidden = torch.zeros_like(related).masked_fill_(related <= self.relevance, -torch.inf)
            seen = self._look(pixels)
            through = self.cross(seen, words[rows], hidden[rows])[:, 0]
            cosines = cosine_similarity(summaries[rows].double(), through.double())
            scaled = self.model.logit_scale.double().exp() * cosines
        result: NDArray[np.float64] = scaled.cpu().numpy()
        return result

    def _read(self, prompts: Sequence[str]) -> tuple[Any, Any]:
        """Return every word of prompts, padding and all, and what each prompt comes to."""
        import torch

        length = self.model.config.text_config.max_position_embeddings
        ids = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=length,
            return_tensors="pt",
        ).input_ids
        with torch.inference_mode():
            read = self.model.text_model(input_ids=ids.to(self.model.device))
            project = self.model.text_projection
            return project(read.last_hidden_state), project(read.pooler_output)

    def _look(self, pixels: Pixels) -> Any:
        """Return every patch of pictures, in the space of the words."""
        import torch

        batch = torch.from_numpy(pixels).to(self.model.device, self.model.dtype)
        seen = self.model.vision_model(pixel_values=batch)
        return self.model.visual_projection(seen.last_hidden_state)


def build(tensors: Mapping[str, Any], where: str) -> tuple[Any, Any]:
    """Build the CLIP model and the layers behind it from the tensors of an MPS checkpoint.

    Raises:
        ModelError: a tensor is missing, left over, or of another shape.
    """
    import torch

    clip = {
        name.removeprefix("model."): tensor
        for name, tensor in tensors.items()
        if name.startswith("model.") and not name.endswith(".position_ids")
    }
    layers = {
        name.removeprefix("cross_model."): tensor
        for name, tensor in tensors.items()
        if name.startswith("cross_model.") and not name.endswith(".rotary_emb.inv_freq")
    }
    if strangers := sorted(
        name for name in tensors if not name.startswith(("model.", "cross_model."))
    ):
        raise ModelError(
            f"`{where}` holds other weights: {len(strangers)} tensors belong to no part of MPS",
            details=[f"left over: {name}" for name in strangers[:5]],
        )
    queries, keys = required(
        layers, ("layers.0.0.fn.to_q.weight", "layers.0.0.fn.to_kv.weight"), where
    )
    with torch.device("meta"):
        cross = _cross_model()(
            queries.shape[1], len(keys) // 2, len(queries), count_layers(layers, "layers.")
        )
    return clip_like(clip, where), filled(cross, layers, where)


def _cross_model() -> Callable[[int, int, int, int], Any]:  # noqa: C901
    """Return the class of the layers behind the CLIP model; made on use, since torch is slow."""
    import torch
    from torch import nn
    from torch.nn.functional import layer_norm, scaled_dot_product_attention, silu

    class Norm(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(width))
            self.bias = nn.Buffer(torch.zeros(width))

        def forward(self, x: Any) -> Any:
            return layer_norm(x, x.shape[-1:], self.weight, self.bias)

    class Gate(nn.Module):
        def forward(self, x: Any) -> Any:
            value, gate = x.chunk(2, dim=-1)
            return silu(gate) * value

    def attend(q: Any, k: Any, v: Any, heads: int, mask: Any = None) -> Any:
        """Let many heads ask one set of keys and values."""
        rows, places, _ = q.shape
        q = q.view(rows, places, heads, -1).transpose(1, 2)
        k, v = (x[:, None].expand(-1, heads, -1, -1) for x in (k, v))
        found = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return found.transpose(1, 2).reshape(rows, places, -1)

    class LookAtWords(nn.Module):
        def __init__(self, width: int, head: int, inner: int) -> None:
            super().__init__()
            self.heads = inner // head
            self.norm = Norm(width)
            self.to_q = nn.Linear(width, inner, bias=False)
            self.to_kv = nn.Linear(width, 2 * head, bias=False)
            self.to_out = nn.Linear(inner, width, bias=False)
            self.ff = nn.Sequential(
                nn.Linear(width, 8 * width, bias=False),
                Gate(),
                nn.Linear(4 * width, width, bias=False),
            )

        def forward(self, x: Any, words: Any, mask: Any) -> Any:
            x = self.norm(x)
            k, v = self.to_kv(words).chunk(2, dim=-1)
            found = attend(self.to_q(x), k, v, self.heads, mask[:, None, None])
            return self.to_out(found) + self.ff(x)

    class LookAround(nn.Module):
        def __init__(self, width: int, head: int, inner: int) -> None:
            super().__init__()
            self.heads, self.head = inner // head, head
            self.parts = inner, head, head, 8 * width
            self.norm = Norm(width)
            self.fused_attn_ff_proj = nn.Linear(width, sum(self.parts), bias=False)
            self.attn_out = nn.Linear(inner, width, bias=False)
            self.ff_out = nn.Sequential(Gate(), nn.Linear(4 * width, width, bias=False))

        def forward(self, x: Any) -> Any:
            q, k, v, rest = self.fused_attn_ff_proj(self.norm(x)).split(self.parts, dim=-1)
            rows, places, inner = q.shape
            turned = turn(q.view(rows, places, self.heads, self.head).transpose(1, 2))
            q = turned.transpose(1, 2).reshape(rows, places, inner)
            return self.attn_out(attend(q, turn(k), v, self.heads)) + self.ff_out(rest)

    def turn(x: Any) -> Any:
        """Rotate halves against each other by an angle that grows with the place."""
        places, width = x.shape[-2:]
        speeds = 10000 ** -(torch.arange(0, width, 2, device=x.device).float() / width)
        angles = torch.arange(places, device=x.device).float()[:, None] * speeds
        cos, sin = (part.repeat(1, 2).to(x.dtype) for part in (angles.cos(), angles.sin()))
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-second, first), dim=-1) * sin

    class Added(nn.Module):
        def __init__(self, fn: nn.Module) -> None:
            super().__init__()
            self.fn = fn

        def forward(self, x: Any, *others: Any) -> Any:
            return self.fn(x, *others) + x

    class Cross(nn.Module):
        def __init__(self, width: int, head: int, inner: int, depth: int) -> None:
            super().__init__()
            self.layers = nn.ModuleList(
                nn.ModuleList(
                    (
                        Added(LookAtWords(width, head, inner)),
                        Added(LookAround(width, head, inner)),
                    )
                )
                for _ in range(depth)
            )

        def forward(self, patches: Any, words: Any, mask: Any) -> Any:
            layers: Any = self.layers
            for look_at_words, look_around in layers:
                patches = look_around(look_at_words(patches, words, mask))
            return patches

    return Cross
