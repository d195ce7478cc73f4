"""Clipped data predictions: those of diffusers' samplers as they come, around and inside guidance."""

from typing import Any

import pytest
import torch
from torch import Tensor

from sdescore import VPSDE, DiscreteSDE, GaussianMixture, NetTerms, sample
from sdescore.denoisers import Denoiser, clipped, guided
from sdescore.sampling import WhiteNoise

TABLE = DiscreteSDE.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))


def wild(x: Tensor, t: Tensor) -> Tensor:
    """A prediction of the noise whose data often leave [-1, 1]."""
    return 0.9 * x + 0.3 * torch.sin(3 * x + t.to(x).reshape(-1, 1, 1, 1) / 100)


def of_table(net: Any = wild) -> Denoiser:
    return Denoiser(net, TABLE, terms=NetTerms("state", "index", predicts="noise"))


class Drawn(WhiteNoise):
    """The draws that diffusers makes with a generator of seed 7."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.generator = torch.Generator().manual_seed(7)

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, std: float = 1.0) -> Tensor:
        return std * torch.randn(x.shape, generator=self.generator, dtype=x.dtype)


@pytest.mark.parametrize(
    ("solver", "name", "options", "ours"),
    [
        ("ddim", "DDIMScheduler", {}, {"keeps_noise": True}),
        ("ddpm", "DDPMScheduler", {}, {}),
        (
            "ddim",
            "DDIMScheduler",
            {"thresholding": True, "clip_sample": False, "sample_max_value": 3.0},
            {"keeps_noise": True, "limit": 3.0, "quantile": 0.995},
        ),
        (
            "ddpm",
            "DDPMScheduler",
            {"thresholding": True, "clip_sample": False, "sample_max_value": 3.0},
            {"limit": 3.0, "quantile": 0.995},
        ),
    ],
)
def test_diffusers_as_it_comes(solver: str, name: str, options: dict[str, Any], ours: dict[str, Any]) -> None:
    scheduler = getattr(pytest.importorskip("diffusers"), name)(**options)
    scheduler.alphas_cumprod = TABLE.alpha(torch.arange(1000, dtype=torch.float64)) ** 2  # instead of float32's
    scheduler.one = scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    scheduler.set_timesteps(20)
    start = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x, generator = start, torch.Generator().manual_seed(7)
    for t in scheduler.timesteps:
        more = {"generator": generator} if solver == "ddpm" else {}
        x = scheduler.step(wild(x, t.expand(3)), t, x, **more).prev_sample
    times = scheduler.timesteps.double()
    with_net = {"x": start, "solver": solver, "times": times, "noise_source": Drawn}
    found = sample(TABLE, clipped(of_table(), **ours), **with_net)
    assert float((found - x).abs().max()) < 1e-6
    assert float((sample(TABLE, of_table(), **with_net) - x).abs().max()) > 0.1  # the clipping counts


def test_noise_that_follows_from_the_data_makes_up_the_state(oracle2: GaussianMixture) -> None:
    sde, t = VPSDE(), torch.tensor(0.4, dtype=torch.float64)
    net, x = oracle2.denoiser(sde), 3 * torch.randn(50, 2, dtype=torch.float64)
    limited, kept = clipped(net, 0.5), clipped(net, 0.5, keeps_noise=True)
    assert bool((net(x, t).abs() > 0.5).any())
    for denoiser in (limited, kept):
        torch.testing.assert_close(denoiser(x, t), net(x, t).clamp(-0.5, 0.5))
    torch.testing.assert_close(sde.alpha(t) * limited(x, t) + sde.sigma(t) * limited.noise(x, t), x)
    torch.testing.assert_close(kept.noise(x, t), net.noise(x, t))
    torch.testing.assert_close(clipped(net, 100.0).score(x, t), net.score(x, t))


def test_dynamic_thresholds() -> None:
    """By hand: each sample is limited to its own quantile, which is at least 1, and divided by it."""
    data = torch.tensor([[-0.5, 0.25, 0.75], [-4.0, 1.0, 2.0], [-40.0, 20.0, 20.0]], dtype=torch.float64)
    net = Denoiser(lambda x, t: data, VPSDE(), predicts="data")
    x, t = torch.zeros_like(data), torch.tensor(0.5, dtype=torch.float64)
    expected = torch.stack([data[0], data[1].clamp(-2, 2) / 2, torch.tensor([-1.0, 1.0, 1.0])])
    torch.testing.assert_close(clipped(net, 10.0, quantile=0.5)(x, t), expected)


def test_around_and_inside_guidance() -> None:
    def net(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return torch.where(label[:, None] > 0, 0.8, 0.5).expand_as(x).to(x)

    plain = Denoiser(net, VPSDE(), predicts="data")
    x, t, label = torch.zeros(2, 3), torch.tensor(0.5), torch.ones(2, dtype=torch.long)
    null = {"label": torch.zeros((), dtype=torch.long)}
    around = clipped(guided(plain, 3.0, null=null), 0.6)
    inside = guided(clipped(plain, 0.6), 3.0, null=null)
    torch.testing.assert_close(around(x, t, label=label), torch.full_like(x, 0.6))  # 0.5 + 3 (0.8 - 0.5) = 1.4
    torch.testing.assert_close(inside(x, t, label=label), torch.full_like(x, 0.8))  # 0.5 + 3 (0.6 - 0.5)
    assert around.nfe(t) == 2 and clipped(plain).nfe(t) == 1


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"limit": 0.0}, ValueError, "limit=0.0; expected a positive number"),
        ({"limit": "1"}, TypeError, "limit='1'"),
        ({"quantile": 1.5}, ValueError, "quantile=1.5; expected positive numbers up to 1"),
        ({"quantile": 0.9, "limit": 0.5}, ValueError, "limit=0.5; expected at least 1"),
        ({"keeps_noise": 1}, TypeError, "keeps_noise=1; expected True or False"),
    ],
)
def test_other_limits_are_refused(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        clipped(of_table(), **given)
    with pytest.raises(TypeError, match="denoiser is a function"):
        clipped(wild)  # type: ignore[arg-type]
