"""Posterior samples by sequential Monte Carlo: exact as the particles and the steps grow."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sdescore.common.checks import check_count, check_number, check_tensor, choose, described
from sdescore.common.evaluation_mode import evaluating
from sdescore.denoisers.denoiser import as_denoiser
from sdescore.operators import Nonlinear, Operator, as_operator
from sdescore.processes.base import LinearSDE, check_linear
from sdescore.sampling.grids import Grid, uniform_lambda
from sdescore.sampling.initial import InitialLaw, initial_states
from sdescore.sampling.particles import Particles, Weighting, filter_particles
from sdescore.sampling.reverse import ReverseProcess
from sdescore.sampling.run import Run, check_condition
from sdescore.sampling.smc_bridged import Bridged, SingularValues, through
from sdescore.sampling.smc_kernels import Kernels
from sdescore.sampling.smc_twisted import TWISTS, Twist, Twisted
from sdescore.sampling.solver import Solver

__all__ = ["check_particles", "first_states", "smc"]

Build = Callable[[Kernels, Tensor], Weighting]  # from the kernels and the first states


@dataclass(frozen=True)
class Problem:
    """What a method is made for."""

    operator: Any
    y: Tensor
    noise_std: float
    shape: tuple[int, ...]
    grid: Grid
    twist: Twist
    gaussian: bool


def _tds(given: Problem) -> tuple[Grid, Build]:
    def build(kernels: Kernels, first: Tensor) -> Weighting:
        return Twisted(kernels, first, given.operator, given.y.to(first), given.noise_std, given.twist)

    return given.grid, build


def _mcgdiff(given: Problem) -> tuple[Grid, Build]:
    found = SingularValues.of(given.operator, given.y, given.noise_std, given.shape)
    return through(given.grid, found), lambda kernels, first: Bridged(kernels, first, given.gaussian, found)


METHODS: dict[str, Callable[[Problem], tuple[Grid, Build]]] = {"tds": _tds, "mcgdiff": _mcgdiff}


def check_particles(n: int, particles: int, threshold: float, batch_size: int | None) -> int:
    """The number of runs that make n samples. Raises ValueError for counts that are none."""
    check_count("n", n)
    check_count("particles", particles)
    if batch_size is not None:
        check_count("batch_size", batch_size)
    if not 0 <= check_number("threshold", threshold) <= 1:
        raise ValueError(f"threshold={threshold}; expected a share of the particles, from 0 to 1")
    return math.ceil(n / particles)


def first_states(run: Run) -> Tensor:
    """States of all particles at times[0]."""
    like = torch.empty(run.shape, device=run.device, dtype=run.dtype)
    numbers = range(run.index_offset, run.index_offset + len(run))
    return initial_states(run.prior, run.sde, run.times[0], run.seed, numbers, like)


@torch.no_grad()
def smc(
    sde: LinearSDE,
    net: Any,
    operator: Operator | Nonlinear | Callable[[Tensor], Tensor],
    y: Tensor,
    *,
    noise_std: float,
    n: int,
    particles: int = 256,
    steps: int = 200,
    method: str = "tds",
    twist: str | Twist = "mmps",
    solver: str | Solver = "ddpm",
    times: Tensor | Grid | None = None,
    prior: InitialLaw | None = None,
    threshold: float = 0.5,
    seed: int = 0,
    index_offset: int = 0,
    condition: Mapping[str, Tensor] | None = None,
    predicts: str | None = None,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> Particles:
    """n samples of x given one measurement y = A(x) + noise_std z, by ceil(n / particles) independent runs.

    Run r depends on (seed, index_offset + r) alone. Samples converge to the posterior as particles and steps grow; the
    error of few particles is seen between runs, that of few steps is not.

    Args:
        sde, net, predicts, device, dtype: As of sample().
        operator: What measures, on batches; linear for "mcgdiff", which takes its matrix's singular values.
        y: (*measured,), without a batch.
        noise_std: Standard deviation of the noise; positive but for "mcgdiff".
        n: Number of samples.
        particles: In each run.
        steps: Number of times, which is also the number of net calls for each particle.
        method: "tds", twisted kernels (Wu et al. 2023, https://arxiv.org/abs/2306.17775), or "mcgdiff", kernels bridged
            to y (Cardoso et al. 2024, https://arxiv.org/abs/2308.07983), without a derivative of the net. The latter's
            particles are narrower than the posterior at high noise, so that its log_evidence has heavy tails.
        twist: What "tds" takes for p(y | x_t): "mmps", a Gaussian with Tweedie's covariance, at a product with the
            Jacobian for each measurement; "pigdm", with one variance, at one product; or a function of a Measured.
        solver: A LinearOneStep with noise, whose kernels are reweighted.
        times: Decreasing times instead of steps, or a grid; uniform_lambda() by default.
        prior: Law of x_T, as of sample().
        threshold: Runs are resampled where the effective sample size is below this share of the particles.
        seed: Seed of all runs.
        index_offset: Number of the first run.
        condition: Tensors (1, ...) for all particles, handed to the net by name.
        batch_size: Particles at a time for the net; all at once by default.

    Raises:
        TypeError, ValueError: For bad arguments, before any net call.
        FloatingPointError: If all particles of a run are dead.
    """
    check_linear(sde)
    runs = check_particles(n, particles, threshold, batch_size)
    known, make = as_operator(operator), choose(METHODS, method, "method")
    if not (check_number("noise_std", noise_std, least=0.0) or make is _mcgdiff):
        raise ValueError("noise_std=0; expected a positive number, or method='mcgdiff'")
    check_tensor("y", y, "(*measured,), one measurement")
    denoiser = as_denoiser(net, sde, predicts)
    shape = denoiser.shape or _shape(known, y)
    expected = tuple(known.A(torch.zeros(1, *shape, dtype=y.dtype, device=y.device)).shape[1:])
    if tuple(y.shape) != expected:
        raise ValueError(f"y is {described(y)}; the operator measures {expected} of a sample {shape}")
    wanted = _fixed(times) if isinstance(times, Tensor) else times or uniform_lambda()
    grid, build = make(Problem(known, y, noise_std, shape, wanted, choose(TWISTS, twist, "twist"), prior is None))
    run = Run(
        sde,
        denoiser,
        (runs * particles, *shape),
        solver=solver,
        steps=steps,
        times=grid,
        prior=prior,
        seed=seed,
        index_offset=index_offset * particles,
        device=device,
        dtype=dtype,
    )
    given = {name: value.to(run.device) for name, value in check_condition(condition, 1).items()}
    kernels = Kernels(ReverseProcess(sde, run.denoiser, given), run.solver, run.times, batch_size)
    first = first_states(run)
    with evaluating(run.denoiser):
        return filter_particles(build(kernels, first), first, n, runs, threshold, seed, index_offset, kernels.nfe)


def _fixed(times: Tensor) -> Grid:
    return lambda sde, steps: times


def _shape(operator: Operator | Nonlinear, y: Tensor) -> tuple[int, ...]:
    """That of a sample, for nets that do not say it."""
    if isinstance(operator, Nonlinear):
        raise ValueError("net says no shape of its samples; expected a Denoiser with shape= for a nonlinear operator")
    try:
        return tuple(operator.A_adjoint(y[None]).shape[1:])
    except RuntimeError as error:
        raise ValueError(f"y is {described(y)}; expected the shape of what {operator!r} measures") from error
