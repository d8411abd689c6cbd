import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny import FAMILIES, build
from vipo_cli.errors import ModelError, VipoError
from vipo_cli.models import open_family
from vipo_cli.models.lora_export import export_lora, listing, provenance
from vipo_cli.models.lora_files import (
    LORA_FILE,
    METADATA,
    LoraLayer,
    check_lora,
    file_fingerprint,
    find_lora,
    read_lora,
    read_own,
)
from vipo_cli.models.lora_names import fused, renamed


@pytest.fixture(scope="session")
def opened(tmp_path_factory):
    """Return a function that opens the tiny pipeline of a family; its networks have no weights."""
    found = {}

    def open_once(name):
        if name not in found:
            found[name] = open_family(str(build(name, tmp_path_factory.mktemp("lora") / name)))
        return found[name]

    return open_once


def random_lora(family, rank=4, alpha=None, targets=None):
    """Return a LoRA for the layers that a family adapts."""
    generator = torch.Generator().manual_seed(0)
    lora = {}
    for name, module in family.denoiser.named_modules():
        if not any(name == t or name.endswith(f".{t}") for t in targets or family.lora_targets):
            continue
        outputs, *inputs = module.weight.shape
        down = torch.randn(rank, *inputs, generator=generator)
        up = torch.randn(outputs, rank, *[1] * (len(inputs) - 1), generator=generator)
        lora[name] = LoraLayer(down, up, float(rank if alpha is None else alpha))
    return lora


def change(layer):
    return layer.up.flatten(1) @ layer.down.flatten(1) * (layer.alpha / layer.rank)


def same(one, other):
    """Assert that two LoRAs change the same layers by the same."""
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(change(one[name]), change(other[name]), atol=1e-5, rtol=1e-5)


def layers_of(tensors, part):
    """Return layers from tensors under diffusers' names."""
    return {
        name.removeprefix(f"{part}.").removesuffix(".lora_A.weight"): LoraLayer(
            tensors[name], tensors[name.replace("lora_A", "lora_B")], float(len(tensors[name]))
        )
        for name in tensors
        if name.endswith(".lora_A.weight")
    }


def write(file, tensors, **header):
    save_file({name: value.contiguous() for name, value in tensors.items()}, file, metadata=header)
    return file


CONVERTED = [
    ("sd", "kohya"),
    ("sd", "comfyui"),
    ("sdxl", "kohya"),
    ("wan", "kohya"),
    ("wan", "comfyui"),
    ("sd3", "comfyui"),
    ("cogvideox", "comfyui"),
    ("cogvideox", "kohya"),
    *((family, "peft") for family in FAMILIES),
]


@pytest.mark.parametrize("alpha", [4, 2, 6])
@pytest.mark.parametrize(("name", "to"), CONVERTED)
def test_plain_diffusers_reads_what_is_exported(opened, tmp_path, name, to, alpha):
    family = opened(name)
    lora = random_lora(family, alpha=alpha)
    pipeline = type(family.pipeline).__name__
    tensors, own = renamed(lora, pipeline, to, layers_per_block=1)
    assert own == (name == "cogvideox" and to != "peft")
    file = write(tmp_path / "a.safetensors", tensors)
    same(read_lora(file, family.pipeline), lora)
    check_lora(file, family.pipeline)


@pytest.mark.parametrize(("name", "to"), [("sd", "kohya"), ("sdxl", "comfyui"), ("wan", "kohya"),
                                          ("wan", "comfyui"), ("sd3", "comfyui")])  # fmt: skip
