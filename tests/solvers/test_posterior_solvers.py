"""DiffPIR, DAPS and DPS: moments of Gaussian priors by recursion, exactness where it holds, and biases."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

import pytest
import torch
from gaussian_measured import (
    COVARIANCE,
    FULL,
    MEAN,
    SDES,
    STD,
    A,
    Law,
    Y,
    assert_moments,
    drawn,
    own,
)
from noise_doubles import Replay
from torch import Tensor

from sdescore import VPSDE, KarrasSDE, LinearSDE, ReverseProcess, sample
from sdescore.operators import Matrix
from sdescore.sampling import karras
from sdescore.solvers import DAPS, DDIM, DDPM, DDRM, DPS, HEUN, DiffPIR

every_sde = pytest.mark.parametrize("sde", SDES, ids=["vp", "karras"])


def off(law: Law, noise_std: float = STD) -> tuple[float, float]:
    """How far the mean is from the posterior's, in its deviations, and the ratio of all the variance to its."""
    exact = FULL.posterior(Matrix(A), Y, noise_std)
    wrong = (law.mean - exact.means[0]) / exact.variances[0].sqrt()
    return float(wrong.square().mean().sqrt()), float(law.covariance.trace() / exact.variances[0].sum())


def prediction(sde: LinearSDE, t: Tensor) -> tuple[Tensor, Tensor]:
    """x0 = M x + b of the Gaussian prior."""
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    matrix = alpha * COVARIANCE @ torch.linalg.inv(alpha**2 * COVARIANCE + sigma**2 * torch.eye(4))
    return matrix, MEAN - alpha * matrix @ MEAN


def start(sde: LinearSDE) -> Law:
    return Law(torch.zeros(4, dtype=torch.float64), float(sde.sigma(torch.tensor(sde.T))) ** 2 * torch.eye(4).double())


# DiffPIR ------------------------------------------------------------------------------------------------------------


def diffpir(sde: LinearSDE, steps: int, std: float, weight: float, zeta: float) -> Law:
    times, law, unit = karras()(sde, steps), start(sde), torch.eye(4, dtype=torch.float64)
    for i, t in enumerate(times):
        alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
        matrix, shift = prediction(sde, t)
        # The minimum, by its normal equations.
        ridge = weight * std**2 * alpha**2 / sigma**2
        inverse = torch.linalg.inv(A.T @ A + ridge * unit)
        matrix, shift = ridge * inverse @ matrix, inverse @ (A.T @ Y + ridge * shift)
        if i + 1 == steps:
            return law.moved(matrix, shift)
        ahead, after = float(sde.alpha(times[i + 1])), float(sde.sigma(times[i + 1]))
        kept = (1 - zeta) ** 0.5 * after / sigma
        law = law.moved((ahead - kept * alpha) * matrix + kept * unit, (ahead - kept * alpha) * shift, zeta * after**2)
    raise AssertionError


@every_sde
def test_diffpir_has_the_moments_of_its_recursion(sde: LinearSDE) -> None:
    found = drawn(DiffPIR(Matrix(A), STD, weight=2.0, zeta=0.4), sde, 25)
    assert_moments(found, diffpir(sde, 25, STD, 2.0, 0.4))
    with pytest.raises(AssertionError):
        assert_moments(found, diffpir(sde, 25, STD / 2, 2.0, 0.4))


def test_bias_of_diffpir() -> None:
    found = {zeta: off(diffpir(SDES[0], 100, STD, 1.0, zeta)) for zeta in (0.0, 0.3, 1.0)}
    print(f"DiffPIR, off by deviations and ratio of variance, by zeta: {found}")
    assert all(0.05 < mean < 4 for mean, _ in found.values())
    assert all(abs(variance - 1) > 0.1 for _, variance in found.values())


def test_diffpir_of_a_function_is_that_of_its_derivative() -> None:
    plain, called = (drawn(DiffPIR(a, STD), SDES[0], 8, n=16) for a in (Matrix(A), lambda x: x @ A.T))
    torch.testing.assert_close(plain, called)


# DAPS ---------------------------------------------------------------------------------------------------------------


