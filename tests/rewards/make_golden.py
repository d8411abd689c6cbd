"""Make the golden files anew by running the upstream code; not part of the tests.

Needs an environment of its own, in which vipo is not installed (Python 3.11, Linux, CPU):

    pip install torch==2.13.0 transformers==4.57.6 ftfy regex einops clint requests
    pip install --no-deps torchvision==0.28.0 timm==1.0.31 open_clip_torch==3.3.0 \
        image-reward==1.5 hpsv2==1.2.0 fairscale==0.4.13
    python tests/rewards/make_golden.py --clip CLIP --mps MPS

where CLIP and MPS are checkouts of github.com/openai/CLIP and github.com/Kwai-Kolors/MPS. The
vocabulary that hpsv2's wheel lacks is supplied from open_clip's, which is the same file.

Everything is small and made from seeds: models have the published code and reduced sizes.
"""

import argparse
import collections
import gzip
import importlib.util
import io
import itertools
import json
import os
import re
import shutil
import sys
import tempfile
import types
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parent))
import inputs
from inputs import GOLDEN, PROMPTS, SIDE, pictures, weights

MERGES = 260
PACKAGES = (
    "torch", "torchvision", "transformers", "hpsv2", "image-reward", "open_clip_torch", "pillow",
    "ftfy", "regex", "timm",
)  # fmt: skip


def make_upstream_importable(clip, mps):
    """Let torchvision load beside a CPU-only torch, and old imports find what moved."""
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from transformers import modeling_utils, pytorch_utils

    for name in (
        "apply_chunking_to_forward",
        "find_pruneable_heads_and_indices",
        "prune_linear_layer",
    ):
        setattr(modeling_utils, name, getattr(pytorch_utils, name))
    sys.path += [str(clip), str(mps)]
    spec = importlib.util.find_spec
    package = types.ModuleType("ImageReward")  # its own __init__ wants a trainer's dependencies
    package.__path__ = list(spec("ImageReward").submodule_search_locations)
    sys.modules["ImageReward"] = package
    ours = Path(spec("hpsv2").origin).parent / "src/open_clip/bpe_simple_vocab_16e6.txt.gz"
    if not ours.exists():
        shutil.copy(Path(spec("open_clip").origin).parent / ours.name, ours)
    return library


def train_merges():
    """Learn a small byte-pair encoding from the prompts."""
    from hpsv2.src.open_clip.tokenizer import SimpleTokenizer

    upstream = SimpleTokenizer()
    words = collections.Counter()
    for text in (*PROMPTS.values(), "A photo depicts "):
        for word in re.findall(r"\w+|[^\w\s]+", text.lower()):
            letters = [upstream.byte_encoder[byte] for byte in word.encode()]
            words[(*letters[:-1], letters[-1] + "</w>")] += 1
    merges = []
    while len(merges) < MERGES:
        pairs = collections.Counter()
        for word, count in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += count
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        joined = collections.Counter()
        for word, count in words.items():
            text, place = [], 0
            while place < len(word):
                if word[place : place + 2] == best:
                    text.append("".join(best))
                    place += 2
                else:
                    text.append(word[place])
                    place += 1
            joined[tuple(text)] += count
        words = joined
    return merges


def write_merges(merges, folder):
    """Write merges as upstream reads them."""
    file = folder / "bpe.txt.gz"
    lines = ["#version", *(" ".join(merge) for merge in merges)]
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    return file


def openai_tokenizer(file):
    from clip.simple_tokenizer import SimpleTokenizer

    return SimpleTokenizer(str(file))


def clip_ids(tokenizer, text, length=77):
    """Do what `tokenize` of CLIP and of open_clip does with one text."""
    specials = [word for word in tokenizer.encoder if re.fullmatch(r"<.*start.*>", word)]
    ends = [word for word in tokenizer.encoder if re.fullmatch(r"<.*end.*>", word)]
    ids = [tokenizer.encoder[specials[-1]], *tokenizer.encode(text), tokenizer.encoder[ends[-1]]]
    return ids if len(ids) <= length else [*ids[: length - 1], ids[-1]]