def test_plain_diffusers_predicts_the_same_with_what_is_exported(tmp_path, name, to):
    from diffusers import DiffusionPipeline

    folder = build(name, tmp_path / name)
    family = open_family(str(folder))
    lora = random_lora(family, rank=2, alpha=2)
    pipeline = type(family.pipeline).__name__
    weights = []
    for number, (tensors, _) in enumerate(
        renamed(lora, pipeline, form, layers_per_block=1) for form in ("peft", to)
    ):
        file = write(tmp_path / f"{number}.safetensors", tensors)
        loaded = DiffusionPipeline.from_pretrained(folder)
        loaded.load_lora_weights(str(file.parent), weight_name=file.name)
        loaded.fuse_lora()
        loaded.unload_lora_weights()
        weights.append(getattr(loaded, family.denoiser_name).state_dict())
    plain = DiffusionPipeline.from_pretrained(folder)
    before = getattr(plain, family.denoiser_name).state_dict()
    changed = [key for key in before if not torch.equal(before[key], weights[0][key])]
    assert {key.removesuffix(".weight") for key in changed} == set(lora)
    for key in before:
        torch.testing.assert_close(weights[0][key], weights[1][key], atol=1e-6, rtol=1e-6)


def flux_lora(rank, alpha, hidden=3072):
    """Return a LoRA for one block of each kind of the real FLUX, whose widths converters know."""
    attention = [f"attn.to_{each}" for each in "qkv"]
    shapes = {
        **{f"transformer_blocks.0.{name}": (hidden, hidden) for name in (
            *attention, "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_out.0",
            "attn.to_add_out",
        )},
        **{f"transformer_blocks.0.{part}.net.0.proj": (4 * hidden, hidden)
           for part in ("ff", "ff_context")},
        **{f"transformer_blocks.0.{part}.net.2": (hidden, 4 * hidden)
           for part in ("ff", "ff_context")},
        **{f"single_transformer_blocks.0.{name}": (hidden, hidden) for name in attention},
        "single_transformer_blocks.0.proj_mlp": (4 * hidden, hidden),
        "single_transformer_blocks.0.proj_out": (hidden, 5 * hidden),
    }  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    return {
        name: LoraLayer(
            torch.randn(rank, inputs, generator=generator),
            torch.randn(outputs, rank, generator=generator),
            alpha,
        )
        for name, (outputs, inputs) in shapes.items()
    }


@pytest.mark.parametrize("to", ["kohya", "comfyui"])
def test_the_names_of_flux_come_back_from_diffusers_as_they_were(to):
    from diffusers import FluxPipeline

    lora = flux_lora(rank=2, alpha=2.0)
    tensors, _ = renamed(lora, "FluxPipeline", to)
    assert {name.partition(".")[0] for name in tensors} == {
        *(f"lora_unet_double_blocks_0_{side}_{layer}" for side in ("img", "txt")
          for layer in ("attn_qkv", "attn_proj", "mlp_0", "mlp_2")),
        "lora_unet_single_blocks_0_linear1",
        "lora_unet_single_blocks_0_linear2",
    }  # fmt: skip
    assert tensors["lora_unet_single_blocks_0_linear1.lora_down.weight"].shape == (8, 3072)
    found = layers_of(FluxPipeline.lora_state_dict(tensors), "transformer")
    assert found.keys() == lora.keys()
    for name, layer in found.items():  # to the last bit, rank and all
        assert torch.equal(layer.down, lora[name].down)
        assert torch.equal(layer.up, lora[name].up)


@pytest.mark.parametrize("alpha", [1.0, 3.0])
def test_the_strength_of_flux_comes_back_too(alpha):
    from diffusers import FluxPipeline

    lora = {name: layer for name, layer in flux_lora(rank=2, alpha=alpha).items() if "ff" in name}
    lora |= {
        name: layer for name, layer in flux_lora(2, alpha).items() if "add_" in name and "v" in name
    }
    tensors, _ = renamed(lora, "FluxPipeline", "kohya")
    found = layers_of(FluxPipeline.lora_state_dict(tensors), "transformer")
    for name, layer in lora.items():
        torch.testing.assert_close(change(found[name]), change(layer), atol=1e-4, rtol=1e-5)
    for missing in ("q", "k"):  # parts that were not adapted stay as they are
        assert not change(found[f"transformer_blocks.0.attn.add_{missing}_proj"]).any()


