"""sample() and trajectory(): gradients through them, and the modes that they leave as they were."""

import pytest
import torch
from named_solvers import FIXED
from torch import Tensor, nn

from sdescore import VPSDE, Denoiser, GaussianMixture, sample, trajectory


class Scaled(nn.Module):
    predicts = "score"

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.1, dtype=torch.float64))
        self.inner = denoiser.requires_grad_(False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.scale * self.inner.score(x, t)


def test_gradients(oracle2: GaussianMixture) -> None:
    """Through the whole run, for the net's parameter and the starting state, against central differences."""
    sde = VPSDE()
    net = Scaled(oracle2.denoiser(sde))
    start = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def run(x: Tensor) -> Tensor:
        return sample(sde, net, x=x, solver="euler", steps=8, batch_size=3, grad=True).square().sum()

    run(start).backward()
    step = 1e-6
    with torch.no_grad():
        value = net.scale.clone()
        ends = []
        for sign in (1, -1):
            net.scale.copy_(value + sign * step)
            ends.append(float(run(start)))
        net.scale.copy_(value)
        assert net.scale.grad is not None and start.grad is not None
        assert float(net.scale.grad) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6)
        for i, j in ((0, 0), (3, 1)):
            ends = []
            for sign in (1, -1):
                moved = start.detach().clone()
                moved[i, j] += sign * step
                ends.append(float(run(moved)))
            assert float(start.grad[i, j]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("name", FIXED)
def test_gradients_through_every_solver(name: str, oracle2: GaussianMixture) -> None:
    net = Scaled(oracle2.denoiser(VPSDE()))
    sample(VPSDE(), net, (3, 2), solver=name, steps=4, grad=True).sum().backward()
    assert net.scale.grad is not None and float(net.scale.grad) != 0


@pytest.mark.parametrize("name", FIXED)
def test_gradient_mode_stays_the_callers(name: str, oracle2: GaussianMixture) -> None:
    net = Scaled(oracle2.denoiser(VPSDE()))
    assert not sample(VPSDE(), net, (3, 2), solver=name, steps=3).requires_grad
    for outside in (True, False):
        for grad in (True, False):
            with torch.set_grad_enabled(outside):
                for step, x in enumerate(trajectory(VPSDE(), net, (3, 2), solver=name, steps=4, grad=grad)):
                    assert torch.is_grad_enabled() is outside
                    assert x.requires_grad is (grad and step > 0)
                assert torch.is_grad_enabled() is outside


class Flattening(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, y: Tensor, c_noise: Tensor) -> Tensor:
        return self.net(y, c_noise).flatten()


def test_training_mode_is_restored() -> None:
    sde = VPSDE()

    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.frozen = nn.Dropout(0.5), nn.Dropout(0.5)
            self.modes: set[bool] = set()

        def forward(self, y: Tensor, c_noise: Tensor) -> Tensor:
            self.modes |= {self.drop.training, self.frozen.training, self.training}
            return self.drop(y)

    net = Dropping()
    denoiser = Denoiser(net, sde).train()
    net.frozen.eval()
    sample(sde, denoiser, (3, 2), steps=3)
    assert net.modes == {False}
    assert (denoiser.training, net.training, net.drop.training, net.frozen.training) == (True, True, True, False)
    # Given up halfway, or stopped by an error.
    states = trajectory(sde, denoiser, (3, 2), steps=5)
    next(states), next(states)
    states.close()  # type: ignore[attr-defined]
    assert net.drop.training and not net.frozen.training
    with pytest.raises(ValueError, match="net returned"):
        sample(sde, Denoiser(Flattening(net), sde).train(), (3, 2), steps=3)
    assert net.drop.training
