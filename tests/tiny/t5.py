"""Tokenizer and text encoder of the T5 kind, small and without the hub."""

from typing import Any

from vipo_cli.shapes.build import words

MAX_TOKENS = 16
WIDTH = 16


def make_t5_tokenizer(max_length: int = MAX_TOKENS) -> Any:
    """Build a T5 tokenizer that keeps each known word whole and spells out any other."""
    from transformers import T5Tokenizer

    special = ("<pad>", "</s>", "<unk>")
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocabulary = [(token, 0.0) for token in special]
    vocabulary += [(f"\N{LOWER ONE EIGHTH BLOCK}{word}", -1.0) for word in words()]
    vocabulary += [(letter, -20.0) for letter in ["\N{LOWER ONE EIGHTH BLOCK}", *letters]]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=max_length)


def make_t5_encoder(tokenizer: Any, width: int = WIDTH) -> Any:
    """Return a random T5EncoderModel of one layer whose states are `width` wide."""
    from transformers import T5EncoderModel

    return T5EncoderModel(_config("T5Config", tokenizer, width)).eval()


def make_umt5_encoder(tokenizer: Any, width: int = WIDTH) -> Any:
    """Return a random UMT5EncoderModel of one layer whose states are `width` wide."""
    from transformers import UMT5EncoderModel

    return UMT5EncoderModel(_config("UMT5Config", tokenizer, width)).eval()


def _config(kind: str, tokenizer: Any, width: int) -> Any:
    import transformers

    return getattr(transformers, kind)(
        vocab_size=len(tokenizer), d_model=width, d_kv=width // 2, d_ff=2 * width, num_layers=1,
        num_heads=2, feed_forward_proj="gated-gelu", pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id, decoder_start_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
