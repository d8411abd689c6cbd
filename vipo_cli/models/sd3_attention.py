"""Attention of Stable Diffusion 3 to a text that ends in many tokens that are alike."""

import math
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, JointAttnProcessor2_0
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def count_last_token(transformer: Any, length: int, times: int) -> None:
    """Let a transformer take text whose last token stands for several that are alike.

    Args:
        transformer: an SD3Transformer2DModel.
        length: of such text, in tokens; other text goes through as always.
        times: how often its last token counts.
    """
    processor = RepeatedTokenProcessor(length, times)
    transformer.set_attn_processor(
        {
            name: processor if type(known) is JointAttnProcessor2_0 else known
            for name, known in transformer.attn_processors.items()
        }
    )


class RepeatedTokenProcessor:
    """Joint attention to a text whose last token stands for several that are alike.

    Nothing tells the positions of text apart, so tokens that start alike stay alike, and a softmax
    over k equal keys is one over a single key whose logit is log k higher.
    """

    def __init__(self, length: int, times: int) -> None:
        self._usual = JointAttnProcessor2_0()
        self._length = length
        self._bias = math.log(times)

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Attend; return the picture's states, and the text's where there is text."""
        if encoder_hidden_states is None or encoder_hidden_states.shape[1] != self._length:
            return self._usual(
                attn, hidden_states, encoder_hidden_states, attention_mask, *args, **kwargs
            )
        picture = _heads(attn, hidden_states, "to_q", "to_k", "to_v", "norm_q", "norm_k")
        text = _heads(
            attn, encoder_hidden_states,
            "add_q_proj", "add_k_proj", "add_v_proj", "norm_added_q", "norm_added_k",
        )  # fmt: skip
        query, key, value = (torch.cat(parts, 2) for parts in zip(picture, text, strict=True))
        bias = query.new_zeros(key.shape[2])
        bias[-1] = self._bias
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=bias[None, None, None])
        mixed = mixed.transpose(1, 2).flatten(2)
        seen, read = mixed.split([hidden_states.shape[1], self._length], 1)
        if not attn.context_pre_only:
            read = attn.to_add_out(read)
        return attn.to_out[1](attn.to_out[0](seen)), read


def _heads(attn: Attention, states: Tensor, *names: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return query, key and value, (b, heads, tokens, width each), the first two normalised."""
    q, k, v = (getattr(attn, name)(states).unflatten(2, (attn.heads, -1)) for name in names[:3])
    norms = (getattr(attn, name) for name in names[3:])
    q, k = (norm(x) if norm is not None else x for norm, x in zip(norms, (q, k), strict=True))
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
