import json
import subprocess
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vipo_cli.errors import MissingWeights, UnknownName, VipoError
from vipo_cli.rewards import Reward, official, rewards
from vipo_cli.rewards.official import OfficialReward, officials, with_backend
from vipo_cli.rewards.worker import WORKERS, Worker

FAKE = Path(__file__).parent / "fake_package.py"


@pytest.fixture
def worker():
    with Worker("fake", Path(sys.executable), FAKE) as running:
        yield running


@pytest.fixture
def reward(worker):
    return OfficialReward("fake", "overall", "f", {}, worker, seconds=20)


def test_a_package_scores_pictures_of_several_prompts(reward):
    assert isinstance(reward, Reward)
    media = [b"x" * length for length in (5, 3, 4, 1)]
    scores = reward.score(media, ["a", "a", "bb", "a"])
    np.testing.assert_allclose(scores, [5.01, 3.01, 4.02, 1.01])
    assert scores.dtype == np.float64
    assert reward.score([], []).shape == (0,)


def test_more_pictures_than_are_sent_together(reward, monkeypatch):
    monkeypatch.setattr(official, "AT_ONCE", 3)
    media = [b"x" * length for length in range(8)]
    np.testing.assert_allclose(reward.score(media, [""] * 8), range(8))


def test_pictures_of_one_prompt_in_a_row_reach_the_package_together(reward):
    scores = reward.score([b"x"] * 5, ["runs", "runs", "", "runs", "runs"])
    assert scores.tolist() == [1, 1, 1, 2, 2]


def test_only_the_picture_that_the_package_fails_on_has_no_score(reward):
    judged = reward.judge([b"x", b"broken", b"xx"], ["", "", ""])
    assert [score for score, _ in judged][::2] == [1, 2]
    assert np.isnan(judged[1][0])
    assert [reason for _, reason in judged] == ["", "OSError: cannot identify image file", ""]


