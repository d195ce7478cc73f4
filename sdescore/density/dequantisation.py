"""Quantised data: the probability of its levels from a density, and bits per dimension."""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sdescore.common.checks import check_count
from sdescore.common.random import generator
from sdescore.common.scaling import Scaling, level_width
from sdescore.density.flow import Input
from sdescore.density.likelihood import find_trace, likelihood
from sdescore.processes.base import LinearSDE
from sdescore.sampling.reverse import ReverseProcess
from sdescore.sampling.sample import evaluating

__all__ = ["QuantisedLikelihood", "bits_per_dim", "dequantize", "draw_seed", "quantised_likelihood"]


def bits_per_dim(log_prob: Tensor, shape: tuple[int, ...], scaling: Scaling) -> Tensor:
    """Bits per element (batch,) of quantised data, from the log-density (batch,) of its dequantised model values.

    Noise of one level's width d makes a level's probability density * d (Theis et al. 2016, section 3.1), with d of
    2 / (levels - 1) in model scale. shape is a sample's. Raises ValueError if the scaling has no levels.
    """
    return -(log_prob / math.prod(shape) + math.log(level_width(scaling))) / math.log(2)


def _drawn(draw: Callable[..., Tensor], use: str, x: Tensor, seed: int, first: int) -> Tensor:
    own = (generator(use, seed, first + i) for i in range(len(x)))
    return torch.stack([draw(x.shape[1:], generator=g, dtype=x.dtype) for g in own]).to(x.device)


def dequantize(x: Tensor, scaling: Scaling, seed: int = 0, index_offset: int = 0) -> Tensor:
    """Add uniform noise of one level's width to model data (batch, *shape); that of sample i depends on (seed, i)."""
    return x + (_drawn(torch.rand, "dequantize", x, seed, index_offset) - 0.5) * level_width(scaling)


@dataclass(frozen=True)
class QuantisedLikelihood:
    """What quantised_likelihood() knows of each sample.

    log_prob (batch,) is the bound on the natural logarithm of the probability of its levels, stderr (batch,) its
    standard error over the draws (NaN for a single one), nfe (batch,) the net calls of all draws, and bits_per_dim
    (batch,) the bound in bits per element.
    """

    log_prob: Tensor
    stderr: Tensor
    nfe: Tensor
    bits_per_dim: Tensor


