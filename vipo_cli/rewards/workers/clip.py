"""Rewards on CLIP as each was published: open_clip, OpenAI's package, or AutoModel of transformers.

`clip` and `aesthetic-linear` run in open_clip, as in the notebook of LAION's predictor; `clipscore`
and `aesthetic` in OpenAI's own package, as in both of their repositories, which are scripts and no
packages; `pickscore` in transformers, as on its card. OpenAI's weights are those that the hub has,
under the names that open_clip and OpenAI share. The activation is OpenAI's: since its release 2.29
open_clip takes another one unless the name ends in `-quickgelu`.
"""

import json
import math
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

PACKAGE = "open_clip_torch"
BESIDE = ("clip-anytorch",)
SCORED_BY = {
    "aesthetic": "clip-anytorch",
    "clipscore": "clip-anytorch",
    "pickscore": "transformers",
}
"""The package that a reward is scored by, where that is not open_clip."""

Score = Callable[[list[str], str], list[float]]

OPEN_CLIP = {"clipscore": "ViT-B-32-quickgelu"}
VIT_L = "ViT-L-14-quickgelu"
"""What open_clip calls the models; the others of OpenAI's are this one."""

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
"""How names begin in open_clip and OpenAI's package, and in transformers."""
BLOCK = {
    ".ln_1.": ".layer_norm1.",
    ".ln_2.": ".layer_norm2.",
    ".attn.": ".self_attn.",
    ".mlp.c_fc.": ".mlp.fc1.",
    ".mlp.c_proj.": ".mlp.fc2.",
}
TRANSPOSED = ("visual.proj", "text_projection")

PROCESSOR = {
    "feature_extractor_type": "CLIPFeatureExtractor",
    "do_resize": True,
    "size": 224,
    "resample": 3,
    "do_center_crop": True,
    "crop_size": 224,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
"""How LAION's repository, whose processor PickScore takes, says that pictures are prepared."""

HEADS = {
    "aesthetic": ("sac+logos+ava1-l14-linearMSE.pth", (768, 1024, 128, 64, 16, 1)),
    "aesthetic-linear": ("sa_0_4_vit_l_14_linear.pth", (768, 1)),
}
"""Each predictor's file, and the widths of its layers."""
LAYERS = "layers."
"""What the names in the file of the larger head begin with."""
DROPOUTS = (0.2, 0.2, 0.1)
"""Between the first layers of the larger head; in use they do nothing."""

VIT_H = {
    "projection_dim": 1024,
    "text_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "hidden_act": "gelu",
        "projection_dim": 1024,
    },
    "vision_config": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "hidden_act": "gelu",
        "patch_size": 14,
        "projection_dim": 1024,
    },
}
"""The sizes of PickScore's model."""

_score: Score | None = None


def load(reward: str, files: dict[str, str], device: str) -> dict[str, Any]:
    """Load a reward's model; `vocabulary` is a folder, `head` the file of a predictor's head."""
    global _score
    package = SCORED_BY.get(reward, PACKAGE)
    if package == "transformers":
        model, _score = _pickscore(files["checkpoint"], files["vocabulary"], device)
    else:
        read = _open_clip if package == PACKAGE else _openai
        model, preprocess = read(files["checkpoint"], device)
        if reward in HEADS:
            _score = _aesthetic(model, preprocess, _head(reward, files["head"], device))
        else:
            score_ = _cosine if reward == "clip" else _clipscore
            _score = score_(model, preprocess)
    tower = model.vision_model if package == "transformers" else model.visual
    dtype = next(each.dtype for each in tower.parameters() if each.ndim == 4)
    return {
        "device": device,
        "dtype": str(dtype).removeprefix("torch."),
        "package": package,
        "version": version(package),
    }


def score(pictures: list[str], prompt: str) -> list[float]:
    """Score pictures of one prompt."""
    import torch

    assert _score is not None
    with torch.no_grad():
        return _score(pictures, prompt)


def _open_clip(checkpoint: str, device: str) -> tuple[Any, Any]:
    package = import_module("open_clip")
    model, _, preprocess = package.create_model_and_transforms(VIT_L, pretrained=None)
    model.load_state_dict(_from_hub(_read(checkpoint)))
    return model.to(device).eval(), preprocess


