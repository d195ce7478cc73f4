"""SEEDS-2 and SEEDS-3, in the noise and in the data: the steps as published, orders, and laws."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from noise_doubles import Given, WithNoise
from tensors_and_errors import double, fitted_order
from torch import Tensor
from weak_orders import overall_order, weak_errors

from sdescore import VPSDE, GaussianMixture, KarrasSDE, LinearSDE, OneStep, ReverseProcess, find_solver
from sdescore.sampling.brownian import Brownian, BrownianPath, Clock, rho_clock, snr_clock, time_clock
from sdescore.solvers import (
    DATA,
    DPM_2,
    DPM_3,
    DPMPP_2S,
    DPMPP_3S,
    IN_LAM,
    NOISE,
    SDE_DPMPP_2S,
    SDE_DPMPP_3S,
    SEEDS_2,
    SEEDS_3,
    ExponentialEuler,
    RungeKutta,
    Tableau,
    Target,
    k_diffusion_eta,
    tableaux,
)
from sdescore.testing import check_sde_law

NAMES = {"seeds2": SEEDS_2, "seeds3": SEEDS_3, "sde-dpm++2s": SDE_DPMPP_2S, "sde-dpm++3s": SDE_DPMPP_3S}


def test_names() -> None:
    assert {name: find_solver(name) for name in NAMES} == NAMES


# The steps as published, restated: z are unit normals of the parts of a step, first to last --------------------------


def at(sde: LinearSDE, t: Tensor, h: Tensor, share: float) -> Tensor:
    return sde.time(sde.lam(t) + share * h)


def grown(h: Tensor, start: float, stop: float) -> Tensor:
    """Of the noise up to the end of a step, in sigma there, what [1 - stop, 1 - start] of the step adds."""
    return (torch.exp(2 * stop * h) - torch.exp(2 * start * h)).sqrt()


def seeds_2(reverse: ReverseProcess, x: Tensor, t: Tensor, s: Tensor, z: list[Tensor]) -> Tensor:
    """Gonzalez et al. 2023, SEEDS-2."""
    sde, h = reverse.sde, reverse.sde.lam(s) - reverse.sde.lam(t)
    middle = at(sde, t, h, 1 / 2)
    u = sde.alpha(middle) / sde.alpha(t) * x - 2 * sde.sigma(middle) * torch.expm1(h / 2) * reverse.noise(x, t)
    u = u + sde.sigma(middle) * torch.expm1(h).sqrt() * z[0]
    end = sde.alpha(s) / sde.alpha(t) * x - 2 * sde.sigma(s) * torch.expm1(h) * reverse.noise(u, middle)
    return end + sde.sigma(s) * (grown(h, 1 / 2, 1) * z[0] + grown(h, 0, 1 / 2) * z[1])


def seeds_3(reverse: ReverseProcess, x: Tensor, t: Tensor, s: Tensor, z: list[Tensor]) -> Tensor:
    """SEEDS-3. The authors' code has the second stage's noise in the sigma of the end, and at the end the scales of the
    first two normals exchanged: these are of no path, and four times as far from the law at 32 steps."""
    sde, h = reverse.sde, reverse.sde.lam(s) - reverse.sde.lam(t)
    one, two = at(sde, t, h, 1 / 3), at(sde, t, h, 2 / 3)
    start = reverse.noise(x, t)
    u = sde.alpha(one) / sde.alpha(t) * x - 2 * sde.sigma(one) * torch.expm1(h / 3) * start
    u = u + sde.sigma(one) * torch.expm1(2 * h / 3).sqrt() * z[0]
    phi, rise = torch.expm1(2 * h / 3) / (2 * h / 3) - 1, 2 * (reverse.noise(u, one) - start)
    u = sde.alpha(two) / sde.alpha(t) * x - sde.sigma(two) * (2 * torch.expm1(2 * h / 3) * start + 2 * phi * rise)
    u = u + sde.sigma(two) * (grown(h, 1 / 3, 2 / 3) * z[0] + grown(h, 0, 1 / 3) * z[1])
    phi, rise = torch.expm1(h) / h - 1, 3 / 2 * (reverse.noise(u, two) - start)
    end = sde.alpha(s) / sde.alpha(t) * x - 2 * sde.sigma(s) * (torch.expm1(h) * start + phi * rise)
    parts = [grown(h, 1 - (i + 1) / 3, 1 - i / 3) * z[i] for i in range(3)]
    return end + sde.sigma(s) * (parts[0] + parts[1] + parts[2])


def shrunk(h: Tensor, start: float, stop: float, eta: float) -> Tensor:
    """The same for the data prediction, where noise decays on the way to the end."""
    return (torch.exp(-2 * eta * start * h) - torch.exp(-2 * eta * stop * h)).sqrt()


def data_2(reverse: ReverseProcess, x: Tensor, t: Tensor, s: Tensor, z: list[Tensor], eta: float = 1.0) -> Tensor:
    """SEEDS-2 on the data prediction, with ComfyUI's eta."""
    sde, h, k = reverse.sde, reverse.sde.lam(s) - reverse.sde.lam(t), 1 + eta
    middle = at(sde, t, h, 1 / 2)
    u = sde.sigma(middle) / sde.sigma(t) * torch.exp(-eta * h / 2) * x
    u = u - sde.alpha(middle) * torch.expm1(-k * h / 2) * reverse.data(x, t)
    u = u + sde.sigma(middle) * shrunk(h, 0, 1 / 2, eta) * z[0]
    end = sde.sigma(s) / sde.sigma(t) * torch.exp(-eta * h) * x
    end = end - sde.alpha(s) * torch.expm1(-k * h) * reverse.data(u, middle)
    return end + sde.sigma(s) * (shrunk(h, 1 / 2, 1, eta) * z[0] + shrunk(h, 0, 1 / 2, eta) * z[1])


