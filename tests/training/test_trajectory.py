from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch.distributions import Normal

from vipo_cli.models import load_family
from vipo_cli.objectives import objectives, record_of
from vipo_cli.objectives.importance import importance_weight
from vipo_cli.schedules import NoiseLevel
from vipo_cli.training.arrays import RaggedArray
from vipo_cli.training.reference import adapter_off
from vipo_cli.training.step import as_record
from vipo_cli.training.trajectory import (
    Trajectories,
    collate_steps,
    estimate,
    measure_steps,
    random_steps,
    sample_trajectories,
    step_times,
    transition,
)

PREDICTIONS = {"epsilon": "epsilon", "velocity": "v_prediction", "sample": "sample"}
SHAPE = (4, 8, 8)


def generators(count, first=0):
    return [torch.Generator().manual_seed(first + number) for number in range(count)]


def unit(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def levels(scheduler, *steps):
    signal = scheduler.alphas_cumprod.double()
    return [NoiseLevel(signal[[step]].sqrt(), (1 - signal[[step]]).sqrt()) for step in steps]


def ddim(prediction="epsilon"):
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        timestep_spacing="trailing", prediction_type=prediction,
    )  # fmt: skip
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    return scheduler


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("step", [999, 699, 199])
def test_a_step_is_that_of_ddim_with_eta_1(kind, step):
    scheduler = ddim(PREDICTIONS[kind])
    scheduler.set_timesteps(10)
    x_t, prediction, noise = unit(3, 1, *SHAPE)
    expected = scheduler.step(prediction, step, x_t, eta=1.0, variance_noise=noise).prev_sample
    now, then = levels(scheduler, step, step - 100)
    found = transition(now, then, *now.split(kind, x_t, prediction)).sample(noise)
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-7)


def test_a_single_step_is_the_posterior_of_ddpm():
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    x0, eps = unit(2, 1, *SHAPE)
    for step in (1, 60, 500, 999):
        now, then = levels(scheduler, step, step - 1)
        x_t = now.mix(x0, eps)
        bar, bar_before = now.alpha**2, then.alpha**2
        beta = 1 - bar / bar_before
        mean = (bar_before.sqrt() * beta * x0 + (1 - beta).sqrt() * (1 - bar_before) * x_t) / (
            1 - bar
        )
        found = transition(now, then, x0, eps)
        torch.testing.assert_close(found.mean, mean, atol=1e-9, rtol=1e-7)
        variance = beta * (1 - bar_before) / (1 - bar)
        torch.testing.assert_close(found.std**2, variance, atol=0, rtol=1e-9)
        torch.testing.assert_close(
            variance[0].item(), scheduler._get_variance(step).item(), atol=0, rtol=1e-3
        )


@pytest.mark.parametrize("now", [1.0, 0.9, 0.3])
def test_a_step_of_a_flow_model_is_bayes_rule(now):
    """q(x_next | x_t, x0) is proportional to q(x_t | x_next) q(x_next | x0), both Gaussian."""
    then = now - 0.1
    at, before = (
        NoiseLevel(torch.tensor([1 - t]).double(), torch.tensor([t])) for t in (now, then)
    )
    x0, eps = unit(2, 1, 64)
    x_t = at.mix(x0, eps)
    scale = (1 - now) / (1 - then)
    spread = now**2 - scale**2 * then**2
    precision = 1 / then**2 + scale**2 / spread
    mean = ((1 - then) * x0 / then**2 + scale * x_t / spread) / precision
    found = transition(at, before, x0, eps)
    torch.testing.assert_close(found.mean, mean, atol=1e-7, rtol=1e-6)
    assert found.std.item() == pytest.approx(precision**-0.5, rel=1e-6)


def test_the_likelihood_is_that_of_the_normal_distribution():
    scheduler = ddim()
    now, then = levels(scheduler, 599, 499)
    x0, eps, x_next = unit(3, 1, *SHAPE)
    found = transition(now, then, x0, eps)
    expected = Normal(found.mean, found.std).log_prob(x_next).mean((1, 2, 3))
    torch.testing.assert_close(found.log_likelihood(x_next), expected)


