"""Random rewards in the layouts of HPSv3 and VideoReward, and what they are shown, all by seed.

Used by the tests and by `make_vlm_golden.py`, which runs beside the upstream code and so without
vipo.
"""

import io
import json
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

GOLDEN = Path(__file__).parent / "golden" / "vlm.json"

SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
REWARDS = {
    "hpsv3": ("<|Reward|>",),
    "videoalign": ("<|VQ_reward|>", "<|MQ_reward|>", "<|TA_reward|>"),
}
INSTRUCTIONS = {
    "hpsv3": "\nHow good is it?  \nTextual prompt - {text_prompt}\n\n\n\n"
    "Rating: <|Reward|>\n\nEND\n",
    "videoalign": "\nVisual: <|VQ_reward|>\nEND\n\nMotion: <|MQ_reward|>\nEND\n\n"
    "Prompt - {text_prompt}\nAlignment: <|TA_reward|>\nEND\n",
    "videoscore": '\nHow good is it?  \nThe prompt is "{text_prompt}",\nall frames follow:\n',
}
PROMPTS = (
    "two dogs, one {brown} & one white",
    "a caf\u00e9 at night, 4K, highly detailed, by a painter of the nineteenth century",
    "",
)
STANDARD = {"VQ": (3.6757, 2.2476), "MQ": (1.1646, 1.3811), "TA": (2.8105, 2.5121)}
"""The constants of the published model_config.json: mean and spread."""


@lru_cache
def pictures():
    """Return encoded pictures of three shapes."""
    sizes = (60, 90), (700, 300), (28, 28)
    return [_png(_texture(number, size)) for number, size in enumerate(sizes)]


@lru_cache
def frames():
    """Return clips as (frames, rate): of odd length, high and short."""
    plan = [(11, (60, 90), 8.0), (30, (240, 180), 24.0), (3, (300, 420), 8.0)]
    return [
        (np.stack([_texture(9 * number + place, size) for place in range(count)]), rate)
        for number, (count, size, rate) in enumerate(plan)
    ]


def _texture(seed, size):
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(size)
    waves = [np.sin((seed + 1) * (k + 1) * rows / 17 + columns / (5 + k)) for k in range(3)]
    noise = rng.normal(0, 0.2, (*size, 3))
    return np.clip(127 + 90 * (np.stack(waves, -1) + noise), 0, 255).astype(np.uint8)


