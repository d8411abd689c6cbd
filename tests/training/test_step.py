from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from vipo_cli.models.base import PipelineFamily
from vipo_cli.run import finish
from vipo_cli.schedules import NoiseLevel
from vipo_cli.training.arrays import RaggedArray
from vipo_cli.training.batches import training_batch
from vipo_cli.training.draw import collate, inverted, sample_generator, time_at
from vipo_cli.training.held_out import compare, measure_held_out
from vipo_cli.training.prepare import prepare
from vipo_cli.training.reference import Snapshot, trainable
from vipo_cli.training.setup import as_singles, split
from vipo_cli.training.step import as_record, measure, mix, predict


@pytest.fixture(scope="module")
def setup(tiny, tmp_path_factory):
    from vipo_cli.data.sources import open_pairs
    from vipo_cli.recipe import resolve_recipe

    settings = {
        "model.precision": "fp32", "data.pairs": 12, "data.held_out": 4, "optimizer.batch_size": 4,
    }  # fmt: skip
    recipe = resolve_recipe(None, model=str(tiny), method="diffusion-dpo", settings=settings)
    records = open_pairs("shapes", recipe.data.parameters)
    return finish(prepare(recipe, records, tmp_path_factory.mktemp("run")))


def drawn(setup, count=4):
    return training_batch(setup, list(range(count)))


def with_settings(setup, section, **values):
    """Return the setup with other values in a section of its recipe."""
    changed = getattr(setup.recipe, section).model_copy(update=values)
    return replace(setup, recipe=setup.recipe.model_copy(update={section: changed}))


def shaken(setup):
    """Return the setup's LoRA weights and a function that moves them away from zero."""
    return [value for name, value in trainable(setup.family).items() if "lora_B" in name]


@pytest.fixture
def moved(setup):
    """A setup whose policy is no longer its base."""
    weights = shaken(setup)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in weights:
            value.add_(0.05 * torch.randn(value.shape, generator=generator))
    yield setup
    with torch.no_grad():
        for value in weights:
            value.zero_()


def test_one_call_equals_separate_calls_with_the_same_time_and_noise(setup):
    batch = drawn(setup)
    together = measure(setup.family, batch).policy
    for item in range(2):
        alone = measure(setup.family, batch.item(item)).policy
        torch.testing.assert_close(alone[0], together[item], atol=1e-6, rtol=1e-5)
    assert torch.equal(batch.eps[0], batch.eps[1])


def test_the_error_is_what_diffusers_would_compute(setup):
    batch = drawn(setup)
    scheduler, unet = setup.family.pipeline.scheduler, setup.family.denoiser
    steps = (batch.time * scheduler.config.num_train_timesteps).long()
    x_t = scheduler.add_noise(batch.x0[0], batch.eps[0], steps)
    prediction = unet(x_t, steps, **batch.condition).sample
    expected = torch.nn.functional.mse_loss(prediction, batch.eps[0], reduction="none")
    found = measure(setup.family, batch).policy[0]
    torch.testing.assert_close(found, expected.mean((1, 2, 3)), atol=1e-6, rtol=1e-5)


def test_the_reference_ignores_the_adapter_and_leaves_it_on(setup, moved):
    batch = drawn(setup)
    after = measure(setup.family, batch, setup.reference)
    for value in shaken(setup):
        value.data.zero_()
    before = measure(setup.family, batch, setup.reference)
    assert torch.equal(before.reference, after.reference)
    assert torch.equal(before.reference, before.policy)
    assert (before.policy != after.policy).all()
    assert not after.reference.requires_grad
    assert after.policy.requires_grad


