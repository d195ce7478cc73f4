"""Sampling on a GPU: the CPU's states but for rounding, the same bits in every batch, and no step that waits."""

from typing import Any

import pytest
import torch
from conftest import name_of
from devices import DEVICE, ON_DEVICE, HostNoise, no_waits
from measured_mixture import EXACT, PRIOR, STD, A, Y
from named_solvers import FIXED, NAMES
from torch import Tensor

from sdescore import VPSDE, Denoiser, GaussianMixture, KarrasSDE, LinearSDE, guided, posterior, sample, smc, trajectory
from sdescore.nets import UNet
from sdescore.operators import Mask
from sdescore.sampling import grids
from sdescore.testing import two_sample

pytestmark = [*ON_DEVICE, pytest.mark.filterwarnings("ignore:.*net calls")]

GRIDS = [getattr(grids, name)() for name in grids.__all__ if name not in ("EqualSteps", "Grid")]


def mixture(device: Any) -> GaussianMixture:
    draw = torch.Generator().manual_seed(64)
    means = 0.4 * torch.randn(4, 3, 4, 4, generator=draw, dtype=torch.float64)
    stds = 0.2 + 0.3 * torch.rand(4, 3, 4, 4, generator=draw, dtype=torch.float64)
    return GaussianMixture(means, stds, [0.4, 0.3, 0.2, 0.1], labels=[0, 1, 1, 0]).to(device)


def both(sde: LinearSDE, make: Any, count: int = 5, **options: Any) -> tuple[Tensor, Tensor]:
    """The samples of a denoiser that make(mixture, device) gives, on the device and on the CPU, from equal states."""
    draw = torch.Generator().manual_seed(1)
    start = float(sde.sigma(torch.tensor(sde.start))) * torch.randn(count, 3, 4, 4, generator=draw).double()
    found = []
    for device in (DEVICE, torch.device("cpu")):
        net = make(mixture(device), device)
        x = sample(sde, net, x=start.to(device), noise_source=HostNoise, **options)
        assert x.device.type == device.type
        found.append(x.cpu())
    return found[0], found[1]


@pytest.mark.parametrize("name", NAMES)
def test_every_solver_gives_the_cpus_states(name: str) -> None:
    """Rounding may turn an adaptive solver's decision, and with it an error of its tolerance."""
    found, wanted = both(VPSDE(), lambda oracle, _: oracle.denoiser(VPSDE()), solver=name, steps=12)
    rtol, atol = (1e-8, 1e-8) if name in FIXED else (1e-3, 1e-3)
    torch.testing.assert_close(found, wanted, rtol=rtol, atol=atol)


@pytest.mark.parametrize("grid", GRIDS, ids=name_of)
def test_every_grid_gives_the_cpus_states(grid: grids.Grid, sde: LinearSDE) -> None:
    found, wanted = both(sde, lambda oracle, _: oracle.denoiser(sde), solver="ddpm", times=grid, steps=6)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", FIXED)
def test_a_seed_has_the_same_bits_in_every_batch(name: str) -> None:
    def net(x: Tensor, t: Tensor) -> Tensor:
        """Computed element by element, as no matrix product is."""
        return -x / (1 + t.reshape(-1, 1, 1, 1).square())

    whole = sample(VPSDE(), net, (67, 3, 4, 4), solver=name, steps=5, seed=3, device=DEVICE, predicts="score")
    assert whole.device.type == DEVICE.type
    for size, count in ((64, 67), (7, 20), (1, 3)):
        shape = (count, 3, 4, 4)
        part = sample(
            VPSDE(), net, shape, solver=name, steps=5, seed=3, device=DEVICE, predicts="score", batch_size=size
        )
        assert torch.equal(part, whole[:count]), size
    other = sample(VPSDE(), net, (3, 3, 4, 4), solver=name, steps=5, seed=4, device=DEVICE, predicts="score")
    assert not torch.equal(other, whole[:3])


@pytest.mark.parametrize("name", FIXED)  # the others read their errors to choose a step
def test_no_step_waits_for_the_device(name: str) -> None:
    sde = VPSDE()
    net = Denoiser(UNet(1, 8, base_width=32, multipliers=(1, 2), blocks=1), sde).to(DEVICE)
    states = trajectory(sde, net, (4, 1, 8, 8), solver=name, steps=9)
    for _ in range(3):  # the grid's coefficients are computed, and kernels chosen and loaded
        next(states)
    with no_waits():
        for state in states:
            assert state.device.type == DEVICE.type


@pytest.mark.parametrize("name", ["adams", "heun", "ddpm"])
def test_a_net_gives_the_cpus_states(name: str) -> None:
    torch.manual_seed(0)
    net = UNet(3, 4, base_width=16, multipliers=(1, 2), blocks=1)
    found, wanted = both(
        KarrasSDE(), lambda _, device: Denoiser(net.to(device), KarrasSDE()), solver=name, steps=8, dtype=torch.float32
    )
    scale = float(wanted.abs().max())
    torch.testing.assert_close(found / scale, wanted / scale, rtol=0, atol=5e-3)  # products may be rounded to TF32


def test_guided_by_labels() -> None:
    labels = torch.tensor([0, 1, 0, 1, 1])
    condition = {"label": labels}
    options: dict[str, Any] = {"solver": "adams", "steps": 10, "condition": condition}
    found, wanted = both(VPSDE(), lambda oracle, _: guided(oracle.denoiser(VPSDE()), 2.0), **options)
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-8)
    plain, _ = both(VPSDE(), lambda oracle, _: oracle.denoiser(VPSDE()), **options)
    assert float((plain - found).abs().max()) > 1e-3


@pytest.mark.parametrize("method", ["dps", "pigdm", "tmpd", "mmps", "ddnm"])
def test_posterior_of_a_mask(method: str) -> None:
    mask = (torch.arange(48).reshape(3, 4, 4) % 3 == 0).double()
    y = mask * mixture("cpu").sample(5, 7)

    def measured(oracle: GaussianMixture, device: torch.device) -> Denoiser:
        return posterior(oracle.denoiser(VPSDE()), Mask(mask.to(device)), 0.1, method=method)

    found, wanted = both(VPSDE(), measured, solver="heun", steps=10, condition={"measurement": y})
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["tds", "mcgdiff"])
def test_particles_have_the_posteriors_law(method: str) -> None:
    net = PRIOR.to(DEVICE).denoiser(VPSDE())
    found = smc(VPSDE(), net, A, Y.to(DEVICE), noise_std=STD, n=600, particles=2400, steps=100, method=method)
    assert found.samples.device.type == DEVICE.type
    assert two_sample(found.samples.cpu(), EXACT.sample(1000, 1)) > 1e-3
