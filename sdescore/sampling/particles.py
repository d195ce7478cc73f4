"""Sequential Monte Carlo: weighted particles that are moved, reweighted and resampled, in independent runs."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sdescore.common.random import generator
from sdescore.sampling.noise import Noise, WhiteNoise

__all__ = ["Cloud", "Particles", "Weighting", "filter_particles", "in_batches", "log_mean_exp", "systematic"]

Cloud = tuple[Tensor, ...]  # what is known of each particle, one row each: the state first


class Weighting(Protocol):
    """A sequence of laws on the times of a grid, by moves and the weights that correct them."""

    @property
    def times(self) -> Tensor:
        """Of the grid, decreasing."""
        ...

    def start(self, noise: Noise) -> tuple[Cloud, Tensor]:
        """Particles at times[0], and their log-weights (rows,)."""
        ...

    def move(self, i: int, cloud: Cloud, noise: Noise) -> tuple[Cloud, Tensor]:
        """Particles at times[i + 1], and what is added to their log-weights."""
        ...

    def finish(self, cloud: Cloud) -> tuple[Tensor, Tensor]:
        """Data (rows, *shape) from the particles at times[-1], and what is added to their log-weights."""
        ...


@dataclass(frozen=True)
class Particles:
    """The result of sequential Monte Carlo.

    Attributes:
        samples: (n, *shape), without weights: equal shares of each run, drawn by systematic resampling.
        run: (n,), the run of each sample; samples of one run depend on each other.
        particles: (runs, particles, *shape), the last ones of each run.
        weights: (runs, particles), theirs: 1 in sum over a run.
        ess: (runs, steps), the effective sample size before each resampling, the last that of `weights`.
        log_evidence: (runs,), of the measurement, or of the mass of a tilted law.
        nfe: Net calls for each particle.
    """

    samples: Tensor
    run: Tensor
    particles: Tensor
    weights: Tensor
    ess: Tensor
    log_evidence: Tensor
    nfe: int

    def mean(self, function: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """The mean of function(x), (rows, ...) of x (rows, *shape), and its standard error between runs.

        By default that of the state itself. The error of a single run is NaN.
        """
        x = self.particles.flatten(0, 1)
        values = (x if function is None else function(x)).unflatten(0, self.weights.shape)
        each = (self.weights.reshape(*self.weights.shape, *(1,) * (values.ndim - 2)) * values).sum(1)
        return each.mean(0), each.std(0) / math.sqrt(len(each)) if len(each) > 1 else each[0] * math.nan

    def evidence(self) -> tuple[float, float]:
        """The logarithm of the mean evidence of the runs, which is unbiased for the chain, and its standard error."""
        share = (self.log_evidence - self.log_evidence.max()).exp()
        error = float(share.std() / share.mean()) / math.sqrt(len(share)) if len(share) > 1 else math.nan
        return float(log_mean_exp(self.log_evidence, 0)), error


def log_mean_exp(x: Tensor, dim: int) -> Tensor:
    return x.logsumexp(dim) - math.log(x.shape[dim])


def systematic(weights: Tensor, u: Tensor, count: int) -> Tensor:
    """Numbers (runs, count) of particles by systematic resampling (Carpenter et al. 1999; Douc et al. 2005, 2.4).

    weights are (runs, particles), 1 in sum over a run, and u (runs,) uniform on [0, 1): particle i is drawn
    count * weight_i times, rounded up or down.
    """
    at = (torch.arange(count, dtype=torch.float64, device=weights.device) + u[:, None]) / count
    ends = weights.double().cumsum(1)
    found = torch.searchsorted(ends, at * ends[:, -1:], right=True)
    last = (weights > 0).double().cumsum(1).argmax(1, keepdim=True)  # rounding may point beyond it
    return torch.minimum(found, last)


def in_batches(function: Callable[[Tensor], Cloud], x: Tensor, batch_size: int | None) -> Cloud:
    """What function(x) returns, computed from so many rows at a time."""
    parts = [function(some) for some in x.split(batch_size or len(x))]
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def filter_particles(
    weighting: Weighting,
    like: Tensor,
    n: int,
    runs: int,
    threshold: float,
    seed: int,
    index_offset: int,
    nfe: int,
) -> Particles:
    """Run the particles (runs * particles, *shape), as `like` is, along the times.

    A run is resampled where its effective sample size falls below `threshold` times its particles. Run r draws from
    (seed, index_offset + r) alone. Raises FloatingPointError where no particle of a run has a weight.
    """
    particles = len(like) // runs
    first = index_offset * particles
    noise = WhiteNoise(seed, range(first, first + len(like)), like.device, "particles")
    steps = len(weighting.times)
    numbers = range(index_offset, index_offset + runs)
    draws = [torch.rand(steps + 1, dtype=torch.float64, generator=generator("resampling", seed, r)) for r in numbers]
    u = torch.stack(draws).to(like.device)
    rows = torch.arange(len(like), device=like.device).reshape(runs, particles)
    cloud, added = weighting.start(noise)
    log_weights = added.double().reshape(runs, particles)
    log_evidence, sizes = torch.zeros_like(log_weights[:, 0]), []
    for i in range(steps):
        log_weights = _alive(log_weights, float(weighting.times[i]), index_offset)
        weights = log_weights.softmax(1)
        sizes.append(1 / weights.square().sum(1))
        poor = sizes[-1] < threshold * particles
        if bool(poor.any()):
            log_evidence = log_evidence + torch.where(poor, log_mean_exp(log_weights, 1), 0.0)
            log_weights = log_weights.masked_fill(poor[:, None], 0.0)
            chosen = rows[:, :1] + systematic(weights, u[:, i], particles)
            index = torch.where(poor[:, None], chosen, rows).flatten()
            cloud = tuple(column[index] for column in cloud)
        if i < steps - 1:
            cloud, added = weighting.move(i, cloud, noise)
        else:
            x, added = weighting.finish(cloud)
        log_weights = log_weights + added.double().reshape(runs, particles)
    log_weights = _alive(log_weights, float(weighting.times[-1]), index_offset)
    weights = log_weights.softmax(1)
    sizes.append(1 / weights.square().sum(1))
    run = torch.arange(n, device=like.device) * runs // n
    share = run.bincount(minlength=runs)
    kept = [rows[r, systematic(weights[r : r + 1], u[r : r + 1, -1], int(share[r]))[0]] for r in range(runs)]
    return Particles(
        x[torch.cat(kept)],
        run + index_offset,
        x.unflatten(0, (runs, particles)),
        weights,
        torch.stack(sizes[1:], 1),
        log_evidence + log_mean_exp(log_weights, 1),
        nfe,
    )


def _alive(log_weights: Tensor, t: float, index_offset: int) -> Tensor:
    """The log-weights (runs, particles), -inf where they are not finite."""
    finite = log_weights.isfinite()
    dead = ~finite.any(1)
    if bool(dead.any()):
        which = ", ".join(str(int(r) + index_offset) for r in dead.nonzero().flatten()[:8])
        raise FloatingPointError(
            f"all particles are dead at t = {t:.6g} in run {which}: their weights are 0 or not finite; more particles "
            "or steps, or a larger noise_std, may keep some alive"
        )
    return log_weights.masked_fill(~finite, -math.inf)
