"""GenEval on pictures with its own prompts and detector, all weights random and small."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from tests.benchmarks.random_mask2former import draw, drawn_picture
from tests.tiny.clip import save_clip
from vipo_cli.benchmarks import prompt_sets
from vipo_cli.shapes.build import make_tokenizer
from vipo_cli.vocabulary import OBJECTS

GOLDEN = Path(__file__).parent.parent / "benchmarks" / "golden" / "mask2former_tiny.safetensors"
ASKED = (0, 80, 179, 259, 353, 453)
"""The first prompt of each task: a bench, a bench and a sports ball, two clocks ..."""
ALWAYS_SEEN = ("bench", "fire hydrant")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A checkpoint as MMDetection saves it, of a detector that sees the same wherever it looks."""
    with safe_open(GOLDEN, "numpy") as file:
        names = json.loads(file.metadata()["names"])
    state = {
        name: torch.from_numpy(draw(name, shape))
        for name, shape in names.items()
        if not name.endswith("position_index")
    }
    for name in ALWAYS_SEEN:
        state["panoptic_head.cls_embed.bias"][OBJECTS.index(name)] = 40
    state["panoptic_head.cls_embed.weight"] *= 0
    state["panoptic_head.mask_embed.4.weight"] *= 10  # sure of its masks
    file = tmp_path_factory.mktemp("weights") / "detector.pth"
    torch.save({"meta": {"CLASSES": OBJECTS}, "state_dict": state}, file)
    return file


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    tokenizer = make_tokenizer()
    tokenizer.model_max_length = 77
    return save_clip(tokenizer, tmp_path_factory.mktemp("clip"))


@pytest.fixture
def pictures(tmp_path):
    prompts = prompt_sets["geneval"]()
    for index in ASKED:
        folder = tmp_path / "pictures" / f"{index:05d}"
        (folder / "samples").mkdir(parents=True)
        (folder / "metadata.jsonl").write_text(json.dumps(prompts[index]) + "\n")
        shifted = np.roll(drawn_picture(150, 5), index, axis=1)
        Image.fromarray(shifted).save(folder / "samples" / "0000.png")
    return tmp_path / "pictures"


def test_pictures_are_judged_with_the_published_prompts_and_detector(
    vipo, pictures, weights, clip, tmp_path
):
    words = ("eval", "geneval", pictures, "--prompt-set", "geneval", "--detector", "mask2former")
    settings = ("--set", f"weights={weights}", "--set", f"clip={clip}", "--set", "device=cpu")
    out = tmp_path / "results"
    status, answer, err = vipo(
        *words, *settings, "--images-per-prompt", "1", "--prompts", 1, "--out", out, "--json"
    )
    assert status == 0, err
    results = json.loads(answer)
    right = {tag: results["subtasks"][tag]["value"] for tag in results["subtasks"]}
    assert right == dict.fromkeys(right, 0.0) | {"single_object": 1.0}
    assert len(right) == 6
    assert results["metrics"]["overall"]["value"] == pytest.approx(1 / 6)
    samples = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
    reasons = {sample["tag"]: sample["reason"] for sample in samples}
    assert reasons["single_object"] == ""
    assert reasons["two_object"] == "expected 1 of sports ball, found 0"
    assert reasons["colors"].startswith("expected 1 blue fire hydrant, found 0 (")
    assert "only 6 of the benchmark's 553 prompts were asked for" in err


def test_without_weights_the_user_learns_what_to_fetch(vipo, pictures, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    status, out, err = vipo("eval", "geneval", pictures)
    assert (status, out) == (1, "")
    assert "openmmlab" in err
    assert "curl -L" in err
