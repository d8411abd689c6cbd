"""Native rewards against what upstream's own code computed (`make_golden.py` says how)."""

import importlib.util
import json
import re

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from tests.rewards.inputs import GOLDEN, PROMPTS, SIDE, pictures, read_manifest, weights
from vipo_cli.errors import MissingWeights, ModelError, VipoError
from vipo_cli.rewards import Reward, aesthetic, imagereward, mps, open_clip, rewards
from vipo_cli.rewards.pixels import clip_crop, fitted, normalised, pickscore_crop
from vipo_cli.rewards.words import OPENAI, cleaned, read_clip_words

WORDS = json.loads((GOLDEN / "words.json").read_text())
SCORES = json.loads((GOLDEN / "scores.json").read_text())
PIXELS = load_file(GOLDEN / "pixels.safetensors")
FTFY = importlib.util.find_spec("ftfy") is not None
PLAIN = {name for name, text in PROMPTS.items() if not re.search(r"[^\t\n -~]|&", text)}
"""Prompts that need no repair, which are all that can be encoded without ftfy."""

HUB = {"pickscore", "mps-0.3", "mps-0.9", "hub"}
"""Encoded by the hub's tokenizer, whose files say whether special words may be shouted."""


def cases():
    """Return the pictures and prompts that `make_golden.py` scored, in its order."""
    shown = [data for name, data in sorted(pictures().items()) if name != "rgba"]
    texts = [text for _, text in sorted(PROMPTS.items())]
    count = max(len(shown), len(texts))
    return [(shown[place % len(shown)], texts[place % len(texts)]) for place in range(count)]


@pytest.fixture(scope="module")
def vocabularies(tmp_path_factory):
    """The golden vocabularies in the files that the hub has: one folder for CLIP, one for BERT."""
    from transformers import BertTokenizer, CLIPTokenizer

    folder = tmp_path_factory.mktemp("vocabularies")
    letters = WORDS["letters"]
    merges = [tuple(merge.split(" ")) for merge in WORDS["merges"]]
    pieces = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges), *OPENAI]
    ids = {piece: place for place, piece in enumerate(pieces)}
    CLIPTokenizer(ids, merges, model_max_length=77).save_pretrained(folder / "clip")
    ids = {piece: place for place, piece in enumerate(WORDS["bert"])}
    BertTokenizer(ids).save_pretrained(folder / "bert")
    return folder


@pytest.fixture(scope="module")
def folder(vocabularies, tmp_path_factory):
    """Every small model in the layout of its published files, with weights by seed."""
    from safetensors.torch import save_file
    from transformers import CLIPConfig, CLIPModel

    folder = tmp_path_factory.mktemp("models")

    def made(name):
        return weights(read_manifest(f"small-{name}"))

    for version in ("v2", "v2.1"):
        (folder / "hpsv2").mkdir(exist_ok=True)
        tensors = {"epoch": 1, "state_dict": made("hpsv2")}
        torch.save(tensors, folder / "hpsv2" / f"HPS_{version}_compressed.pt")
    (folder / "imagereward").mkdir()
    torch.save(made("imagereward"), folder / "imagereward" / "ImageReward.pt")
    (folder / "mps").mkdir()
    torch.save(made("mps"), folder / "mps" / "MPS_overall_checkpoint.pth")
    openai = open_clip.as_transformers(made("openai"))
    small = {"num_hidden_layers": 2, "num_attention_heads": 1}
    text = {"hidden_size": 64, "vocab_size": 774, "bos_token_id": 772, "eos_token_id": 773}
    for name, tensors, act, width, inner in (
        ("openai", openai, "quick_gelu", 64, 256),
        ("pickscore", made("pickscore"), "gelu", 80, 160),
    ):
        config = CLIPConfig(
            projection_dim=32,
            text_config={
                **small, **text, "hidden_act": act,
                "intermediate_size": 256 if name == "openai" else 128,
            },
            vision_config={
                **small, "hidden_size": width, "intermediate_size": inner, "image_size": SIDE,
                "patch_size": 8, "hidden_act": act,
            },
        )  # fmt: skip
        with torch.device("meta"):
            assert CLIPModel(config).state_dict().keys() == tensors.keys()
        (folder / name).mkdir()
        config.save_pretrained(folder / name)
        save_file(tensors, folder / name / "model.safetensors", metadata={"format": "pt"})
    torch.save(made("aesthetic"), folder / "openai" / "sac+logos+ava1-l14-linearMSE.pth")
    torch.save(made("aesthetic-linear"), folder / "openai" / "sa_0_4_vit_l_14_linear.pth")
    for name in ("hpsv2", "openai", "pickscore", "mps"):
        for file in (vocabularies / "clip").iterdir():
            (folder / name / file.name).write_bytes(file.read_bytes())
    for file in (vocabularies / "bert").iterdir():
        (folder / "imagereward" / file.name).write_bytes(file.read_bytes())
    return folder


