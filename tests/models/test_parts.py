import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from vipo_cli.errors import ModelError
from vipo_cli.models import load_family, open_family
from vipo_cli.models.parts import encoder_parts, fingerprint_parts, load_parts, release_parts


@pytest.fixture
def copy(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "copy")


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_an_opened_model_has_shapes_and_no_weights(tiny):
    family = open_family(str(tiny))
    whole = load_family(str(tiny))
    assert family.size == whole.size
    for part in ("unet", "vae", "text_encoder"):
        shapes = {k: v.shape for k, v in getattr(family.pipeline, part).state_dict().items()}
        expected = {k: v.shape for k, v in getattr(whole.pipeline, part).state_dict().items()}
        assert shapes == expected
        assert next(getattr(family.pipeline, part).parameters()).device.type == "meta"


def test_parts_come_and_go(tiny):
    family = open_family(str(tiny))
    assert encoder_parts(family) == ("text_encoder", "vae")
    load_parts(family, ["unet", "vae"], dtype=torch.bfloat16, device="cpu")
    assert family.denoiser is family.pipeline.unet
    assert family.denoiser.dtype == torch.bfloat16
    assert family.pipeline.vae.dtype == torch.float32  # it asks to be upcast
    assert not any(weight.requires_grad for weight in family.denoiser.parameters())
    assert not family.denoiser.training
    release_parts(family, ["vae"])
    assert family.pipeline.vae is None
    load_parts(family, ["vae"], dtype=torch.bfloat16, device="cpu")
    assert family.pipeline.vae.dtype == torch.float32
    release_parts(family, ["vae"])
    assert encoder_parts(family) == ("text_encoder", "vae")


def test_parts_are_named_by_their_content_and_not_by_their_place(tiny, copy):
    first, second = open_family(str(tiny)), open_family(str(copy))
    assert fingerprint_parts(first, ["vae"]) == fingerprint_parts(second, ["vae"])
    assert fingerprint_parts(first, ["vae"]) != fingerprint_parts(first, ["vae", "text_encoder"])
    file = copy / "vae" / "diffusion_pytorch_model.safetensors"
    save_file({name: value + 1 for name, value in load_file(file).items()}, file)
    assert fingerprint_parts(first, ["vae"]) != fingerprint_parts(second, ["vae"])


def test_a_tokenizer_counts_too(tiny, copy):
    change(copy / "tokenizer" / "tokenizer_config.json", model_max_length=9)
    first, second = (open_family(str(folder)) for folder in (tiny, copy))
    assert fingerprint_parts(first, ["vae"]) != fingerprint_parts(second, ["vae"])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder / "vae"), "vae: "),
        (lambda folder: (folder / "tokenizer" / "tokenizer.json").unlink(), "tokenizer: "),
        (lambda folder: (folder / "unet" / "config.json").write_text("{"), "unet: "),
        (
            lambda folder: change(folder / "model_index.json", vae=["mine", "Autoencoder"]),
            "vae: its class Autoencoder comes from `mine`",
        ),
        (
            lambda folder: change(folder / "model_index.json", unet=["diffusers", "NoSuchNet"]),
            "unet: ",
        ),
    ],
)
def test_what_cannot_be_opened_names_the_part(copy, damage, message):
    damage(copy)
    with pytest.raises(ModelError, match=f"cannot load the model `{copy}`: {message}") as caught:
        open_family(str(copy))
    assert "\n" not in caught.value.message


def test_weights_of_another_architecture_are_refused(copy):
    change(copy / "unet" / "config.json", block_out_channels=[8, 24], norm_num_groups=8)
    with pytest.raises(ModelError, match="unet"):
        load_family(str(copy))


def test_weights_that_lack_a_tensor_are_refused(copy):
    file = copy / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights.pop(name := sorted(weights)[3])
    save_file(weights, file)
    with pytest.raises(ModelError, match=f"1 tensors are missing, such as `{name}`"):
        load_family(str(copy))


def test_a_text_encoder_that_lacks_a_tensor_is_refused(copy):
    file = copy / "text_encoder" / "model.safetensors"
    weights = load_file(file)
    weights.pop(next(name for name in weights if "token_embedding" in name))
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"text_encoder .* 1 tensors are missing"):
        load_family(str(copy))
