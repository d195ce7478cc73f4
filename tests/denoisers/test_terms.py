"""A net's own terms: what it is given for x and for the time, and what is found in what it returns."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from prediction_kinds import DATA_STD
from small_nets import Recorder
from torch import Tensor, nn

from sdescore import (
    VESDE,
    VPSDE,
    CosineSDE,
    Denoiser,
    DiscreteSDE,
    FlowSDE,
    GaussianMixture,
    KarrasSDE,
    LinearSDE,
    NetTerms,
    SubVPSDE,
    karras,
    sample,
)

BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
DDPM = DiscreteSDE.from_betas(BETAS)
PRODUCTS = (1 - BETAS).cumprod(0)


def gaussian(x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """E[x0 | x = alpha x0 + sigma eps] for x0 ~ N(0, DATA_STD^2), with alpha and sigma of shape (batch,)."""
    gain = alpha * DATA_STD**2 / (alpha**2 * DATA_STD**2 + sigma**2)
    return gain[:, None] * x


# Nets as their makers write them: each knows its own convention alone.


def ddpm_net(x: Tensor, index: Tensor) -> Tensor:
    """The noise, from an index into the table of products."""
    products = PRODUCTS[index.round().long()]
    alpha, sigma = products.sqrt(), (1 - products).sqrt()
    return (x - alpha[:, None] * gaussian(x, alpha, sigma)) / sigma[:, None]


def score_sde_vp_net(x: Tensor, label: Tensor) -> Tensor:
    """The noise, from 999 t, with beta from 0.1 to 20."""
    t = label / 999
    log_alpha = -0.25 * t**2 * (20 - 0.1) - 0.5 * t * 0.1
    alpha, sigma = log_alpha.exp(), (1 - (2 * log_alpha).exp()).sqrt()
    return (x - alpha[:, None] * gaussian(x, alpha, sigma)) / sigma[:, None]


def score_sde_ve_net(x: Tensor, sigma: Tensor) -> Tensor:
    """The score, from sigma."""
    return -x / (DATA_STD**2 + sigma**2)[:, None]


def k_diffusion_net(x: Tensor, sigma: Tensor) -> Tensor:
    """The data, of x = x0 + sigma eps."""
    return gaussian(x, torch.ones_like(sigma), sigma)


def flow_net(x: Tensor, t: Tensor) -> Tensor:
    """eps - x0 on the straight path."""
    data = gaussian(x, 1 - t, t)
    return (x - data) / t[:, None]


def edm_net(y: Tensor, c_noise: Tensor) -> Tensor:
    """F, for which D = c_skip x + c_out F is the data: 0 for Gaussian data."""
    return torch.zeros_like(y)


@pytest.mark.parametrize(
    ("net", "terms", "predicts", "sde", "times"),
    [
        (ddpm_net, "ddpm", None, DDPM, [0.0, 17.0, 500.0, 999.0]),
        (score_sde_vp_net, "score-sde", None, VPSDE(), [1e-3, 0.3, 1.0]),
        (score_sde_ve_net, "score-sde", None, VESDE(), [0.01, 0.5, 1.0]),
        (k_diffusion_net, "k-diffusion", None, KarrasSDE(), [0.01, 1.0, 80.0]),
        (k_diffusion_net, "k-diffusion", None, VPSDE(), [0.01, 0.5, 1.0]),
        (flow_net, "flow", None, FlowSDE(), [0.01, 0.5, 0.999]),
        (edm_net, "edm", "edm", KarrasSDE(), [0.01, 1.0, 80.0]),
        (edm_net, "edm", "edm", SubVPSDE(), [0.01, 0.5, 1.0]),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", type(value).__name__),
)
def test_a_net_in_the_terms_of_its_makers_is_exact(
    net: Callable[..., Tensor], terms: str, predicts: str | None, sde: LinearSDE, times: list[float]
) -> None:
    oracle = GaussianMixture(torch.zeros(1, 3), DATA_STD, dtype=torch.float64).denoiser(sde)
    denoiser = Denoiser(net, sde, predicts, DATA_STD, terms=terms)
    x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for time in times:
        t = torch.tensor(time, dtype=torch.float64)
        for name in ("data", "noise", "velocity"):
            torch.testing.assert_close(denoiser.predict(name, x, t), oracle.predict(name, x, t), rtol=1e-6, atol=1e-9)
    grid = karras()  # by default it is up to what a net predicts
    drawn = (sample(sde, d, (4, 3), steps=6, times=grid, dtype=torch.float64) for d in (denoiser, oracle))
    torch.testing.assert_close(*drawn, rtol=0.1 if terms == "ddpm" else 1e-7, atol=0.0)  # its net knows integers alone


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("unit", lambda a, s: (a**2 * 0.09 + s**2) ** -0.5),
        ("state", lambda a, s: 1.0),
        ("vp", lambda a, s: (a**2 + s**2) ** -0.5),
        ("ve", lambda a, s: 1 / a),
    ],
)
def test_what_the_net_is_given_for_x(name: str, expected: Callable[..., float]) -> None:
    """By definition, at t = .5 of the VP process: alpha .2811828808, sigma .9596542021."""
    net = Recorder()
    Denoiser(net, VPSDE(), data_std=0.3, terms=NetTerms(x=name))(torch.ones(2, 3), torch.tensor(0.5))
    assert float(net.given[0][0][0, 0]) == pytest.approx(expected(0.2811828808, 0.9596542021), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("c_noise", math.log(0.9596542021 / 0.2811828808) / 4),
        ("t", 0.5),
        ("sigma", 0.9596542021),
        ("rho", 0.9596542021 / 0.2811828808),
        ("log_rho", math.log(0.9596542021 / 0.2811828808)),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_what_the_net_is_given_for_the_time(name: str, expected: float, scale: float) -> None:
    net = Recorder()
    terms = NetTerms(time=name, time_scale=scale)
    Denoiser(net, VPSDE(), terms=terms)(torch.ones(2, 3), torch.tensor([0.5, 0.7]))
    assert float(net.given[0][1][0]) == pytest.approx(scale * expected, rel=1e-5)


class Table(nn.Module):
    """A net whose times are the rows of an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(1000, 1)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return x + self.rows(index)


