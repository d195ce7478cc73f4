"""Quantised data: the probability of its levels from a density, and bits per dimension.

Theis et al. 2016: https://arxiv.org/abs/1511.01844. Burda et al. 2016: https://arxiv.org/abs/1509.00519.
Ho et al. 2019: https://arxiv.org/abs/1902.00275.
"""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sdescore.common.checks import check_count, check_seed, check_states, check_tensor
from sdescore.common.evaluation_mode import evaluating
from sdescore.common.random import generator
from sdescore.common.scaling import Scaling, level_width
from sdescore.density.batches import Batches, check_tolerance
from sdescore.density.likelihood import likelihood
from sdescore.density.traces import find_trace
from sdescore.processes.base import LinearSDE
from sdescore.sampling.reverse import ReverseProcess

__all__ = ["QuantisedLikelihood", "bits_per_dim", "dequantize", "draw_seed", "quantised_likelihood"]


def bits_per_dim(log_prob: Tensor, shape: tuple[int, ...], scaling: Scaling) -> Tensor:
    """Bits per element (batch,) of quantised data, from the log-density (batch,) of its dequantised model values.

    shape is that of a sample. A level's probability is the mean density over its width d times d (Theis et al. 2016,
    section 3.1); d is 2 / (levels - 1) in model scale. Raises ValueError if the scaling has no levels.
    """
    check_tensor("log_prob", log_prob, "(batch,)")
    return -(log_prob / math.prod(shape) + math.log(level_width(scaling))) / math.log(2)


def _drawn(draw: Callable[..., Tensor], use: str, x: Tensor, seed: int, index_offset: int) -> Tensor:
    own = (generator(use, seed, index_offset + i) for i in range(len(x)))
    return torch.stack([draw(x.shape[1:], generator=g, dtype=x.dtype) for g in own]).to(x.device)


def dequantize(x: Tensor, scaling: Scaling, seed: int = 0, index_offset: int = 0) -> Tensor:
    """Add uniform noise of one level's width to model data x (batch, *shape).

    The noise of sample i depends on (seed, index_offset + i) alone. Raises TypeError for what is no tensor of floating
    point, and ValueError if the scaling has no levels.
    """
    check_states(x)
    check_seed(seed, index_offset)
    return x + (_drawn(torch.rand, "dequantize", x, seed, index_offset) - 0.5) * level_width(scaling)


@dataclass(frozen=True)
class QuantisedLikelihood:
    """The result of quantised_likelihood(), one row a sample.

    Attributes:
        log_prob: (batch,), a lower bound on the natural logarithm of the probability of the sample's levels.
        stderr: (batch,), its standard error over the draws; NaN for a single draw.
        nfe: (batch,), net calls of all draws.
        bits_per_dim: (batch,), the bound in bits per element.
    """

    log_prob: Tensor
    stderr: Tensor
    nfe: Tensor
    bits_per_dim: Tensor


def truncation(reverse: ReverseProcess, x: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """The state y at t_min of data x with noise eps (batch, *shape), and what log p(x) is above log p(y), (batch,).

    log p(x) >= E[log p(y) + log p(x | y) - log q(y | x)], with q the process's kernel and p(x | y) a normal of std
    sigma / alpha around the denoised y (Song et al. 2021b, appendix B). The last two terms make
    size log(alpha) + |eps|^2 / 2 - |eps_hat - eps|^2 / 2.
    """
    sde = reverse.sde
    t = torch.tensor(sde.t_min, dtype=torch.float64)
    alpha, sigma = float(sde.alpha(t)), float(sde.sigma(t))
    y = alpha * x + sigma * eps
    squares = eps.square() - (reverse.noise(y, t) - eps).square()
    return y, x[0].numel() * math.log(alpha) + squares.flatten(1).sum(1) / 2


def _check_levels(x: Tensor, scaling: Scaling) -> None:
    level = (x.to(torch.float64) + 1) / level_width(scaling)
    off = ((level - level.round()).abs() > 0.01) | (level < -0.5) | (level > scaling.levels - 0.5)  # type: ignore
    rows = off.flatten(1).any(1).nonzero().flatten()
    if len(rows):
        raise ValueError(
            f"x has values of sample {int(rows[0])} that are none of the {scaling.levels} levels of scaling; expected "
            "scaling.to_model(raw data), without dequantisation"
        )


def draw_seed(seed: int, draw: int) -> int:
    """The seed of the noise of one draw of quantised_likelihood(); dequantize() with it gives that draw's data."""
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
    """A lower bound on the log-probability of quantised data x (batch, *shape), in nats and float64.

    Each draw adds uniform noise of one level's width and the process's own noise of t_min, and corrects for both, so
    that the result bounds the probability of the data itself. Several draws make the importance-weighted bound, which
    rises towards the log-probability with their number (Burda et al. 2016, eq. 8; Ho et al. 2019, eq. 12).

    The noise of the probes would raise that mean of exponentials. To stay below, (1 - 1/draws) / 2 of its variance is
    subtracted from each draw, which is enough if that noise is normal.

    Args:
        sde, net: As for likelihood().
        x: scaling.to_model(raw data).
        scaling: Of the data; its levels are those of x.
        draws: Noises per sample.
        seed: Seed of noise and probes; those of sample i depend on (seed, index_offset + i) alone.
        index_offset: Number of the first sample.
        rtol, atol, condition, predicts, batch_size, progress, options: As for likelihood().

    Raises:
        TypeError, ValueError: As likelihood(); for data that is not on the levels; and for several draws with a single
            estimate of the trace, whose noise is unknown.

    A sample with a draw that fails has log_prob NaN, and a RuntimeWarning says where.
    """
    check_count("draws", draws)
    check_seed(seed, index_offset)
    check_tolerance(rtol, atol)
    given = Batches.of(sde, net, x, condition, predicts, batch_size)
    _check_levels(x, scaling)
    probes = options.get("probes", 1)
    trace = find_trace(options.get("trace", "hutchinson"), probes)
    if draws > 1 and not trace.exact and len(trace.vectors(seed, index_offset, x[:1], probes)) < 2:
        raise ValueError(
            f"draws={draws} need probes of at least 2, in at least two groups, or trace='exact': one group does not "
            "show how noisy it is"
        )
    size = x[0].numel()
    seeds = [draw_seed(seed, draw) for draw in range(draws)]
    parts = []
    with evaluating(given.denoiser), tqdm(total=len(x), disable=not progress, desc="likelihood") as bar:
        for start, state, reverse, _ in given.through(bar):
            first = index_offset + start
            rows = []
            for own in seeds:
                data = dequantize(state, scaling, own, first)
                with torch.no_grad():
                    y, missing = truncation(reverse, data, _drawn(torch.randn, "truncation", state, own, first))
                for row in (~missing.isfinite()).nonzero().flatten().tolist():
                    warnings.warn(
                        f"the likelihood of sample {first + row} is NaN: the net is not finite at t_min",
                        RuntimeWarning,
                        stacklevel=2,
                    )
                found = likelihood(
                    sde,
                    given.denoiser,
                    y,
                    seed=own,
                    index_offset=first,
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