def bert_vocabulary():
    """Return a small vocabulary for WordPiece; specials come where BERT has them, so to speak."""
    letters = sorted(
        {letter for text in PROMPTS.values() for letter in text if letter.isprintable()}
    )
    seen = [letter for letter in letters if not letter.isspace()]
    lower = sorted({part for letter in seen for part in (letter, *letter.lower())})
    pieces = ["##" + letter for letter in lower]
    words = ["red", "circle", "photo", "the", "words", "##ing", "##s", "cafe", "very", "long"]
    return ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *lower, *pieces, *words]


def golden_words(folder):
    """Return the vocabularies and what upstream makes of every prompt."""
    from hpsv2.src.open_clip.tokenizer import SimpleTokenizer
    from transformers import BertTokenizer, CLIPTokenizerFast

    merges = train_merges()
    file = write_merges(merges, folder)
    openai, hps = openai_tokenizer(file), SimpleTokenizer(str(file))
    (folder / "vocab.json").write_text(json.dumps(openai.encoder))
    (folder / "merges.txt").write_text("\n".join(["#version", *map(" ".join, merges)]) + "\n")
    hub = CLIPTokenizerFast.from_pretrained(folder)
    hub.save_pretrained(folder / "hub")
    (folder / "bert-base-uncased").mkdir()
    (folder / "bert-base-uncased" / "vocab.txt").write_text("\n".join(bert_vocabulary()))
    bert = BertTokenizer.from_pretrained(folder / "bert-base-uncased")
    bert.add_special_tokens({"bos_token": "[DEC]"})
    bert.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    ids = {
        "openai": {name: clip_ids(openai, text) for name, text in PROMPTS.items()},
        "hpsv2": {name: clip_ids(hps, text) for name, text in PROMPTS.items()},
        "hub": {
            name: hub(text, truncation=True, max_length=77).input_ids
            for name, text in PROMPTS.items()
        },
        "bert": {
            name: bert(text, truncation=True, max_length=35).input_ids
            for name, text in PROMPTS.items()
        },
    }
    return {
        "merges": [" ".join(merge) for merge in merges],
        "letters": list(openai.byte_encoder.values()),
        "bert": bert_vocabulary(),
        "ids": ids,
    }


def opened(data):
    return Image.open(io.BytesIO(data))


def processed(processor, data):
    """Prepare a picture as PickScore and MPS do; said to be colours last, since one row is not."""
    picture = opened(data).convert("RGB")
    return processor(picture, return_tensors="pt", input_data_format="channels_last").pixel_values


def golden_pixels():
    """Return what each official preparation makes of every picture."""
    import hpsv2.src.open_clip.transform as hps
    from ImageReward.ImageReward import _transform
    from transformers import CLIPImageProcessor

    found = {}
    processor = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIDE)
    resize = hps.F.resize
    for name, data in pictures().items():
        found[f"clip/{name}"] = _transform(SIDE)(opened(data)).numpy()
        rgb = opened(data).convert("RGB")
        found[f"pickscore/{name}"] = processed(processor, data)[0].numpy()
        shown = rgb if opened(data).mode == "RGBA" else opened(data)  # it fails on four channels
        for antialias in (True, False):
            hps.F.resize = lambda *given, antialias=antialias: resize(*given, antialias=antialias)
            prepare = hps.image_transform(SIDE, is_train=False, resize_longest_max=True)
            found[f"hpsv2-{'on' if antialias else 'off'}/{name}"] = prepare(shown).numpy()
            hps.F.resize = resize
    return {name: np.ascontiguousarray(value, np.float32) for name, value in found.items()}


def shapes(module):
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def collapse(found):
    """Write names that differ in the number of a layer only once."""
    layers = collections.Counter(re.sub(r"(?<=\.)\d+(?=\.)", "{}", name, count=1) for name in found)
    short = {}
    for name, shape in found.items():
        pattern = re.sub(r"(?<=\.)\d+(?=\.)", "{}", name, count=1)
        if "layers." in name and not re.search(r"(encoder|cross_model)\.layers\.", name):
            short[name] = [list(shape), 1]  # a head, whose layers differ
        else:
            short[pattern] = [list(shape), layers[pattern]]
    assert inputs.expand(short) == {name: tuple(shape) for name, shape in found.items()}
    return short


