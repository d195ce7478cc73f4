"""Likelihoods and latents on a GPU: those of the CPU, and the mixture's own density."""

from typing import Any

import pytest
import torch
from devices import DEVICE, ON_DEVICE

from sdescore import VPSDE, Denoiser, GaussianMixture, decode, encode, likelihood, sample
from sdescore.nets import UNet
from sdescore.solvers import DOPRI5

pytestmark = ON_DEVICE


@pytest.fixture
def points(oracle2: GaussianMixture) -> torch.Tensor:
    return oracle2.at(VPSDE(), VPSDE().t_min).sample(40, 5)


@pytest.mark.parametrize("derivative", ["reverse", "forward"])
def test_the_mixtures_density(derivative: str, oracle2: GaussianMixture, points: torch.Tensor) -> None:
    sde, there = VPSDE(), oracle2.to(DEVICE)
    options: dict[str, Any] = {"trace": "exact", "prior": there.at(sde, sde.T), "derivative": derivative}
    found = likelihood(sde, there.denoiser(sde), points.to(DEVICE), **options)
    assert found.log_prob.device.type == found.latent.device.type == DEVICE.type
    wanted = oracle2.at(sde, sde.t_min).log_prob(points)
    torch.testing.assert_close(found.log_prob.cpu(), wanted, rtol=0, atol=1e-4)


def test_a_net_in_float32_has_the_cpus_likelihood() -> None:
    torch.manual_seed(0)
    sde = VPSDE()
    denoiser = Denoiser(UNet(1, 4, base_width=16, multipliers=(1, 2), blocks=1), sde)
    x = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(2)) / 2
    options: dict[str, Any] = {"trace": "exact", "rtol": 1e-4, "atol": 1e-4}
    wanted = likelihood(sde, denoiser, x, **options).log_prob
    found = likelihood(sde, denoiser.to(DEVICE), x.to(DEVICE), **options).log_prob.cpu()
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.02)  # of about 20 nats


def test_there_and_back(oracle2: GaussianMixture, points: torch.Tensor) -> None:
    sde, there = VPSDE(), oracle2.to(DEVICE).denoiser(VPSDE())
    latents = encode(sde, there, points.to(DEVICE), rtol=1e-8, atol=1e-8)
    wanted = encode(sde, oracle2.denoiser(sde), points, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(latents.cpu(), wanted, rtol=0, atol=1e-6)
    again = decode(sde, there, latents, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(again.cpu(), points, rtol=0, atol=1e-6)


def test_adaptive_steps_are_chosen_for_each_sample(oracle2: GaussianMixture) -> None:
    sde, there = VPSDE(), oracle2.to(DEVICE).denoiser(VPSDE())
    draw = torch.Generator().manual_seed(4)
    x = torch.randn(30, 2, generator=draw, dtype=torch.float64).to(DEVICE)
    solver = DOPRI5
    whole = sample(sde, there, x=x, solver=solver)
    parts = torch.cat([sample(sde, there, x=x[i : i + 10], solver=solver) for i in (0, 10, 20)])
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-9)