def daps(sde: LinearSDE, steps: int, std: float, chain: int, step: float, gain: float, exact: bool = False) -> Law:
    """With one net call a level; `exact` runs the chain for ever, in infinitely small steps."""
    times, law, unit = karras()(sde, steps), start(sde), torch.eye(4, dtype=torch.float64)
    for i, t in enumerate(times):
        rho = float(sde.rho(t))
        centre = law.moved(*prediction(sde, t))
        precision = unit / rho**2 + A.T @ A / std**2
        inverse = torch.linalg.inv(precision)
        if exact:
            law = centre.moved(inverse / rho**2, inverse @ A.T @ Y / std**2, inverse)
        else:
            # x of the chain is F c + h with the centre c, and noise of its own.
            size = step / (rho**-2 + gain**2 / std**2)
            once = unit - size * precision
            part, shift, noise = unit, torch.zeros(4, dtype=torch.float64), torch.zeros(4, 4, dtype=torch.float64)
            for _ in range(chain):
                part = once @ part + size / rho**2 * unit
                shift = once @ shift + size * A.T @ Y / std**2
                noise = once @ noise @ once.T + 2 * size * unit
            law = centre.moved(part, shift, noise)
        if i + 1 < steps:
            law = law.moved(sde.alpha(times[i + 1]) * unit, 0 * law.mean, float(sde.sigma(times[i + 1])) ** 2)
    return law


@every_sde
def test_daps_has_the_moments_of_its_recursion(sde: LinearSDE) -> None:
    solver = DAPS(Matrix(A), STD, calls=1, langevin=8, step=0.3, gain=1.5)
    found = drawn(solver, sde, 15)
    assert_moments(found, daps(sde, 15, STD, 8, 0.3, 1.5))
    with pytest.raises(AssertionError):
        assert_moments(found, daps(sde, 15, STD / 2, 8, 0.3, 1.5))


def test_daps_follows_the_flow_to_the_data() -> None:
    """On a Gaussian the flow's end is m + C^1/2 (C + rho^2)^-1/2 (x - m); the chain keeps it where nothing is seen."""
    sde, x = KarrasSDE(), 3 * torch.randn(5, 4, generator=own, dtype=torch.float64)
    reverse, t, last = ReverseProcess(sde, FULL.denoiser(sde)), torch.tensor(3.0).double(), torch.tensor(2e-3).double()
    variances, axes = torch.linalg.eigh(COVARIANCE)
    ends = MEAN + (x - MEAN) @ (axes * (variances / (variances + 9)).sqrt()) @ axes.T
    errors = [
        float((DAPS(Matrix(A), STD, calls, HEUN)._flow(reverse, x, t, last, Replay([])) - ends).norm())
        for calls in (9, 17, 33)
    ]
    assert errors[0] > 3 * errors[1] > 9 * errors[2] and errors[2] < 0.02


def test_bias_of_daps() -> None:
    """p(x0 | x_t) is no N(x0, rho^2): too wide where rho is not small."""
    found = off(daps(SDES[0], 200, STD, 0, 0.0, 0.0, exact=True))
    print(f"DAPS with one call and an exact chain, off by deviations and ratio of variance: {found}")
    assert 0.01 < found[0] < 1 and 1.02 < found[1] < 2


def test_daps_takes_functions() -> None:
    plain, called = (drawn(DAPS(a, STD, langevin=5), SDES[0], 6, n=16) for a in (Matrix(A), lambda x: x @ A.T))
    torch.testing.assert_close(plain, called)


# DPS ----------------------------------------------------------------------------------------------------------------


def test_dps_is_azulas() -> None:
    """One sample, as azula takes the error's norm over the batch, with the same noise."""
    azula = pytest.importorskip("azula.guidance.dps")
    noise, denoise = pytest.importorskip("azula.noise"), pytest.importorskip("azula.denoise")
    prior = FULL.denoiser(KarrasSDE())

    class Schedule(noise.Schedule):  # type: ignore[name-defined]
        def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return torch.ones_like(t), t

    class Net(denoise.Denoiser):  # type: ignore[name-defined]
        schedule = Schedule()

        def forward(self, x: Tensor, t: Tensor, **kwargs: Any) -> Any:
            return denoise.DiracPosterior(mean=prior(x, t))

    function: Callable[[Tensor], Tensor] = lambda x: (x @ A.T).tanh()  # noqa: E731
    peer = azula.DPSSampler(Net(), Y[None], function, zeta=0.7)
    times = torch.tensor([5.0, 2.0, 0.7, 0.2], dtype=torch.float64)
    x = theirs = 5 * torch.randn(1, 4, generator=own, dtype=torch.float64)
    torch.manual_seed(3)
    for t, s in pairwise(times):
        theirs = peer.step(theirs, t, s)
    torch.manual_seed(3)
    draws = [torch.randn_like(x) for _ in range(3)]
    reverse = ReverseProcess(KarrasSDE(), prior, {"measurement": Y[None]})
    ours = list(DPS(function, 0.7).solve(reverse, x, times, Replay(draws)))[-2]
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_dps_pulls_by_zeta_and_by_the_number_of_steps_whatever_the_noise() -> None:
    """So its law is no posterior. For scale: the variance of A x is 3.6 a priori."""
    spread = {
        (zeta, n): float(torch.cov((drawn(DPS(Matrix(A), zeta), SDES[0], n, n=1000) @ A.T).T).trace())
        for zeta, n in ((0.0, 40), (0.1, 40), (0.1, 120))
    }
    print(
        f"DPS: variance of what is measured by (zeta, steps): {spread}; a priori {(A @ COVARIANCE @ A.T).trace():.2f}"
    )
    assert spread[0.0, 40] == pytest.approx(float((A @ COVARIANCE @ A.T).trace()), rel=0.25)
    assert 4 * spread[0.1, 120] < spread[0.1, 40] < 0.5 * spread[0.0, 40]


