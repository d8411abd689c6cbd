import json
import subprocess
import sys
import time
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from vipo_cli.errors import MissingWeights, UnknownName, VipoError
from vipo_cli.rewards import Reward, official, rewards
from vipo_cli.rewards.aesthetic import head_of
from vipo_cli.rewards.official import OfficialReward, officials, with_backend
from vipo_cli.rewards.worker import WORKERS, Worker
from vipo_cli.weights import SOURCES

FAKE = Path(__file__).parent / "fake_package.py"
LOAD = {"do": "load", "reward": "fake", "files": {}, "device": "cpu"}


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
        worker.ask(LOAD | {"files": {"broken": "x"}}, 20)
    assert caught.value.message == "`fake` failed: ValueError: no such tensor"
    assert worker.ask(LOAD, 20)["device"] == "cpu"


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
    """A folder with files of rewards, as far as their official backends look at them."""
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
        bert = folder if request["reward"] == "imagereward" else None
        read = {file.name: file.read_text() for file in Path(bert).iterdir()} if bert else {}
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


@pytest.mark.parametrize(
    ("name", "files", "dimension"),
    [
        ("pickscore", {"checkpoint": "model.safetensors", "vocabulary": ""}, "overall"),
        ("clip", {"checkpoint": "model.safetensors"}, "alignment"),
        ("clipscore", {"checkpoint": "model.safetensors"}, "alignment"),
        (
            "aesthetic",
            {"checkpoint": "model.safetensors", "head": "sac+logos+ava1-l14-linearMSE.pth"},
            "aesthetic",
        ),
        (
            "aesthetic-linear",
            {"checkpoint": "model.safetensors", "head": "sa_0_4_vit_l_14_linear.pth"},
            "aesthetic",
        ),
    ],
)
def test_rewards_on_clip_name_their_files(weights, asked, name, files, dimension):
    for file in ("model.safetensors", "config.json", *files.values()):
        if file:
            (weights / file).write_bytes(b"weights")
    made = with_backend(name, "official")(path=str(weights), device="cpu")
    ((request, _),) = asked
    assert request["reward"] == name
    assert request["files"] == {key: str(weights / file) for key, file in files.items()}
    assert (made.name, made.dimension) == (name, dimension)
    if "head" in files:
        (weights / files["head"]).write_bytes(b"another")
        again = with_backend(name, "official")(path=str(weights), device="cpu")
        assert again.fingerprint != made.fingerprint


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
    """Unless it is asked to read it in every call, as the package does."""
    checkpoint = tmp_path / "weights.pt"
    torch.save({"state_dict": {"weight": torch.tensor([[0.25]])}}, checkpoint)
    created, read = [], []
    published = torch.load
    model = torch.nn.Linear(1, 1, bias=False)

    def create(name, pretrained, **settings):
        created.append((name, pretrained, settings))
        return model

    def initialize_model():
        if not scoring.model_dict:
            scoring.model_dict["model"] = scoring.create_model_and_transforms(
                "ViT-H-14", "laion2B-s32B-b79K", precision="amp"
            )

    def score(pictures, prompt, cp):
        found = torch.load(cp, map_location="cpu")
        scoring.model_dict["model"].load_state_dict(found["state_dict"])
        return [model.weight.item() + len(prompt)] * len(pictures)

    scoring = SimpleNamespace(create_model_and_transforms=create, score=score, model_dict={})
    scoring.initialize_model = initialize_model
    monkeypatch.setitem(sys.modules, "hpsv2", SimpleNamespace(img_score=scoring))
    monkeypatch.setitem(sys.modules, "hpsv2.img_score", scoring)
    monkeypatch.setattr(torch, "load", lambda *a, **k: read.append(a) or published(*a, **k))
    package = adapter("hpsv2")
    files = {"checkpoint": str(checkpoint)}
    for again in range(2):
        assert package.load("hpsv2.1", files, "cpu")["dtype"] == "float32"
        assert package.score(["one", "two"], "cat") == [3.25, 3.25]
        assert package.score(["one"], "") == [0.25]
        assert len(read) == again + 1
    assert created == [("ViT-H-14", None, {"precision": "amp"})]
    package.load("hpsv2.1", files | {"reread": str(checkpoint)}, "cpu")
    assert package.score(["one"], "") == package.score(["one"], "") == [0.25]
    assert len(read) == 4


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
    assert package.load("imagereward", files, "cpu") == {"device": "cpu", "dtype": "float32"}
    assert seen == [("/c", "cpu", "/m", "words")]
    assert package.score(["one"], "p") == [7.0]
    assert package.score(["one", "three"], "p") == [3.0, 5.0]


SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}


def small_clip():
    from transformers import CLIPConfig, CLIPModel

    shared = SMALL | {"num_attention_heads": 1, "projection_dim": 6}
    return CLIPModel(
        CLIPConfig(
            text_config=shared | {"vocab_size": 20},
            vision_config=shared | {"image_size": 16, "patch_size": 8},
            projection_dim=6,
        )
    )


def test_the_clip_adapter_knows_every_name():
    from vipo_cli.rewards.open_clip import as_transformers

    hub = small_clip().state_dict()
    there = adapter("clip")._from_hub(hub)
    assert there["visual.proj"].shape == there["text_projection"].shape == (64, 6)
    assert there["visual.transformer.resblocks.1.attn.in_proj_weight"].shape == (192, 64)
    assert "transformer.resblocks.0.mlp.c_proj.bias" in there
    back = as_transformers(there)
    assert back.keys() == {name for name in hub if not name.endswith("position_ids")}
    assert all(torch.equal(back[name], hub[name]) for name in back)


class Flat(torch.nn.Module):
    """Embeds a picture as its colours and a prompt as its ids."""

    def __init__(self, kept=None):
        super().__init__()
        self.visual = torch.nn.Conv2d(1, 1, 1)
        self.kept = kept

    def load_state_dict(self, tensors):
        self.kept = tensors

    def encode_image(self, pixels):
        return pixels.flatten(1)

    def encode_text(self, ids):
        return ids.float()


@pytest.fixture
def clip_packages(monkeypatch):
    """Both packages of CLIP around a model that anyone can compute, and what they were asked."""
    asked = []

    def preprocess(picture):
        return torch.tensor(picture.getpixel((0, 0))).float()

    def create(name, pretrained):
        asked.append((name, pretrained))
        return Flat(), None, preprocess

    def load(file, device, jit):
        asked.append((sorted(torch.load(file))[0], device, jit))
        return Flat(), preprocess

    def tokenize(prompts, **options):
        asked.append((prompts[0], options))
        return torch.tensor([[1, 0, 0]])

    modules = {
        "open_clip": SimpleNamespace(
            create_model_and_transforms=create, get_tokenizer=lambda name: tokenize
        ),
        "clip": SimpleNamespace(load=load, tokenize=tokenize),
    }
    package = adapter("clip")
    monkeypatch.setattr(
        package, "import_module", lambda name: modules.get(name) or import_module(name)
    )
    monkeypatch.setattr(package, "version", lambda name: f"of {name}")
    return package, asked


@pytest.fixture
def pictures(tmp_path):
    files = [tmp_path / "red.png", tmp_path / "grey.png"]
    for file, colour in zip(files, ((255, 0, 0), (9, 9, 9)), strict=True):
        Image.new("RGB", (2, 2), colour).save(file)
    return list(map(str, files))


@pytest.fixture
def checkpoint(tmp_path):
    save_file(small_clip().state_dict(), tmp_path / "model.safetensors")
    return str(tmp_path / "model.safetensors")


def test_clip_is_scored_by_open_clip(clip_packages, pictures, checkpoint):
    package, asked = clip_packages
    loaded = package.load("clip", {"checkpoint": checkpoint}, "cpu")
    assert (loaded["package"], loaded["version"]) == ("open_clip_torch", "of open_clip_torch")
    np.testing.assert_allclose(package.score(pictures, "red"), [1, 3**-0.5], rtol=1e-6)
    assert asked == [("ViT-L-14-quickgelu", None), ("red", {})]