def _openai(checkpoint: str, device: str) -> tuple[Any, Any]:
    """Load a model by `clip.load`; off the CPU it computes in half precision."""
    import torch

    with TemporaryDirectory(prefix="vipo-official-") as place:
        file = Path(place, "model.pt")
        torch.save(_from_hub(_read(checkpoint)), file)
        model, preprocess = import_module("clip").load(str(file), device=device, jit=False)
    return model.eval(), preprocess


def _read(checkpoint: str) -> dict[str, Any]:
    found: dict[str, Any] = import_module("safetensors.torch").load_file(checkpoint)
    return found


def _pixels(pictures: list[str], preprocess: Any, model: Any) -> Any:
    """Prepare pictures each by itself and put them together, where the model is."""
    import torch

    image = import_module("PIL.Image")
    device = next(model.parameters()).device
    return torch.stack([preprocess(image.open(file)) for file in pictures]).to(device)


def _cosine(model: Any, preprocess: Any) -> Score:
    tokenize = import_module("open_clip").get_tokenizer(VIT_L)

    def scored(pictures: list[str], prompt: str) -> list[float]:
        pixels = _pixels(pictures, preprocess, model)
        seen = model.encode_image(pixels)
        said = model.encode_text(tokenize([prompt]).to(pixels.device))
        seen /= seen.norm(dim=-1, keepdim=True)
        said /= said.norm(dim=-1, keepdim=True)
        return [float(value) for value in (seen @ said.T)[:, 0]]

    return scored


def _clipscore(model: Any, preprocess: Any) -> Score:
    """Score as clipscore.py of jmhessel/clipscore does, from embeddings to numpy's cosines."""
    import numpy as np

    tokenize = import_module("clip").tokenize

    def unit(embeddings: Any) -> Any:
        rows = embeddings.cpu().numpy()
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def scored(pictures: list[str], prompt: str) -> list[float]:
        pixels = _pixels(pictures, preprocess, model)
        words = tokenize([f"A photo depicts {prompt}"], truncate=True).to(pixels.device)
        seen, said = unit(model.encode_image(pixels)), unit(model.encode_text(words))
        return [float(value) for value in 2.5 * np.clip((seen * said).sum(1), 0, None)]

    return scored


def _aesthetic(model: Any, preprocess: Any, head: Any) -> Score:
    def scored(pictures: list[str], _: str) -> list[float]:
        seen = model.encode_image(_pixels(pictures, preprocess, model))
        seen = (seen / seen.norm(dim=-1, keepdim=True)).float()
        return [float(value) for value in head(seen)[:, 0]]

    return scored


def _head(reward: str, file: str, device: str) -> Any:
    import torch

    head = _new_head(reward)
    tensors = torch.load(file, map_location="cpu", weights_only=True)
    head.load_state_dict({name.removeprefix(LAYERS): value for name, value in tensors.items()})
    return head.to(device).eval()


def _new_head(reward: str) -> Any:
    """Return the layers of a head, numbered as in its file."""
    from torch import nn

    _, widths = HEADS[reward]
    if len(widths) == 2:
        return nn.Linear(*widths)
    layers: list[nn.Module] = []
    for place, (inner, outer) in enumerate(pairwise(widths)):
        layers.append(nn.Linear(inner, outer))
        layers += [nn.Dropout(share) for share in DROPOUTS[place : place + 1]]
    return nn.Sequential(*layers)