def truncation(reverse: ReverseProcess, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The state y at t_min of data x (batch, *shape) with `noise`, and what its log-density lacks to that of x.

    log p(x) >= E[log p(y) + log p(x | y) - log q(y | x)] with q the process's kernel and p(x | y) a normal of std
    sigma / alpha at the denoised y (Song et al. 2021b, appendix B); the last two make
    size log(alpha) + |eps|^2 / 2 - |eps_hat - eps|^2 / 2.
    """
    sde = reverse.sde
    t = torch.tensor(sde.t_min, dtype=torch.float64)
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    y = alpha * x + sigma * noise
    missing = noise.square() - (reverse.noise(y, t) - noise).square()
    return y, x[0].numel() * math.log(alpha) + missing.flatten(1).sum(1) / 2


def _check_levels(x: Tensor, scaling: Scaling) -> None:
    level = (x.to(torch.float64) + 1) / level_width(scaling)
    off = ((level - level.round()).abs() > 0.01) | (level < -0.5) | (level > scaling.levels - 0.5)  # type: ignore
    rows = off.flatten(1).any(1).nonzero().flatten()
    if len(rows):
        raise ValueError(
            f"x has values of sample {int(rows[0])} that are none of the {scaling.levels} levels of scaling; give data "
            "as scaling.to_model() makes it, not dequantised"
        )


def draw_seed(seed: int, draw: int) -> int:
    """The seed of a draw's noises; dequantize() with it gives the data of that draw."""
    return generator("draw", seed, draw).initial_seed()


def quantised_likelihood(
    sde: LinearSDE,
    net: Any,
    x: Tensor,
    scaling: Scaling,
    *,
    draws: int = 1,
    seed: int = 0,
    index_offset: int = 0,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    condition: Mapping[str, Tensor] | None = None,
    predicts: str | None = None,
    batch_size: int | None = None,
    progress: bool = False,
    **options: Any,
) -> QuantisedLikelihood:
    """A lower bound on the log-probability of quantised data x (batch, *shape), given as scaling.to_model() makes it.

    Each draw adds uniform noise of one level's width and the process's own noise of t_min, and corrects for both, so
    that the result is a bound for the data itself. Several draws make the importance-weighted bound, which rises
    towards the log-probability with their number (Burda et al. 2016, eq. 8; Ho et al. 2019, eq. 12).

    The probes' noise would raise a mean of exponentials; (1 - 1/draws) / 2 of its variance is taken off, which is at
    least what it adds where that noise is normal.

    Args:
        sde, net, x: As for likelihood().
        scaling: Of the data; its levels are those of x.
        draws: Noises per sample.
        seed: Seed of noise and probes; those of sample i depend on (seed, index_offset + i) alone.
        index_offset: Number of the first sample.
        rtol, atol, condition, predicts, batch_size, progress, options: As for likelihood().

    Raises:
        TypeError, ValueError: As likelihood(), for data that is not on the levels, and for several draws with a single
            estimate of the trace, whose noise is unknown.

    A sample of which a draw fails has log_prob NaN, and a RuntimeWarning says where.
    """
    check_count("draws", draws)
    given = Input.check(sde, net, x, rtol, atol, condition, predicts, batch_size)
    _check_levels(x, scaling)
    probes = options.get("probes", 1)
    trace = find_trace(options.get("trace", "hutchinson"), probes)
    if draws > 1 and not trace.exact and len(trace.vectors(seed, index_offset, x[:1], probes)) < 2:
        raise ValueError(
            f"draws={draws} need probes of at least 2, in groups of which there are two, or trace='exact', to know the "
            "probes' noise"
        )
    size = x[0].numel()
    seeds = [draw_seed(seed, draw) for draw in range(draws)]
    parts = []
    with evaluating(given.denoiser), tqdm(total=len(x), disable=not progress, desc="likelihood") as bar:
        for start, state, reverse, _ in given.batches(bar):
            rows = []
            for own in seeds:
                data = dequantize(state, scaling, own, index_offset + start)
                with torch.no_grad():
                    noises = _drawn(torch.randn, "truncation", state, own, index_offset + start)
                    y, missing = truncation(reverse, data, noises)
                for row in (~missing.isfinite()).nonzero().flatten().tolist():
                    warnings.warn(
                        f"the likelihood of sample {index_offset + start + row} is NaN: the net is not finite at t_min",
                        RuntimeWarning,
                        stacklevel=2,
                    )
                found = likelihood(
                    sde,
                    given.denoiser,
                    y,
                    seed=own,
                    index_offset=index_offset + start,
                    rtol=rtol,
                    atol=atol,
                    condition=reverse.condition,
                    **options,
                )
                rows.append(torch.stack([found.log_prob + missing, found.stderr, found.nfe + 1]))
                bar.update(len(state) / draws)
            parts.append(torch.stack(rows, 1))
    log_weights, noise, nfe = torch.cat(parts, 2)  # (draws, batch) each
    log_weights = log_weights + size * math.log(level_width(scaling))
    stderr = torch.full_like(log_weights[0], torch.nan)
    if draws > 1:
        log_weights = log_weights - (1 - 1 / draws) / 2 * noise.square()
        stderr = log_weights.softmax(0).std(0) * math.sqrt(draws)
    log_prob = log_weights.logsumexp(0) - math.log(draws)
    return QuantisedLikelihood(log_prob, stderr, nfe.sum(0).long(), -log_prob / (size * math.log(2)))