def test_the_names_of_hunyuan_come_back_from_diffusers_but_for_the_token_refiners_attention(opened):
    from diffusers import HunyuanVideoPipeline

    family = opened("hunyuan")
    lora = random_lora(family, rank=2)
    tensors, _ = renamed(lora, "HunyuanVideoPipeline", "comfyui")
    refiner = "transformer.txt_in.individual_token_refiner.blocks."
    assert f"{refiner}0.self_attn_qkv.lora_A.weight" in tensors
    assert f"{refiner}0.mlp.fc1.lora_B.weight" in tensors
    # diffusers' converter cuts the refiner's `down` in three as well, and FLUX' hidden size is
    # written into it for single blocks
    kept = {
        name: value
        for name, value in tensors.items()
        if "self_attn_qkv" not in name and "linear1" not in name
    }
    found = layers_of(HunyuanVideoPipeline.lora_state_dict(kept), "transformer")
    cut = [
        name
        for name in lora
        if name.startswith(("single", "context_embedder"))
        and name.rsplit(".", 1)[-1] in ("to_q", "to_k", "to_v", "proj_mlp")
    ]
    assert lora.keys() - found.keys() == set(cut)
    for name, layer in found.items():
        torch.testing.assert_close(change(layer), change(lora[name]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["sd3", "hunyuan", "flux"])
def test_a_fused_layer_changes_by_what_its_parts_change_by(opened, name):
    family = opened(name)
    lora = random_lora(family, rank=2, alpha=3)
    tensors, _ = renamed(lora, type(family.pipeline).__name__, "kohya")
    stems = {key.partition(".")[0] for key in tensors}
    assert all(
        {f"{stem}.lora_down.weight", f"{stem}.lora_up.weight", f"{stem}.alpha"} <= tensors.keys()
        for stem in stems
    )
    parts = {"to_q": 0, "to_k": 1, "to_v": 2}
    fused_ones = [stem for stem in stems if stem.endswith(("img_attn_qkv", "x_block_attn_qkv"))]
    assert fused_ones
    for stem in fused_ones:
        down, up = tensors[f"{stem}.lora_down.weight"], tensors[f"{stem}.lora_up.weight"]
        whole = up @ down * (tensors[f"{stem}.alpha"] / len(down))
        block = stem.split("_blocks_")[1].split("_")[0]
        for part, number in parts.items():
            rows = whole.chunk(3)[number]
            alone = change(lora[f"transformer_blocks.{block}.attn.{part}"])
            torch.testing.assert_close(rows, alone, atol=1e-5, rtol=1e-5)


def test_sd3_is_named_as_kohyas_scripts_name_it(opened):
    tensors, _ = renamed(random_lora(opened("sd3")), "StableDiffusion3Pipeline", "kohya")
    first = {
        name.partition(".")[0].removeprefix("lora_unet_joint_blocks_0_")
        for name in tensors
        if "_joint_blocks_0_" in name
    }
    assert first == {
        "x_block_attn_qkv", "x_block_attn_proj", "x_block_attn2_qkv", "x_block_attn2_proj",
        "x_block_mlp_fc1", "x_block_mlp_fc2", "context_block_attn_qkv", "context_block_attn_proj",
        "context_block_mlp_fc1", "context_block_mlp_fc2",
    }  # fmt: skip


def test_the_blocks_of_the_real_sdxl_are_counted_through():
    block = "transformer_blocks.0.attn1.to_q"
    places = {
        f"down_blocks.1.attentions.0.{block}": "input_blocks_4_1",
        f"down_blocks.2.attentions.1.{block}": "input_blocks_8_1",
        f"mid_block.attentions.0.{block}": "middle_block_1",
        f"up_blocks.0.attentions.2.{block}": "output_blocks_2_1",
        f"up_blocks.1.attentions.0.{block}": "output_blocks_3_1",
    }
    layer = LoraLayer(torch.ones(1, 2), torch.ones(2, 1), 1.0)
    for name, place in places.items():
        tensors, _ = renamed({name: layer}, "StableDiffusionXLPipeline", "kohya")
        stem = f"lora_unet_{place}_transformer_blocks_0_attn1_to_q"
        assert tensors.keys() == {
            f"{stem}.lora_down.weight", f"{stem}.lora_up.weight", f"{stem}.alpha"
        }  # fmt: skip


def test_convolutions_of_sdxl_come_back_too(opened, tmp_path):
    family = opened("sdxl")
    lora = random_lora(family, targets=["conv1", "conv2", "time_emb_proj", "proj_in"])
    lora = {name: layer for name, layer in lora.items() if "upsamplers" not in name}
    tensors, _ = renamed(lora, "StableDiffusionXLPipeline", "kohya", layers_per_block=1)
    assert any("in_layers_2" in name for name in tensors)
    same(read_lora(write(tmp_path / "a.safetensors", tensors), family.pipeline), lora)


def test_parts_of_other_ranks_and_strengths_are_fused():
    generator = torch.Generator().manual_seed(0)

    def layer(rank, alpha):
        return LoraLayer(
            torch.randn(rank, 6, generator=generator), torch.randn(6, rank, generator=generator),
            alpha,
        )  # fmt: skip

    parts = [layer(2, 1.0), None, layer(3, 3.0)]
    whole = fused(parts)
    assert whole.down.shape == (9, 6)
    rows = change(whole).chunk(3)
    torch.testing.assert_close(rows[0], change(parts[0]))
    torch.testing.assert_close(rows[2], change(parts[2]))
    assert not rows[1].any()


def test_layers_without_a_name_elsewhere_and_dora_are_told(opened):
    layer = LoraLayer(torch.ones(1, 2), torch.ones(2, 1), 1.0)
    for pipeline, name in (
        ("StableDiffusionXLPipeline", "conv_in"),
        ("StableDiffusionXLPipeline", "down_blocks.0.downsamplers.0.conv"),
        ("FluxPipeline", "x_embedder"),
        ("WanPipeline", "blocks.0.attn1.add_k_proj"),
    ):
        with pytest.raises(ModelError, match="has no name in other programs") as caught:
            renamed({name: layer}, pipeline, "kohya")
        assert name in caught.value.message
        assert "--to peft" in caught.value.hint
    dora = {"a": LoraLayer(layer.down, layer.up, 1.0, torch.ones(2))}
    with pytest.raises(ModelError, match="with DoRA cannot be exported"):
        renamed(dora, "StableDiffusionPipeline", "comfyui")
    tensors, _ = renamed(dora, "StableDiffusionPipeline", "peft")
    assert "unet.a.lora_magnitude_vector" in tensors


@pytest.fixture
def good(opened, tmp_path):
    """Return a LoRA file that fits tiny SD, as tensors."""
    tensors, _ = renamed(random_lora(opened("sd"), rank=2), "StableDiffusionPipeline", "peft")
    return tensors


def told(opened, tmp_path, tensors, family="sd", **header):
    file = write(tmp_path / "x.safetensors", tensors, **header)
    with pytest.raises(ModelError) as caught:
        read_lora(file, opened(family).pipeline)
    assert str(file) in caught.value.message
    return caught.value


FIRST = "unet.down_blocks.1.attentions.0.proj_in"


def test_a_lora_that_is_damaged_or_incomplete_is_told(opened, good, tmp_path):
    a, b = f"{FIRST}.lora_A.weight", f"{FIRST}.lora_B.weight"
    without = {name: value for name, value in good.items() if name != b}
    assert f"lacks one half of `{FIRST}`" in told(opened, tmp_path, without).message
    error = told(opened, tmp_path, good | {a: torch.full_like(good[a], float("nan"))})
    assert "values are not finite" in error.message
    error = told(opened, tmp_path, good | {a: torch.cat([good[a], good[a]])})
    assert f"ranks do not agree or values are not finite in `{FIRST}`" in error.message
    assert "holds no tensors" in told(opened, tmp_path, {}, a="b").message
    error = told(opened, tmp_path, good | {"unet.other.alpha": torch.tensor(2.0)})
    assert "`unet.other.alpha` stands alone" in error.message
    assert "header cannot be read" in told(opened, tmp_path, good, **{METADATA: "{"}).message
    file = write(tmp_path / "x.safetensors", good)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ModelError, match="damaged or cut short"):
        read_lora(file, opened("sd").pipeline)


