import json
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file

from tests.calls import assert_same_call, recorded
from tests.tiny.sd import build
from vipo_cli.errors import MissingWeights, ModelError, UnknownName
from vipo_cli.models import Family, find_model, load_family, load_pipeline, models
from vipo_cli.models.family import Size
from vipo_cli.schedules import NoiseLevel

TIMES = torch.tensor([0.0, 0.001, 0.25, 0.5, 0.7503, 0.999, 1.0])
PROMPTS = ["a red circle", "", "two blue squares " * 60]


@pytest.fixture(scope="module")
def family(tiny):
    return load_family(str(tiny))


@pytest.fixture
def copy(tiny, tmp_path):
    return shutil.copytree(tiny, tmp_path / "copy")


def draw(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_the_adapter_keeps_the_contract(family):
    assert isinstance(family, Family)
    assert (family.size, family.multiple, family.frame_stride) == (Size(32, 32), 8, 0)


def test_noise_levels_are_the_schedulers_own(family):
    scheduler = family.pipeline.scheduler
    x0, eps = draw(len(TIMES), 4, 8, 8), draw(len(TIMES), 4, 8, 8).flip(0)
    last = scheduler.config.num_train_timesteps - 1
    steps = (TIMES * (last + 1)).long().clamp(max=last)
    level = family.noise_level(TIMES)
    torch.testing.assert_close(
        level.mix(x0, eps), scheduler.add_noise(x0, eps, steps), atol=1e-6, rtol=0
    )
    assert (level.sigma.diff() >= 0).all()
    torch.testing.assert_close(level.alpha**2 + level.sigma**2, torch.ones(len(TIMES)))


def test_all_times_together_reach_every_step_alike(family):
    steps = family._schedule.step((torch.arange(10_000) + 0.5) / 10_000)
    assert (torch.bincount(steps) == 10).all()


@torch.no_grad()
def test_prompts_are_encoded_as_the_pipeline_does(family):
    condition = family.encode_prompts(PROMPTS)
    assert list(condition) == ["encoder_hidden_states"]
    expected, _ = family.pipeline.encode_prompt(PROMPTS, "cpu", 1, False)
    torch.testing.assert_close(condition["encoder_hidden_states"], expected)


@torch.no_grad()
def test_media_are_encoded_to_the_scaled_posterior(family):
    pixels = draw(3, 3, 32, 32).clamp(-1, 1)
    mean, std = family.encode_media(pixels)
    posterior = family.pipeline.vae.encode(pixels).latent_dist
    scale = family.pipeline.vae.config.scaling_factor
    torch.testing.assert_close(mean, posterior.mean * scale)
    torch.testing.assert_close(std, posterior.std * scale)
    assert mean.shape == (3, 4, 8, 8)


@torch.no_grad()
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_unet_is_called_as_its_pipeline_calls_it(tmp_path, prediction):
    family = load_family(str(build(tmp_path / prediction, prediction=prediction)))
    texts = ["a red circle", "two blue squares"]
    with recorded(family.pipeline.unet) as calls:
        family.pipeline(
            texts, num_inference_steps=3, guidance_scale=1.0, output_type="latent", height=32,
            width=48,
        )  # fmt: skip
    condition = family.encode_prompts(texts)
    assert [int(call["timestep"]) for call in calls] == [999, 666, 332]
    for expected in calls:
        time = (expected["timestep"].expand(2) + 0.5) / 1000
        with recorded(family.denoiser) as found:
            prediction = family.predict(expected["sample"], time, condition)
        assert_same_call(found[0], expected)
        assert prediction.shape == (2, 4, 8, 12)


def test_a_scheduler_that_does_not_preserve_variance_is_refused(copy):
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(
        json.dumps(index | {"scheduler": ["diffusers", "EDMEulerScheduler"]})
    )
    (copy / "scheduler" / "scheduler_config.json").write_text("{}")
    with pytest.raises(
        ModelError, match="EDMEulerScheduler with predictions of type `epsilon`"
    ) as e:
        load_family(str(copy))
    assert "v_prediction" in e.value.hint


@pytest.mark.parametrize(
    ("kind", "target"),
    [("epsilon", "epsilon"), ("v_prediction", "velocity"), ("sample", "sample")],
)
def test_the_target_follows_the_scheduler(tiny, copy, kind, target):
    file = copy / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"prediction_type": kind}))
    family = load_family(str(copy))
    assert family.target == target
    x0, eps = draw(2, 4, 8, 8), draw(2, 4, 8, 8).flip(0)
    level = family.noise_level(torch.tensor([0.3, 0.9]))
    assert isinstance(level, NoiseLevel)
    found = level.target(family.target, x0, eps)
    expected = {
        "epsilon": eps,
        "sample": x0,
        "velocity": family.pipeline.scheduler.get_velocity(x0, eps, torch.tensor([300, 900])),
    }[target]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_registered_names_say_how_they_want_to_be_used():
    for name in models.names():
        spec = find_model(name)
        assert spec.name == name
        assert spec.licence != "unknown"
        assert models.summary(name)


