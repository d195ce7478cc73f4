"""CFG++ against its algorithm, line by line, with the branches of a mixture with classes."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from noise_doubles import Replay
from torch import Tensor

from sdescore import VPSDE, FlowSDE, GaussianMixture, LinearSDE, ReverseProcess, sample, trajectory
from sdescore.denoisers import APG, guided
from sdescore.solvers import DDPM, HEUN, CFGPlusPlus

CLASSES = GaussianMixture(
    torch.tensor([[-1.0, 0.5], [0.8, 1.0], [0.5, -1.2]], dtype=torch.float64), [0.3, 0.2, 0.25], labels=[0, 1, 0]
)
LABELS = torch.tensor([0, 1, 1, 0])


def branches(sde: LinearSDE, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    net = CLASSES.denoiser(sde)
    return net(x, t, label=LABELS), net(x, t)


@pytest.mark.parametrize("sde", [VPSDE(), FlowSDE()], ids=["vp", "flow"])
@pytest.mark.parametrize("scale", [0.0, 0.6, 1.0])
def test_it_is_algorithm_2(sde: LinearSDE, scale: float) -> None:
    times = sde.time(torch.linspace(-2, 2, 6, dtype=torch.float64))
    start = x = torch.randn(4, 2, dtype=torch.float64)
    for t, s in pairwise(times):
        given, null = branches(sde, x, t)
        data = null + scale * (given - null)
        eps = (x - sde.alpha(t) * null) / sde.sigma(t)  # of the null branch alone
        x = sde.alpha(s) * data + sde.sigma(s) * eps
    given, null = branches(sde, x, times[-1])
    net = guided(CLASSES.denoiser(sde), scale)
    *_, state, data = trajectory(sde, net, x=start, times=times, solver=CFGPlusPlus(), condition={"label": LABELS})
    torch.testing.assert_close(state, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(data, null + scale * (given - null), rtol=1e-9, atol=1e-9)


def test_with_noise_and_on_another_process_than_the_nets() -> None:
    sde, own = VPSDE(), FlowSDE()
    t, s = sde.time(torch.tensor([-1.0, 0.5], dtype=torch.float64))
    x, z = torch.randn(2, 4, 2, dtype=torch.float64)
    reverse = ReverseProcess(sde, guided(CLASSES.denoiser(own), 0.7), {"label": LABELS})
    found = CFGPlusPlus(DDPM).step(reverse, x, t, s, Replay([z]))
    given, null = branches(sde, x, t)
    p, q, std = DDPM.coefficients(sde, t[None], s[None])
    eps = (x - sde.alpha(t) * null) / sde.sigma(t)
    torch.testing.assert_close(found, p * (null + 0.7 * (given - null)) + q * eps + std * z, rtol=1e-9, atol=1e-9)


def test_both_branches_count() -> None:
    sde, calls = VPSDE(), 0
    plain = CLASSES.denoiser(sde)

    class Counted(type(plain)):  # type: ignore[misc]
        def summands(self, *given: Any, **condition: Tensor) -> Any:
            nonlocal calls
            calls += 1
            return super().summands(*given, **condition)

    net = guided(Counted(CLASSES, sde), 0.6)
    sample(sde, net, (4, 2), solver=CFGPlusPlus(), nfe=20, condition={"label": LABELS})
    assert calls == 20


def test_bad_arguments_are_named() -> None:
    sde = VPSDE()
    plain, label = CLASSES.denoiser(sde), {"label": LABELS}
    with pytest.raises(TypeError, match=r"net is a MixtureDenoiser; CFGPlusPlus expects guided\(net, scale\)"):
        sample(sde, plain, (4, 2), solver=CFGPlusPlus(), steps=3, condition=label)
    for other in (guided(plain, 0.5, rule=APG()), guided(plain, 0.5, rescale=0.3)):
        with pytest.raises(TypeError, match="without other rules"):
            sample(sde, other, (4, 2), solver=CFGPlusPlus(), steps=3, condition=label)
    with pytest.raises(TypeError, match="expected a LinearOneStep"):
        CFGPlusPlus(HEUN)  # type: ignore[arg-type]
