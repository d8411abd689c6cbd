import json

import pytest
import torch
from safetensors.torch import load_file, save_file

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
KOHYA = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"


@pytest.fixture
def run(tmp_path):
    """Return a run directory with a LoRA of one layer."""
    folder = tmp_path / "poly"
    checkpoint = folder / "checkpoints" / "step-000500"
    checkpoint.mkdir(parents=True)
    save_file(
        {f"unet.{LAYER}.lora_A.weight": torch.ones(2, 4),
         f"unet.{LAYER}.lora_B.weight": torch.full((4, 2), 0.5)},
        checkpoint / "pytorch_lora_weights.safetensors",
        metadata={
            "vipo.base": "sd15", "vipo.pipeline": "StableDiffusionPipeline", "vipo.step": "500",
            "vipo.method": "poly-dpo", "vipo.objective": '{"alpha":0.5}', "vipo.recipe": "{}",
        },
    )  # fmt: skip
    return folder


def test_a_run_is_exported_in_all_three_modes(vipo, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = vipo("export", str(run), "--to", "comfyui")
    assert (status, err) == (0, "")
    assert out.startswith("wrote poly-comfyui.safetensors: 1 layers of rank 2, alpha 2, 0.0 MB")
    assert load_file("poly-comfyui.safetensors").keys() == {
        f"{KOHYA}.lora_down.weight", f"{KOHYA}.lora_up.weight", f"{KOHYA}.alpha"
    }  # fmt: skip
    status, out, _ = vipo("export", f"{run}/", "--to", "kohya", "--out", "a.safetensors", "--json")
    document = json.loads(out)
    assert status == 0
    assert document.keys() == {
        "file", "source", "pipeline", "to", "names", "layers", "rank", "alpha", "bytes",
    }  # fmt: skip
    assert (document["file"], document["names"], document["layers"]) == (
        "a.safetensors",
        "kohya",
        1,
    )
    assert vipo("export", str(run), "--to", "peft", "-q") == (0, "poly-peft.safetensors\n", "")


def test_show_says_where_a_lora_comes_from(vipo, run):
    status, out, _ = vipo("export", str(run), "--show")
    assert status == 0
    said = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert (said["base"], said["method"], said["step"], said["rank"]) == (
        "sd15", "poly-dpo", "500", "2",
    )  # fmt: skip
    document = json.loads(vipo("export", str(run), "--show", "--json")[1])
    assert document["provenance"]["objective"] == {"alpha": 0.5}
    assert document["provenance"]["recipe"] == {}


def test_a_kind_of_model_without_names_of_its_own_is_said(vipo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_file(
        {f"transformer.a.lora_{half}.weight": torch.ones(2, 2) for half in "AB"},
        "x.safetensors",
        metadata={"vipo.pipeline": "CogVideoXPipeline"},
    )
    status, out, err = vipo("export", "x.safetensors", "--to", "comfyui", "--json")
    assert status == 0
    assert json.loads(out)["names"] == "peft"
    assert "no established names of comfyui for a CogVideoXPipeline" in err
    assert load_file("x-comfyui.safetensors").keys() == load_file("x.safetensors").keys()


def test_mistakes_are_one_error_each(vipo, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert vipo("export", str(run))[0] == 2
    assert vipo("export", str(run), "--to", "a1111")[0] == 2
    for words, message in (
        ((str(tmp_path / "nothing"), "--to", "kohya"), "no such LoRA file or folder"),
        ((str(tmp_path), "--to", "kohya"), "holds no LoRA weights"),
        ((str(run), "--to", "kohya", "--out", str(run)), "exists"),
    ):
        status, out, err = vipo("export", *words)
        assert (status, out) == (1, "")
        assert err.startswith("error: ")
        assert message in err
