"""Text encoder of the CLIP kind, small and without the hub."""

from typing import Any

WIDTH = 16


def make_clip_encoder(tokenizer: Any, layers: int = 1, *, projection: int | None = None) -> Any:
    """Return a random CLIPTextModel; with a projection, a CLIPTextModelWithProjection."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=2 * WIDTH,
        num_hidden_layers=layers, num_attention_heads=2, projection_dim=projection or WIDTH,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config).eval()
