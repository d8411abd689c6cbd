import numpy as np
import pytest
import torch

from vipo_cli.run import finish
from vipo_cli.training.loop import TRAINING, draw_batch, measure_held_out
from vipo_cli.training.setup import prepare, split
from vipo_cli.training.step import pair_errors, prediction_errors, sample_generator


@pytest.fixture(scope="module")
def setup(tiny):
    from vipo_cli.data.sources import open_pairs
    from vipo_cli.recipe import resolve_recipe

    settings = {"data.pairs": 12, "data.held_out": 4, "optimizer.batch_size": 4}
    recipe = resolve_recipe(None, model=str(tiny), method="diffusion-dpo", settings=settings)
    return finish(prepare(recipe, open_pairs("shapes", recipe.data.parameters)))


def drawn(setup, positions=range(4)):
    return draw_batch(setup, setup.train[: len(positions)], 0, TRAINING, positions)


def test_one_call_equals_separate_calls_with_the_same_time_and_noise(setup):
    batch, draw = drawn(setup)
    errors = pair_errors(setup.family, setup.reference(), batch, draw)
    for x0, found in ((batch.x0_w, errors.policy_w), (batch.x0_l, errors.policy_l)):
        alone = prediction_errors(setup.family, x0, draw.eps, draw.time, batch.condition)
        torch.testing.assert_close(alone, found, atol=1e-6, rtol=1e-5)


def test_the_error_is_what_diffusers_would_compute(setup):
    batch, draw = drawn(setup)
    scheduler, unet = setup.family.pipeline.scheduler, setup.family.denoiser
    steps = (draw.time * scheduler.config.num_train_timesteps).long()
    x_t = scheduler.add_noise(batch.x0_w, draw.eps, steps)
    prediction = unet(x_t, steps, **batch.condition).sample
    expected = torch.nn.functional.mse_loss(prediction, draw.eps, reduction="none").mean((1, 2, 3))
    found = prediction_errors(setup.family, batch.x0_w, draw.eps, draw.time, batch.condition)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_the_reference_ignores_the_adapter_and_leaves_it_on(setup):
    batch, draw = drawn(setup)
    lora = [value for name, value in setup.family.denoiser.named_parameters() if "lora_B" in name]
    before = pair_errors(setup.family, setup.reference(), batch, draw)
    with torch.no_grad():
        for value in lora:
            value.add_(0.05)
        after = pair_errors(setup.family, setup.reference(), batch, draw)
        for value in lora:
            value.sub_(0.05)
    assert torch.equal(before.reference_w, after.reference_w)
    assert torch.equal(before.reference_l, after.reference_l)
    assert (before.policy_w != after.policy_w).all()
    assert not after.reference_w.requires_grad
    assert before.policy_w.requires_grad


def test_randomness_belongs_to_the_place_in_the_order_and_not_to_the_batch(setup):
    whole, draw = drawn(setup, range(4))
    pairs = setup.train[:4]
    part, part_draw = draw_batch(setup, pairs[2:], 0, TRAINING, range(2, 4))
    assert torch.equal(draw.eps[2:], part_draw.eps)
    assert torch.equal(draw.time[2:], part_draw.time)
    assert torch.equal(whole.x0_w[2:], part.x0_w)
    other = draw_batch(setup, pairs, 1, TRAINING, range(4))[1]
    assert not torch.equal(draw.eps, other.eps)


def test_generators_of_neighbours_are_unrelated():
    draws = torch.stack([torch.randn(64, generator=sample_generator(0, 0, i)) for i in range(256)])
    assert abs(draws.mean()) < 0.03
    correlation = (draws[1:] * draws[:-1]).mean()
    assert abs(correlation) < 0.03


def test_an_untrained_policy_is_at_chance_on_held_out_pairs(setup):
    held_out = measure_held_out(setup)
    assert held_out.value == 0.5
    assert held_out.n == len(setup.held_out)


def test_held_out_pairs_share_no_prompt_with_the_others():
    prompts = np.array([0, 1, 1, 2, 2, 2, 3, 4, 4, 5])
    train, held_out = split(prompts, 3)
    assert not set(prompts[train]) & set(prompts[held_out])
    assert sorted([*train, *held_out]) == list(range(10))
    assert len(held_out) >= 3


def test_captions_are_dropped_for_the_pair_and_not_for_one_picture(setup):
    recipe = setup.recipe
    dropping = recipe.data.model_copy(update={"caption_dropout": 0.5})
    setup.recipe = recipe.model_copy(update={"data": dropping})
    try:
        batch, _ = drawn(setup, range(8))
    finally:
        setup.recipe = recipe
    empty = setup.pairs.condition(np.array([-1]))["encoder_hidden_states"][0]
    dropped = [torch.equal(row, empty) for row in batch.condition["encoder_hidden_states"]]
    assert 0 < sum(dropped) < len(dropped)