def test_what_is_more_than_a_lora_is_told(opened, good, tmp_path):
    encoder = {"text_encoder.layers.0.q_proj.lora_A.weight": torch.ones(2, 2)}
    assert "changes the text encoder too" in told(opened, tmp_path, good | encoder).message
    for extra in (f"{FIRST}.lora_B.bias", "lora_unet_a.hada_w1_a", "lora_unet_a.dora_scale", "b"):
        error = told(opened, tmp_path, good | {extra: torch.ones(2)})
        assert f"is not a plain LoRA: it holds `{extra}`" in error.message
        assert "LoHa, LoKr" in error.hint


def test_a_lora_of_another_model_is_told_by_what_does_not_fit(opened, good, tmp_path):
    error = told(opened, tmp_path, good, "flux", **{"vipo.base": "sd15"})
    assert "does not fit the transformer of this FluxPipeline" in error.message
    assert error.hint == "it was trained on `sd15`: --model sd15"
    error = told(opened, tmp_path, good, "sdxl")
    assert error.message.endswith("of this StableDiffusionXLPipeline: 16 of its 48 layers")
    assert error.details[0] == f"`{FIRST}`: made for 16 x 16 x 1 x 1, the layer is 16 x 16"
    assert error.details[-1] == "and 11 more"
    wan, _ = renamed(random_lora(opened("wan")), "WanPipeline", "kohya")
    assert "is not a LoRA that diffusers reads" in told(opened, tmp_path, wan, "flux").message
    flux, _ = renamed(random_lora(opened("sd3")), "StableDiffusion3Pipeline", "kohya")
    for family in ("sd", "sdxl", "wan"):
        assert told(opened, tmp_path, flux, family)
    error = told(opened, tmp_path, good | {
        f"unet.nowhere.lora_{half}.weight": torch.ones(2, 2) for half in "AB"
    })  # fmt: skip
    assert error.details == ("`unet.nowhere`: no such layer",)
    assert error.hint == "it belongs to another model: name that with --model"