def _png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_tokenizer(file, extra=()):
    """Write a tokenizer of single bytes with the special words of Qwen2-VL."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: n for n, letter in enumerate(alphabet)}, []))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in (*SPECIALS, *extra)])
    tokenizer.save(str(file))
    return tokenizer


def config():
    """Return a flat description as the hub has it; its vocabulary is larger than the tokenizer."""
    first = 256
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "bos_token_id": first,
        "eos_token_id": first + 2,
        "vision_start_token_id": first + 3,
        "vision_end_token_id": first + 4,
        "vision_token_id": first + 5,
        "image_token_id": first + 6,
        "video_token_id": first + 7,
        "hidden_act": "silu",
        "hidden_size": 64,
        "intermediate_size": 96,
        "initializer_range": 0.02,
        "max_position_embeddings": 32768,
        "max_window_layers": 2,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
        "vocab_size": 320,
        "vision_config": {
            "depth": 2,
            "embed_dim": 32,
            "mlp_ratio": 2,
            "num_heads": 2,
            "in_chans": 3,
            "hidden_size": 64,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
        },
    }


def idefics_config():
    """Return a description of an Idefics2 whose frames have up to 8 patches a side."""
    return {
        "model_type": "idefics2",
        "image_token_id": 256 + len(SPECIALS) + 1,
        "pad_token_id": 256,
        "num_labels": 5,
        "tie_word_embeddings": False,
        "vision_config": {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 112,
            "patch_size": 14,
        },
        "perceiver_config": {
            "hidden_size": 48,
            "rms_norm_eps": 1e-5,
            "resampler_n_latents": 4,
            "resampler_depth": 2,
            "resampler_n_heads": 2,
            "resampler_head_dim": 16,
            "num_key_value_heads": 1,
        },
        "text_config": {
            "model_type": "mistral",
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 280,
            "pad_token_id": 256,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 32768,
            "sliding_window": 4096,
        },
    }


IDEFICS = ("<fake_token_around_image>", "<image>", "<end_of_utterance>")
OF_FRAMES = {
    "image_processor_type": "Idefics2ImageProcessor",
    "do_image_splitting": False,
    "size": {"longest_edge": 112, "shortest_edge": 56},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def tensors(shapes):
    """Return a state dict of given shapes, each tensor by its name alone."""
    import torch

    found = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        plain = name.replace(".base_layer", "")
        norm = plain.endswith("weight") and len(shape) == 1
        values = rng.normal(float(norm), 0.05 if len(shape) == 1 else 0.15, shape)
        if name.startswith("rm_head") or ".rm_head" in name:
            values = values * 3
        found[name] = torch.tensor(values, dtype=torch.float32)
    return found


def model_config(outputs):
    """Return a model_config.json as VideoReward's, but for the place of its base."""
    return {
        "data_config": {
            "max_frame_pixels": 200704,
            "num_frames": None,
            "fps": 2.0,
            "eval_dim": ["VQ", "MQ", "TA"],
            "prompt_template_type": "detailed_special",
            "sample_type": "uniform",
        },
        "model_config": {
            "model_name_or_path": "Qwen/Qwen2-VL-2B-Instruct",
            "output_dim": outputs,
            "use_special_tokens": True,
            "reward_token": "special",
        },
        "peft_lora_config": {
            "lora_enable": True,
            "lora_r": 4,
            "lora_alpha": 8,
            "use_rslora": False,
        },
        "inference_config": {
            f"{name}_{what}": value
            for name, both in STANDARD.items()
            for what, value in zip(("mean", "std"), both, strict=True)
        },
    }


def write_files(folder, kind, shapes, outputs=1):
    """Write a checkpoint, what it was made of, and its instructions into a folder."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config()))
    write_tokenizer(folder / "tokenizer.json")
    if kind == "hpsv3":
        save_file(tensors(shapes), folder / "HPSv3.safetensors")
        head, tail = INSTRUCTIONS[kind].split("Rating:")
        code = f"INSTRUCTION = {head!r}\n\nprompt_with_special_token = {'Rating:' + tail!r}\n"
        (folder / "hpsv3-1.0.0-py3-none-any.whl").write_text(code)
    elif kind == "videoscore":
        (folder / "config.json").write_text(json.dumps(idefics_config()))
        write_tokenizer(folder / "tokenizer.json", IDEFICS)
        (folder / "preprocessor_config.json").write_text(json.dumps(OF_FRAMES))
        whole = tensors(shapes)
        names = sorted(whole)
        index = {}
        for number, part in enumerate((names[::2], names[1::2])):
            file = f"model-0000{number + 1}-of-00002.safetensors"
            save_file({name: whole[name] for name in part}, folder / file)
            index |= dict.fromkeys(part, file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
        code = f"import av\nREGRESSION_QUERY_PROMPT = {INSTRUCTIONS[kind]!r}\n"
        (folder / "run_videoscore.py").write_text(code)
    else:
        (folder / "model_config.json").write_text(json.dumps(model_config(outputs)))
        (folder / "checkpoint-11352").mkdir(exist_ok=True)
        torch.save(tensors(shapes), folder / "checkpoint-11352" / "model.pth")
        code = f"OTHER = 1\nDETAILED_PROMPT_WITH_SPECIAL_TOKEN = {INSTRUCTIONS[kind]!r}\n"
        (folder / "prompt_template.py").write_text(code)