@pytest.mark.parametrize("name", ["sd-15", "some model/x y", "a/b/c", "/no/such", "./x", "x/", ""])
def test_what_is_no_name_folder_or_hub_id_is_refused(name):
    with pytest.raises(UnknownName) as caught:
        find_model(name)
    assert "known: " in caught.value.hint
    assert ("did you mean `sd15`?" in caught.value.hint) is (name == "sd-15")


def test_a_folder_without_an_index_is_refused(copy):
    (copy / "model_index.json").unlink()
    with pytest.raises(ModelError, match=r"holds no diffusers pipeline: `model_index.json`"):
        find_model(str(copy))


@pytest.mark.parametrize("text", ["{", "[]", "{}", "\ufeff", '"x"'])
def test_a_damaged_index_is_told(copy, text):
    (copy / "model_index.json").write_text(text)
    with pytest.raises(ModelError, match="is damaged: it names no pipeline") as caught:
        load_family(str(copy))
    assert str(copy / "model_index.json") in caught.value.message


@pytest.mark.parametrize(
    ("kind", "message"),
    [("DDPMPipeline", "is a DDPMPipeline, which cannot be trained yet"),
     ("NoSuchPipeline", "is a NoSuchPipeline, which cannot be trained yet")],
)  # fmt: skip
def test_an_unsupported_pipeline_is_refused_before_its_weights_are_read(copy, kind, message):
    file = copy / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"_class_name": kind}))
    shutil.rmtree(copy / "unet")
    with pytest.raises(ModelError, match=message) as caught:
        load_family(str(copy))
    assert caught.value.hint.startswith("supported: ")
    assert "StableDiffusionPipeline" in caught.value.hint


def test_a_pipeline_that_diffusers_lacks_is_told(copy):
    file = copy / "model_index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"_class_name": "NoSuchPipeline"}))
    with pytest.raises(ModelError, match=r"which diffusers .* does not have"):
        load_pipeline(find_model(str(copy)))


@pytest.mark.parametrize(
    ("part", "keep"),
    [
        ("unet/diffusion_pytorch_model.safetensors", -100),
        ("text_encoder/model.safetensors", 5),
        ("vae/diffusion_pytorch_model.safetensors", None),
        ("unet/config.json", 9),
    ],
)
def test_files_cut_short_or_missing_are_one_error(copy, part, keep, capfd):
    file = copy / part
    if keep is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelError, match=f"cannot load the model `{copy}`: ") as caught:
        load_family(str(copy))
    assert "\n" not in caught.value.message
    assert "incomplete" in caught.value.hint


@pytest.mark.parametrize("name", ["someone/no-such-model", "sd15"])
def test_hub_models_that_are_not_here_are_missed_quickly(name, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    started = time.monotonic()
    with pytest.raises(MissingWeights) as caught:
        load_family(name)
    assert time.monotonic() - started < 5
    assert f"`{name}`" in caught.value.message
    assert caught.value.hint.endswith(f"hf download {find_model(name).source}")


def test_nothing_but_safetensors_is_read(copy):
    file = copy / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()
    with pytest.raises(ModelError):
        load_family(str(copy))
