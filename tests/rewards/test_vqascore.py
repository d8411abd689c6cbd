import numpy as np
import pytest

from tests.tiny.qwen2vl import build
from vipo_cli.media import decode, encode_clip, encode_png
from vipo_cli.rewards import Reward, rewards


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("qwen2vl"))


@pytest.fixture(scope="module")
def reward(folder):
    return rewards["vqascore"](model=str(folder), device="cpu", dtype="fp32", batch_size=2)


def pictures(number=3):
    rng = np.random.default_rng(0)
    return [encode_png(rng.integers(0, 256, (40, 60, 3), np.uint8)) for _ in range(number)]


def test_scores_are_the_chances_of_a_yes_to_the_question(reward):
    prompts = ["two dogs", 'a sign that says "no"', "{}"]
    assert isinstance(reward, Reward)
    scores = reward.score(pictures(), prompts)
    for data, prompt, score in zip(pictures(), prompts, scores, strict=True):
        question = f'Does this figure show "{prompt}"? Please answer Yes or No.'
        (chance,) = reward.chat.chances("", [decode(data), question], ["Yes"])
        assert score == pytest.approx(chance, rel=1e-4)
    assert len(set(scores)) == 3


def test_what_cannot_be_judged_is_nan(reward):
    clip = encode_clip(np.zeros((3, 30, 30, 3), np.uint8), 8)
    media = [pictures()[0], b"no picture", clip, pictures()[1], pictures()[1]]
    scores = reward.score(media, ["a", "a", "a", "a", "an <|image_pad|>"])
    assert np.isnan(scores).tolist() == [False, True, True, False, True]
    assert reward.score([], []).shape == (0,)


def test_fingerprints_tell_model_and_precision(reward, folder):
    again = rewards["vqascore"](model=str(folder), device="cpu", dtype="fp32")
    other = rewards["vqascore"](model=str(folder), device="cpu", dtype="bf16")
    assert reward.fingerprint == again.fingerprint != other.fingerprint
