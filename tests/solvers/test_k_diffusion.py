"""Peers' samplers that make noise or steps of their own, beside ours on the same path and times."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from sdescore import Brownian, GaussianMixture, KarrasSDE, Noise, OneStep, ReverseProcess, Solver, sample, trajectory
from sdescore.sampling.brownian import snr_clock
from sdescore.sampling.noise import WhiteNoise
from sdescore.sampling.solver import total_nfe
from sdescore.solvers import (
    BOSH3,
    DPM_2,
    DPM_3,
    DPM_FAST,
    DPMPP_2S,
    EULER,
    SDE_DPMPP_2M,
    SDE_DPMPP_2S,
    Ancestral,
    CallRecord,
    LowerOrderFinal,
)
from sdescore.testing import check_ode_order, exact_flow

SCRIPTS = Path(__file__).parents[2] / "scripts"
if not SCRIPTS.exists():
    pytest.skip("no scripts beside these tests", allow_module_level=True)
sys.path.append(str(SCRIPTS))  # behind everything else: no script may hide a package
from shared.peers import Diffusers, KDiffusion, k_diffusion_sampling  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")  # of NumPy 2, in its schedulers

SDE = KarrasSDE(0.02, 50.0)
MIXTURE = GaussianMixture(torch.randn(5, 3, generator=torch.Generator().manual_seed(11), dtype=torch.float64), 0.3)
NET = MIXTURE.denoiser(SDE)
ENDS = torch.tensor([SDE.T, SDE.t_min], dtype=torch.float64)
START = MIXTURE.at(SDE, SDE.T).sample(8, seed=1)


def levels(steps: int) -> Tensor:
    """Times of which rho falls by one factor."""
    first, last = SDE.lam(ENDS)
    return SDE.time(first + (last - first) * torch.linspace(0, 1, steps, dtype=torch.float64)).clamp(SDE.t_min, SDE.T)


# Noise ---------------------------------------------------------------------------------------------------------------


class ThroughTheMiddle:
    """A path's noise, with the area for which a step with a node in the middle passes through the path there."""

    def __init__(self, path: Noise) -> None:
        self.path = path

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, std: float = 1.0) -> Tensor:
        return self.path(x, t, s, std)

    def levy_area(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        middle = SDE.time((SDE.lam(t) + SDE.lam(s)) / 2)
        start, between, end = snr_clock(SDE, torch.stack([t, middle, s])).tolist()
        share = (between - start) / (end - start)
        return (self.path(x, t, middle) - share**0.5 * self.path(x, t, s)) / (1 - share) ** 0.5

    def randn(self, x: Tensor, std: float = 1.0) -> Tensor:
        return self.path.randn(x, std)

    def select(self, index: Tensor) -> "ThroughTheMiddle":
        return ThroughTheMiddle(self.path.select(index))


class WithPath(Diffusers):
    """A scheduler that makes its own Brownian path, in sigma, handed that of the steps' noise, which is in the snr."""

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        def path(*_: Any, **__: Any) -> Any:
            return lambda a, b: (
                noise(x, *SDE.time(-torch.stack([a, b]).double().log())) if b > 0 else torch.zeros_like(x)
            )

        module = sys.modules[type(self.make(SDE.rho(times))).__module__]
        with patch.object(module, "BrownianTreeNoiseSampler", path):
            yield from super().solve(reverse, x, times, noise)

    def _level(self, scheduler: Any, i: int, rho: Tensor) -> float:
        middle = getattr(scheduler, "mid_point_sigma", None)
        return super()._level(scheduler, i, rho) if middle is None or i % 2 == 0 else float(middle)


PATHS: dict[str, tuple[Solver, Solver]] = {
    "dpmpp_sde": (SDE_DPMPP_2S, KDiffusion("dpmpp_sde")),
    # For eta between 0 and 1 its stages have the noise of a step of half the length, which is another: no parity.
    "dpmpp_sde, eta 0": (DPMPP_2S, KDiffusion("dpmpp_sde", {"eta": 0.0})),
    "DPMSolverSDE": (SDE_DPMPP_2S, WithPath("DPMSolverSDE", stages=2)),
    "CosineDPMSolverMultistep": (
        SDE_DPMPP_2M,
        WithPath("CosineDPMSolverMultistep", {"lower_order_final": False, "sigma_data": 0.5}),
    ),
}


@pytest.mark.parametrize("name", PATHS)
def test_on_one_path(name: str) -> None:
    ours, peer = PATHS[name]
    skip_without("k_diffusion" if isinstance(peer, KDiffusion) else "diffusers")
    if name == "CosineDPMSolverMultistep":
        pytest.importorskip("torchsde")
    both = [
        list(
            trajectory(
                SDE,
                NET,
                x=START,
                times=levels(13),
                solver=s,
                noise_source=lambda *own: ThroughTheMiddle(Brownian(SDE)(*own)),
            )
        )
        for s in (ours, peer)
    ]
    apart = [float((a - b).abs().max()) for a, b in zip(*both, strict=True)]
    print(name, apart)
    assert max(apart) < 1e-6


def skip_without(package: str) -> None:
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


# Steps ---------------------------------------------------------------------------------------------------------------


@contextmanager
def doubles() -> Iterator[Any]:
    """k_diffusion.sampling, which makes tensors of the default type."""
    skip_without("k_diffusion")
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield k_diffusion_sampling()
    finally:
        torch.set_default_dtype(default)


# Its last steps use up what is left of n calls.
FAST: dict[int, LowerOrderFinal] = {
    12: DPM_FAST,
    13: LowerOrderFinal(DPM_3, (EULER,)),
    14: LowerOrderFinal(DPM_3, (DPM_2,)),
}


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("n", FAST)
def test_dpm_fast(n: int, eta: float) -> None:
    ours: OneStep = Ancestral(FAST[n], eta) if eta else FAST[n]
    white = WhiteNoise(0, range(8))
    with doubles() as k:
        theirs = k.sample_dpm_fast(
            NET, START, SDE.t_min, SDE.T, n, eta=eta, disable=True, noise_sampler=lambda *_: white.randn(START)
        )
    assert total_nfe(ours, n // 3 + 2) == n + 1  # with the last denoising
    *_, found = ours.solve(ReverseProcess(SDE, NET), START, levels(n // 3 + 2), WhiteNoise(0, range(8)))
    torch.testing.assert_close(found, theirs, rtol=1e-9, atol=1e-9)


def test_the_last_steps_have_their_order() -> None:
    check_ode_order(LowerOrderFinal(DPM_3, (DPM_2,)), 3)
    with pytest.raises(AssertionError, match=r"claimed to be of order 3, but measures (1\.[89]|2\.[0-2])"):
        check_ode_order(DPM_FAST, 3)  # one step of Euler's


def test_ending_on_short_grids() -> None:
    """They take the last of the last steps; nfe counts those."""
    assert [total_nfe(DPM_FAST, steps) for steps in (1, 2, 3, 4, 5)] == [1, 2, 4, 7, 10]
    both = [sample(SDE, NET, x=START, solver=s, times=levels(2)) for s in (DPM_FAST, EULER)]
    assert torch.equal(*both)
    by_calls = sample(SDE, NET, x=START, solver="dpm-fast", nfe=12)
    assert torch.equal(by_calls, sample(SDE, NET, x=START, solver=DPM_FAST, steps=5))


@pytest.mark.parametrize(("order", "ours"), [(2, DPM_2), (3, DPM_3)])
def test_dpm_adaptive_takes_our_steps(order: int, ours: OneStep) -> None:
    """On the times that it finds, for the whole batch at once."""
    seen: list[dict[str, Any]] = []
    with doubles() as k:
        theirs, info = k.sample_dpm_adaptive(
            NET, START, SDE.t_min, SDE.T, order=order, disable=True, return_info=True, callback=seen.append
        )
    assert info["n_reject"] > 0
    times = torch.stack([torch.tensor(SDE.T, dtype=torch.float64), *dict.fromkeys(found["sigma"] for found in seen)])
    assert len(times.unique()) == info["n_accept"] + 1
    *_, found = ours.solve(ReverseProcess(SDE, NET), START, times.unique().flip(0), WhiteNoise(0, range(8)))
    torch.testing.assert_close(found, theirs, rtol=1e-9, atol=1e-9)


def test_bosh3_is_nearer_than_dpm_adaptive_with_fewer_calls() -> None:
    """Why there is no preset of that name. The peer's steps are the same for all samples, too."""
    x = MIXTURE.at(SDE, SDE.T).sample(256, seed=1)
    exact = exact_flow(SDE, MIXTURE, x, SDE.lam(ENDS))[-1]
    with doubles() as k:
        run = partial(k.sample_dpm_adaptive, NET, sigma_min=SDE.t_min, sigma_max=SDE.T, disable=True)
        for rtol, tolerance in ((0.05, 3e-3), (1e-2, 3e-3), (1e-3, 1e-4), (1e-4, 1e-5)):
            theirs, info = run(x, rtol=rtol, atol=0.1 * rtol, return_info=True)
            record = CallRecord()
            solver = replace(BOSH3, rtol=tolerance, atol=tolerance, record=record)
            *_, ours = solver.solve(ReverseProcess(SDE, NET), x, ENDS, WhiteNoise(0, range(256)))
            errors = [float((y - exact).square().mean(1).sqrt().median()) for y in (ours, theirs)]
            calls = float(record.nfe.double().mean()), info["nfe"]
            print(f"calls {calls}, errors {errors}")
            assert calls[0] < calls[1] and errors[0] < errors[1]
        beside = torch.cat([x[:1], 30 * x[1:2]])
        assert float((run(x[:1]) - run(beside)[:1]).abs().max()) > 1e-5