def test_evaluation_accepts_what_a_lora_does_to_text_encoders(opened, good, tmp_path):
    encoder = {f"text_encoder.a.lora_{half}.weight": torch.ones(2, 2) for half in "AB"}
    file = write(tmp_path / "x.safetensors", good | encoder)
    check_lora(file, opened("sd").pipeline)
    with pytest.raises(ModelError, match="does not fit"):
        check_lora(file, opened("sd3").pipeline)


def test_diffusers_notes_of_strength_are_followed(opened, good, tmp_path):
    lora = random_lora(opened("sd"), rank=2)
    noted = {"unet.r": 2, "unet.lora_alpha": 4, "unet.alpha_pattern": {"attn1.to_q": 6}}
    file = write(tmp_path / "x.safetensors", good, **{METADATA: json.dumps(noted)})
    found = read_lora(file, opened("sd").pipeline)
    for name, layer in lora.items():
        times = 3 if name.endswith("attn1.to_q") else 2
        torch.testing.assert_close(change(found[name]), times * change(layer))
    noted = {"unet.r": 2, "unet.lora_alpha": 2, "unet.use_rslora": True}
    file = write(tmp_path / "x.safetensors", good, **{METADATA: json.dumps(noted)})
    found = read_lora(file, opened("sd").pipeline)
    torch.testing.assert_close(change(found[name]), 2**0.5 * change(layer))


