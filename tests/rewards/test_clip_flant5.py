"""CLIP-FlanT5 beside the code of its authors, by way of golden/clip_flant5.json."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.rewards import random_clip_flant5 as given
from vipo_cli.errors import MissingWeights, ModelError
from vipo_cli.media import decode, encode_clip
from vipo_cli.rewards import Reward, clip_flant5, rewards
from vipo_cli.rewards.clip_flant5 import BEFORE, load_words, padded
from vipo_cli.rewards.clip_flant5_parts import IGNORED, SHARED
from vipo_cli.rewards.pixels import MEAN, SPREAD
from vipo_cli.weights import SOURCES

GOLDEN = json.loads(given.GOLDEN.read_text())
PLACE_OF_PICTURE = -200


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("clip_flant5")
    made = (GOLDEN["shapes"], GOLDEN["pieces"])
    return {kind: given.write_files(root / kind, kind, *made) for kind in given.KINDS}


@pytest.fixture(scope="module")
def reward(folders):
    return load(folders["xl"])


def load(folder, dtype="fp32", batch_size=8):
    return rewards["vqascore"](model=str(folder), device="cpu", dtype=dtype, batch_size=batch_size)


def copied(folder, target, **changed):
    """Copy the smaller model with some files, named without suffix, replaced."""
    names = {"config": "config.json", "words": "tokenizer.json", "weights": "pytorch_model.bin"}
    target.mkdir()
    for what, name in names.items():
        body = changed[what] if what in changed else (folder / name).read_bytes()
        if body is not None:
            (target / name).write_bytes(body)
    return target


@pytest.mark.parametrize("kind", given.KINDS)
@pytest.mark.parametrize("batch_size", [8, 2, 1])
def test_scores_are_those_of_the_authors_code(folders, kind, batch_size):
    """Five shapes of pictures and lengths of prompts, together and alone."""
    reward = load(folders[kind], batch_size=batch_size)
    assert isinstance(reward, Reward)
    scores = reward.score(given.pictures(), given.PROMPTS)
    np.testing.assert_allclose(scores, GOLDEN[kind]["scores"], rtol=2e-5, atol=0)
    np.testing.assert_allclose(scores, GOLDEN[kind]["together"], rtol=2e-5, atol=0)


def test_the_two_configs_differ_where_the_published_ones_do():
    """FlanT5-XXL's config names the exact gelu, FlanT5-XL's the approximate one."""
    ratio = np.array(GOLDEN["xxl"]["scores"]) / GOLDEN["xl"]["scores"]
    assert np.abs(ratio - 1).min() > 1e-4


def test_tokens_are_those_of_the_authors_code(folders):
    words = load_words(folders["xl"] / "tokenizer.json")
    found = [
        [*words.encode(BEFORE), PLACE_OF_PICTURE, *words.ask(prompt)] for prompt in given.PROMPTS
    ]
    assert found == GOLDEN["xl"]["ids"] == GOLDEN["xxl"]["ids"]
    assert len(words) == len(GOLDEN["pieces"]) + given.EXTRA


def test_picture_and_prompt_both_count(reward):
    pictures, prompts = given.pictures(), given.PROMPTS
    for scores in (
        reward.score(pictures, [prompts[0]] * len(pictures)),
        reward.score([pictures[0]] * len(prompts), prompts),
    ):
        assert np.diff(np.sort(scores)).min() > 1e-6 * scores.max()


def test_pictures_are_padded_with_the_mean_colour():
    """Bars of 122, 116 and 104 above and below, whose sum is odd and so larger below."""
    wide = decode(given.pictures()[0])
    pixels = padded(given.pictures()[0], 90).transpose(1, 2, 0)
    colours = (pixels * SPREAD + MEAN) * 255
    assert wide.size == (90, 60)
    bars = np.concatenate([colours[:15], colours[75:]])
    np.testing.assert_allclose(bars, np.broadcast_to([122, 116, 104], bars.shape), atol=1e-3)
    np.testing.assert_allclose(colours[15:75], np.asarray(wide), atol=1e-3)


@pytest.mark.parametrize(("dtype", "most"), [("bf16", 0.2), ("fp16", 0.05)])
def test_half_precision_is_near(folders, reward, dtype, most):
    half = load(folders["xl"], dtype)
    scores = half.score(given.pictures(), given.PROMPTS)
    np.testing.assert_allclose(scores, reward.score(given.pictures(), given.PROMPTS), rtol=most)
    assert (
        half.look.dtype
        == half.read.shared.weight.dtype
        == getattr(torch, {"bf16": "bfloat16", "fp16": "float16"}[dtype])
    )
    assert half.fingerprint != reward.fingerprint
    assert half.read.encoder.embed_tokens is half.read.decoder.embed_tokens is half.read.shared


def test_what_cannot_be_judged_is_nan(reward):
    clip = encode_clip(np.zeros((3, 30, 30, 3), np.uint8), 8)
    first = given.pictures()[0]
    media = [first, b"no picture", clip, first, first, first]
    prompts = ["a", "a", "a", "an <image>", "<extra_id_3>", "a"]
    scores = reward.score(media, prompts)
    assert np.isnan(scores).tolist() == [False, True, True, True, True, False]
    assert scores[0] == pytest.approx(scores[5], rel=1e-6)
    assert reward.score([], []).shape == (0,)


def test_long_prompts_are_cut_as_the_authors_code_does(reward, monkeypatch):
    """Told, picture and question have 300 tokens at most; the picture counts as one."""
    told = len(reward.words.encode(BEFORE))
    first = given.pictures()[:1]
    prompts = ["two dogs " * 100, "two dogs " * 100 + "and a cat"]
    assert min(len(reward.words.ask(prompt)) for prompt in prompts) > 300 - told - 1
    whole = [reward.score(first, [prompt])[0] for prompt in prompts]
    monkeypatch.setattr(clip_flant5, "LENGTH", 300)
    cut = [reward.score(first, [prompt])[0] for prompt in prompts]
    assert cut[0] == cut[1]
    assert len({*whole, *cut}) == 3


def test_every_layout_gives_the_same_scores(folders, reward, tmp_path):
    """Safetensors keep one of the names of a shared tensor, older releases two more tensors."""
    whole = given.tensors(GOLDEN["shapes"])
    shared = whole.pop("shared.weight")
    whole = {name: each for name, each in whole.items() if "embed_tokens" not in name}
    whole["decoder.embed_tokens.weight"] = shared
    whole |= {name: torch.zeros(1) for name in IGNORED}
    folder = copied(folders["xl"], tmp_path / "other", weights=None)
    save_file(whole, folder / "model.safetensors")
    scores = load(folder).score(given.pictures(), given.PROMPTS)
    assert scores.tolist() == reward.score(given.pictures(), given.PROMPTS).tolist()


def test_fingerprints_tell_files_and_precision(folders, reward):
    found = {load(folder, dtype).fingerprint for folder in folders.values() for dtype in
             ("fp32", "bf16")}  # fmt: skip
    assert len(found) == 4
    assert reward.fingerprint in found
    assert load(folders["xl"], batch_size=1).fingerprint == reward.fingerprint


def test_other_weights_are_refused(folders, tmp_path):
    whole = given.tensors(GOLDEN["shapes"])
    file = tmp_path / "other.bin"

    def saved(name, changed):
        torch.save(changed, file)
        return copied(folders["xl"], tmp_path / name, weights=file.read_bytes())

    last = "encoder.final_layer_norm.weight"
    lacking = {name: each for name, each in whole.items() if name != last}
    with pytest.raises(ModelError, match="1 tensors are missing, 1 left over") as caught:
        load(saved("renamed", lacking | {"encoder.norm.weight": whole[last]}))
    assert [detail.split()[:-1] for detail in caught.value.details] == [
        ["missing:", last],
        ["left", "over:", "encoder.norm.weight"],
    ]
    with pytest.raises(ModelError, match="words differ"):
        load(saved("words", whole | {"embed_tokens.weight": whole["shared.weight"] + 1}))
    unseen = {name: each for name, each in whole.items() if not name.startswith("vision_tower")}
    with pytest.raises(ModelError, match="sizes of the model are missing"):
        load(saved("unseen", unseen))
    wordless = {name: each for name, each in whole.items() if name not in SHARED}
    with pytest.raises(ModelError, match="3 tensors are missing"):
        load(saved("wordless", wordless))


def test_other_files_are_refused(folders, tmp_path):
    folder = folders["xl"]
    config = json.loads((folder / "config.json").read_text())

    def described(**changed):
        return json.dumps(config | changed).encode()

    wrong = described(mm_vision_select_layer=-1, mm_projector_type="linear")
    with pytest.raises(ModelError, match="another way") as caught:
        load(copied(folder, tmp_path / "built", config=wrong))
    assert len(caught.value.details) == 2
    with pytest.raises(ModelError, match="describes no T5"):
        load(copied(folder, tmp_path / "t5", config=described(feed_forward_proj="a-b-c")))
    with pytest.raises(ModelError, match="cannot load the tokenizer"):
        load(copied(folder, tmp_path / "torn", words=b"{"))
    larger = tmp_path / "larger.json"
    given.write_tokenizer(larger, [*GOLDEN["pieces"], *((f"x{n}", -9.0) for n in range(99))])
    with pytest.raises(ModelError, match="does not belong"):
        load(copied(folder, tmp_path / "larger", words=larger.read_bytes()))


def test_what_is_missing_is_told_of(folders, tmp_path, monkeypatch):
    with pytest.raises(MissingWeights, match="holds no weights"):
        load(copied(folders["xl"], tmp_path / "empty", weights=None))
    with pytest.raises(MissingWeights, match=r"holds no `tokenizer\.json`"):
        load(copied(folders["xl"], tmp_path / "mute", words=None))
    half = copied(folders["xxl"], tmp_path / "half", weights=None)
    index = "pytorch_model.bin.index.json"
    (half / index).write_bytes((folders["xxl"] / index).read_bytes())
    with pytest.raises(MissingWeights, match=r"pytorch_model-00001-of-00002\.bin"):
        load(half)
    (half / index).write_text("[]")
    with pytest.raises(ModelError, match="no index of weights"):
        load(half)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("clip-flant5-xxl", "zhiqiulin/clip-flant5-xl"):
        with pytest.raises(MissingWeights, match="zhiqiulin/clip-flant5") as caught:
            rewards["vqascore"](model=name)
        assert name.rpartition("/")[2] in caught.value.hint


def test_sources_say_what_is_published():
    for name in clip_flant5.MODELS:
        assert SOURCES[name].repository == f"zhiqiulin/{name}"
        assert SOURCES[name].licence == "Apache-2.0"
    assert SOURCES["clip-flant5-xxl"].bytes > 3 * SOURCES["clip-flant5-xl"].bytes