def data_3(reverse: ReverseProcess, x: Tensor, t: Tensor, s: Tensor, z: list[Tensor], eta: float = 1.0) -> Tensor:
    """SEEDS-3 on the data prediction, with ComfyUI's eta."""
    sde, h, k = reverse.sde, reverse.sde.lam(s) - reverse.sde.lam(t), 1 + eta
    one, two = at(sde, t, h, 1 / 3), at(sde, t, h, 2 / 3)
    start = reverse.data(x, t)

    def phi(share: float) -> Tensor:
        return 1 + torch.expm1(-share * k * h) / (share * k * h)

    u = sde.sigma(one) / sde.sigma(t) * torch.exp(-eta * h / 3) * x
    u = u - sde.alpha(one) * torch.expm1(-k * h / 3) * start + sde.sigma(one) * shrunk(h, 0, 1 / 3, eta) * z[0]
    rise = 2 * (reverse.data(u, one) - start)
    u = sde.sigma(two) / sde.sigma(t) * torch.exp(-2 * eta * h / 3) * x
    u = u + sde.alpha(two) * (-torch.expm1(-2 * k * h / 3) * start + phi(2 / 3) * rise)
    u = u + sde.sigma(two) * (shrunk(h, 1 / 3, 2 / 3, eta) * z[0] + shrunk(h, 0, 1 / 3, eta) * z[1])
    rise = 3 / 2 * (reverse.data(u, two) - start)
    end = sde.sigma(s) / sde.sigma(t) * torch.exp(-eta * h) * x
    end = end + sde.alpha(s) * (-torch.expm1(-k * h) * start + phi(1) * rise)
    parts = [shrunk(h, 1 - (i + 1) / 3, 1 - i / 3, eta) * z[i] for i in range(3)]
    return end + sde.sigma(s) * (parts[0] + parts[1] + parts[2])


def nested(scales: list[Tensor], z: list[Tensor]) -> Given:
    """The normals of ours that make the path whose parts are scales * z in units of the end: for the whole way, for the
    part before the last place in the bridge over it, and so on."""
    path = torch.stack([a * b for a, b in zip(scales, z, strict=True)]).cumsum(0)
    clock = torch.stack(scales).square().cumsum(0)
    normals = [path[-1] / clock[-1].sqrt()]
    for i in reversed(range(len(z) - 1)):
        share = clock[i] / clock[i + 1]
        normals.append((path[i] - share * path[i + 1]) / (clock[i] * (1 - share)).sqrt())
    return Given(normals[0], normals[1], normals[2:])