def test_a_lora_is_found_in_files_folders_and_runs(tmp_path, good):
    steps = []
    for step in (90, 500, 1_000_000):
        folder = tmp_path / "run" / "checkpoints" / f"step-{step:06d}"
        folder.mkdir(parents=True)
        steps.append(write(folder / LORA_FILE, good))
    assert find_lora(str(tmp_path / "run")) == steps[-1]
    assert find_lora(f"{steps[0].parent}/") == steps[0]
    assert find_lora(str(steps[1])) == steps[1]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "model_index.json").write_text("{}")
    for name, message, hint in (
        ("full", "holds no LoRA weights", f"--model {tmp_path / 'full'}"),
        ("run/checkpoints", "holds no LoRA weights", "give a safetensors file"),
        ("run2", "no such LoRA file or folder", f"did you mean `{tmp_path / 'run'}`?"),
    ):
        with pytest.raises(VipoError, match=message) as caught:
            find_lora(str(tmp_path / name))
        assert hint in caught.value.hint
    (tmp_path / "a.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match="is not a safetensors file"):
        find_lora(str(tmp_path / "a.bin"))


def header_of(**more):
    return {f"vipo.{key}": value for key, value in ({
        "version": "1", "base": "sd15", "pipeline": "StableDiffusionPipeline",
        "target": "epsilon", "resolution": "512x512", "layers_per_block": "2", "step": "5",
        "recipe": '{"model":{"name":"sd15"}}',
    } | more).items()}  # fmt: skip


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("fp16", torch.float16)])
def test_an_exported_file_holds_what_it_was_made_from_and_says_so(
    opened, good, tmp_path, precision, dtype
):
    source = write(tmp_path / LORA_FILE, good, **header_of())
    made = export_lora(str(source), "kohya", tmp_path / "me.safetensors", precision=precision)
    assert (made.layers, made.rank, made.alpha) == (len(good) // 2, 2, 2.0)
    assert made.bytes == made.file.stat().st_size
    tensors = load_file(made.file)
    weights = [value for name, value in tensors.items() if not name.endswith(".alpha")]
    assert {value.dtype for value in weights} == {dtype}
    assert tensors["lora_unet_down_blocks_1_attentions_0_proj_in.alpha"] == 2
    said = provenance(str(made.file))
    assert said["provenance"]["recipe"] == {"model": {"name": "sd15"}}
    assert said["metadata"] == {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": "me",
        "modelspec.resolution": "512x512",
        "modelspec.prediction_type": "epsilon",
        "ss_base_model_version": "sd_v1",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "2",
        "ss_network_alpha": "2",
    }
    with pytest.raises(VipoError, match="exists"):
        export_lora(str(source), "kohya", made.file)
    assert file_fingerprint(source) != file_fingerprint(made.file)


def test_what_was_trained_here_is_exported_without_its_model(good, tmp_path):
    source = write(tmp_path / LORA_FILE, good, **header_of(base="/nowhere/at/all"))
    assert export_lora(str(tmp_path), "comfyui", tmp_path / "a.safetensors").layers == 48
    same(read_own(source), layers_of(good, "unet"))


def test_a_lora_from_elsewhere_needs_its_model(opened, good, tmp_path):
    source = write(tmp_path / "x.safetensors", good)
    with pytest.raises(ModelError, match="does not say which model") as caught:
        export_lora(str(source), "kohya", tmp_path / "a.safetensors")
    assert "--model" in caught.value.hint
    model = str(opened("sd").folder)
    made = export_lora(str(source), "kohya", tmp_path / "a.safetensors", model=model)
    back = export_lora(str(made.file), "peft", tmp_path / "b.safetensors", model=model)
    found = load_file(back.file)
    assert found.keys() == good.keys()
    assert all(torch.equal(found[name], good[name]) for name in good)


def test_stable_diffusion_2_is_told_from_1_by_its_width():
    layer = LoraLayer(torch.ones(1, 1024), torch.ones(2, 1), 1.0)
    for target, version in (("velocity", "sd_v2_v"), ("epsilon", "sd_v2")):
        found = listing(
            {"a.attn2.to_k": layer}, "StableDiffusionPipeline", {"vipo.target": target}, "t"
        )
        assert found["ss_base_model_version"] == version
        assert found["modelspec.architecture"].startswith("stable-diffusion-v2-")
