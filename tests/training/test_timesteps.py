import numpy as np
import pytest
import torch

from vipo_cli.data.sources import open_pairs
from vipo_cli.errors import DataError
from vipo_cli.models import load_family
from vipo_cli.objectives.importance import importance_weight
from vipo_cli.run import finish
from vipo_cli.training.timesteps import load_policy, measure_times, rate_of

TIMES = np.array([0.1, 0.5, 0.9])


@pytest.fixture(scope="module")
def pairs():
    return open_pairs("shapes", {"pairs": 40})


@pytest.fixture
def lora(tiny, tmp_path):
    """LoRA weights for the tiny model that do change it."""
    from peft import LoraConfig, get_peft_model_state_dict

    family = load_family(str(tiny))
    family.denoiser.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"]))
    torch.manual_seed(0)
    for name, value in family.denoiser.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value)
    layers = get_peft_model_state_dict(family.denoiser)
    family.pipeline.save_lora_weights(tmp_path, unet_lora_layers=layers)
    return tmp_path / "pytorch_lora_weights.safetensors"


def test_errors_are_measured_pair_by_pair(tiny, pairs):
    family, reference = load_policy(str(tiny))
    assert reference is None
    found = finish(measure_times(family, reference, pairs, TIMES, 6))
    assert found.policy_w.shape == found.policy_l.shape == (6, 3)
    assert found.reference_w is None
    assert (found.policy_w > 0).all()
    assert len(found.prompts) == 6


def test_the_error_is_that_of_the_models_own_prediction(tiny, pairs):
    """The same number by hand, for the first pair: one noise for both members and all times."""
    from vipo_cli import media

    family, _ = load_policy(str(tiny))
    found = finish(measure_times(family, None, pairs, TIMES, 1))
    family = load_family(str(tiny))
    noise = torch.randn((3, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    pair = pairs[0]
    for side, errors in enumerate((found.policy_w, found.policy_l)):
        picture, _ = media.read_framed(media.media_bytes(pair.media[side]), family.size)
        pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        with torch.no_grad():
            mean, std = family.encode_media(pixels)
            x0 = mean + std * noise[1 + side]
            for column, time in enumerate(TIMES):
                at = torch.tensor([time], dtype=torch.float32)
                x_t = family.noise_level(at).mix(x0, noise[:1])
                said = family.predict(x_t, at, family.encode_prompts([pair.prompt]))
                by_hand = (said - noise[:1]).square().mean().item()
                assert errors[0, column] == pytest.approx(by_hand, rel=1e-4)


def test_a_lora_is_measured_against_the_model_below_it(tiny, lora, pairs):
    family, reference = load_policy(str(tiny), lora)
    found = finish(measure_times(family, reference, pairs, TIMES, 4))
    base, _ = load_policy(str(tiny))
    alone = finish(measure_times(base, None, pairs, TIMES, 4))
    assert found.reference_w == pytest.approx(alone.policy_w, rel=1e-4)
    assert np.abs(found.policy_w - found.reference_w).min() > 0


def test_a_full_model_is_measured_against_its_base(tiny, pairs):
    family, reference = load_policy(str(tiny), base=str(tiny))
    with torch.no_grad():
        for value in family.denoiser.parameters():
            value.mul_(1.1)
    found = finish(measure_times(family, reference, pairs, TIMES, 2))
    assert np.abs(found.policy_l - found.reference_l).min() > 0


def test_pairs_are_chosen_evenly_and_no_more_than_there_are(tiny, pairs):
    family, _ = load_policy(str(tiny))
    work = measure_times(family, None, pairs, TIMES, 1000)
    stages = {}
    while True:
        try:
            progress = next(work)
        except StopIteration as end:
            assert len(end.value.policy_w) == 40
            break
        stages[progress.stage] = progress
    assert stages["measuring errors"].done == stages["measuring errors"].total


def test_what_has_no_loser_cannot_be_measured(tiny):
    family, _ = load_policy(str(tiny))
    with pytest.raises(DataError, match="no pairs of a winner and a loser"):
        finish(measure_times(family, None, open_pairs("shapes", {"kind": "captions"}), TIMES, 3))


def test_the_rate_is_that_of_the_objectives(tiny):
    family, _ = load_policy(str(tiny))
    errors = np.array([0.2, 0.3, 0.4])
    weight = importance_weight(
        torch.from_numpy(errors), torch.from_numpy(TIMES).float(), family, steps=50
    )
    assert np.exp(-rate_of(family, 50)(TIMES) * errors) == pytest.approx(weight.numpy(), rel=1e-5)
    assert rate_of(family, 50)(np.array([0.0])) == np.inf
    assert (rate_of(family, 10)(TIMES) > rate_of(family, 50)(TIMES)).all()
