import math

import numpy as np
import pytest

from tests.chat_server import Server
from tests.tiny.qwen2vl import build
from vipo_cli.chat import AskedInVain
from vipo_cli.chat import server as server_module
from vipo_cli.errors import DataError, MissingWeights, VipoError
from vipo_cli.media import encode_clip, encode_png
from vipo_cli.rewards import Reward, rewards, vlm
from vipo_cli.rewards.vlm import read_score
from vipo_cli.run import read_lines


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(server_module, "PAUSE", 0.001)
    made = Server()
    made.answer = lambda pictures, prompt: "4"
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _own_judgements(tmp_path, monkeypatch):
    monkeypatch.setenv("VIPO_CACHE", str(tmp_path / "cache"))


def png(level=0):
    return encode_png(np.full((32, 32, 3), level, np.uint8))


def told(chances):
    return [{"token": word, "logprob": math.log(chance)} for word, chance in chances.items()]


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("4", 4),
        (" 4.5 ", 4.5),
        ("4/5", 4),
        ("4 out of 5", 4),
        ("Score: 3", 3),
        ("Two dogs, 1 cat.\n**Rating: 2**", 2),
        ("<think>maybe 2 or 3</think>\n5", 5),
        ("I give it a 4. Yes, 4.", 4),
        ("6", None),
        ("-1", None),
        ("2 or 3", None),
        ("four", None),
        ("", None),
        ("It shows 2 dogs; I say 3", None),
    ],
)
def test_only_a_plain_number_on_the_scale_is_a_score(text, score):
    found = read_score(text, (1, 5))
    assert math.isnan(found) if score is None else found == score


def test_scores_are_expectations_where_chances_are_told(server):
    server.logprobs = told({"3": 0.25, "4": 0.5, "5": 0.15, "I": 0.05, " 4": 0.04})
    reward = rewards["vlm-judge"](judge=server.url)
    assert isinstance(reward, Reward)
    (score,) = reward.score([png()], ["a dog"])
    assert score == pytest.approx((3 * 0.25 + 4 * 0.5 + 5 * 0.15) / 0.9)
    (body,) = server.asked
    assert body["logprobs"]
    assert body["temperature"] == 0
    assert "from 1 (worst) to 5 (best)" in body["messages"][0]["content"]


@pytest.mark.parametrize("chances", [None, {"The": 0.9, "4": 0.1}])
def test_otherwise_the_number_in_the_answer_counts(server, chances):
    server.logprobs = None if chances is None else told(chances)
    server.answer = lambda pictures, prompt: "Good work. Score: 3"
    assert rewards["vlm-judge"](judge=server.url).score([png()], ["a"]).tolist() == [3]
    assert len(server.asked) == 2


def test_longer_scales_are_read_as_numbers(server):
    server.answer = lambda pictures, prompt: "85"
    reward = rewards["vlm-judge"](judge=server.url, lowest=0, highest=100)
    assert reward.score([png()], ["a"]).tolist() == [85]
    assert "logprobs" not in server.asked[0]


def test_what_has_no_number_is_nan_and_is_not_asked_again(server):
    server.answer = lambda pictures, prompt: "fine" if prompt == "b" else "2"
    reward = rewards["vlm-judge"](judge=server.url)
    media, prompts = [png(), png(), b"no picture", png()], ["a", "b", "a", "a"]
    first = reward.score(media, prompts)
    assert first[0] == first[3] == 2
    assert np.isnan(first).tolist() == [False, True, True, False]
    asked = len(server.asked)
    again = rewards["vlm-judge"](judge=server.url)
    np.testing.assert_array_equal(again.score(media, prompts), first)
    assert len(server.asked) == asked
    said = {line["said"] for line in read_lines(again.kept)}
    assert said == {"2", "fine", "not a picture"}


def test_another_rubric_model_or_scale_is_asked_anew(server, tmp_path):
    rubric = tmp_path / "rubric.txt"
    rubric.write_text("Only the hands count.\n")
    plain = rewards["vlm-judge"](judge=server.url)
    hands = rewards["vlm-judge"](judge=server.url, rubric=str(rubric))
    wide = rewards["vlm-judge"](judge=server.url, highest=7)
    other = rewards["vlm-judge"](judge=server.url, judge_model="other")
    assert len({each.fingerprint for each in (plain, hands, wide, other)}) == 4
    plain.score([png()], ["a"])
    hands.score([png()], ["a"])
    assert "Only the hands count." in server.asked[-1]["messages"][0]["content"]
    rubric.write_text(" \n")
    with pytest.raises(DataError, match="is empty"):
        rewards["vlm-judge"](judge=server.url, rubric=str(rubric))
    with pytest.raises(DataError, match="cannot read the rubric"):
        rewards["vlm-judge"](judge=server.url, rubric=str(tmp_path / "none"))


def test_of_clips_three_frames_are_shown(server):
    shown = []
    server.answer = lambda pictures, prompt: shown.append(len(pictures)) or "1"
    clip = encode_clip(np.arange(5 * 32 * 32 * 3, dtype=np.uint8).reshape(5, 32, 32, 3), 8)
    rewards["vlm-judge"](judge=server.url).score([clip, png()], ["a", "a"])
    assert sorted(shown) == [1, 1, 3, 3]
    assert any("a clip" in body["messages"][0]["content"] for body in server.asked)


def test_what_got_no_answer_is_asked_again_and_the_rest_is_kept(server, monkeypatch):
    monkeypatch.setattr(server_module, "ATTEMPTS", 1)
    reward = rewards["vlm-judge"](judge=server.url, highest=10, together=1)
    server.status = [503]
    with pytest.raises(AskedInVain):
        reward.score([png(0), png(1), png(2)], ["a"] * 3)
    assert len(read_lines(reward.kept)) == 2
    assert reward.score([png(0), png(1), png(2)], ["a"] * 3).tolist() == [4, 4, 4]
    assert len(server.asked) == 4


def test_a_server_that_refuses_is_told_of(server):
    server.status = [401]
    reward = rewards["vlm-judge"](judge=server.url, judge_model="m", highest=10)
    with pytest.raises(VipoError, match="refuses") as caught:
        reward.score([png()], ["a"])
    assert "VIPO_JUDGE_KEY" in caught.value.hint


def test_the_judge_may_be_named_by_the_environment(server, monkeypatch):
    with pytest.raises(MissingWeights, match="who judges") as caught:
        rewards["vlm-judge"]()
    assert "VIPO_JUDGE" in caught.value.hint
    monkeypatch.setenv("VIPO_JUDGE", server.url)
    assert rewards["vlm-judge"]().score([png()], ["a"]).tolist() == [4]


def test_a_model_in_this_process_judges_by_its_chances(tmp_path, monkeypatch):
    folder = str(build(tmp_path / "tiny"))
    reward = rewards["vlm-judge"](judge=folder)
    monkeypatch.setattr(vlm, "SURE", 0.0)
    scores = reward.score([png(), png(200)], ["a", "a"])
    for data, score in zip((png(), png(200)), scores, strict=True):
        chances = np.array(reward.chat.chances(*reward.question(data, "a"), list("12345")))
        assert score == pytest.approx(chances @ np.arange(1, 6) / chances.sum())
    assert scores[0] != scores[1]
    assert reward.fingerprint == rewards["vlm-judge"](judge=folder).fingerprint
