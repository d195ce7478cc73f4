"""Markov chains that sample a density from its score or its unnormalised logarithm, a batch of chains at a time.

Two conventions of a Langevin step are in use: x + (e/2) score + sqrt(e) z (Song & Ermon 2019, eq. 4) and
x + h score + sqrt(2 h) z (Roberts & Tweedie 1996), the same for e = 2 h. `step` is h here. The randomness of chain i
depends on (seed, i) alone, and no chain has a graph. Correctors of a diffusion sampler are in sdescore.solvers.

Roberts & Tweedie 1996: https://doi.org/10.2307/3318418. Neal 2011: https://arxiv.org/abs/1206.1901.
Geyer 1992: https://doi.org/10.1214/ss/1177011137. Vehtari et al. 2021: https://arxiv.org/abs/1903.08008.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sdescore.common.checks import (
    check_count,
    check_finite,
    check_function,
    check_integer,
    check_number,
    check_returned,
    check_returned_numbers,
    check_seed,
    check_states,
    check_tensor,
    unwritten,
)
from sdescore.sampling.noise import WhiteNoise

__all__ = ["Chains", "annealed_langevin", "effective_sample_size", "hmc", "langevin", "mala"]

Score = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Chains:
    """The result of chains.

    Attributes:
        x: (chains, *shape), the last states.
        trace: (kept, chains, *shape), every `thin`-th state, in order.
        acceptance: (chains,), the share of accepted proposals; 1 without a Metropolis test.
    """

    x: Tensor
    trace: Tensor
    acceptance: Tensor

    def effective_sample_size(self, burn: int = 0) -> Tensor:
        """effective_sample_size() of the trace without its first `burn` states. Raises ValueError for burn < 0."""
        return effective_sample_size(self.trace[check_integer("burn", burn, 0) :])


def _check(x: Tensor, step: float, seed: int, **counts: int) -> None:
    check_finite("x", check_states(x, "chains", "chain"), "chain")
    check_number("step", step, above=0)
    check_seed(seed)
    for name, count in counts.items():
        check_count(name, count)


def _score_at(score: Score, x: Tensor) -> Tensor:
    """score(x), which must neither write over the state nor have another shape."""
    return check_returned(unwritten(score, x, "score"), x, "score")


def _finished(name: str, step: float, x: Tensor, kept: list[Tensor], acceptance: Tensor) -> Chains:
    if not bool(x.isfinite().all()):
        raise FloatingPointError(f"{name}: a chain is not finite at step={step}; a smaller step may keep it stable")
    return Chains(x, torch.stack(kept) if kept else x.new_empty(0, *x.shape), acceptance)


@torch.no_grad()
def langevin(
    score: Score, x: Tensor, *, step: float, steps: int, thin: int = 1, seed: int = 0, progress: bool = False
) -> Chains:
    """Unadjusted Langevin dynamics, x <- x + step score(x) + sqrt(2 step) z: biased by a term of order `step`.

    score maps x (chains, *shape) to its shape; the other arguments and errors are those of hmc(). On N(mean, std^2)
    this is the autoregression with coefficient 1 - step / std^2, of variance std^2 / (1 - step / (2 std^2)).
    Raises FloatingPointError if a chain diverges.
    """
    _check(x, step, seed, steps=steps, thin=thin)
    noise = WhiteNoise(seed, range(len(x)), x.device)
    kept = []
    for i in tqdm(range(1, steps + 1), disable=not progress, desc="langevin"):
        x = x + step * _score_at(score, x) + math.sqrt(2 * step) * noise.randn(x)
        if i % thin == 0:
            kept.append(x)
    return _finished("langevin", step, x, kept, x.new_ones(len(x)))


@torch.no_grad()
def annealed_langevin(
    score: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    sigmas: Tensor,
    *,
    step: float,
    repeats: int,
    seed: int = 0,
    progress: bool = False,
) -> Chains:
    """Langevin dynamics at decreasing levels, with step_i = step (sigma_i / sigma_L)^2 (Song & Ermon 2019, alg. 1).

    Args:
        score: score(x, sigma), sigma (chains,): the score of the data noised with standard deviation sigma.
        x: Initial states (chains, *shape), with a spread of about sigmas[0].
        sigmas: Decreasing levels (levels,), of equal ratios in the paper.
        step: The step at the last level; the paper's epsilon is 2 step. It is safe below sigma_L^2 / 10.
        repeats: Steps at each level.
        seed: Chain i's noise depends on (seed, i).
        progress: Show a progress bar.

    The trace has the state after each level. Raises TypeError, ValueError and FloatingPointError as langevin().
    """
    _check(x, step, seed, repeats=repeats)
    check_tensor("sigmas", sigmas, "(levels,)")
    if sigmas.ndim != 1 or len(sigmas) == 0 or not bool((sigmas.isfinite() & (sigmas > 0)).all()):
        raise ValueError(f"sigmas has shape {tuple(sigmas.shape)}; expected (levels,), positive and decreasing")
    if not bool((sigmas.diff() < 0).all()):
        raise ValueError(f"sigmas goes from {float(sigmas[0]):g} to {float(sigmas[-1]):g}; expected decreasing levels")
    noise = WhiteNoise(seed, range(len(x)), x.device)
    kept = []
    levels = sigmas.tolist()
    for sigma in tqdm(levels, disable=not progress, desc="annealed langevin"):
        own = step * (sigma / levels[-1]) ** 2
        level = x.new_full((len(x),), sigma)
        at_level = partial(_at_level, score, level)
        for _ in range(repeats):
            x = x + own * _score_at(at_level, x) + math.sqrt(2 * own) * noise.randn(x)
        kept.append(x)
    return _finished("annealed_langevin", step, x, kept, x.new_ones(len(x)))


def _at_level(score: Callable[[Tensor, Tensor], Tensor], level: Tensor, x: Tensor) -> Tensor:
    return score(x, level)


def _with_gradient(log_density: Score, x: Tensor) -> tuple[Tensor, Tensor]:
    """log_density(x), (chains,), and its gradient."""
    check_function("log_density", log_density)
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = check_returned_numbers(log_density(x.clone()), x, "log_density")  # which may write over a copy
        if not value.requires_grad:
            raise ValueError("log_density has no gradient by x; expected one that torch computes from x, with a graph")
        (gradient,) = torch.autograd.grad(value.sum(), x)
    return value.detach(), gradient


@torch.no_grad()
def hmc(
    log_density: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    step: float,
    steps: int,
    leapfrog: int = 10,
    thin: int = 1,
    seed: int = 0,
    progress: bool = False,
) -> Chains:
    """Hamiltonian Monte Carlo with unit mass: `leapfrog` steps of length `step`, then a Metropolis test (Neal 2011, 2).

    The stationary law is the density itself, whatever the step.

    Args:
        log_density: Maps x to unnormalised natural-log densities (chains,), such as Energy.log_density or
            GaussianMixture.log_prob; its gradient comes by autograd. Proposals where it is -inf or NaN are rejected.
        x: Initial states (chains, *shape), where it is finite.
        step: Length of a leapfrog step.
        steps: Proposals per chain.
        leapfrog: Leapfrog steps, each with one gradient, per proposal.
        thin: The trace keeps every `thin`-th state.
        seed: Chain i's randomness depends on (seed, i) alone.
        progress: Show a progress bar.

    Raises TypeError and ValueError for bad arguments, and ValueError where log_density is not finite at x.
    """
    _check(x, step, seed, steps=steps, thin=thin, leapfrog=leapfrog)
    noise = WhiteNoise(seed, range(len(x)), x.device)
    kept = []
    accepted = x.new_zeros(len(x))
    value, gradient = _with_gradient(log_density, x)
    if not bool(value.isfinite().all()):
        raise ValueError(f"log_density is not finite at x of chain {int((~value.isfinite()).nonzero()[0])}")
    # One draw a proposal: the momentum, and in the last place a normal number, whose quantile decides the test.
    like = x.new_empty(len(x), x[0].numel() + 1)
    for i in tqdm(range(1, steps + 1), disable=not progress, desc="hmc"):
        drawn = noise.randn(like)
        momentum = drawn[:, :-1].reshape(x.shape)
        log_u = torch.special.log_ndtr(drawn[:, -1].double())
        y, q, p = x, gradient, momentum
        for _ in range(leapfrog):
            p = p + step / 2 * q
            y = y + step * p
            proposed, q = _with_gradient(log_density, y)
            p = p + step / 2 * q
        gain = proposed - value - (p.flatten(1).square().sum(1) - momentum.flatten(1).square().sum(1)) / 2
        take = log_u < gain  # false for a NaN
        rows = take.reshape(-1, *(1,) * (x.ndim - 1))
        x = torch.where(rows, y, x)
        gradient = torch.where(rows, q, gradient)
        value = torch.where(take, proposed, value)
        accepted += take
        if i % thin == 0:
            kept.append(x)
    return _finished("hmc", step, x, kept, accepted / steps)


def mala(log_density: Callable[[Tensor], Tensor], x: Tensor, *, step: float, **options: Any) -> Chains:
    """Metropolis-adjusted Langevin: a step of langevin() as the proposal (Roberts & Tweedie 1996).

    It is hmc() with one leapfrog step of length sqrt(2 step) (Neal 2011, section 5.2), with its arguments and errors.
    """
    check_number("step", step, above=0)
    return hmc(log_density, x, step=math.sqrt(2 * step), leapfrog=1, **options)


def effective_sample_size(trace: Tensor) -> Tensor:
    """The number of independent draws whose mean is as precise, of each element: (*shape) from (kept, chains, *shape).

    Autocorrelations are relative to the variance of all chains together, so that chains in different modes count as
    few. They are summed while pairs of them are positive and decreasing (Geyer 1992; Vehtari et al. 2021, section 3.2).
    An element that never moves is worth 1.

    Raises TypeError for what is not a tensor, and ValueError for kept < 4 and for a trace that is not finite.
    """
    check_tensor("trace", trace, "(kept, chains, *shape)")
    if trace.ndim < 3 or len(trace) < 4:
        raise ValueError(f"trace has shape {tuple(trace.shape)}; expected (kept, chains, *shape) with kept >= 4")
    if not bool(trace.isfinite().all()):
        raise ValueError("trace is not finite")
    n, chains = trace.shape[:2]
    x = trace.to(torch.float64)
    mean = x.mean(0)
    spectrum = torch.fft.rfft(x - mean, n=2 * n, dim=0)
    covariance = torch.fft.irfft(spectrum.abs().square(), n=2 * n, dim=0)[:n].mean(1) / n  # over the chains
    within = covariance[0] * n / (n - 1)
    between = mean.var(0) if chains > 1 else torch.zeros_like(within)
    total = covariance[0] + between
    rho = 1 - (within - covariance * n / (n - 1)) / total.clamp(min=torch.finfo(total.dtype).tiny)
    rho[0] = 1
    pairs = rho[: n - n % 2].unflatten(0, (-1, 2)).sum(1)
    pairs = torch.where((pairs > 0).cummin(0).values, pairs, 0).cummin(0).values.clamp(min=0)
    time = (2 * pairs.sum(0) - 1).clamp(min=1 / math.log10(n * chains))  # antithetic chains may beat independence
    return torch.where(total > 0, n * chains / time, 1.0)
