"""A net behind a function or a module: found, in evaluation mode, in its own dtype, never read as something else."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from small_nets import Recorder
from torch import Tensor, nn

from sdescore import VPSDE, Denoiser, DiscreteSDE, GaussianMixture, decode, encode, log_likelihood, sample


@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: lambda x, t: net(x, t)], ids=["module", "lambda"])
@pytest.mark.parametrize("terms", ["edm", "score-sde"])
def test_a_float32_net_never_meets_the_float64_of_an_integrator(wrap: Callable[..., Any], terms: str) -> None:
    """Solvers and densities that hold their state or their time in float64, in and out of evaluation mode."""
    net, sde = Recorder(), VPSDE()
    denoiser = Denoiser(wrap(net), sde, terms=terms)
    x = torch.randn(2, 3, dtype=torch.float64)
    for solver in ("dopri5", "euler-maruyama", "heun"):
        assert sample(sde, denoiser, x=x, solver=solver, dtype=torch.float64, **_few(solver)).dtype == torch.float64
    latents = encode(sde, denoiser, x)
    decode(sde, denoiser, latents)
    log_likelihood(sde, denoiser, x)
    assert {(given.dtype, time.dtype) for given, time in net.given} == {(torch.float32, torch.float32)}
    assert net.training  # but not while it was called: a second run gives the same bits
    assert torch.equal(encode(sde, denoiser, x), latents)


def _few(solver: str) -> dict[str, Any]:
    return {} if solver == "dopri5" else {"steps": 3}


def test_the_time_of_a_bfloat16_net_keeps_its_digits() -> None:
    """999 would be 1000 in bfloat16."""
    seen = []

    def net(x: Tensor, index: Tensor) -> Tensor:
        seen.append((x.dtype, index.dtype, float(index[0])))
        return x * weight.weight

    weight = nn.Linear(1, 1).bfloat16()
    Denoiser(net, DiscreteSDE.from_betas(VPSDE().betas(1000)), terms="ddpm")(torch.ones(2, 3), torch.tensor(999.0))
    assert seen == [(torch.bfloat16, torch.float32, 999.0)]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda net: lambda x, t: net(x, t),
        lambda net: partial(lambda x, t, net: net(x, t), net=net),
        lambda net: net.forward,
        lambda net: Holder(net),
    ],
    ids=["closure", "partial", "method", "object"],
)
@pytest.mark.parametrize("bare", [True, False])
def test_a_net_inside_a_function_is_in_evaluation_mode(wrap: Callable[[nn.Module], Any], bare: bool) -> None:
    net = Recorder().double()
    function = wrap(net)
    denoiser = function if bare else Denoiser(function, VPSDE())
    drawn = sample(VPSDE(), denoiser, (2, 3), steps=3)
    assert drawn.dtype == torch.float64 and net.training
    assert torch.equal(drawn, sample(VPSDE(), denoiser, (2, 3), steps=3))


class Holder:
    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(x, t)


def test_a_module_around_a_denoiser_says_what_it_returns() -> None:
    """Read as a bare score it would be wrong in silence: it may return anything."""
    sde = VPSDE()
    denoiser = GaussianMixture(torch.zeros(1, 2)).denoiser(sde)

    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = denoiser

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return self.module(x, t)

    with pytest.raises(ValueError, match="net is a Mine that contains a Denoiser; expected the Denoiser itself, or pr"):
        sample(sde, Mine(), (2, 2), nfe=5)
    plain = sample(sde, denoiser, (2, 2), nfe=5, dtype=torch.float64)
    torch.testing.assert_close(sample(sde, Mine(), (2, 2), nfe=5, predicts="data", dtype=torch.float64), plain)