def test_a_snapshot_stands_in_for_the_policy_and_follows_it(setup):
    batch = drawn(setup)
    snapshot = Snapshot(setup.family)
    at_first = measure(setup.family, batch).policy
    for value in shaken(setup):
        value.data.fill_(0.02)
    measured = measure(setup.family, batch, snapshot.in_place)
    assert torch.equal(measured.reference, at_first)
    measured.policy.sum().backward()  # weights exchanged in between must not disturb the gradient
    gradient = shaken(setup)[0].grad.clone()
    setup.family.denoiser.zero_grad()
    measure(setup.family, batch).policy.sum().backward()
    assert torch.equal(gradient, shaken(setup)[0].grad)
    setup.family.denoiser.zero_grad()
    snapshot.follow(0.75)
    name = next(name for name in snapshot.weights if "lora_B" in name)
    torch.testing.assert_close(
        snapshot.weights[name], torch.full_like(snapshot.weights[name], 0.005)
    )
    snapshot.follow(0.0)
    assert torch.equal(measure(setup.family, batch, snapshot.in_place).reference, measured.policy)
    for value in shaken(setup):
        value.data.zero_()


def test_randomness_belongs_to_the_place_in_the_order_and_not_to_the_batch(setup):
    whole, part = drawn(setup), training_batch(setup, [2, 3])
    assert torch.equal(whole.eps[:, 2:], part.eps)
    assert torch.equal(whole.time[2:], part.time)
    assert torch.equal(whole.x0[:, 2:], part.x0)
    other = drawn(with_settings(setup, "run", seed=1))
    assert not torch.equal(whole.eps, other.eps)


def test_every_second_position_of_a_process_is_its_own(setup):
    whole, part = drawn(setup, 6), training_batch(setup, [1, 3, 5])
    assert torch.equal(whole.eps[:, 1::2], part.eps)


def test_generators_of_neighbours_are_unrelated():
    draws = torch.stack([torch.randn(64, generator=sample_generator(0, 0, i)) for i in range(256)])
    assert abs(draws.mean()) < 0.03
    correlation = (draws[1:] * draws[:-1]).mean()
    assert abs(correlation) < 0.03


def test_an_untrained_policy_is_at_chance_on_held_out_pairs(setup):
    held_out = measure_held_out(setup)
    assert held_out.value == 0.5
    assert held_out.winner_gain == 0.0
    assert held_out.n == len(setup.held_out.records)


def test_held_out_pairs_share_no_prompt_with_the_others():
    prompts = np.array([0, 1, 1, 2, 2, 2, 3, 4, 4, 5])
    train, held_out = split(prompts, 3)
    assert not set(prompts[train]) & set(prompts[held_out])
    assert sorted([*train, *held_out]) == list(range(10))
    assert len(held_out) >= 3


def test_of_few_records_a_fifth_is_kept_back_and_one_prompt_always_learnt_from():
    train, held_out = split(np.arange(20), 128)
    assert (len(train), len(held_out)) == (16, 4)
    train, held_out = split(np.arange(20), 10)
    assert (len(train), len(held_out)) == (10, 10)
    train, held_out = split(np.zeros(20, int), 128)
    assert (len(train), len(held_out)) == (20, 0)
    train, held_out = split(np.array([0, 0, 0, 1]), 2)
    assert len(train) in (1, 3)


def test_captions_are_dropped_for_the_pair_and_not_for_one_picture(setup):
    batch = drawn(with_settings(setup, "data", caption_dropout=0.5), 8)
    empty = setup.encoded.condition(np.array([-1]))["encoder_hidden_states"][0]
    dropped = [torch.equal(row, empty) for row in batch.condition["encoder_hidden_states"]]
    assert 0 < sum(dropped) < len(dropped)
    noised = mix(setup.family, batch)
    winners, losers = noised.condition["encoder_hidden_states"].chunk(2)
    assert torch.equal(winners, losers)


# times


def quantiles(setup, **section):
    time = setup.recipe.time.model_copy(update={"low": 0.0, **section})
    return time_at(time, torch.linspace(0, 1, 10_001)[:-1])


def test_uniform_times_fill_their_range(setup):
    times = quantiles(setup, low=0.2, high=0.6)
    assert times.min() == pytest.approx(0.2)
    assert times.max() == pytest.approx(0.6, abs=1e-3)
    assert times.mean() == pytest.approx(0.4, abs=1e-3)