def _pickscore(checkpoint: str, vocabulary: str, device: str) -> tuple[Any, Score]:
    """Score as the card of PickScore_v1 does; transformers 4 prepares pictures with PIL."""
    package = import_module("transformers")
    image = import_module("PIL.Image")
    with TemporaryDirectory(prefix="vipo-official-") as place:
        for file in Path(vocabulary).iterdir():
            if "token" in file.name:
                Path(place, file.name).symlink_to(file.resolve())
        Path(place, "config.json").write_text('{"model_type": "clip"}')
        Path(place, "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
        processor = package.AutoProcessor.from_pretrained(place)
    model = package.AutoModel.from_pretrained(Path(checkpoint).parent).eval().to(device)
    settings = {"padding": True, "truncation": True, "max_length": 77, "return_tensors": "pt"}

    def scored(pictures: list[str], prompt: str) -> list[float]:
        opened = [image.open(file) for file in pictures]
        seen = model.get_image_features(**processor(images=opened, **settings).to(device))
        said = model.get_text_features(**processor(text=prompt, **settings).to(device))
        seen = seen / seen.norm(dim=-1, keepdim=True)
        said = said / said.norm(dim=-1, keepdim=True)
        return [float(value) for value in model.logit_scale.exp() * (said @ seen.T)[0]]

    return model, scored


def random_weights(folder: str, randomise: Any, reward: str) -> str:
    """Write the files of a reward as they are published, its vocabulary too.

    Returns the one by which they are known: of a predictor its head, else the model's.
    """
    model = _random_vit_h(randomise) if reward == "pickscore" else _random_openai(reward, randomise)
    model.save_pretrained(folder)
    _write_vocabulary(folder)
    if reward in HEADS:
        return _random_head(folder, randomise, reward)
    return str(Path(folder, "model.safetensors"))


def _random_head(folder: str, randomise: Any, reward: str) -> str:
    import torch

    head = _new_head(reward)
    randomise(head)
    first = next(head.parameters()).data
    first.mul_(first.shape[1] ** 0.5)  # embeddings are of length one: else all scores are alike
    name, widths = HEADS[reward]
    prefix = LAYERS if len(widths) > 2 else ""
    tensors = {prefix + each: value for each, value in head.state_dict().items()}
    torch.save(tensors, Path(folder, name))
    return str(Path(folder, name))


def _random_vit_h(randomise: Any) -> Any:
    package = import_module("transformers")
    model = package.CLIPModel(package.CLIPConfig(**VIT_H))
    randomise(model)
    model.logit_scale.data.fill_(math.log(100))  # what it was trained up to
    return model


def _random_openai(reward: str, randomise: Any) -> Any:
    """Draw one of OpenAI's models in transformers, of what half precision can tell apart.

    So it is published, and so OpenAI's package rounds what it reads.
    """
    package = import_module("transformers")
    model = package.CLIPModel(package.CLIPConfig(**_config(OPEN_CLIP.get(reward, VIT_L))))
    randomise(model)
    return model.half().float()


def _config(name: str) -> dict[str, Any]:
    """Return the sizes of a model of open_clip as transformers reads them."""
    sizes = import_module("open_clip").get_model_config(name)
    text, vision, width = sizes["text_cfg"], sizes["vision_cfg"], sizes["embed_dim"]
    both = {"hidden_act": "quick_gelu", "projection_dim": width}

    def tower(own: dict[str, Any], head: int) -> dict[str, Any]:
        return both | {
            "hidden_size": own["width"],
            "intermediate_size": 4 * own["width"],
            "num_hidden_layers": own["layers"],
            "num_attention_heads": own["width"] // head,
        }

    ends = {"bos_token_id": 49406, "eos_token_id": 49407}
    grid = {"image_size": vision["image_size"], "patch_size": vision["patch_size"]}
    return {
        "projection_dim": width,
        "text_config": tower(text, 64) | ends,
        "vision_config": tower(vision, 64) | grid,
    }


def _write_vocabulary(folder: str) -> None:
    """Write CLIP's vocabulary as the hub has it, from the one that OpenAI's package brings."""
    words = import_module("clip.simple_tokenizer").SimpleTokenizer()
    merges = [" ".join(pair) for pair in sorted(words.bpe_ranks, key=words.bpe_ranks.get)]
    with TemporaryDirectory(prefix="vipo-official-") as place:
        Path(place, "vocab.json").write_text(json.dumps(words.encoder))
        Path(place, "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
        tokenizer = import_module("transformers").CLIPTokenizerFast.from_pretrained(
            place, model_max_length=77
        )
        tokenizer.save_pretrained(folder)


def _from_hub(tensors: dict[str, Any]) -> dict[str, Any]:
    """Rename the tensors of transformers' CLIPModel to those of open_clip and OpenAI."""
    import torch

    renamed: dict[str, Any] = {}
    parts: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if name.endswith("position_ids"):
            continue
        found = _translated(name)
        if "_proj." in found and ".attn." in found and ".out_proj." not in found:
            stem, kind = found.rsplit(".attn.", 1)
            letter, kind = kind.split("_proj.")
            parts.setdefault(f"{stem}.attn.in_proj_{kind}", {})[letter] = tensor
        else:
            renamed[found] = tensor.T.contiguous() if found in TRANSPOSED else tensor
    return renamed | {name: torch.cat([each[x] for x in "qkv"]) for name, each in parts.items()}


def _translated(name: str) -> str:
    for here, there in NAMES.items():
        if name.startswith(there):
            name = here + name[len(there) :]
            break
    for here, there in BLOCK.items():
        name = name.replace(there, here)
    return name