def clip_hub(folder, act, width=64, vocabulary=None, side=SIDE, hidden=64):
    """Return the configuration of a small CLIP model of the hub."""
    from transformers import CLIPConfig

    return CLIPConfig(
        projection_dim=32,
        text_config={
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 1, "vocab_size": vocabulary, "hidden_act": act,
            "bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1,
            "pad_token_id": vocabulary - 1,
        },
        vision_config={
            "hidden_size": hidden, "intermediate_size": 2 * hidden, "num_hidden_layers": 2,
            "num_attention_heads": 1, "image_size": side, "patch_size": 8, "hidden_act": act,
        },
    )  # fmt: skip


def hpsv2_model(vocabulary, full=False):
    from hpsv2.src.open_clip.model import CLIP

    if full:
        sizes = json.loads(
            Path(sys.modules["hpsv2.src.open_clip"].__file__)
            .with_name("model_configs").joinpath("ViT-H-14.json").read_text()
        )  # fmt: skip
        return CLIP(**sizes, output_dict=True)
    vision = {"image_size": SIDE, "layers": 2, "width": 80, "head_width": 80, "patch_size": 8}
    text = {"context_length": 77, "vocab_size": vocabulary, "width": 64, "heads": 1, "layers": 2}
    return CLIP(32, vision, text, output_dict=True)


def score_hpsv2(model, tokenizer, prepare, cases):
    """Score as `hpsv2.score` does."""
    scores = []
    for data, text in cases:
        ids = torch.zeros(1, 77, dtype=torch.long)
        row = clip_ids(tokenizer, text)
        ids[0, : len(row)] = torch.tensor(row)
        with torch.no_grad():
            outputs = model(prepare(opened(data))[None], ids)
        scores.append((outputs["image_features"] @ outputs["text_features"].T).item())
    return scores


def imagereward_model(tokenizer, full=False):
    """Return the published class; put together by hand, so that it can be small."""
    from ImageReward.ImageReward import MLP, ImageReward, _transform
    from ImageReward.models.BLIP.med import BertConfig, BertModel
    from ImageReward.models.BLIP.vit import VisionTransformer

    config = BertConfig(
        hidden_size=768 if full else 64,
        num_hidden_layers=12 if full else 2,
        num_attention_heads=12 if full else 1,
        intermediate_size=3072 if full else 128,
        vocab_size=30524 if full else len(tokenizer),
        layer_norm_eps=1e-12,
        max_position_embeddings=512 if full else 40,
        hidden_act="gelu",
    )
    config.add_cross_attention = True
    config.encoder_width = 1024 if full else 64
    small = {"img_size": SIDE, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1}
    large = {"img_size": 224, "patch_size": 16, "embed_dim": 1024, "depth": 24, "num_heads": 16}
    model = ImageReward.__new__(ImageReward)
    torch.nn.Module.__init__(model)
    model.device = "cpu"
    model.blip = torch.nn.Module()
    model.blip.visual_encoder = VisionTransformer(**(large if full else small))
    model.blip.text_encoder = BertModel(config=config, add_pooling_layer=False)
    model.blip.tokenizer = tokenizer
    model.blip.vision_proj = torch.nn.Linear(config.encoder_width, 256 if full else 8)
    model.blip.text_proj = torch.nn.Linear(config.hidden_size, 256 if full else 8)
    model.preprocess = _transform(224 if full else SIDE)
    model.mlp = MLP(config.hidden_size)
    model.mean, model.std = 0.16717362830052426, 1.0333394966054072
    return model


def openai_model(vocabulary):
    from clip.model import CLIP

    return CLIP(32, SIDE, 2, 64, 8, 77, vocabulary, 64, 1, 2)


