"""VideoScore beside Mantis's own code, by way of golden/vlm.json."""

import hashlib
import json
from functools import lru_cache

import numpy as np
import pytest
import torch

from tests.rewards import random_qwen2vl as given
from vipo_cli.errors import MissingWeights, ModelError
from vipo_cli.media import encode_clip
from vipo_cli.rewards import Reward, rewards, videoscore
from vipo_cli.rewards.videoscore import patch_places, spread_frames

GOLDEN = json.loads(given.GOLDEN.read_text())["videoscore"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("videoscore")
    given.write_files(root, "videoscore", GOLDEN["shapes"])
    return root


@pytest.fixture(autouse=True)
def _own_instructions(monkeypatch):
    sha256 = hashlib.sha256(given.INSTRUCTIONS["videoscore"].encode()).hexdigest()
    monkeypatch.setattr(videoscore, "SHA256", sha256)


@lru_cache
def clips():
    return [encode_clip(frames, rate) for frames, rate in given.frames()]


def load(folder, name="videoscore"):
    return rewards[name](release="v1", path=str(folder), device="cpu", dtype="fp32")


def test_scores_are_those_of_its_own_code(folder):
    whole = load(folder)
    assert isinstance(whole, Reward)
    golden = np.array(GOLDEN["rewards"])
    np.testing.assert_allclose(whole.judge.numbers(clips(), given.PROMPTS), golden, atol=2e-5)
    np.testing.assert_allclose(whole.score(clips(), given.PROMPTS), golden.mean(1), atol=2e-5)
    names = ("visual", "temporal", "dynamic", "text", "factual")
    for place, name in enumerate(names):
        reward = load(folder, f"videoscore-{name}")
        assert reward.judge is whole.judge
        np.testing.assert_allclose(
            reward.score(clips(), given.PROMPTS), golden[:, place], atol=2e-5
        )


def test_what_cannot_be_judged_is_nan(folder):
    reward = load(folder)
    media = [clips()[0], given.pictures()[0], b"no clip", clips()[0]]
    scores = reward.score(media, ["a", "a", "a", "an <image>"])
    assert np.isnan(scores).tolist() == [False, True, True, True]
    assert reward.score([], []).shape == (0,)


def test_patches_lie_where_its_own_code_places_them():
    """Where transformers places 49 and 58 patches, some lie one off."""
    column, row = (np.array(GOLDEN["places"][name]) for name in ("column", "row"))
    assert np.array_equal(patch_places(49, 70) * 70, column)
    assert np.array_equal(patch_places(58, 70), row)
    shares = torch.arange(49) * (1.0 / torch.tensor(49))
    bounds = torch.arange(1 / 70, 1.0, 1 / 70)
    assert not np.array_equal(torch.bucketize(shares, bounds, right=True) * 70, column)


def test_frames_of_long_clips_are_spread():
    frames = np.repeat(np.arange(40, dtype=np.uint8)[:, None, None, None], 16, 1).repeat(16, 2)
    data = encode_clip(np.repeat(frames, 3, 3), 8)
    found = [frame.getpixel((0, 0))[0] for frame in spread_frames(data, 16)]
    assert found == [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25, 27, 30, 32, 35, 37]
    assert len(spread_frames(data, 48)) == 40


def test_files_that_do_not_fit_are_told_of(folder, tmp_path):
    given.write_files(tmp_path, "videoscore", {**GOLDEN["shapes"], "odd.weight": [2]})
    with pytest.raises(ModelError, match="belong to no part") as caught:
        load(tmp_path)
    assert caught.value.details == ("left over: odd.weight",)
    shapes = {name: shape for name, shape in GOLDEN["shapes"].items() if name != "score.bias"}
    given.write_files(tmp_path, "videoscore", shapes)
    with pytest.raises(ModelError, match="1 tensors are missing"):
        load(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(MissingWeights, match="model-00002") as missing:
        load(tmp_path)
    assert "hf download TIGER-Lab/VideoScore model-00001" in missing.value.hint
    given.write_tokenizer(tmp_path / "tokenizer.json")
    given.write_files(tmp_path, "videoscore", GOLDEN["shapes"])
    given.write_tokenizer(tmp_path / "tokenizer.json")
    with pytest.raises(ModelError, match="other special words"):
        load(tmp_path)
    with pytest.raises(MissingWeights, match=r"VideoScore-v1\.1"):
        rewards["videoscore"]()