Published = Callable[[ReverseProcess, Tensor, Tensor, Tensor, list[Tensor]], Tensor]
STEPS: dict[str, tuple[RungeKutta, Published, int]] = {
    "seeds2": (SEEDS_2, seeds_2, 2),
    "seeds3": (SEEDS_3, seeds_3, 3),
    "sde-dpm++2s": (SDE_DPMPP_2S, data_2, 2),
    "sde-dpm++3s": (SDE_DPMPP_3S, data_3, 3),
    "sde-dpm++2s, eta 0.5": (
        replace(SDE_DPMPP_2S, tau=k_diffusion_eta(0.5)),
        partial(data_2, eta=0.5),
        2,
    ),
    "sde-dpm++3s, eta 2": (replace(SDE_DPMPP_3S, tau=k_diffusion_eta(2.0)), partial(data_3, eta=2.0), 3),
}


@pytest.mark.parametrize("ends", [(-2.0, 1.0), (0.5, 0.51)])
@pytest.mark.parametrize("name", STEPS)
def test_a_step_as_published(name: str, ends: tuple[float, float], main_sde: LinearSDE) -> None:
    method, published, parts = STEPS[name]
    oracle = GaussianMixture(double(-1.0, 0.5, 0.8, 1.0).reshape(2, 2), 0.3)
    t, s = main_sde.time(double(*ends))
    x, reverse = oracle.at(main_sde, t).sample(16), ReverseProcess(main_sde, oracle.denoiser(main_sde))
    z, h = list(torch.randn(parts, 16, 2, dtype=torch.float64)), main_sde.lam(s) - main_sde.lam(t)
    eta = float(method.tau) ** 2 if not callable(method.tau) else math.nan
    scale = (lambda a, b: grown(h, a, b)) if "seeds" in name else lambda a, b: shrunk(h, a, b, eta)
    scales = [scale(1 - (i + 1) / parts, 1 - i / parts) for i in range(parts)]
    found = method.step(reverse, x, t, s, nested(scales, z))
    torch.testing.assert_close(found, published(reverse, x, t, s, z), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    ("method", "ode"),
    [(SEEDS_2, DPM_2), (SEEDS_3, DPM_3), (SDE_DPMPP_2S, DPMPP_2S), (SDE_DPMPP_3S, DPMPP_3S)],
    ids=list(NAMES),
)
def test_without_noise_it_is_the_method_for_the_ode(method: RungeKutta, ode: RungeKutta) -> None:
    assert replace(method, tau=0.0) == ode
    sde, oracle = VPSDE(), GaussianMixture(double(-1.0, 0.5, 0.8, 1.0).reshape(2, 2), 0.3)
    t, s = sde.time(double(-1.0, 0.5))
    x, reverse = oracle.at(sde, t).sample(16), ReverseProcess(sde, oracle.denoiser(sde))
    one = torch.ones_like(x)
    apart = [
        float((replace(method, tau=tau).step(reverse, x, t, s, Given(one, one, [one])) - exact).abs().max())
        for exact in [ode.step(reverse, x, t, s, Given(one, one))]
        for tau in (1e-2, 1e-3)
    ]
    assert apart[0] < 0.1 and apart[0] / apart[1] == pytest.approx(10, rel=0.1)  # noise is proportional to tau


@pytest.mark.parametrize("name", NAMES)
def test_noise_by_the_length_of_a_step_is_by_that_of_the_whole_one_at_every_node(name: str) -> None:
    sde, oracle = VPSDE(), GaussianMixture(double(-1.0, 0.5, 0.8, 1.0).reshape(2, 2), 0.3)
    t, s = sde.time(double(-1.0, -0.3))
    x, reverse = oracle.at(sde, t).sample(16), ReverseProcess(sde, oracle.denoiser(sde))
    z, area, fresh = torch.randn(3, 16, 2, dtype=torch.float64)
    ends = [
        replace(NAMES[name], tau=tau).step(reverse, x, t, s, Given(z, area, [fresh]))
        for tau in (0.7, lambda lam, h: h.expand_as(lam))
    ]
    torch.testing.assert_close(*ends)


# Orders --------------------------------------------------------------------------------------------------------------

STEPS_A_RUN = (16, 32, 64)