def encodable(name):
    """Return the places of the golden cases whose prompts can be encoded here."""
    needs_repair = {"clip", "clipscore", "hpsv2"}
    names = {text: name for name, text in PROMPTS.items()}
    return [
        place
        for place, (_, text) in enumerate(cases())
        if (FTFY or name not in needs_repair or names[text] in PLAIN)
        and not (name in HUB and names[text] == "shouted")
    ]


@pytest.mark.parametrize(
    ("name", "golden", "where", "dimension", "options", "tolerance"),
    [
        ("pickscore", "pickscore", "pickscore", "overall", {}, 1e-5),
        ("clip", "clip", "openai", "alignment", {}, 1e-5),
        ("clipscore", "clipscore", "openai", "alignment", {"backbone": "vit-l-14"}, 1e-5),
        ("clipscore", "clipscore", "openai", "alignment", {}, 1e-5),
        ("hpsv2.0", "hpsv2", "hpsv2", "overall", {}, 1e-5),
        ("hpsv2.1", "hpsv2", "hpsv2", "overall", {"batch_size": 3}, 1e-5),
        ("imagereward", "imagereward", "imagereward", "overall", {}, 1e-5),
        ("imagereward", "imagereward", "imagereward", "overall", {"batch_size": 1}, 1e-5),
        ("aesthetic", "aesthetic", "openai", "aesthetic", {}, 1e-5),
        ("aesthetic-linear", "aesthetic-linear", "openai", "aesthetic", {}, 1e-5),
        ("mps", "mps-0.3", "mps", "overall", {}, 1e-4),  # of up to 40
        ("mps", "mps-0.9", "mps", "overall", {"relevance": 0.9}, 1e-4),
    ],
)
def test_scores_are_those_of_upstream(folder, name, golden, where, dimension, options, tolerance):
    reward = rewards[name](path=str(folder / where), device="cpu", **options)
    assert isinstance(reward, Reward)
    assert (reward.name, reward.dimension) == (name, dimension)
    places = encodable(golden)
    assert len(places) >= 10
    media, prompts = zip(*(cases()[place] for place in places), strict=True)
    expected = np.array(SCORES[golden])[places]
    scores = reward.score(media, prompts)
    assert scores.dtype == np.float64
    relative = tolerance * max(1, np.abs(expected).max())
    np.testing.assert_allclose(scores, expected, rtol=0, atol=relative)
    assert np.ptp(expected) > 100 * relative  # so that it would be seen if they were not


def test_the_relevance_of_mps_matters():
    assert np.abs(np.subtract(SCORES["mps-0.3"], SCORES["mps-0.9"])).max() > 1


@pytest.mark.parametrize("name", sorted(pictures()))
def test_pictures_are_prepared_as_upstream_does(name):
    data = pictures()[name]
    expected = {way: PIXELS[f"{way}/{name}"] for way in ("clip", "pickscore")}
    np.testing.assert_allclose(normalised(clip_crop(data, SIDE)), expected["clip"], atol=1e-6)
    found = normalised(pickscore_crop(data, SIDE))
    np.testing.assert_allclose(found, expected["pickscore"], atol=1e-6)
    for antialias in (True, False):
        expected = PIXELS[f"hpsv2-{'on' if antialias else 'off'}/{name}"]
        np.testing.assert_allclose(fitted(data, SIDE, antialias), expected, atol=1e-5)


def test_antialiasing_matters_when_shrinking():
    shrunk = [PIXELS[f"hpsv2-{way}/large"] for way in ("on", "off")]
    assert np.abs(shrunk[0] - shrunk[1]).max() > 0.5