def test_likelihoods_agree_with_importance_weights(family):
    """At the true step's mean, the ratio to the true step is the weight that SIPO computes."""
    time, steps = torch.tensor([0.1505, 0.5505, 0.9505]), 20
    now, then = family.noise_level(time), family.noise_level(time - 1 / steps)
    x0, eps = unit(2, 3, *SHAPE, dtype=torch.float32)
    prediction = eps + 0.1 * unit(3, *SHAPE, seed=1, dtype=torch.float32)
    true = transition(now, then, x0, eps)
    said = transition(now, then, *now.split("epsilon", now.mix(x0, eps), prediction))
    ratio = said.log_likelihood(true.mean) - true.log_likelihood(true.mean)
    error = (prediction - eps).square().mean((1, 2, 3))
    weight = importance_weight(error, time, family, steps=steps, kernel="ddpm")
    torch.testing.assert_close(ratio.exp(), weight, atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def family(tiny):
    from peft import LoraConfig

    family = load_family(str(tiny))
    for module in (family.pipeline.vae, family.pipeline.text_encoder, family.denoiser):
        module.requires_grad_(False).eval()
    torch.manual_seed(0)
    family.denoiser.add_adapter(LoraConfig(r=2, target_modules=list(family.lora_targets)))
    return family


def sampled(family, count=4, *, guidance=3.0, steps=5, first=0):
    start = torch.stack([torch.randn(SHAPE, generator=g) for g in generators(count, 100 + first)])
    with torch.no_grad():
        prompts = [f"a {colour} circle" for colour in ("red", "blue", "green", "grey")]
        condition = family.encode_prompts(prompts[first : first + count])
        empty = family.encode_prompts([""] * count) if guidance > 1 else None
    times = step_times(steps)
    states = sample_trajectories(
        family, start, condition, empty, times, guidance, generators(count, first)
    )
    return condition, empty, times, states


def test_sampling_is_that_of_diffusers_from_noise_to_clean(family):
    scheduler = family.pipeline.scheduler
    scheduler.set_timesteps(5)
    start = unit(1, *SHAPE, dtype=torch.float32)
    with torch.no_grad():
        condition = family.encode_prompts(["a red circle"])
        x_t, generator = start, torch.Generator().manual_seed(0)
        for step in scheduler.timesteps:
            prediction = family.denoiser(x_t, step, **condition).sample
            noise = torch.randn(SHAPE, generator=generator)[None]
            x_t = scheduler.step(prediction, step, x_t, eta=1.0, variance_noise=noise).prev_sample
    times = torch.tensor([(step + 0.5) / 1000 for step in scheduler.timesteps] + [0.0])
    states = sample_trajectories(family, start, condition, None, times, 1.0, generators(1))
    assert states.shape == (1, 6, *SHAPE)
    assert torch.equal(states[:, 0], start)
    torch.testing.assert_close(states[:, -1], x_t, atol=1e-4, rtol=1e-4)


def test_a_sample_does_not_depend_on_its_neighbours(family):
    together = sampled(family)[-1]
    assert torch.equal(sampled(family)[-1], together)
    alone = sampled(family, 1, first=2)[-1]
    torch.testing.assert_close(alone[0], together[2], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(together[0], together[1])


def test_times_fall_evenly_and_may_be_shifted():
    times = step_times(4)
    assert times.tolist() == [1, 0.75, 0.5, 0.25, 0]
    assert step_times(4, shift=3.0).tolist() == pytest.approx([1, 0.9, 0.75, 0.5, 0])


@pytest.fixture
def data(family):
    """Two pairs, over four trajectories."""
    condition, empty, times, states = sampled(family)
    return Trajectories(
        states=states.numpy(),
        times=times.numpy(),
        conditions={
            name: RaggedArray.of(torch.cat([condition[name][:2], empty[name][:1]]).numpy())
            for name in condition
        },
        items=np.array([[2, 0], [1, 3]]),
        prompt=np.array([1, 0]),
        weight=np.array([1.0, 0.5], np.float32),
        probability=np.array([1.0, 0.75], np.float32),
        guidance=3.0,
        fingerprint="made",
    )


def test_a_pair_shares_its_step_which_is_never_the_last(data):
    records = np.zeros(200, np.int64)
    batch = collate_steps(data, records, random_steps(data, generators(200)))
    found, counts = np.unique(batch.time.numpy(), return_counts=True)
    assert found.tolist() == pytest.approx([0.4, 0.6, 0.8, 1.0])
    assert counts.min() > 30
    assert batch.next_time.min() == pytest.approx(0.2)
    for number, time in enumerate(batch.time.tolist()):
        step = round((1 - time) * 5)
        for item, row in enumerate(data.items[0]):
            assert np.array_equal(batch.x_t[item, number], data.states[row, step])
            assert np.array_equal(batch.x_next[item, number], data.states[row, step + 1])


def test_a_record_has_its_step_whatever_its_batch(data):
    both = collate_steps(data, np.array([0, 1]), random_steps(data, generators(2)))
    one = collate_steps(data, np.array([1]), random_steps(data, generators(1, 1)))
    assert torch.equal(both.time[1:], one.time)
    assert torch.equal(both.x_t[:, 1:], one.x_t)
    assert both.weight.tolist() == [1, 0.5]
    assert both.probability.tolist() == [1, 0.75]
    assert both.present.all()
    assert both.liked.all()
    name = "encoder_hidden_states"
    assert np.array_equal(both.condition[name], data.conditions[name].whole[[1, 0]])
    assert np.array_equal(both.empty[name], data.conditions[name].whole[[2, 2]])


def test_one_item_of_a_batch_measures_as_it_does_among_others(family, data):
    batch = collate_steps(data, np.array([0, 1]), random_steps(data, generators(2))).to(
        torch.device("cpu")
    )
    together = measure_steps(family, batch).policy
    assert together.shape == (2, 2)
    for item in range(2):
        alone = measure_steps(family, batch.item(item)).policy
        assert alone.shape == (1, 2)
        torch.testing.assert_close(alone[0], together[item], atol=1e-4, rtol=1e-4)


def test_without_guidance_the_empty_prompt_is_not_asked(family, data):
    batch = collate_steps(
        replace(data, guidance=1.0), np.array([0, 1]), random_steps(data, generators(2))
    )
    assert batch.empty is None
    guided = collate_steps(data, np.array([0, 1]), random_steps(data, generators(2)))
    assert not torch.allclose(
        measure_steps(family, batch).policy, measure_steps(family, guided).policy
    )


def test_guidance_leads_away_from_the_empty_prompt(family):
    condition, empty, _, states = sampled(family)
    time = torch.full((4,), 0.5)
    with torch.no_grad():
        given = family.predict(states[:, 1], time, condition)
        without = family.predict(states[:, 1], time, empty)
        found = estimate(family, states[:, 1], time, condition, empty, 3.0)
    expected = family.noise_level(time).split(
        "epsilon", states[:, 1], without + 3 * (given - without)
    )
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_what_was_sampled_is_about_as_likely_as_noise_can_be(family):
    """At the policy that sampled them, the distances to the means are unit noise."""
    condition, empty, times, states = sampled(family, 1)
    for step in range(4):
        time, then = times[step : step + 1], times[step + 1 : step + 2]
        with torch.no_grad():
            x0, eps = estimate(family, states[:, step], time, condition, empty, 3.0)
        found = transition(family.noise_level(time), family.noise_level(then), x0, eps)
        noise = (states[:, step + 1] - found.mean) / found.std
        generator = torch.Generator().manual_seed(0)
        drawn = [torch.randn(SHAPE, generator=generator) for _ in range(step + 1)][-1]
        torch.testing.assert_close(noise[0], drawn, atol=1e-3, rtol=1e-3)


def test_d3po_starts_at_ln_2_and_pulls_the_policy_alone(family, data):
    batch = collate_steps(data, np.array([0, 1]), random_steps(data, generators(2)))
    reference = adapter_off(family, family.denoiser)
    measured = measure_steps(family, batch, reference)
    assert torch.equal(measured.policy, measured.reference)
    assert not measured.reference.requires_grad
    kind = record_of("d3po")
    record = as_record(kind, measured, batch, family)
    torch.testing.assert_close(record.policy_w, -measured.policy[0])
    loss = objectives["d3po"](record)
    torch.testing.assert_close(loss, torch.full((2,), np.log(2)).float())
    loss.sum().backward()
    slopes = [
        value.grad.abs().max() for name, value in family.denoiser.named_parameters()
        if "lora_B" in name
    ]  # fmt: skip
    family.denoiser.zero_grad()
    assert max(slopes) > 0


def test_a_step_towards_the_winner_makes_it_likelier(family, data):
    batch = collate_steps(data, np.array([0, 1]), random_steps(data, generators(2)))
    weights = [value for name, value in family.denoiser.named_parameters() if "lora_B" in name]
    before = measure_steps(family, batch).policy
    slopes = torch.autograd.grad((before[0] - before[1]).sum(), weights)
    with torch.no_grad():
        scale = 1e-2 / torch.stack([slope.norm() for slope in slopes]).norm()
        for value, slope in zip(weights, slopes, strict=True):
            value.sub_(scale * slope)
        after = measure_steps(family, batch).policy
        for value in weights:
            value.zero_()
    assert (after[0] - after[1]).sum() < (before[0] - before[1]).sum()
