"""Feynman-Kac correctors: samples of tilted laws, which guidance and tempering miss (Skreta et al. 2025).

With weights w_j, the law prod_j p_j(x_t)^w_j at every t is reached by the reverse SDE with the score
S = sum_j w_j grad log p_j(x_t), if particles gain the log-weight int (|E|^2 - sum_j w_j |eps_j|^2) dlam on the way,
with the noise predictions eps_j and E = sum_j w_j eps_j. https://arxiv.org/abs/2503.02819
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sdescore.common.checks import check_number
from sdescore.common.evaluation_mode import evaluating
from sdescore.common.linear_combinations import combine
from sdescore.denoisers.denoiser import as_denoiser
from sdescore.denoisers.guidance import Guided
from sdescore.processes.base import LinearSDE
from sdescore.sampling.grids import Grid, uniform_lambda
from sdescore.sampling.initial import InitialLaw
from sdescore.sampling.noise import Noise
from sdescore.sampling.particles import Cloud, Particles, filter_particles, in_batches
from sdescore.sampling.reverse import ReverseProcess
from sdescore.sampling.run import Run, check_condition
from sdescore.sampling.smc import check_particles, first_states
from sdescore.sampling.smc_kernels import Kernels
from sdescore.sampling.solver import Solver

__all__ = ["feynman_kac"]


class Tilted:
    """The law prod_j p_j^w_j at all times, a Weighting; the integral over lam is the trapezoidal rule."""

    def __init__(self, branches: list[tuple[float, Kernels]], first: Tensor, log_mass: float) -> None:
        self.branches = branches
        self.kernels = branches[0][1]
        self.times = self.kernels.times
        self.first = first
        self.log_mass = log_mass
        sde = self.kernels.reverse.sde
        self.alpha: list[float] = sde.alpha(self.times).tolist()
        self.sigma: list[float] = sde.sigma(self.times).tolist()
        self.lam: list[float] = sde.lam(self.times).tolist()

    def look(self, i: int, x: Tensor) -> Cloud:
        """x, the tilted data prediction and the rate of the log-weight by lam at times[i]."""
        alpha, sigma = self.alpha[i], self.sigma[i]

        def each(x: Tensor) -> Cloud:
            noises = [(x - alpha * kernels.data(i, x)) / sigma for _, kernels in self.branches]
            mixed = combine([(eps, w) for (w, _), eps in zip(self.branches, noises, strict=True)])
            squares = [w * _square(eps) for (w, _), eps in zip(self.branches, noises, strict=True)]
            return x, (x - sigma * mixed) / alpha, _square(mixed) - torch.stack(squares).sum(0)

        return in_batches(each, x, self.kernels.batch_size)

    def start(self, noise: Noise) -> tuple[Cloud, Tensor]:
        cloud = self.look(0, self.first)
        return cloud, torch.full_like(cloud[2], self.log_mass)

    def move(self, i: int, cloud: Cloud, noise: Noise) -> tuple[Cloud, Tensor]:
        x, data, rate = cloud
        drawn = noise(x, self.times[i], self.times[i + 1], self.kernels.std[i])
        after = self.look(i + 1, self.kernels.mean(i, x, data) + drawn)
        return after, (self.lam[i + 1] - self.lam[i]) * (rate + after[2]) / 2

    def finish(self, cloud: Cloud) -> tuple[Tensor, Tensor]:
        return cloud[1], torch.zeros_like(cloud[2])


def _square(eps: Tensor) -> Tensor:
    return eps.double().square().flatten(1).sum(1)


@torch.no_grad()
def feynman_kac(
    sde: LinearSDE,
    net: Any,
    shape: tuple[int, ...],
    *,
    power: float = 1.0,
    particles: int = 256,
    steps: int = 200,
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
    """Samples of (p(x)^(1 - w) p(x|c)^w)^power for a denoiser guided(net, w), or of p(x)^power for another.

    By ceil(n / particles) independent runs; run r depends on (seed, index_offset + r) alone. They converge to the law
    as particles and steps grow. log_evidence is that of its mass, the integral of the powers at times[-1].

    Args:
        sde, predicts, device, dtype: As of sample().
        net: From guided() with a scale of at least 0 and the other settings as by default; or any Denoiser or callable.
        shape: (n, *sample_shape).
        power: Inverse temperature, positive.
        prior: Law of x_T, already tilted; N(0, sigma^2 / power) by default.
        particles, steps, solver, times, threshold, seed, index_offset, condition, batch_size: As of smc().

    Raises:
        TypeError, ValueError: For bad arguments, before any net call.
        FloatingPointError: If all particles of a run are dead.
    """
    check_number("power", power, above=0.0)
    runs = check_particles(shape[0], particles, threshold, batch_size)
    denoiser = as_denoiser(net, sde, predicts)
    grid = uniform_lambda() if times is None else times
    run = Run(
        sde,
        denoiser,
        (runs * particles, *shape[1:]),
        solver=solver,
        steps=None if isinstance(grid, Tensor) else steps,
        times=grid,
        prior=prior,
        seed=seed,
        index_offset=index_offset * particles,
        device=device,
        dtype=dtype,
    )
    given = {name: value.to(run.device) for name, value in check_condition(condition, 1).items()}
    first = first_states(run)
    branches = [
        (power * weight, Kernels(ReverseProcess(sde, branch, own), run.solver, run.times, batch_size))
        for weight, branch, own in _branches(run.denoiser, given, first[:1])
    ]
    alpha, sigma = sde.alpha(run.times), sde.sigma(run.times)
    size = first[0].numel()
    # The mass of p_T^power and how it shrinks with the state, which is the same for all particles.
    log_mass = (power - 1) * size * float(alpha[0].log() - alpha[-1].log())
    log_mass += size * ((1 - power) / 2 * math.log(2 * math.pi * float(sigma[0]) ** 2) - math.log(power) / 2)
    start = first if prior is not None else first / math.sqrt(power)
    nfe = sum(kernels.nfe for _, kernels in branches)
    with evaluating(run.denoiser):
        return filter_particles(
            Tilted(branches, start, log_mass), first, shape[0], runs, threshold, seed, index_offset, nfe
        )


def _branches(denoiser: Any, condition: dict[str, Tensor], x: Tensor) -> list[tuple[float, Any, dict[str, Tensor]]]:
    """The weight, the denoiser and the condition of each factor; those of weight 0 are left out."""
    if not isinstance(denoiser, Guided):
        return [(1.0, denoiser, condition)]
    if denoiser.rescale or denoiser.rule or denoiser.interval != (0.0, math.inf) or denoiser.scale < 0:
        raise ValueError(
            f"net is guided with scale={denoiser.scale}, interval={denoiser.interval}, rescale={denoiser.rescale} "
            f"and rule={denoiser.rule}; expected a scale from 0 on, and the defaults"
        )
    null = denoiser.null_condition(condition, x)
    found = [(denoiser.scale, denoiser.inner, condition), (1 - denoiser.scale, denoiser.other, null)]
    return [each for each in found if each[0]]