def test_a_picture_whose_longest_side_fits_gets_its_bars_where_upstream_fails():
    from PIL import Image

    from vipo_cli.media import encode_png

    pixels = np.full((SIDE, SIDE // 2, 3), 200, np.uint8)
    found = fitted(encode_png(pixels), SIDE)
    bars = fitted(encode_png(np.zeros((SIDE, SIDE, 3), np.uint8)), SIDE)
    assert found.shape == (3, SIDE, SIDE)
    assert np.array_equal(found[:, :, :4], bars[:, :, :4])
    inside = normalised(Image.fromarray(pixels))
    np.testing.assert_allclose(found[:, :, 4:12], inside, atol=1e-6)


@pytest.mark.parametrize("name", sorted(PROMPTS))
@pytest.mark.parametrize(
    ("way", "specials"), [("openai", OPENAI), ("hpsv2", ("<start_of_text>", "<end_of_text>"))]
)
def test_clips_words_are_those_of_upstream(vocabularies, way, specials, name):
    words = read_clip_words(vocabularies / "clip" / "tokenizer.json", specials=specials)
    if not FTFY and name not in PLAIN:
        with pytest.raises(VipoError, match="needs the package ftfy"):
            words([PROMPTS[name]])
        return
    assert words([PROMPTS[name]]) == [WORDS["ids"][way][name]]


@pytest.mark.parametrize("name", sorted(PROMPTS))
def test_berts_words_are_those_of_upstream(vocabularies, name):
    tokenizer = imagereward.bert_words(vocabularies / "bert" / "tokenizer.json")
    found = tokenizer(PROMPTS[name], truncation=True, max_length=35).input_ids
    assert found == WORDS["ids"]["bert"][name]


@pytest.mark.parametrize("name", sorted(PROMPTS.keys() - {"shouted"}))  # as above
def test_the_hubs_words_are_those_of_older_releases(vocabularies, name):
    from vipo_cli.rewards.clip import hub_tokenizer

    tokenizer = hub_tokenizer({"tokenizer.json": vocabularies / "clip" / "tokenizer.json"})
    found = tokenizer(PROMPTS[name], truncation=True, max_length=77).input_ids
    assert found == WORDS["ids"]["hub"][name]


def test_plain_text_is_not_repaired():
    assert cleaned("  A \t b's\n C ") == "a b's c"


def meta(shapes):
    with torch.device("meta"):
        return {name: torch.empty(shape) for name, shape in shapes.items()}


BUILDERS = {
    "hpsv2": open_clip.build,
    "imagereward": imagereward.build,
    "mps": mps.build,
    "aesthetic": aesthetic.head_of,
    "aesthetic-linear": aesthetic.head_of,
}
UNUSED = re.compile(r"position_ids|inv_freq|blip\.(vision|text)_proj\.")


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_every_tensor_of_the_published_sizes_has_its_place(name):
    shapes = read_manifest(name)
    built = BUILDERS[name](meta(shapes), "the file")
    parts = built if isinstance(built, tuple) else (built,)
    count = sum(value.numel() for part in parts for value in part.state_dict().values())
    wanted = sum(int(np.prod(shape)) for key, shape in shapes.items() if not UNUSED.search(key))
    assert count == wanted


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_tensors_that_are_missing_or_left_over_are_named(name):
    shapes = read_manifest(f"small-{name}")
    key = next(key for key in reversed(shapes) if not UNUSED.search(key))
    with pytest.raises(ModelError, match="holds other weights: 1 tensors are missing") as caught:
        BUILDERS[name](meta({k: v for k, v in shapes.items() if k != key}), "the file")
    assert caught.value.details[0].startswith("missing: ")
    stranger = "blip.text_encoder.more" if name == "imagereward" else f"{key}.more.weight.1"
    with pytest.raises(ModelError, match="0 tensors are missing, 1 left over"):
        BUILDERS[name](meta({**shapes, stranger: (1,)}), "the file")
    odd = {**shapes, key: (*shapes[key][:-1], 7 + sum(shapes[key]))}
    with pytest.raises(ModelError, match=r"1 of another shape|[1-9] tensors are missing"):
        BUILDERS[name](meta(odd), "the file")


def test_the_published_sizes_are_those_of_the_papers():
    shapes = read_manifest("hpsv2")
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 986_109_441  # ViT-H-14
    assert len(read_manifest("imagereward")) == 625


def test_a_prompt_is_embedded_once_for_many_pictures(folder, monkeypatch):
    reward = rewards["hpsv2.1"](path=str(folder / "hpsv2"), device="cpu", batch_size=4)
    counted = []
    original = reward.model.get_text_features

    def counting(input_ids):
        counted.append(len(input_ids))
        return original(input_ids=input_ids)

    monkeypatch.setattr(reward.model, "get_text_features", counting)
    data = pictures()["tall"]
    scores = reward.score([data] * 9, ["a red circle"] * 5 + ["a dog"] * 4)
    assert counted == [2]
    assert len(set(np.round(scores[:5], 6))) == 1
    assert abs(scores[0] - scores[8]) > 1e-4


@pytest.mark.parametrize(
    ("name", "where"),
    [("hpsv2.1", "hpsv2"), ("imagereward", "imagereward"), ("aesthetic", "openai"), ("mps", "mps")],
)
def test_broken_pictures_are_nan_and_precision_is_named(folder, name, where):
    reward = rewards[name](path=str(folder / where), device="cpu")
    media = [pictures()["tall"], b"no picture", pictures()["grey"]]
    scores = reward.score(media, ["a red circle"] * 3)
    assert np.isnan(scores).tolist() == [False, True, False]
    assert np.isnan(reward.score([b""], ["a"])).all()
    assert reward.score([], []).shape == (0,)
    half = rewards[name](path=str(folder / where), device="cpu", dtype="bf16")
    assert half.fingerprint != reward.fingerprint
    close = half.score(media, ["a red circle"] * 3)[[0, 2]]
    spread = max(1, np.abs(scores[[0, 2]]).max())
    np.testing.assert_allclose(close, scores[[0, 2]], atol=0.1 * spread)
    assert not np.array_equal(close, scores[[0, 2]])


def test_options_that_change_scores_change_fingerprints(folder):
    def made(name, where, **options):
        return rewards[name](path=str(folder / where), device="cpu", **options).fingerprint

    assert made("hpsv2.1", "hpsv2") != made("hpsv2.1", "hpsv2", antialias="off")
    assert made("hpsv2.1", "hpsv2") != made("hpsv2.0", "hpsv2")
    assert made("hpsv2.1", "hpsv2") == made("hpsv2.1", "hpsv2", batch_size=2)
    assert made("mps", "mps") != made("mps", "mps", relevance=0.01)
    assert made("aesthetic", "openai") != made("aesthetic-linear", "openai")


def test_a_checkpoint_may_lie_alone_under_any_name(folder, vocabularies, tmp_path, monkeypatch):
    file = tmp_path / "mine.pt"
    file.write_bytes((folder / "hpsv2" / "HPS_v2.1_compressed.pt").read_bytes())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(MissingWeights, match="laion/CLIP-ViT-H-14"):
        rewards["hpsv2.1"](path=str(file))
    place = tmp_path / "hub" / "models--laion--CLIP-ViT-H-14-laion2B-s32B-b79K"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc")
    snapshot = place / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for source in (vocabularies / "clip").iterdir():
        (snapshot / source.name).write_bytes(source.read_bytes())
    alone = rewards["hpsv2.1"](path=str(file), device="cpu")
    beside = rewards["hpsv2.1"](path=str(folder / "hpsv2"), device="cpu")
    assert alone.fingerprint == beside.fingerprint


def test_a_model_without_openais_activation_is_refused(folder):
    with pytest.raises(ModelError, match=r"is not OpenAI's: it has the activation `gelu`"):
        rewards["clip"](path=str(folder / "pickscore"), device="cpu")


def test_devices_that_are_not_there_are_a_users_error(folder):
    with pytest.raises(VipoError, match="cannot run on the device `nowhere`"):
        rewards["hpsv2.1"](path=str(folder / "hpsv2"), device="nowhere")


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("hpsv2.0", "HPS_v2_compressed.pt"),
        ("hpsv2.1", "HPS_v2.1_compressed.pt"),
        ("imagereward", "ImageReward.pt"),
        ("aesthetic", "sac%2Blogos%2Bava1-l14-linearMSE.pth"),
        ("mps", "by hand"),
    ],
)
def test_missing_weights_name_files_sizes_licence_and_command(name, file, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(MissingWeights, match=r"not on this machine \(\d+(\.\d)? [GM]B\)") as caught:
        rewards[name]()
    assert file in caught.value.hint
    assert any(
        re.search(r"\(\d.* [GMk]B, (MIT|Apache-2.0)\)", line) for line in caught.value.details
    )