def test_a_net_with_an_embedding_of_times_is_given_integers() -> None:
    net = Table()
    net.rows.weight.data = torch.arange(1000.0)[:, None]
    denoiser = Denoiser(net, DDPM, "data", terms=NetTerms("state", "index", rounded=True))
    x = torch.zeros(3, 1)
    assert denoiser(x, torch.tensor([41.4, 41.6, 999.0])).flatten().tolist() == [41, 42, 999]
    assert sample(VPSDE(), denoiser, (2, 1), nfe=4).shape == (2, 1)


@pytest.mark.parametrize(
    "returned",
    [lambda x: SimpleNamespace(sample=2 * x), lambda x: (2 * x, "more"), lambda x: [2 * x]],
    ids=["sample", "tuple", "list"],
)
def test_the_prediction_is_found_in_what_the_net_returns(returned: Callable[[Tensor], Any]) -> None:
    x = torch.ones(2, 3)
    denoiser = Denoiser(lambda y, t: returned(y), VPSDE(), "data", terms=NetTerms("state"))
    assert torch.equal(denoiser(x, torch.tensor(0.5)), 2 * x)


def test_the_second_half_of_the_channels_may_be_a_learned_variance() -> None:
    x = torch.ones(2, 3, 4, 4)
    terms = NetTerms("state", predicts="data", learned_variance=True)
    denoiser = Denoiser(lambda y, t: torch.cat([2 * y, 7 * y], 1), VPSDE(), terms=terms)
    assert torch.equal(denoiser(x, torch.tensor(0.5)), 2 * x)
    with pytest.raises(ValueError, match=r"net returned \(2, 3, 4, 4\) .*it must return \(2, 6, 4, 4\)"):
        Denoiser(lambda y, t: y, VPSDE(), terms=terms)(x, torch.tensor(0.5))


def test_what_is_predicted_is_what_the_terms_say_by_default() -> None:
    net = Recorder()
    assert [Denoiser(net, FlowSDE(), terms=name).predicts for name in ("edm", "flow", "k-diffusion")] == [
        "noise",
        "velocity",
        "data",
    ]
    assert [Denoiser(net, sde, terms="score-sde").predicts for sde in (VESDE(), KarrasSDE(), SubVPSDE())] == [
        "score",
        "score",
        "noise",
    ]
    assert Denoiser(net, FlowSDE(), "noise", terms="flow").terms == NetTerms("state", "t", predicts="noise")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": "scaled"}, "x='scaled'; expected 'unit', 'state', 'vp', 've'"),
        ({"time": "step"}, "time='step'; expected 'c_noise', 't', 'index'"),
        ({"time_scale": 0.0}, "time_scale=0.0; expected a finite number that is not 0"),
        ({"time_scale": math.inf}, "time_scale=inf; expected"),
        ({"time_shift": math.nan}, "time_shift=nan; expected a finite number"),
        ({"output_scale": 0.0}, "output_scale=0.0; expected a finite number that is not 0"),
        ({"predicts": "epsilon"}, "predicts='epsilon'; expected 'data', 'noise'"),
        ({"rounded": "no"}, "rounded='no'; expected True or False"),
    ],
)
def test_terms_that_do_not_exist(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NetTerms(**arguments)


def test_terms_that_do_not_fit() -> None:
    net = Recorder()
    with pytest.raises(ValueError, match="terms='adm'; expected 'edm', 'ddpm', 'score-sde', 'k-diffusion', 'flow'"):
        Denoiser(net, VPSDE(), terms="adm")
    with pytest.raises(TypeError, match="terms is a dict; expected NetTerms or one of edm"):
        Denoiser(net, VPSDE(), terms={"x": "unit"})  # type: ignore[arg-type]
    for sde in (VPSDE(), CosineSDE()):
        with pytest.raises(ValueError, match=f"an index into a table, and a {type(sde).__name__} has none"):
            Denoiser(net, sde, terms="ddpm")