def test_clipscore_is_scored_by_openai_with_its_prefix(clip_packages, pictures, checkpoint):
    package, asked = clip_packages
    loaded = package.load("clipscore", {"checkpoint": checkpoint}, "cpu")
    assert (loaded["package"], loaded["dtype"]) == ("clip-anytorch", "float32")
    np.testing.assert_allclose(package.score(pictures, "red"), [2.5, 2.5 * 3**-0.5], rtol=1e-6)
    assert asked == [
        ("ln_final.bias", "cpu", False),
        ("A photo depicts red", {"truncate": True}),
    ]


@pytest.mark.parametrize(
    ("reward", "package_name", "names"),
    [
        ("aesthetic", "clip-anytorch", ["0", "2", "4", "6", "7"]),
        ("aesthetic-linear", "open_clip_torch", None),
    ],
)
def test_predictors_read_their_published_layers(
    clip_packages, pictures, checkpoint, tmp_path, monkeypatch, reward, package_name, names
):
    package, _ = clip_packages
    file, widths = package.HEADS[reward]
    monkeypatch.setitem(package.HEADS, reward, (file, (3, *widths[1:])))
    written = Path(package._random_head(str(tmp_path), lambda head: None, reward))
    tensors = torch.load(written)
    assert written.name == next(iter(SOURCES[reward].files)).name
    if names:
        assert {name.split(".")[1] for name in tensors} == set(names)
        assert all(name.startswith("layers.") for name in tensors)
    else:
        assert set(tensors) == {"weight", "bias"}
    loaded = package.load(reward, {"checkpoint": checkpoint, "head": str(written)}, "cpu")
    assert loaded["package"] == package_name
    head = head_of(tensors, "here")
    unit = torch.tensor([[1.0, 0, 0], [3**-0.5] * 3])
    with torch.no_grad():
        expected = head(unit)[:, 0].tolist()
    np.testing.assert_allclose(package.score(pictures, "any"), expected, rtol=1e-5)


def test_pickscore_is_scored_by_transformers_with_laions_processor(
    clip_packages, pictures, tmp_path, monkeypatch
):
    package, _ = clip_packages
    seen = {}

    class Inputs(dict):
        def to(self, device):
            return self

    def processor(images=None, text=None, **settings):
        seen["settings"] = settings
        if text is not None:
            return Inputs(ids=torch.tensor([[2.0, 0, 0]]))
        return Inputs(pixels=torch.tensor([each.getpixel((0, 0)) for each in images]).float())

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.vision_model = torch.nn.Conv2d(1, 1, 1)
            self.logit_scale = torch.nn.Parameter(torch.tensor(100.0).log())

        def get_image_features(self, pixels):
            return pixels

        def get_text_features(self, ids):
            return ids

    def read_processor(folder):
        seen["files"] = {file.name: file.read_text() for file in Path(folder).iterdir()}
        return processor

    def read_model(folder):
        seen["model"] = folder
        return Model()

    transformers = SimpleNamespace(
        AutoProcessor=SimpleNamespace(from_pretrained=read_processor),
        AutoModel=SimpleNamespace(from_pretrained=read_model),
    )
    modules = {"transformers": transformers}
    monkeypatch.setattr(
        package, "import_module", lambda name: modules.get(name) or import_module(name)
    )
    words = tmp_path / "words"
    words.mkdir()
    (words / "tokenizer.json").write_text("pieces")
    (words / "README.md").write_text("")
    files = {"checkpoint": str(tmp_path / "model.safetensors"), "vocabulary": str(words)}
    assert package.load("pickscore", files, "cpu")["package"] == "transformers"
    np.testing.assert_allclose(package.score(pictures, "red"), [100, 100 * 3**-0.5], rtol=1e-5)
    assert seen["model"] == tmp_path
    assert set(seen["files"]) == {"tokenizer.json", "config.json", "preprocessor_config.json"}
    assert json.loads(seen["files"]["preprocessor_config.json"])["resample"] == 3  # bicubic
    assert seen["settings"]["max_length"] == 77