def test_it_says_who_it_is(worker):
    hello = worker.ask({"do": "hello"}, 20)
    assert hello["package"] == "pytest"
    assert hello["version"] == pytest.__version__
    assert hello["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert hello["python"] == sys.version.split()[0]


def test_a_failure_is_told_in_a_line_and_the_worker_lives_on(worker):
    with pytest.raises(VipoError) as caught:
        worker.ask({"do": "load", "files": {"broken": "x"}, "device": "cpu"}, 20)
    assert caught.value.message == "`fake` failed: ValueError: no such tensor"
    assert worker.ask({"do": "load", "files": {}, "device": "cpu"}, 20)["device"] == "cpu"


def test_a_dead_worker_gives_one_error_with_its_last_words(reward):
    with pytest.raises(VipoError) as caught:
        reward.score([b"x"], ["die"])
    assert caught.value.message == "the worker of `fake` died with status 9"
    assert caught.value.details[-1] == "out of luck"
    with pytest.raises(VipoError, match="died with status 9"):
        reward.score([b"x"], ["a"])


def test_a_worker_that_hangs_is_ended(worker):
    began = time.monotonic()
    reward = OfficialReward("fake", "overall", "f", {}, worker, seconds=0.5)
    reward.worker.ask({"do": "hello"}, 20)
    with pytest.raises(VipoError, match=r"no answer for 0\.5 s and was ended"):
        reward.score([b"x"], ["hang"])
    assert time.monotonic() - began < 20
    assert worker._process.poll() is not None


def test_a_killed_worker_says_what_that_often_means(worker):
    worker.ask({"do": "hello"}, 20)
    worker._process.kill()
    with pytest.raises(VipoError, match="died with status -9") as caught:
        worker.ask({"do": "hello"}, 20)
    assert "memory" in caught.value.hint


def test_a_worker_ends_with_a_vipo_that_was_killed():
    script = (
        "import sys; from pathlib import Path; from vipo_cli.rewards.worker import Worker\n"
        f"worker = Worker('fake', Path(sys.executable), Path({str(FAKE)!r}))\n"
        "worker.ask({'do': 'hello'}, 20)\n"
        "print(worker.process_id, flush=True)\n"
        "worker.ask({'do': 'score', 'pictures': ['x'], 'prompts': ['hang']}, 60)"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as vipo:
        number = int(vipo.stdout.readline())
        vipo.kill()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{number}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{number}").exists()


def test_closing_twice_is_no_mistake(worker):
    worker.close()
    worker.close()


def test_backends_have_the_names_of_rewards():
    assert set(officials.names()) <= set(rewards.names())
    assert with_backend("mps") is rewards["mps"]
    assert with_backend("imagereward", "official") is official.imagereward
    with pytest.raises(VipoError, match="`mps` has no official backend") as caught:
        with_backend("mps", "official")
    assert "imagereward" in caught.value.hint
    with pytest.raises(UnknownName, match="unknown reward `klip`"):
        with_backend("klip", "official")
    with pytest.raises(VipoError, match="unknown backend `package`"):
        with_backend("mps", "package")


@pytest.fixture
def weights(tmp_path):
    """A folder with the files of both rewards, as far as their official backends look at them."""
    vocabulary = {"b": 1, "[PAD]": 0, "##a": 2}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "ImageReward.pt").write_bytes(b"weights")
    (tmp_path / "HPS_v2.1_compressed.pt").write_bytes(b"weights")
    return tmp_path


@pytest.fixture
def asked(monkeypatch):
    """What a worker is asked to load, with what its folder of vocabulary holds at that time."""
    requests = []

    def ask(request, seconds):
        if request["do"] == "hello":
            return {"package": "fake", "version": "1", "versions": {"fake": "1"}}
        folder = request["files"].get("vocabulary")
        read = {file.name: file.read_text() for file in Path(folder).iterdir()} if folder else {}
        requests.append((request, read))
        return {"device": "cpu", "dtype": "float32"}

    fake = SimpleNamespace(ask=ask, close=lambda: None)
    monkeypatch.setattr(official, "start", lambda environment: fake)
    return requests


def test_imagereward_is_given_the_vocabulary_as_older_transformers_read_it(weights, asked):
    made = official.imagereward(path=str(weights), device="cpu")
    ((request, read),) = asked
    assert request["files"]["checkpoint"] == str(weights / "ImageReward.pt")
    assert read["vocab.txt"] == "[PAD]\nb\n##a\n"
    assert json.loads(read["med_config.json"])["vocab_size"] == 30524
    assert made.dimension == "overall"
    (weights / "med_config.json").write_text("{}")
    official.imagereward(path=str(weights), device="cpu")
    assert asked[1][0]["files"]["med_config"] == str(weights / "med_config.json")


def test_the_fingerprint_tells_backends_and_weights_apart(weights, asked):
    first = official.hpsv2_1(path=str(weights), device="cpu")
    assert first.name == "hpsv2.1"
    assert first.fingerprint == official.hpsv2_1(path=str(weights), device="cpu").fingerprint
    (weights / "HPS_v2.1_compressed.pt").write_bytes(b"others!")
    assert first.fingerprint != official.hpsv2_1(path=str(weights), device="cpu").fingerprint
    with pytest.raises(MissingWeights, match=r"HPS_v2_compressed\.pt"):
        official.hpsv2_0(path=str(weights))


def test_without_its_environment_the_command_that_makes_it_is_named(weights):
    with pytest.raises(VipoError, match="`hpsv2` is not set up") as caught:
        official.hpsv2_1(path=str(weights))
    assert caught.value.hint == "vipo eval setup hpsv2"


def adapter(name):
    spec = spec_from_file_location(f"adapter_{name}", WORKERS / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_hpsv2_adapter_reads_the_checkpoint_once_and_never_the_base_weights(
    monkeypatch, tmp_path
):
    checkpoint = tmp_path / "weights.pt"
    torch.save({"state_dict": {"a": torch.tensor(0.25)}}, checkpoint)
    created, read = [], []
    published = torch.load

    def create(name, pretrained, **settings):
        created.append((name, pretrained, settings))

    def score(pictures, prompt, cp):
        found = torch.load(cp, map_location="cpu")["state_dict"]["a"]
        return [float(found) + len(prompt)] * len(pictures)

    scoring = SimpleNamespace(create_model_and_transforms=create, score=score)
    scoring.initialize_model = lambda: scoring.create_model_and_transforms(
        "ViT-H-14", "laion2B-s32B-b79K", precision="amp"
    )
    monkeypatch.setitem(sys.modules, "hpsv2", SimpleNamespace(img_score=scoring))
    monkeypatch.setitem(sys.modules, "hpsv2.img_score", scoring)
    monkeypatch.setattr(torch, "load", lambda *a, **k: read.append(a) or published(*a, **k))
    package = adapter("hpsv2")
    assert package.load({"checkpoint": str(checkpoint)}, "cpu")["dtype"] == "float32"
    assert package.score(["one", "two"], "cat") == [3.25, 3.25]
    assert package.score(["one"], "") == [0.25]
    assert created == [("ViT-H-14", None, {"precision": "amp"})]
    assert len(read) == 1


def test_the_imagereward_adapter_lends_the_vocabulary_and_scores_lists(monkeypatch, tmp_path):
    (tmp_path / "vocab.txt").write_text("words")
    seen = []

    class Model:
        def score(self, prompt, pictures):
            return [float(len(each)) for each in pictures] if isinstance(pictures, list) else 7.0

    def load(checkpoint, device, med_config):
        seen.append(
            (checkpoint, device, med_config, Path("bert-base-uncased/vocab.txt").read_text())
        )
        return Model()

    monkeypatch.setitem(sys.modules, "ImageReward", SimpleNamespace(load=load))
    monkeypatch.chdir(tmp_path)
    package = adapter("image_reward")
    files = {"checkpoint": "/c", "med_config": "/m", "vocabulary": str(tmp_path)}
    assert package.load(files, "cpu") == {"device": "cpu", "dtype": "float32"}
    assert seen == [("/c", "cpu", "/m", "words")]
    assert package.score(["one"], "p") == [7.0]
    assert package.score(["one", "three"], "p") == [3.0, 5.0]


def test_the_open_clip_adapter_knows_every_name(monkeypatch):
    from transformers import CLIPConfig, CLIPModel

    from vipo_cli.rewards.open_clip import as_transformers

    monkeypatch.setitem(sys.modules, "open_clip", SimpleNamespace())
    package = adapter("open_clip")
    small = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "projection_dim": 6}
    config = CLIPConfig(
        text_config=small | heads | {"vocab_size": 20},
        vision_config=small | heads | {"image_size": 16, "patch_size": 8},
        projection_dim=6,
    )
    hub = CLIPModel(config).state_dict()
    there = package._from_hub(hub)
    assert there["visual.proj"].shape == there["text_projection"].shape == (8, 6)
    assert there["visual.transformer.resblocks.1.attn.in_proj_weight"].shape == (24, 8)
    assert "transformer.resblocks.0.mlp.c_proj.bias" in there
    for back in (package._for_hub(there), as_transformers(there)):
        assert back.keys() == {name for name in hub if not name.endswith("position_ids")}
        assert all(torch.equal(back[name], hub[name]) for name in back)
    assert package._config()["vision_config"]["hidden_act"] == "quick_gelu"


def test_the_open_clip_adapter_scores_cosines(monkeypatch, tmp_path):
    from PIL import Image

    class Model:
        def encode_image(self, pixels):
            return pixels.flatten(1)

        def encode_text(self, tokens):
            return tokens.float()

    monkeypatch.setitem(sys.modules, "open_clip", SimpleNamespace())
    package = adapter("open_clip")
    package._model = Model()
    package._preprocess = lambda picture: torch.tensor(picture.getpixel((0, 0))).float()
    package._tokenizer = lambda prompts: torch.tensor([[1, 0, 0]] * len(prompts))
    for name, colour in ("red", (255, 0, 0)), ("grey", (9, 9, 9)):
        Image.new("RGB", (2, 2), colour).save(tmp_path / f"{name}.png")
    scores = package.score([str(tmp_path / "red.png"), str(tmp_path / "grey.png")], "red")
    np.testing.assert_allclose(scores, [1, 3**-0.5], rtol=1e-6)
