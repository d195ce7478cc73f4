"""The evidence lower bound of a denoiser: what denoising score matching says about the likelihood.

Song et al. 2021b: https://arxiv.org/abs/2101.09258. Kingma et al. 2021: https://arxiv.org/abs/2107.00630.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sdescore.common.checks import check_count, check_seed
from sdescore.common.evaluation_mode import evaluating
from sdescore.common.linear_combinations import expand
from sdescore.common.random import generator
from sdescore.density.batches import Batches, warn_out_of_range
from sdescore.density.likelihood import Density, Prior, check_prior, prior_log_prob, standard_error
from sdescore.processes.base import LinearSDE
from sdescore.sampling.noise import WhiteNoise
from sdescore.sampling.reverse import ReverseProcess

__all__ = ["ELBO", "elbo"]


@dataclass(frozen=True)
class ELBO:
    """The result of elbo(), one row a sample. log_prob and stderr are NaN where the net is not finite.

    Attributes:
        log_prob: (batch,), an unbiased estimate of a lower bound on the natural-log density at t = 0.
        stderr: (batch,), its standard error over independent groups; NaN for a single group.
        nfe: (batch,), net calls.
    """

    log_prob: Tensor
    stderr: Tensor
    nfe: Tensor


def _error(reverse: ReverseProcess, x: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """|eps_hat - eps|^2 (batch,) at time t (batch,), with a control variate that leaves its mean over eps as it is.

    For data N(0, std^2 I) the error is |a eps - b x|^2 with a = alpha^2 std^2 / v, b = alpha sigma / v and
    v = alpha^2 std^2 + sigma^2. Its mean over eps is known: what the draw exceeds it by is subtracted.
    """
    alpha, sigma = reverse.sde.alpha(t), reverse.sde.sigma(t)
    std = reverse.denoiser.data_std
    state = expand(alpha, x) * x + expand(sigma, x) * eps
    variance = alpha**2 * std**2 + sigma**2
    a = alpha**2 * std**2 / variance
    b = alpha * sigma / variance
    known = expand(a, x) * eps - expand(b, x) * x
    difference = (reverse.noise(state, t) - eps).square() - known.square()
    return difference.flatten(1).sum(1) + a**2 * x[0].numel() + b**2 * x.square().flatten(1).sum(1)


def _estimate(
    reverse: ReverseProcess, x: Tensor, shift: Tensor, noise: WhiteNoise, levels: int, prior: Density
) -> tuple[Tensor, Tensor]:
    """One estimate (batch,), at noise levels in a lattice that is shifted by shift (batch,) in (0, 1).

    With it the last time (batch,) at which the net was not finite, or NaN.
    """
    sde = reverse.sde
    size = x[0].numel()
    ends = torch.tensor([sde.t_min, sde.T], dtype=torch.float64, device=x.device)
    first, last = sde.lam(ends).tolist()
    # - KL(q(x_T | x) | prior), from one draw: the prior may be anything with a log-density.
    alpha, sigma = float(sde.alpha(ends[1])), float(sde.sigma(ends[1]))
    eps = noise.randn(x)
    entropy = eps.square().flatten(1).sum(1) / 2 + size * (math.log(sigma) + math.log(2 * math.pi) / 2)
    bound = prior_log_prob(prior, alpha * x + sigma * eps) + entropy
    # First log p(x | x_t) at t_min, a normal of std rho around the denoised state; then the integral.
    bound -= size * (math.log(2 * math.pi) / 2 - first)
    broken = torch.full_like(bound, torch.nan)
    for k in range(-1, levels):
        if k < 0:
            t, weight = ends[0].expand(len(x)), 1 / 2
        else:
            # Uniform in lam: in proportion to g^2 / sigma^2, so that all errors have the same likelihood weight.
            lam = first + (last - first) * (shift + k) / levels
            t, weight = sde.time(lam).clamp(sde.t_min, sde.T), (first - last) / levels
        error = _error(reverse, x, t, noise.randn(x))
        broken = torch.where(error.isfinite(), broken, t)
        bound -= weight * error
    return bound, broken


def elbo(
    sde: LinearSDE,
    net: Any,
    x: Tensor,
    *,
    levels: int = 32,
    groups: int = 8,
    seed: int = 0,
    index_offset: int = 0,
    prior: Density | None = None,
    condition: Mapping[str, Tensor] | None = None,
    predicts: str | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> ELBO:
    """A lower bound on the log-density of data x (batch, *shape) under a net's reverse SDE, in nats and float64.

    It is the denoising score-matching loss with likelihood weighting, at times drawn by importance (Song et al. 2021b,
    theorem 3; Kingma et al. 2021, eq. 11 and 17), from t_min to T, and a normal law of x given its state at t_min. For
    quantised data give dequantize(x), and the result to bits_per_dim().

    Args:
        sde, net, x: As for likelihood().
        levels: Noise levels of a group: a lattice with a random shift, which makes their mean unbiased.
        groups: Independent groups, from which the error bar comes.
        seed: Seed of times and noise; those of sample i depend on (seed, index_offset + i) alone.
        index_offset, prior, condition, predicts, batch_size, progress: As for likelihood().

    Raises:
        TypeError, ValueError: For bad arguments, before any net call.

    A RuntimeWarning names each sample for which the net is not finite, with the time.
    """
    check_count("levels", levels)
    check_count("groups", groups)
    check_seed(seed, index_offset)
    check_prior(prior)
    given = Batches.of(sde, net, x, condition, predicts, batch_size)
    warn_out_of_range(sde, given.denoiser, x, index_offset)
    parts = []
    with evaluating(given.denoiser), torch.no_grad(), tqdm(total=len(x), disable=not progress, desc="bound") as bar:
        for start, state, reverse, advance in given.through(bar):
            numbers = range(index_offset + start, index_offset + start + len(state))
            shifts = [torch.rand(groups, generator=generator("times", seed, i), dtype=state.dtype) for i in numbers]
            shift = torch.stack(shifts, 1).to(state)
            noise = WhiteNoise(seed, numbers, state.device)
            rows = []
            for group in range(groups):
                rows.append(_estimate(reverse, state, shift[group], noise, levels, prior or Prior(sde)))
                advance((group + 1) / groups)
            estimates, broken = (torch.stack(each, 1) for each in zip(*rows, strict=True))
            for row in (~estimates.isfinite().all(1)).nonzero().flatten().tolist():
                at = [time for time in broken[row].tolist() if time == time]
                why = f"the net is not finite at t = {at[0]:.6g}" if at else "the prior's density is not finite"
                message = f"the evidence bound of sample {index_offset + start + row} is NaN: {why}"
                warnings.warn(message, RuntimeWarning, stacklevel=2)
            parts.append(estimates.masked_fill(~estimates.isfinite(), torch.nan))
    estimates = torch.cat(parts)
    nfe = torch.full((len(x),), groups * (levels + 1), device=estimates.device)
    return ELBO(estimates.mean(1), standard_error(estimates), nfe)