def test_shifted_times_are_the_shift_of_uniform_ones(setup):
    times, plain = quantiles(setup, shift=3.0), torch.linspace(0, 1, 10_001)[:-1]
    torch.testing.assert_close(times, 3 * plain / (1 + 2 * plain))
    assert quantiles(setup, shift=3.0, low=0.5).min() == pytest.approx(0.5, abs=1e-5)


def test_logit_normal_times_have_their_mean_and_spread(setup):
    times = quantiles(setup, sampler="logit-normal", mean=-0.5, std=0.8)[1:]
    assert times.logit().mean() == pytest.approx(-0.5, abs=1e-2)
    assert times.logit().std() == pytest.approx(0.8, abs=1e-2)
    cut = quantiles(setup, sampler="logit-normal", low=0.3, high=0.7)
    inside = torch.distributions.Normal(0.0, 1.0)
    low, high = (inside.cdf(torch.tensor(bound).logit()) for bound in (0.3, 0.7))
    share = (inside.cdf(torch.tensor(0.5).logit()) - low) / (high - low)
    assert (cut < 0.5).float().mean() == pytest.approx(share.item(), abs=1e-3)
    assert cut.min() >= 0.3
    assert cut.max() <= 0.7


def test_listed_times_are_drawn_alike(setup):
    times = quantiles(setup, sampler="list", values=[0.1, 0.5, 0.9])
    values, counts = times.unique(return_counts=True)
    torch.testing.assert_close(values, torch.tensor([0.1, 0.5, 0.9]))
    assert counts.max() - counts.min() <= 1


# noise


def test_independent_noise_differs_within_a_pair_and_the_time_does_not(setup):
    batch = drawn(with_settings(setup, "noise", source="independent"))
    assert not torch.equal(batch.eps[0], batch.eps[1])
    assert batch.time.shape == (4,)


def test_stored_noise_is_that_of_the_seed(setup):
    seeds = np.arange(2 * len(setup.encoded)).reshape(-1, 2)
    data = replace(setup.encoded, noise_seeds=seeds)
    recipe = with_settings(setup, "noise", source="stored").recipe
    generators = [sample_generator(0, 0, 0), sample_generator(0, 0, 1)]
    batch = collate(recipe, data, np.array([3, 5]), generators, items=2)
    for item, record, seed in ((0, 0, 6), (1, 0, 7), (1, 1, 11)):
        expected = torch.randn(batch.x0.shape[2:], generator=torch.Generator().manual_seed(seed))
        assert torch.equal(batch.eps[item, record], expected)


def test_stored_noise_itself_is_used_where_it_is_there(setup):
    noise = np.random.default_rng(0).standard_normal(setup.encoded.mean.whole.shape, np.float32)
    data = replace(setup.encoded, noise=RaggedArray.of(noise))
    recipe = with_settings(setup, "noise", source="stored").recipe
    batch = collate(recipe, data, np.array([3]), [sample_generator(0, 0, 0)], items=2)
    assert torch.equal(batch.eps[1, 0], torch.from_numpy(noise[data.items[3, 1]]))


def test_inverted_noise_leads_back_to_the_latents(setup):
    """For a model that knows the noise, inversion finds it."""

    class Oracle:
        target = "epsilon"
        noise_level = staticmethod(setup.family.noise_level)

        def predict(self, x_t, time, condition):
            return known.flatten(0, 1)

    batch = drawn(setup)
    known = torch.randn(batch.x0.shape, generator=torch.Generator().manual_seed(3))
    batch = replace(batch, time=torch.tensor([0.3, 0.6, 0.9, 0.99]))
    steps = 4
    found = inverted(batch, lambda: nullcontext(Oracle()), steps).eps
    level = setup.family.noise_level(batch.time)
    first = setup.family.noise_level(torch.zeros(4))
    # the first step takes clean latents for those of time 0, which hold a little noise already
    scale = (level.alpha / first.alpha)[None, :, None, None, None]
    x_t = scale * (batch.x0 - first.sigma[None, :, None, None, None] * known)
    x_t = x_t + level.sigma[None, :, None, None, None] * known
    expected = (x_t - level.alpha[None, :, None, None, None] * batch.x0) / level.sigma[
        None, :, None, None, None
    ]
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)
    assert not torch.equal(inverted(batch, setup.reference, 2).eps[0], batch.eps[0])


