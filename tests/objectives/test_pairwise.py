import math

import pytest
import torch

from vipo_cli.errors import UnknownName
from vipo_cli.objectives import PairErrors, objectives

GOLDEN = [  # alpha, z, loss, dloss/dz: closed forms of the ViPO paper's equations 9 and 10
    (-1, -2.0, 1.246131, -0.775803),
    (-1, 0.0, 0.193147, -0.25),
    (-1, 1.5, 0.018988, -0.033279),
    (0, -2.0, 2.126928, -0.880797),
    (0, 1.5, 0.201413, -0.182426),
    (1, -2.0, 3.007725, -0.985791),
    (1, 0.0, 1.193147, -0.75),
    (8, -2.0, 9.173305, -1.720746),
    (8, 0.0, 4.693147, -2.5),
    (8, 1.5, 1.660817, -1.375597),
]


def errors_with_margin(margin):
    margin = torch.as_tensor(margin)
    zero = torch.zeros_like(margin)
    return PairErrors(policy_w=-margin, policy_l=zero, reference_w=zero, reference_l=zero)


@pytest.mark.parametrize(("alpha", "z", "loss", "slope"), GOLDEN)
def test_poly_dpo_golden_values_and_slopes(alpha, z, loss, slope):
    margin = torch.tensor([z], dtype=torch.float64, requires_grad=True)
    value = objectives["poly-dpo"](errors_with_margin(margin), beta=2.0, alpha=float(alpha))
    value.sum().backward()
    assert value.item() == pytest.approx(loss, abs=1e-6)
    assert margin.grad.item() == pytest.approx(slope, abs=1e-6)


def test_diffusion_dpo_golden_value():
    """Errors .100, .120 against .1002, .1196 at beta 5000: z = 2500 * .0006 = 1.5."""
    values = [
        torch.tensor([value], dtype=torch.float64) for value in (0.100, 0.120, 0.1002, 0.1196)
    ]
    loss = objectives["diffusion-dpo"](PairErrors(*values), beta=5000.0)
    assert loss.item() == pytest.approx(0.201413, abs=1e-6)


def test_diffusion_dpo_is_the_published_formula():
    """-log sigmoid(-beta/2 * ((m_w - m_l) - (r_w - r_l))), written a second time."""
    m_w, m_l, r_w, r_l = torch.rand(4, 100, dtype=torch.float64)
    published = -torch.log(torch.sigmoid(-0.5 * 7.0 * ((m_w - m_l) - (r_w - r_l))))
    torch.testing.assert_close(
        objectives["diffusion-dpo"](PairErrors(m_w, m_l, r_w, r_l), beta=7.0), published
    )


@pytest.mark.parametrize("kappa", [0.5, 1.0])
def test_poly_dpo_without_alpha_is_diffusion_dpo(kappa):
    errors = PairErrors(*torch.rand(4, 64))
    poly = objectives["poly-dpo"](errors, beta=3.0, alpha=0.0, kappa=kappa)
    assert torch.equal(poly, objectives["diffusion-dpo"](errors, beta=3.0, kappa=kappa))


def test_kappa_scales_beta():
    errors = PairErrors(*torch.rand(4, 64, dtype=torch.float64))
    torch.testing.assert_close(
        objectives["diffusion-dpo"](errors, beta=5.0, kappa=1.0),
        objectives["diffusion-dpo"](errors, beta=10.0, kappa=0.5),
    )


def test_an_untrained_policy_has_loss_ln_2():
    policy = torch.rand(2, 8, dtype=torch.float64)
    errors = PairErrors(*policy, *policy)
    assert torch.equal(
        objectives["diffusion-dpo"](errors), torch.full((8,), math.log(2), dtype=torch.float64)
    )


def test_higher_terms_are_powers_of_one_minus_p():
    margin = torch.linspace(-3, 3, 13, dtype=torch.float64)
    q = 1 / (1 + margin.exp())
    expected = torch.log1p((-margin).exp()) + 0.5 * q - 0.25 * q**2 + 2 * q**3
    found = objectives["poly-dpo"](errors_with_margin(margin), beta=2.0, alpha=[0.5, -0.25, 2.0])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("alpha", [-1.5, [-1.01, 3.0]])
def test_alpha_below_minus_one_is_refused_with_the_reason(alpha):
    with pytest.raises(ValueError, match="gradient changes sign at p = "):
        objectives["poly-dpo"](errors_with_margin([0.0]), alpha=alpha)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", ["diffusion-dpo", "poly-dpo"])
def test_finite_at_extreme_margins(method, dtype):
    margin = torch.tensor([-1e4, -50.0, 0.0, 50.0, 1e4], dtype=dtype, requires_grad=True)
    loss = objectives[method](errors_with_margin(margin), beta=2.0)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(margin.grad).all()


@pytest.mark.parametrize("method", ["diffusion-dpo", "poly-dpo"])
def test_each_row_depends_on_itself_alone(method):
    def loss(policy_w):
        return objectives[method](PairErrors(policy_w, *torch.rand(3, 6)), beta=2.0)

    jacobian = torch.autograd.functional.jacobian(loss, torch.rand(6))
    assert torch.equal(jacobian, torch.diag(jacobian.diagonal()))
    assert (jacobian.diagonal() != 0).all()


def test_swapping_winner_and_loser_turns_p_into_one_minus_p():
    m_w, m_l, r_w, r_l = torch.rand(4, 50, dtype=torch.float64)
    p = (-objectives["diffusion-dpo"](PairErrors(m_w, m_l, r_w, r_l), beta=4.0)).exp()
    swapped = (-objectives["diffusion-dpo"](PairErrors(m_l, m_w, r_l, r_w), beta=4.0)).exp()
    torch.testing.assert_close(p + swapped, torch.ones_like(p))


def test_loss_falls_as_the_margin_grows():
    margin = torch.linspace(-4, 4, 81, dtype=torch.float64)
    for alpha in (-1.0, -0.5, 0.0, 1.0, 8.0):
        loss = objectives["poly-dpo"](errors_with_margin(margin), beta=2.0, alpha=float(alpha))
        assert (loss.diff() < 0).all()


def test_sft_is_the_error_itself():
    from vipo_cli.objectives import SampleErrors

    errors = torch.rand(4)
    assert torch.equal(objectives["sft"](SampleErrors(errors)), errors)


def test_an_unknown_method_offers_the_nearest():
    with pytest.raises(UnknownName) as raised:
        objectives["poly-dop"]
    assert "did you mean `poly-dpo`?" in raised.value.hint
