"""HunyuanVideo with random weights."""

import json
from pathlib import Path
from typing import Any

import torch

from tests.tiny.clip import WIDTH, make_clip_encoder
from vipo_cli.shapes.build import make_tokenizer, words

WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How LLaMA 3 divides text before it looks tokens up, but for the letters after apostrophes."""
SPECIAL = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<pad>",
)


def make_llama_tokenizer() -> Any:
    """Build a tokenizer of LLaMA 3's kind that keeps the words of prompts and instruction whole."""
    from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        special_tokens=list(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    backend.train_from_iterator([DEFAULT_PROMPT_TEMPLATE["template"], " ".join(words())], trainer)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{SPECIAL[0]} $A", special_tokens=[(SPECIAL[0], backend.token_to_id(SPECIAL[0]))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=SPECIAL[0], eos_token=SPECIAL[1], pad_token="<pad>",
        padding_side="right", model_max_length=256,
    )  # fmt: skip


def build(folder: Path, seed: int = 0) -> Path:
    """Write a HunyuanVideo pipeline for clips of 9 frames, 32 x 32, to a folder."""
    from diffusers import (
        AutoencoderKLHunyuanVideo,
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideoPipeline,
        HunyuanVideoTransformer3DModel,
    )
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(seed)
    tokenizer, tokenizer_2 = make_llama_tokenizer(), make_tokenizer()
    tokenizer_2.model_max_length = 77  # which the pipeline takes for granted
    text_encoder = LlamaModel(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=2 * WIDTH,
            num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=1,
            max_position_embeddings=512, pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip
    vae = AutoencoderKLHunyuanVideo(
        block_out_channels=(4, 4, 4, 8), layers_per_block=1, latent_channels=4, norm_num_groups=2
    )
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=1, attention_head_dim=16, num_layers=1,
        num_single_layers=1, num_refiner_layers=1, mlp_ratio=2.0, text_embed_dim=WIDTH,
        pooled_projection_dim=WIDTH, rope_axes_dim=(4, 6, 6),
    )  # fmt: skip
    transformer.register_to_config(sample_width=4, sample_height=4, sample_frames=9)
    HunyuanVideoPipeline(
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        text_encoder_2=make_clip_encoder(tokenizer_2),
        tokenizer_2=tokenizer_2,
    ).save_pretrained(folder)
    # the class that the index of the published model names
    index = json.loads((folder / "model_index.json").read_text())
    index["tokenizer"] = ["transformers", "LlamaTokenizerFast"]
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
