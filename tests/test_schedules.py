import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

from vipo_cli.schedules import NoiseLevel

TIMES = torch.tensor([0, 1, 250, 600, 998])


def ddpm_level(scheduler):
    signal = scheduler.alphas_cumprod.double()[TIMES]
    return NoiseLevel(signal.sqrt(), (1 - signal).sqrt())


def flow_level():
    sigma = torch.tensor([0.01, 0.25, 0.5, 0.75, 0.99], dtype=torch.float64)
    return NoiseLevel(1 - sigma, sigma)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "velocity", "flow"])
@pytest.mark.parametrize("level", [ddpm_level(DDPMScheduler()), flow_level()])
def test_a_perfect_prediction_gives_x0_and_eps_back(kind, level):
    x0, eps = torch.randn(2, 5, 4, 8, 8, dtype=torch.float64)
    x_t = level.mix(x0, eps)
    found = level.split(kind, x_t, level.target(kind, x0, eps))
    torch.testing.assert_close(found[0], x0, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(found[1], eps, atol=1e-9, rtol=1e-9)


def test_mixing_and_velocity_match_diffusers():
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    level = ddpm_level(scheduler)
    x0, eps = torch.randn(2, 5, 4, 8, 8, dtype=torch.float64)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    torch.testing.assert_close(level.mix(x0, eps), scheduler.add_noise(x0, eps, TIMES))
    torch.testing.assert_close(
        level.target("velocity", x0, eps), scheduler.get_velocity(x0, eps, TIMES)
    )


def test_flow_matches_diffusers():
    scheduler = FlowMatchEulerDiscreteScheduler()
    x0, eps = torch.randn(2, 3, 4, 8, 8)
    times = scheduler.timesteps[[10, 500, 900]]
    sigma = scheduler.sigmas[[10, 500, 900]]
    level = NoiseLevel(1 - sigma, sigma)
    torch.testing.assert_close(level.mix(x0, eps), scheduler.scale_noise(x0, times, eps))
    torch.testing.assert_close(level.target("flow", x0, eps), eps - x0)


def test_levels_serve_video_too():
    level = flow_level()
    x0, eps = torch.randn(2, 5, 4, 3, 8, 8)
    assert level.mix(x0, eps).shape == x0.shape