def weak_order(method: OneStep, steps: tuple[int, ...]) -> float:
    errors = weak_errors(
        method, VPSDE(), steps, normals=max(2, len(method.tableau.c) if isinstance(method, RungeKutta) else 1)
    )
    print(f"weak order {overall_order(steps, errors):.2f}, errors {errors}")
    return overall_order(steps, errors)


@pytest.mark.parametrize("name", NAMES)
def test_weak_order_two(name: str) -> None:
    assert weak_order(NAMES[name], STEPS_A_RUN) >= 1.8


@dataclass(frozen=True)
class Unshared(RungeKutta):
    """The stages' noise has its variance, but not what it shares with that of the end."""

    tableau: Tableau = tableaux.MIDPOINT
    own: int = 1

    def _shared(self, *args: Any) -> dict[float, Tensor]:
        right = super()._shared(*args)
        unit = torch.eye(len(right)).to(right[1.0])
        return {c: right[c] if c == 1 else unit[self.own].expand_as(right[c]) for c in right}


@pytest.mark.parametrize("target", [NOISE, DATA], ids=["noise", "data"])
@pytest.mark.parametrize("own", [0, 1], ids=["all of it shared", "none of it shared"])
def test_noise_that_stages_do_not_share_as_they_should_costs_an_order(target: Target, own: int) -> None:
    assert weak_order(Unshared(tableaux.MIDPOINT, target, IN_LAM, tau=1.0, own=own), (8, 16, 32)) < 1.5


@pytest.mark.parametrize("target", [NOISE, DATA], ids=["noise", "data"])
def test_the_test_sees_order_one(target: Target) -> None:
    assert weak_order(ExponentialEuler(target, tau=1.0), STEPS_A_RUN) < 1.5


SHORT = KarrasSDE(math.exp(-1.5), math.exp(1.0))
# The modes overlap: between separate ones a few paths go the other way, and make up the whole of the error.
OVERLAPPING = GaussianMixture(torch.tensor([[-0.4, 0.0], [0.5, 0.3]], dtype=torch.float64), [0.5, 0.7])


@pytest.fixture(scope="module")
def normals_drawn_once() -> Iterator[None]:
    """A path is made of the same normals under every clock and grid; to draw them is most of the time."""
    draw = BrownianPath._normals
    kept: dict[tuple[int, int], Tensor] = {}

    def once(self: BrownianPath, x: Tensor, level: int, number: int) -> Tensor:
        if (level, number) not in kept:
            kept[level, number] = draw(self, x, level, number)
        return kept[level, number]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BrownianPath, "_normals", once)
        yield


def on_paths(method: RungeKutta, clock: Clock, steps: int) -> Tensor:
    """The ends of 64 paths."""
    path, ends = Brownian(SHORT, clock, 9)(0, range(64)), torch.tensor([SHORT.T, SHORT.t_min], dtype=torch.float64)
    first, last = SHORT.lam(ends)
    lams = first + (last - first) * torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    x, times = OVERLAPPING.at(SHORT, SHORT.T).sample(64), SHORT.time(lams).clamp(SHORT.t_min, SHORT.T)
    *_, end = method.solve(ReverseProcess(SHORT, OVERLAPPING.denoiser(SHORT)), x, times, path)
    return end


@pytest.mark.usefixtures("normals_drawn_once")
@pytest.mark.parametrize("name", NAMES)
def test_strong_order_one(name: str) -> None:
    clock = rho_clock if NAMES[name].target is NOISE else snr_clock
    exact = on_paths(NAMES[name], clock, 512)
    errors = [float((on_paths(NAMES[name], clock, n) - exact).square().mean().sqrt()) for n in STEPS_A_RUN]
    other = on_paths(NAMES[name], time_clock, STEPS_A_RUN[-1]) - exact
    print(f"{name}: strong order {fitted_order(STEPS_A_RUN, errors):.2f}, errors {errors}")
    assert fitted_order(STEPS_A_RUN, errors) >= 0.85
    assert float(other.square().mean().sqrt()) > 10 * errors[-1]  # another path's ends are elsewhere


# Laws ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_law(name: str) -> None:
    p = check_sde_law(name, steps=40)
    print(f"{name}: p = {p:.2g}")


def test_law_sees_noise_that_is_not_the_process_own() -> None:
    with pytest.raises(AssertionError, match="differ from exact ones"):
        check_sde_law(WithNoise(SEEDS_3, 1.3), steps=40)
