"""Markov chains that sample a density from its score or its unnormalised logarithm, a batch of chains at a time.

Two conventions of the step are in use: x + (e/2) score + sqrt(e) z (Song & Ermon 2019, eq. 4) and
x + h score + sqrt(2 h) z (Roberts & Tweedie 1996). They are the same for e = 2 h; `step` is h everywhere here.
Randomness of chain i depends on (seed, i) alone. No chain carries a graph. For correctors inside a diffusion
sampler see sdescore.solvers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sdescore.common.checks import check_count, check_returned, check_returned_numbers, check_states
from sdescore.sampling.noise import WhiteNoise

__all__ = ["Chains", "annealed_langevin", "effective_sample_size", "hmc", "langevin", "mala"]

Score = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Chains:
    """What chains did: x (chains, *shape) their last states; trace (kept, chains, *shape) every `thin`-th state, in
    order; acceptance (chains,) the share of accepted proposals, 1 where there is no test.
    """

    x: Tensor
    trace: Tensor
    acceptance: Tensor

    def effective_sample_size(self, burn: int = 0) -> Tensor:
        """effective_sample_size() of the trace without its first `burn` states."""
        if burn < 0:
            raise ValueError(f"burn={burn}; expected 0 and positive integers")
        return effective_sample_size(self.trace[burn:])


def _check(x: Tensor, step: float, **counts: int) -> None:
    check_states(x, "chains", "chain")
    if not bool(x.isfinite().all()):
        raise ValueError(f"x is not finite in chain {int((~x.isfinite()).flatten(1).any(1).nonzero()[0])}")
    if not 0 < step < math.inf:
        raise ValueError(f"step={step}; expected positive numbers")
    for name, count in counts.items():
        check_count(name, count)


def _finite(x: Tensor, name: str, step: float) -> Tensor:
    if not bool(x.isfinite().all()):
        raise FloatingPointError(f"{name}: a chain is not finite at step={step}; a smaller step keeps it stable")
    return x


@torch.no_grad()
def langevin(
    score: Score, x: Tensor, *, step: float, steps: int, thin: int = 1, seed: int = 0, progress: bool = False
) -> Chains:
    """Unadjusted Langevin dynamics, x <- x + step score(x) + sqrt(2 step) z: biased by a term of order `step`.

    On N(mean, std^2) it is the autoregression with coefficient 1 - step / std^2, whose variance is
    std^2 / (1 - step / (2 std^2)). Arguments as of hmc(). Raises FloatingPointError if a chain diverges.
    """
    _check(x, step, steps=steps, thin=thin)
    noise, kept = WhiteNoise(seed, range(len(x)), x.device), []
    for i in tqdm(range(1, steps + 1), disable=not progress, desc="langevin"):
        x = x + step * check_returned(score(x), x, "score") + math.sqrt(2 * step) * noise.randn(x)
        if i % thin == 0:
            kept.append(x)
    _finite(x, "langevin", step)
    return Chains(x, _stack(kept, x), x.new_ones(len(x)))


def _stack(kept: list[Tensor], x: Tensor) -> Tensor:
    return torch.stack(kept) if kept else x.new_empty(0, *x.shape)


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
    """Langevin dynamics at falling noise levels, with step_i = step (sigma_i / sigma_L)^2 (Song & Ermon 2019, alg. 1).

    Args:
        score: score(x, sigma), sigma (chains,): the score of the data noised with standard deviation sigma.
        x: Initial states (chains, *shape), about sigmas[0] wide.
        sigmas: Decreasing levels (levels,), of equal ratios in the paper.
        step: The last level's; the paper's epsilon is 2 step, and below sigma_L^2 / 10 is safe.
        repeats: Steps at each level.
        seed: Chain i's noise depends on (seed, i).
        progress: Show a progress bar.

    The trace holds the state after each level. Raises as langevin().
    """
    _check(x, step, repeats=repeats)
    if not isinstance(sigmas, Tensor):
        raise TypeError(f"sigmas is a {type(sigmas).__name__}; expected a vector, a tensor of decreasing levels")
    if sigmas.ndim != 1 or len(sigmas) == 0 or not bool((sigmas.isfinite() & (sigmas > 0)).all()):
        raise ValueError(f"sigmas has shape {tuple(sigmas.shape)}; expected a decreasing vector of positive levels")
    if not bool((sigmas.diff() < 0).all()):
        raise ValueError(f"sigmas goes from {float(sigmas[0]):g} to {float(sigmas[-1]):g}; expected always decreasing")
    noise, kept = WhiteNoise(seed, range(len(x)), x.device), []
    levels = sigmas.tolist()
    for sigma in tqdm(levels, disable=not progress, desc="annealed langevin"):
        own = step * (sigma / levels[-1]) ** 2
        level = x.new_full((len(x),), sigma)
        for _ in range(repeats):
            x = x + own * check_returned(score(x, level), x, "score") + math.sqrt(2 * own) * noise.randn(x)
        kept.append(x)
    _finite(x, "annealed_langevin", step)
    return Chains(x, _stack(kept, x), x.new_ones(len(x)))


def _with_gradient(log_density: Score, x: Tensor) -> tuple[Tensor, Tensor]:
    """log_density(x), (chains,), and its gradient."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = check_returned_numbers(log_density(x), x, "log_density")
        if not value.requires_grad:
            raise ValueError("log_density has no gradient by x; it must be computed from x by torch, with a graph")
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

    Exact for any step that is accepted at all: the stationary law is the density itself.

    Args:
        log_density: Maps x to unnormalised natural-log densities (chains,); its gradient comes by autograd. Such as
            Energy.log_density or GaussianMixture.log_prob. A proposal where it is -inf or not a number is rejected.
        x: Initial states (chains, *shape), where it is finite.
        step: Length of a leapfrog step.
        steps: Proposals per chain.
        leapfrog: Leapfrog steps, each with one gradient, per proposal.
        thin: The trace keeps every `thin`-th state.
        seed: Chain i's randomness depends on (seed, i) alone.
        progress: Show a progress bar.

    Raises TypeError and ValueError for bad arguments, and ValueError where log_density is not finite at x.
    """
    _check(x, step, steps=steps, thin=thin, leapfrog=leapfrog)
    noise, kept, accepted = WhiteNoise(seed, range(len(x)), x.device), [], x.new_zeros(len(x))
    value, gradient = _with_gradient(log_density, x)
    if not bool(value.isfinite().all()):
        raise ValueError(f"log_density is not finite at x of chain {int((~value.isfinite()).nonzero()[0])}")
    # One draw a proposal: the momentum and, in the last place, a normal whose distribution function is the test's u.
    like = x.new_empty(len(x), x[0].numel() + 1)
    for i in tqdm(range(1, steps + 1), disable=not progress, desc="hmc"):
        drawn = noise.randn(like)
        momentum, u = drawn[:, :-1].reshape(x.shape), torch.special.log_ndtr(drawn[:, -1].double())
        y, q, p = x, gradient, momentum
        for _ in range(leapfrog):
            p = p + step / 2 * q
            y = y + step * p
            proposed, q = _with_gradient(log_density, y)
            p = p + step / 2 * q
        gain = proposed - value - (p.flatten(1).square().sum(1) - momentum.flatten(1).square().sum(1)) / 2
        take = u < gain  # false for a gain that is not a number
        rows = take.reshape(-1, *(1,) * (x.ndim - 1))
        x, gradient, value = torch.where(rows, y, x), torch.where(rows, q, gradient), torch.where(take, proposed, value)
        accepted += take
        if i % thin == 0:
            kept.append(x)
    return Chains(x, _stack(kept, x), accepted / steps)


def mala(log_density: Callable[[Tensor], Tensor], x: Tensor, *, step: float, **options: Any) -> Chains:
    """Metropolis-adjusted Langevin: langevin()'s step as proposal (Roberts & Tweedie 1996).

    It is hmc(), with its arguments and errors, of one leapfrog step of length sqrt(2 step) (Neal 2011, section 5.2).
    """
    if not 0 < step < math.inf:
        raise ValueError(f"step={step}; expected positive numbers")
    return hmc(log_density, x, step=math.sqrt(2 * step), leapfrog=1, **options)


def effective_sample_size(trace: Tensor) -> Tensor:
    """How many independent draws the mean of chains is worth, of each element: (*shape) from (kept, chains, *shape).

    Autocorrelations compare the variance of all chains together with that within each, so that chains which sit in
    different modes count as few; they are summed while pairs of them are positive and falling (Geyer 1992;
    Vehtari et al. 2021, section 3.2). An element that never moves is worth 1.

    Raises TypeError and ValueError for another trace: expected finite ones with kept >= 4.
    """
    if not isinstance(trace, Tensor):
        raise TypeError(f"trace is a {type(trace).__name__}; expected a tensor (kept, chains, *shape)")
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
