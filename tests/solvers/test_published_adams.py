"""Exponential Adams methods beside the formulas of their papers, restated here."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import integrate as scipy_integrate

from sdescore import VPSDE, GaussianMixture, KarrasSDE, karras, sample, trajectory
from sdescore.sampling import uniform_t
from sdescore.sampling.grids import Grid
from sdescore.solvers import DDPM, ER_SDE, SDE_DPMPP_2M, SEEDS, UNIPC_BH1, UNIPC_BH2, Adams, ddim_eta, k_diffusion_eta


@pytest.mark.parametrize("grid", [karras(), uniform_t()], ids=["karras", "t"])
def test_dpm_solver_pp_2m_as_published(grid: Grid, oracle3: GaussianMixture) -> None:
    """Lu et al. 2022b, algorithm 2, restated."""
    sde = VPSDE()
    denoiser, times = oracle3.denoiser(sde), grid(sde, 12)
    x = oracle3.at(sde, sde.T).sample(4)
    y, old, lam = x, None, sde.lam(times)
    for i in range(1, 12):
        h = lam[i] - lam[i - 1]
        new = denoiser(y, times[i - 1])
        if old is None:
            d = new
        else:
            r = (lam[i - 1] - lam[i - 2]) / h
            d = (1 + 1 / (2 * r)) * new - 1 / (2 * r) * old
        y = sde.sigma(times[i]) / sde.sigma(times[i - 1]) * y - sde.alpha(times[i]) * torch.expm1(-h) * d
        old = new
    y = denoiser(y, times[-1])
    torch.testing.assert_close(sample(sde, denoiser, x=x, solver="dpm++", times=times), y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_ddim_eta_is_the_papers(eta: float) -> None:
    """Song, Meng & Ermon 2021, eq. 12 and 16: the noise's standard deviation, and the weight of eps."""
    sde = VPSDE()
    times = karras()(sde, 9)
    a = sde.alpha(times) ** 2
    of_data, of_eps, spread = replace(DDPM, tau=ddim_eta(eta)).coefficients(sde, times[:-1], times[1:])
    std = eta * ((1 - a[1:]) / (1 - a[:-1])).sqrt() * (1 - a[:-1] / a[1:]).sqrt()
    torch.testing.assert_close(spread, std, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(of_eps, (1 - a[1:] - std**2).sqrt(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(of_data, a[1:].sqrt(), rtol=1e-9, atol=1e-12)


def test_k_diffusion_eta_keeps_its_share() -> None:
    sde, times = KarrasSDE(), torch.tensor([3.0, 1.0], dtype=torch.float64)
    table = replace(SDE_DPMPP_2M, tau=k_diffusion_eta(0.5)).table(sde, times)
    h = math.log(3)
    assert table.kept[0] == pytest.approx(1 / 3 * math.exp(-0.5 * h), rel=1e-12)
    assert table.spread[0] == pytest.approx(math.sqrt(-math.expm1(-2 * 0.5 * h)), rel=1e-12)


@pytest.mark.parametrize("method", [UNIPC_BH1, UNIPC_BH2], ids=["bh1", "bh2"])
def test_unipc_of_order_2_as_published(method: Adams, oracle3: GaussianMixture) -> None:
    """Zhao et al. 2023, algorithms 1 and 2 with p = 2, restated: UniP-2 takes rho = 1/2, UniC-2 solves for both."""
    sde = VPSDE()
    denoiser, times = oracle3.denoiser(sde), karras()(sde, 8)
    x = oracle3.at(sde, sde.T).sample(4)
    lam, alpha, sigma = (c(times) for c in (sde.lam, sde.alpha, sde.sigma))
    found, y, m = [], x, [denoiser(x, times[0])]
    for i in range(1, 8):
        h = float(lam[i] - lam[i - 1])
        b = h if method is UNIPC_BH1 else math.expm1(-h) * -1.0
        base = sigma[i] / sigma[i - 1] * y - alpha[i] * math.expm1(-h) * m[-1]
        old = [(float(lam[i - 2] - lam[i - 1]) / h, m[-2])] if i > 1 else []
        ahead = base + sum(alpha[i] * b * 0.5 * (value - m[-1]) / r for r, value in old)
        found.append(ahead)
        new = denoiser(ahead, times[i])
        nodes = [*old, (1.0, new)]
        # int e^(lam - lam_s) (u^k) over the step, u = (lam - lam_t) / h, in the units of B(h)
        moments = [scipy_integrate.quad(lambda u, k=k, h=h: h * math.exp(h * (u - 1)) * u**k, 0, 1)[0] for k in (1, 2)]
        if old:
            matrix = np.array([[r ** (k - 1) for r, _ in nodes] for k in (1, 2)])
            rho = np.linalg.solve(matrix, np.array(moments) / b)
        else:
            rho = np.full(1, 0.5)
        y = base + sum(alpha[i] * b * float(w) * (value - m[-1]) / r for w, (r, value) in zip(rho, nodes, strict=True))
        if i < 7:
            found[-1] = y
            m.append(new)
    ours = list(trajectory(sde, denoiser, x=x, solver=method, times=times))[1:8]
    for mine, theirs in zip(ours, found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_er_sde_of_order_1_as_published() -> None:
    """Cui et al. 2023, eq. 12 with phi of ER-SDE 5, on VE: x0 and z weigh what phi(rho_s) / phi(rho_t) says."""

    def phi(rho: float) -> float:
        return rho * (math.exp(rho**0.3) + 10)

    times = torch.tensor([7.0, 2.0, 0.3], dtype=torch.float64)
    table = replace(ER_SDE, order=1).table(KarrasSDE(), times)
    for i, (t, s) in enumerate(((7.0, 2.0), (2.0, 0.3))):
        kept = phi(s) / phi(t)
        assert table.kept[i] == pytest.approx(kept, rel=1e-11)
        assert table.predict[i][0] == pytest.approx(1 - kept, rel=1e-11)
        assert table.spread[i] == pytest.approx(math.sqrt(s**2 - t**2 * kept**2), rel=1e-11)


def test_seeds_as_published() -> None:
    """Gonzalez et al. 2023, eq. 9: 2 sigma_s (e^h - 1) of the noise prediction, and sigma_s sqrt(e^2h - 1) z."""
    sde = VPSDE()
    times = sde.time(torch.tensor([-1.0, 0.3], dtype=torch.float64))
    of_data, of_eps, spread = SEEDS.coefficients(sde, times[:1], times[1:])
    alpha, sigma = sde.alpha(times), sde.sigma(times)
    kept = float(alpha[1] / alpha[0])  # of x = alpha x0 + sigma eps
    assert float(of_data) == pytest.approx(kept * float(alpha[0]), rel=1e-12)
    assert float(of_eps) - kept * float(sigma[0]) == pytest.approx(-2 * float(sigma[1]) * math.expm1(1.3), rel=1e-12)
    assert float(spread) == pytest.approx(float(sigma[1]) * math.sqrt(math.expm1(2.6)), rel=1e-12)