# All ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "calls"),
    [
        (DDRM(Matrix(A), 0.1), 12),
        (DiffPIR(Matrix(A), 0.1), 12),
        (DPS(Matrix(A)), 12),
        (DAPS(Matrix(A), 0.1, langevin=3), 11 * 5 + 1),
        (DAPS(Matrix(A), 0.1, 3, HEUN, 3), 11 * 5 + 1),
        (DAPS(Matrix(A), 0.1, 1, langevin=3), 12),
    ],
    ids=["ddrm", "diffpir", "dps", "daps", "daps by heun", "daps by one call"],
)
def test_net_calls_and_batches(solver: Any, calls: int) -> None:
    sde, counted = VPSDE(), 0
    prior = FULL.denoiser(sde)

    def net(x: Tensor, t: Tensor) -> Tensor:
        nonlocal counted
        counted += 1
        return prior.score(x, t[0].double())

    y = torch.randn(5, 2, generator=own, dtype=torch.float64)
    whole = sample(sde, net, (5, 4), solver=solver, steps=12, condition={"measurement": y}, dtype=torch.float64)
    assert counted == calls == solver.nfe(11)
    parts = sample(
        sde, net, (5, 4), solver=solver, steps=12, condition={"measurement": y}, dtype=torch.float64, batch_size=2
    )
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [DDRM, DiffPIR, DPS, DAPS])
def test_bad_measurements_are_named(kind: Any) -> None:
    sde, solver = VPSDE(), kind(Matrix(A), 0.1)
    net = FULL.denoiser(sde)
    with pytest.raises(ValueError, match='condition has no "measurement"'):
        sample(sde, net, (3, 4), solver=solver)
    with pytest.raises(ValueError, match=r"measurement is \(3, 3\); the operator measures \(3, 2\)"):
        sample(sde, net, (3, 4), solver=solver, condition={"measurement": torch.zeros(3, 3)})
    with pytest.raises(ValueError, match="Matrix expects"):
        sample(sde, lambda x, t: -x, (3, 5), solver=solver, condition={"measurement": torch.zeros(3, 2)})
    y = torch.zeros(4, 2, dtype=torch.float64)
    y[1] = torch.nan
    with pytest.raises(FloatingPointError, match=r"in sample 1$"):
        sample(sde, net, (4, 4), solver=solver, steps=4, condition={"measurement": y})


def test_a_net_without_derivative_is_named() -> None:
    sde, given = VPSDE(), {"measurement": torch.zeros(3, 2)}
    with pytest.raises(ValueError, match="no derivative by x"):
        sample(sde, lambda x, t: -x.detach(), (3, 4), solver=DPS(Matrix(A)), condition=given, dtype=torch.float64)


def test_bad_arguments_are_named() -> None:
    matrix: Any = Matrix(A)
    three: Any = 3
    heun: Any = HEUN
    for make, error, word in (
        (lambda: DDRM(cast(Any, torch.tanh)), TypeError, "expected a linear one"),
        (lambda: DDRM(matrix, eta=2.0), ValueError, "eta=2.0"),
        (lambda: DDRM(matrix, -0.1), ValueError, "noise_std=-0.1"),
        (lambda: DiffPIR(three, 0.1), TypeError, "operator is 3"),
        (lambda: DiffPIR(matrix, -0.1), ValueError, "noise_std=-0.1"),
        (lambda: DiffPIR(matrix, 0.1, zeta=2.0), ValueError, "zeta=2.0"),
        (lambda: DAPS(matrix, 0.0), ValueError, "noise_std=0; expected a positive"),
        (lambda: DAPS(matrix, 0.1, calls=0), ValueError, "calls=0"),
        (lambda: DAPS(matrix, 0.1, step=1.0), ValueError, "step=1.0"),
        (lambda: DPS(matrix, -1.0), ValueError, "zeta=-1.0"),
        (lambda: DPS(matrix, method=heun), TypeError, "expected a LinearOneStep"),
    ):
        with pytest.raises(error, match=word):
            make()
    assert DDIM.nfe(3) == DDPM.nfe(3) == 3