def mps_model(config, full=False):
    from trainer.models.clip_model import CLIPModel, XCLIPModel
    from trainer.models.cross_modeling import Cross_model

    model = CLIPModel.__new__(CLIPModel)
    torch.nn.Module.__init__(model)
    model.model = XCLIPModel(config)
    sizes = {"dim": 1024, "layer_num": 4, "heads": 16} if full else {
        "dim": 32, "layer_num": 2, "dim_head": 16, "heads": 2,
    }  # fmt: skip
    model.cross_model = Cross_model(**sizes)
    for part in (model.model.text_model, model.model.vision_model):
        part.forward = without_return_dict(part.forward)
    return model


def without_return_dict(forward):
    """Drop an argument that the published code passes and this release of transformers lost."""
    return lambda *given, return_dict=None, **named: forward(*given, **named)


def score_mps(model, tokenizer, processor, cases, relevance):
    """Score as the authors' benchmark code does, in float32."""
    from einops import einsum

    condition = (
        "light, color, clarity, tone, style, ambiance, artistry, shape, face, hair, hands, limbs, "
        "structure, instance, texture, quantity, attributes, position, number, location, word, "
        "things."
    )

    def tokenize(text):
        return tokenizer(
            text, max_length=77, padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids

    scores = []
    for data, text in cases:
        pixels = processed(processor, data)
        with torch.no_grad():
            words, summary = model.model.get_text_features(tokenize(text))
            seen = model.model.get_image_features(pixels)
            asked, _ = model.model.get_text_features(tokenize(condition))
            related = einsum(words, asked, "b i d, b j d -> b j i").amax(1, keepdim=True)
            related = related / related.max()
            mask = torch.where(related > relevance, 0, float("-inf")).repeat(1, seen.shape[1], 1)
            through = model.cross_model(seen, words, mask)[:, 0]
            through = through / through.norm(dim=-1, keepdim=True)
            summary = summary / summary.norm(dim=-1, keepdim=True)
            scores.append((model.logit_scale.exp() * summary @ through.T).item())
    return scores


def cases():
    """Return pictures with prompts: every picture and every prompt at least once."""
    shown = [data for name, data in sorted(pictures().items()) if name != "rgba"]
    texts = [text for _, text in sorted(PROMPTS.items())]
    count = max(len(shown), len(texts))
    return [(shown[place % len(shown)], texts[place % len(texts)]) for place in range(count)]


def golden_scores(words, folder):
    """Return small models as manifests, and what upstream's code gives with weights by seed."""
    import hpsv2.src.open_clip.transform as hps
    from hpsv2.src.open_clip.tokenizer import SimpleTokenizer
    from ImageReward.models.AestheticScore import MLP
    from transformers import BertTokenizer, CLIPImageProcessor, CLIPModel, CLIPTokenizerFast

    vocabulary = 512 + MERGES + 2
    manifests, scores = {}, {}

    def filled(name, model):
        found = shapes(model)
        manifests[name] = collapse(found)
        model.load_state_dict(weights(found))
        return model.eval()

    file = folder / "bpe.txt.gz"
    model = filled("small-hpsv2", hpsv2_model(vocabulary))
    prepare = hps.image_transform(SIDE, is_train=False, resize_longest_max=True)
    ours = [(data, text) for data, text in cases() if opened(data).mode != "RGBA"]
    scores["hpsv2"] = score_hpsv2(model, SimpleTokenizer(str(file)), prepare, ours)

    bert = BertTokenizer.from_pretrained(folder / "bert-base-uncased")
    bert.add_special_tokens({"bos_token": "[DEC]"})
    bert.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    model = filled("small-imagereward", imagereward_model(bert))
    scores["imagereward"] = []
    for place, (data, text) in enumerate(cases()):
        picture = folder / f"{place}.png"
        picture.write_bytes(data)
        scores["imagereward"].append(model.score(text, str(picture)))

    from ImageReward.ImageReward import _transform

    model = filled("small-openai", openai_model(vocabulary))
    tokenizer, prepare = openai_tokenizer(file), _transform(SIDE)
    scores["clip"], scores["clipscore"], embeddings = [], [], []
    for data, text in cases():
        with torch.no_grad():
            seen = model.encode_image(prepare(opened(data))[None]).double()
            seen = seen / seen.norm(dim=-1, keepdim=True)
            embeddings.append(seen.float())
            for name, prompt in (("clip", text), ("clipscore", "A photo depicts " + text)):
                ids = torch.zeros(1, 77, dtype=torch.long)
                row = clip_ids(tokenizer, prompt)
                ids[0, : len(row)] = torch.tensor(row)
                read = model.encode_text(ids).double()
                cosine = (seen * read / read.norm(dim=-1, keepdim=True)).sum().item()
                scores[name].append(2.5 * max(cosine, 0) if name == "clipscore" else cosine)

    for name, head in (("aesthetic", MLP(32)), ("aesthetic-linear", torch.nn.Linear(32, 1))):
        head = filled(f"small-{name}", head)
        with torch.no_grad():
            scores[name] = [head(seen).item() for seen in embeddings]

    processor = CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SIDE)
    hub = CLIPTokenizerFast.from_pretrained(folder / "hub")
    config = clip_hub(folder, "gelu", vocabulary=vocabulary, hidden=80)
    model = filled("small-pickscore", CLIPModel(config))
    scores["pickscore"] = []
    for data, text in cases():
        pixels = processed(processor, data)
        read = hub(text, padding=True, truncation=True, max_length=77, return_tensors="pt")
        with torch.no_grad():
            seen, words_ = model.get_image_features(pixels), model.get_text_features(**read)
            seen = seen / torch.norm(seen, dim=-1, keepdim=True)
            words_ = words_ / torch.norm(words_, dim=-1, keepdim=True)
            scores["pickscore"].append((model.logit_scale.exp() * words_ @ seen.T).item())

    model = filled("small-mps", mps_model(config))
    for relevance in (0.3, 0.9):  # with these weights no word is below 0.3
        scores[f"mps-{relevance}"] = score_mps(model, hub, processor, cases(), relevance)
    return manifests, scores