# what is measured


def test_a_region_map_weights_the_error_and_its_scale_does_not_matter(moved):
    batch = drawn(moved)
    height, width = batch.x0.shape[-2:]
    region = torch.zeros(2, 4, 1, height, width)
    region[..., : height // 2, :] = 3.0
    error = (predict(moved.family, mix(moved.family, batch)) - mix(moved.family, batch).target) ** 2
    expected = error.unflatten(0, (2, 4))[..., : height // 2, :].flatten(2).mean(2)
    measured = measure(moved.family, replace(batch, region=region))
    torch.testing.assert_close(measured.policy, expected)
    alike = measure(moved.family, replace(batch, region=torch.full_like(region, 0.25)))
    torch.testing.assert_close(alike.policy, measure(moved.family, batch).policy)


def test_absent_items_are_not_predicted_and_measure_zero(moved):
    batch = drawn(moved)
    whole = measure(moved.family, batch, moved.reference)
    present = batch.present.clone()
    present[1, 2] = False
    part = measure(
        moved.family, replace(batch, present=present, here=present.numpy()), moved.reference
    )
    assert part.policy[1, 2] == part.reference[1, 2] == 0
    torch.testing.assert_close(part.policy[present], whole.policy[present], atol=1e-6, rtol=1e-5)


def test_drift_is_how_far_the_predictions_moved(moved):
    batch = drawn(moved)
    noised = mix(moved.family, batch)
    policy = predict(moved.family, noised)
    with moved.reference() as base, torch.no_grad():
        reference = predict(base, noised)
    measured = measure(moved.family, batch, moved.reference, drift=True)
    expected = (policy - reference).square().flatten(1).mean(1).reshape(2, 4)
    torch.testing.assert_close(measured.drift, expected)
    inner = ((policy - noised.target) * (policy - reference)).flatten(1).mean(1).reshape(2, 4)
    identity = (measured.policy + measured.drift - measured.reference) / 2
    torch.testing.assert_close(identity, inner, atol=1e-6, rtol=1e-4)


def test_errors_of_the_reference_that_are_known_are_not_measured_again(setup):
    batch = drawn(setup)
    known = torch.rand(2, 4)

    def never():
        raise AssertionError

    assert torch.equal(measure(setup.family, batch.with_reference(known), never).reference, known)


def test_each_record_gets_its_rows(setup):
    from vipo_cli.objectives import ListErrors, PairErrors, PolicyPairErrors, SampleErrors

    batch = drawn(setup)
    measured = measure(setup.family, batch, setup.reference)
    winners, losers = measured.policy
    assert torch.equal(as_record(SampleErrors, measured, batch, setup.family).policy, winners)
    assert torch.equal(as_record(PolicyPairErrors, measured, batch, setup.family).policy_l, losers)
    pair = as_record(PairErrors, measured, batch, setup.family)
    assert torch.equal(pair.policy_w, winners)
    assert torch.equal(pair.reference_l, measured.reference[1])
    swapped = as_record(PairErrors, measured.flipped(), batch, setup.family)
    assert torch.equal(swapped.policy_w, losers)
    assert as_record(ListErrors, measured, batch, setup.family).policy.shape == (4, 2)


def test_pairs_taken_apart_are_likes_and_dislikes(setup):
    singles, records = as_singles(setup.encoded, setup.train)
    assert len(records) == 2 * len(setup.train)
    pairs = setup.encoded.items
    for record in records:
        pair, side = record % len(pairs), int(record >= len(pairs))
        assert singles.items[record, 0] == pairs[pair, side]
        assert singles.liked[record] == (side == 0)
        assert singles.prompt[record] == setup.encoded.prompt[pair]


# what is right


def test_a_pair_is_right_where_the_policy_gained_more_on_the_winner():
    policy = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    reference = torch.tensor([[1.5, 1.0, 1.0], [1.2, 1.0, 1.1]])
    everything = torch.ones(2, 3, dtype=torch.bool)
    margin, right = compare(policy, reference, everything, everything[0])
    torch.testing.assert_close(margin, torch.tensor([0.3, 0.0, -0.1]))
    assert right.tolist() == [1.0, 0.5, 0.0]


def test_a_list_is_as_right_as_its_pairs():
    gain = torch.tensor([[3.0], [1.0], [2.0], [9.0]])
    present = torch.tensor([[True], [True], [True], [False]])
    liked = torch.tensor([True])
    margin, right = compare(torch.zeros(4, 1), gain, present, liked)
    assert right.item() == pytest.approx(2 / 3)
    assert margin.item() == pytest.approx((2 + 1 - 1) / 3)


def test_a_single_sample_is_right_where_its_gain_has_the_sign_of_its_label():
    gain = torch.tensor([[0.2, 0.2, -0.1, 0.0]])
    liked = torch.tensor([True, False, False, True])
    present = torch.ones(1, 4, dtype=torch.bool)
    _, right = compare(torch.zeros(1, 4), gain, present, liked)
    assert right.tolist() == [1.0, 0.0, 1.0, 0.5]
    margin, _ = compare(torch.zeros(1, 4), gain, present, torch.ones(4, dtype=torch.bool))
    assert torch.equal(margin, gain[0])


# every kind of prediction


class Toy(PipelineFamily):
    """A family of one convolution, whatever it predicts."""

    pipeline = folder = size = multiple = None
    encode_prompts = sampling_arguments = staticmethod(lambda *_: None)

    def __init__(self, target):
        self.target = target
        self.denoiser = torch.nn.Conv2d(4, 4, 3, padding=1)

    def noise_level(self, time):
        if self.target == "flow":
            return NoiseLevel(1 - time, time)
        angle = time * torch.pi / 2  # pure noise at time 1, as with zero terminal SNR
        return NoiseLevel(angle.cos(), angle.sin())

    def predict(self, x_t, time, condition):
        return self.denoiser(x_t) * (1 + time)[:, None, None, None]


@pytest.mark.parametrize("target", ["epsilon", "sample", "velocity", "flow"])
@pytest.mark.parametrize("method", ["poly-dpo", "sipo", "dspo", "mapo", "plackett-luce"])
def test_every_objective_sees_every_kind_of_prediction(setup, target, method):
    from vipo_cli.objectives import DriftPairErrors, objectives, record_of

    torch.manual_seed(0)
    policy, base = Toy(target), Toy(target)
    batch = replace(drawn(setup), time=torch.tensor([0.05, 0.3, 0.7, 0.97]), condition={})
    kind = record_of(method)

    def frozen():
        return nullcontext(base)

    measured = measure(policy, batch, frozen, drift=kind is DriftPairErrors)
    level = policy.noise_level(batch.time)
    alpha, sigma = (value[:, None, None, None] for value in (level.alpha, level.sigma))
    wanted = {
        "epsilon": batch.eps[1],
        "sample": batch.x0[1],
        "velocity": alpha * batch.eps[1] - sigma * batch.x0[1],
        "flow": batch.eps[1] - batch.x0[1],
    }[target]
    x_t = alpha * batch.x0[1] + sigma * batch.eps[1]
    error = (policy.predict(x_t, batch.time, {}) - wanted).square().flatten(1).mean(1)
    torch.testing.assert_close(measured.policy[1], error)
    loss = objectives[method](as_record(kind, measured, batch, policy))
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(policy.denoiser.weight.grad).all()
    assert base.denoiser.weight.grad is None
