"""HPSv3 and VideoReward beside their own code, by way of golden/vlm.json."""

import hashlib
import json
import zipfile
from functools import lru_cache

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.rewards import random_qwen2vl as given
from vipo_cli.errors import DataError, MissingWeights, ModelError
from vipo_cli.media import decode, encode_clip, encode_png
from vipo_cli.rewards import Reward, hpsv3, rewards, videoalign
from vipo_cli.rewards.vlm_pixels import (
    fitting_size,
    frame_places,
    sampled_frames,
    see_clip,
    see_picture,
)
from vipo_cli.rewards.vlm_qwen2 import Body
from vipo_cli.rewards.vlm_words import published_text

GOLDEN = json.loads(given.GOLDEN.read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Random rewards in the published layouts."""
    root = tmp_path_factory.mktemp("vlm")
    for name, outputs in (("hpsv3", 2), ("videoalign", 1), ("videoalign-3", 3)):
        shapes = GOLDEN[name]["shapes"]
        given.write_files(root / name, name.removesuffix("-3"), shapes, outputs)
    return root


@pytest.fixture(autouse=True)
def _own_instructions(monkeypatch):
    """The instructions of the tests stand in for those that are published."""
    for module, name in ((hpsv3, "hpsv3"), (videoalign, "videoalign")):
        sha256 = hashlib.sha256(given.INSTRUCTIONS[name].encode()).hexdigest()
        monkeypatch.setattr(module, "SHA256", sha256)


@lru_cache
def clips():
    return [encode_clip(frames, rate) for frames, rate in given.frames()]


def load_hpsv3(folder, **options):
    return rewards["hpsv3"](path=str(folder / "hpsv3"), device="cpu", dtype="fp32", **options)


def load_videoalign(folder, name="videoalign", layout="videoalign", **options):
    return rewards[name](path=str(folder / layout), device="cpu", dtype="fp32", **options)


def test_hpsv3_is_that_of_its_own_code(folder):
    reward = load_hpsv3(folder)
    assert isinstance(reward, Reward)
    found = reward.distributions(given.pictures(), given.PROMPTS)
    np.testing.assert_allclose(found, GOLDEN["hpsv3"]["rewards"], rtol=2e-5, atol=2e-4)
    scores = reward.score(given.pictures(), given.PROMPTS)
    np.testing.assert_allclose(scores, found[:, 0])


def test_places_of_today_would_give_other_rewards(folder, monkeypatch):
    """What transformers fills in by itself is in the golden file too: that is not the reward."""
    golden = np.array(GOLDEN["hpsv3"]["rewards"]), np.array(GOLDEN["hpsv3"]["with_mrope"])
    assert np.abs(golden[0] - golden[1])[:, 0].min() > 5
    reward = load_hpsv3(folder)
    model = reward.body.model
    forward = type(model).forward

    def with_own_places(self, input_ids, position_ids, image_grid_thw, **rest):
        kinds = (input_ids == self.config.image_token_id).int()
        places, _ = self.get_rope_index(input_ids, kinds, image_grid_thw=image_grid_thw)
        return forward(self, input_ids, position_ids=places, image_grid_thw=image_grid_thw, **rest)

    monkeypatch.setattr(type(model), "forward", with_own_places)
    found = reward.distributions(given.pictures(), given.PROMPTS)
    np.testing.assert_allclose(found, golden[1], rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize("layout", ["videoalign", "videoalign-3"])
def test_videoalign_is_that_of_its_own_code(folder, layout):
    golden = np.array(GOLDEN[layout]["rewards"])
    means, spreads = np.array(list(given.STANDARD.values())).T
    expected = (golden - means) / spreads
    whole = load_videoalign(folder, layout=layout, batch_size=2)
    assert isinstance(whole, Reward)
    scores = whole.score(clips(), given.PROMPTS)
    np.testing.assert_allclose(scores, expected.sum(1), rtol=2e-5, atol=1e-5)
    for place, part in enumerate(("vq", "mq", "ta")):
        reward = load_videoalign(folder, f"videoalign-{part}", layout, batch_size=2)
        found = reward.score(clips(), given.PROMPTS)
        np.testing.assert_allclose(found, expected[:, place], rtol=2e-5, atol=1e-5)


def test_the_four_rewards_of_videoalign_share_one_pass(folder, monkeypatch):
    passes = []
    read = Body.read
    monkeypatch.setattr(Body, "read", lambda *rest: passes.append(1) or read(*rest))
    names = ("videoalign", "videoalign-vq", "videoalign-mq", "videoalign-ta")
    four = [load_videoalign(folder, name) for name in names]
    found = [reward.score(clips()[:2] + clips()[:1], given.PROMPTS) for reward in four]
    assert len(passes) == 3
    assert len({reward.fingerprint for reward in four}) == 4
    np.testing.assert_allclose(found[0], np.sum(found[1:], 0))
    assert found[0][0] != found[0][2]  # another prompt


def test_pixels_and_tokens_are_those_of_the_official_processors(folder):
    """To the last bit for pictures; clips are scaled by torch, whose last bits are its own."""
    body = load_hpsv3(folder).body
    rows, seen = [], []
    for data, prompt in zip(given.pictures(), given.PROMPTS, strict=True):
        seen.append(see_picture(decode(data), hpsv3.PIXELS, hpsv3.PIXELS))
        text = given.INSTRUCTIONS["hpsv3"].replace("{text_prompt}", prompt)
        rows.append(body.encode(text, seen[-1], "<|image_pad|>", prompt))
    check("hpsv3", rows, seen, 0)
    body = load_videoalign(folder).judge.body
    rows, seen = [], []
    for data, prompt in zip(clips(), given.PROMPTS, strict=True):
        seen.append(see_clip(sampled_frames(data, 2.0), videoalign.LEAST, 200704))
        text = given.INSTRUCTIONS["videoalign"].replace("{text_prompt}", prompt)
        rows.append(body.encode(text, seen[-1], "<|video_pad|>", prompt))
    check("videoalign", rows, seen, 1e-6)


def check(name, rows, seen, tolerance):
    golden = GOLDEN[name]
    assert [list(each.grid) for each in seen] == golden["grids"]
    assert [len(row) for row in rows] == golden["lengths"]
    padding = [256 * (max(map(len, rows)) - len(row)) for row in rows]  # <|endoftext|> is 256
    sums = [sum(row) + more for row, more in zip(rows, padding, strict=True)]
    assert sums == golden["ids"]
    pixels = np.concatenate([each.patches for each in seen])
    some = pixels[:: max(1, len(pixels) // 16)]
    found = [[row[0], row[-1], row.mean(dtype=float), row.std(dtype=float, ddof=1)] for row in some]
    np.testing.assert_allclose(found, golden["pixels"], rtol=1e-12, atol=tolerance + 1e-12)


def test_batches_change_nothing_and_what_cannot_be_judged_is_nan(folder):
    media = [
        *given.pictures(),
        b"no picture",
        clips()[0],
        encode_png(np.zeros((1, 300, 3), np.uint8)),
    ]
    media.append(media[0])
    prompts = [*given.PROMPTS, "a", "a", "a", "a <|Reward|> b"]
    whole = load_hpsv3(folder, batch_size=8).score(media, prompts)
    single = load_hpsv3(folder, batch_size=1).score(media, prompts)
    assert np.isnan(whole).tolist() == [False] * 3 + [True] * 4
    np.testing.assert_allclose(whole, single, rtol=1e-5)
    one = encode_clip(np.zeros((1, 40, 40, 3), np.uint8), 8)
    media = [given.pictures()[0], one, b"", clips()[2], clips()[2]]
    prompts = ["a", "a", "a", "a", "a<|im_end|>"]
    scores = load_videoalign(folder).score(media, prompts)
    assert np.isnan(scores).tolist() == [True, True, True, False, True]
    assert load_videoalign(folder).score([], []).shape == (0,)


def test_clips_of_containers_are_read(folder, tmp_path):
    av = pytest.importorskip("av")
    frames, rate = given.frames()[1]
    file = tmp_path / "clip.mp4"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=int(rate), options={"qscale": "2"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    assert len(sampled_frames(file.read_bytes(), 2.0)) == 4
    assert np.isfinite(load_videoalign(folder).score([file.read_bytes()], ["a"])).all()


@pytest.mark.parametrize(
    ("size", "least", "most", "expected"),
    [
        ((1024, 1024), 200704, 200704, (448, 448)),
        ((768, 1344), 200704, 200704, (336, 588)),
        ((100, 100), 200704, 200704, (448, 448)),
        ((10, 2000), 3136, 10**7, (28, 1988)),
        ((42, 70), 3136, 10**7, (56, 56)),  # 1.5 and 2.5 are rounded to even
    ],
)
def test_sizes_are_multiples_of_28_that_keep_the_shape(size, least, most, expected):
    assert fitting_size(*size, least, most) == expected


def test_shapes_that_no_size_keeps_are_refused():
    with pytest.raises(DataError, match="200 times"):
        fitting_size(1, 201, 3136, 10**6)
    with pytest.raises(DataError, match="too narrow"):
        fitting_size(10, 2000, 28, 28 * 28 * 10)


@pytest.mark.parametrize(
    ("count", "rate", "wanted", "expected"),
    [
        (11, 8.0, 2.0, [0, 3, 7, 10]),
        (3, 8.0, 2.0, [0, 2]),
        (81, 16.0, 2.0, [0, 9, 18, 27, 36, 44, 53, 62, 71, 80]),
        (5, 1.0, 30.0, [0, 1, 3, 4]),
    ],
)
def test_frames_are_evenly_spaced_and_even_in_number(count, rate, wanted, expected):
    assert frame_places(count, rate, wanted) == expected


def test_clips_without_two_frames_or_a_rate_are_refused():
    with pytest.raises(DataError, match="1 frames"):
        frame_places(1, 8.0, 2.0)
    with pytest.raises(DataError, match="frames a second"):
        frame_places(9, 0.0, 2.0)


def test_a_header_that_promises_too_many_frames_is_not_believed(monkeypatch):
    from vipo_cli.rewards import vlm_pixels

    data = clips()[0]
    honest = vlm_pixels.probe(data)
    monkeypatch.setattr(vlm_pixels, "probe", lambda _: type(honest)(90, 60, 40, 8.0))
    found = sampled_frames(data, 2.0)
    expected = given.frames()[0][0][[0, 3, 7, 10]]
    assert np.array_equal([np.asarray(frame) for frame in found], expected)


def damaged(folder, tmp_path, change):
    tensors = load_file(folder / "hpsv3" / "HPSv3.safetensors")
    change(tensors)
    given.write_files(tmp_path, "hpsv3", {})
    save_file(tensors, tmp_path / "HPSv3.safetensors")
    with pytest.raises(ModelError) as caught:
        rewards["hpsv3"](path=str(tmp_path), device="cpu")
    return caught.value


def test_tensors_that_do_not_fit_are_told_of(folder, tmp_path):
    def less(tensors):
        del tensors["visual.merger.mlp.2.bias"]
        tensors["model.layers.9.odd.weight"] = torch.zeros(1)

    found = damaged(folder, tmp_path, less)
    assert "1 tensors are missing, 1 left over" in found.message
    assert any("visual.merger.mlp.2.bias" in line for line in found.details)
    found = damaged(folder, tmp_path, lambda tensors: tensors.pop("rm_head.5.bias"))
    assert "1 tensors are missing" in found.message

    def wider(tensors):
        tensors["model.embed_tokens.weight"] = torch.zeros(300, 64)

    assert "1 of another shape" in damaged(folder, tmp_path, wider).message


def test_half_of_a_lora_is_told_of():
    pair = {"a.base_layer.weight": torch.zeros(4, 6), "a.lora_A.default.weight": torch.ones(2, 6)}
    with pytest.raises(ModelError, match="no counterpart"):
        videoalign.merged(pair, 1.0, torch.float32, "x")
    other = {"a.base_layer.weight": torch.zeros(4, 6), "a.lora_B.default.weight": torch.ones(4, 2)}
    with pytest.raises(ModelError, match="no counterpart"):
        videoalign.merged(other, 1.0, torch.float32, "x")
    both = videoalign.merged(pair | other, 0.5, torch.float32, "x")
    assert both.keys() == {"a.weight"}
    assert (both["a.weight"] == 1).all()


def test_another_reward_of_the_same_kind_is_refused(folder, tmp_path):
    found = given.model_config(1)
    found["data_config"]["prompt_template_type"] = "simple"
    file = tmp_path / "model_config.json"
    file.write_text(json.dumps(found))
    with pytest.raises(ModelError, match="another reward") as caught:
        videoalign.read_constants(file)
    assert caught.value.details == (
        "data_config.prompt_template_type is 'simple', not 'detailed_special'",
    )
    file.write_text("{}")
    with pytest.raises(ModelError, match=r"no model_config\.json"):
        videoalign.read_constants(file)


def test_instructions_are_read_without_running_anything_and_are_those_published(tmp_path):
    text = "one\ntwo {text_prompt}"
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    code = "raise SystemExit\nA = 'one\\n'\nB: str = 'x'\nB = 'two {text_prompt}'\nC = 1\n"
    file = tmp_path / "code.py"
    file.write_text(code)
    assert published_text(file, ("A", "B"), sha256) == text
    wheel = tmp_path / "a.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("package/code.py", code)
    assert published_text(wheel, ("A", "B"), sha256, "package/code.py") == text
    with pytest.raises(ModelError, match="not those that were published"):
        published_text(file, ("B", "A"), sha256)
    with pytest.raises(ModelError, match="has no `D`"):
        published_text(file, ("A", "D"), sha256)
    with pytest.raises(ModelError, match="cannot read"):
        published_text(wheel, ("A",), sha256, "other.py")


def test_what_is_not_here_is_told_of_with_its_size():
    with pytest.raises(MissingWeights, match=r"MizzenAI/HPSv3.*16\.6 GB"):
        rewards["hpsv3"]()
    with pytest.raises(MissingWeights, match="KwaiVGI/VideoReward"):
        rewards["videoalign-ta"]()


def test_fingerprints_tell_weights_and_precision(folder):
    one = load_hpsv3(folder)
    half = rewards["hpsv3"](path=str(folder / "hpsv3"), device="cpu")
    assert one.fingerprint == load_hpsv3(folder).fingerprint != half.fingerprint
    np.testing.assert_allclose(
        half.score(given.pictures()[:1], given.PROMPTS[:1]),
        one.score(given.pictures()[:1], given.PROMPTS[:1]),
        rtol=0.2,
    )