def full_manifests():
    """Return names and shapes of the published checkpoints, as the published code builds them."""
    from hpsv2.src.open_clip import tokenizer as _  # noqa: F401
    from ImageReward.models.AestheticScore import MLP

    found = {
        "imagereward": imagereward_model(None, full=True)
    }  # which the meta device cannot build
    with torch.device("meta"):
        found |= {
            "hpsv2": hpsv2_model(49408, full=True),
            "aesthetic": MLP(768),
            "aesthetic-linear": torch.nn.Linear(768, 1),
        }
    from transformers import CLIPConfig

    huge = CLIPConfig(
        projection_dim=1024,
        text_config={
            "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
            "num_attention_heads": 16, "vocab_size": 49408, "hidden_act": "gelu",
        },
        vision_config={
            "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
            "num_attention_heads": 16, "image_size": 224, "patch_size": 14, "hidden_act": "gelu",
        },
    )  # fmt: skip
    with torch.device("meta"):
        found["mps"] = mps_model(huge, full=True)
    return {name: collapse(shapes(model)) for name, model in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--clip", type=Path, required=True, help="checkout of openai/CLIP")
    parser.add_argument("--mps", type=Path, required=True, help="checkout of Kwai-Kolors/MPS")
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep = make_upstream_importable(given.clip.absolute(), given.mps.absolute())
    GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        os.chdir(folder)
        words = golden_words(folder)
        manifests, scores = golden_scores(words, folder)
    manifests |= full_manifests()
    about = {name: version(name) for name in PACKAGES}
    save_file(golden_pixels(), GOLDEN / "pixels.safetensors", metadata=about)
    write = {"manifests": manifests, "words": words, "scores": {"made with": about, **scores}}
    for name, value in write.items():
        lines = json.dumps(value, indent=None, separators=(",", ":"), ensure_ascii=True)
        (GOLDEN / f"{name}.json").write_text(re.sub(r'(?<=[\]}]),(?=")', ",\n", lines) + "\n")
    del keep


if __name__ == "__main__":
    main()
