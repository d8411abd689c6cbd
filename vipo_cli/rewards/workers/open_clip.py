"""OpenAI's CLIP ViT-L/14 in open_clip: its preprocessing, tokenizer and model, used as documented.

The weights are those that the hub has for transformers, under open_clip's names. The activation is
OpenAI's: since its release 2.29 open_clip takes another one unless the name ends in `-quickgelu`.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

PACKAGE = "open_clip_torch"
MODEL = "ViT-L-14-quickgelu"
NAMES = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.": "vision_model.pre_layrnorm.",
    "visual.ln_post.": "vision_model.post_layernorm.",
    "visual.proj": "visual_projection.weight",
    "visual.transformer.resblocks.": "vision_model.encoder.layers.",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.": "text_model.final_layer_norm.",
    "text_projection": "text_projection.weight",
    "transformer.resblocks.": "text_model.encoder.layers.",
}
"""How names begin in open_clip, and in transformers."""
BLOCK = {
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".attn.": ".self_attn.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
}
TRANSPOSED = ("visual.proj", "text_projection")

_package: Any = import_module("open_clip")
_model: Any = None
_preprocess: Any = None
_tokenizer: Any = None
_device = "cpu"


def load(files: dict[str, str], device: str) -> dict[str, Any]:
    """Build the model and fill it with the hub's tensors."""
    global _model, _preprocess, _tokenizer, _device
    load_file = import_module("safetensors.torch").load_file
    _model, _, _preprocess = _package.create_model_and_transforms(MODEL, pretrained=None)
    _model.load_state_dict(_from_hub(load_file(files["checkpoint"])))
    _model.to(device).eval()
    _tokenizer = _package.get_tokenizer(MODEL)
    _device = device
    return {"device": device, "dtype": "float32"}


def score(pictures: list[str], prompt: str) -> list[float]:
    """Score pictures of one prompt: the cosine of the two embeddings."""
    import torch

    image = import_module("PIL.Image")
    with torch.no_grad():
        pixels = torch.stack([_preprocess(image.open(file)) for file in pictures]).to(_device)
        seen = _model.encode_image(pixels)
        said = _model.encode_text(_tokenizer([prompt]).to(_device))
        seen /= seen.norm(dim=-1, keepdim=True)
        said /= said.norm(dim=-1, keepdim=True)
        return [float(value) for value in (seen @ said.T)[:, 0]]


def random_weights(folder: str, randomise: Any, _: str) -> str:
    """Write a checkpoint as the hub has it, with its vocabulary, and return its path."""
    save_file = import_module("safetensors.torch").save_file
    model = _package.create_model(MODEL, pretrained=None)
    randomise(model)
    file = Path(folder, "model.safetensors")
    save_file(_for_hub(model.state_dict()), file, {"format": "pt"})
    Path(folder, "config.json").write_text(json.dumps(_config()))
    words = _package.get_tokenizer(MODEL)
    encoder = dict(words.encoder)
    encoder["<|startoftext|>"] = encoder.pop("<start_of_text>", words.sot_token_id)
    encoder["<|endoftext|>"] = encoder.pop("<end_of_text>", words.eot_token_id)
    merges = [" ".join(pair) for pair in sorted(words.bpe_ranks, key=words.bpe_ranks.get)]
    tokenizer = {"type": "BPE", "vocab": encoder, "merges": merges}
    Path(folder, "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": tokenizer}))
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        Path(folder, name).write_text("{}")
    return str(file)


def _from_hub(tensors: dict[str, Any]) -> dict[str, Any]:
    """Rename the tensors of transformers' CLIPModel to those of open_clip."""
    import torch

    renamed: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if name.endswith("position_ids"):
            continue
        found = _translated(name, {there: here for here, there in NAMES.items()}, -1)
        if "_proj." in found and ".attn." in found and ".out_proj." not in found:
            stem, kind = found.rsplit(".attn.", 1)
            letter, kind = kind.split("_proj.")
            parts.setdefault(f"{stem}.attn.in_proj_{kind}", {})[letter] = tensor
        else:
            renamed[found] = tensor.T if found in TRANSPOSED else tensor
    return renamed | {name: torch.cat([each[x] for x in "qkv"]) for name, each in parts.items()}


def _for_hub(tensors: dict[str, Any]) -> dict[str, Any]:
    """Rename the tensors of open_clip to those of transformers' CLIPModel."""
    renamed: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if name == "attn_mask":
            continue
        found = _translated(name, NAMES, 1)
        if ".in_proj_" in found:
            stem, kind = found.split(".in_proj_")
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"{stem}.{letter}_proj.{kind}"] = part.contiguous()
        else:
            renamed[found] = (tensor.T if name in TRANSPOSED else tensor).contiguous()
    return renamed


def _translated(name: str, beginnings: dict[str, str], direction: int) -> str:
    for old, new in beginnings.items():
        if name.startswith(old):
            name = new + name[len(old) :]
            break
    for here, there in BLOCK.items():
        name = name.replace(here, there) if direction > 0 else name.replace(there, here)
    return name


def _config() -> dict[str, Any]:
    """Return the sizes of ViT-L/14 as transformers reads them."""
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    vision = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}
    both = {"hidden_act": "quick_gelu", "projection_dim": 768}
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": 768,
        "text_config": text
        | both
        | {"num_hidden_layers": 12, "bos_token_id": 49406, "eos_token_id": 49407},
        "vision_config": vision
        | both
        | {"num_hidden_layers": 24, "image_size": 224, "patch_size": 14},
    }
