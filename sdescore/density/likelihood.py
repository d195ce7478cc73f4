"""Exact likelihood: the instantaneous change of variables along the probability-flow ODE (Song et al. 2021, 4.3)."""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sdescore.common.checks import check_returned_numbers, check_seed, choose
from sdescore.common.evaluation_mode import evaluating, frozen
from sdescore.density.adams import integrate_adams
from sdescore.density.batches import Batches, check_deterministic, check_tolerance, warn_out_of_range
from sdescore.density.flow import ProbabilityFlowODE
from sdescore.density.gaussian_fit import GaussianFit
from sdescore.density.traces import DERIVATIVES, Function, Product, Trace, find_trace, quadratic
from sdescore.processes.base import LinearSDE

__all__ = ["Density", "Likelihood", "likelihood", "log_likelihood"]


class Density(Protocol):
    """Anything with a log-density."""

    def log_prob(self, x: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Prior:
    """The process's own approximation of p_T."""

    sde: LinearSDE

    def log_prob(self, x: Tensor) -> Tensor:
        return self.sde.prior_log_prob(x)


@dataclass(frozen=True)
class Likelihood:
    """The result of likelihood(), one row a sample. A sample that failed has log_prob, stderr and latent NaN.

    Attributes:
        log_prob: (batch,), the natural-log density at t_min.
        stderr: (batch,), the standard error of log_prob over the independent groups of probes: 0 for the exact trace,
            NaN for a single group. With m groups, (log_prob - truth) / stderr follows Student's t with m - 1 degrees of
            freedom where many directions contribute noise. Where one dominates (two modes in 768 dimensions, seen
            along their own axes) log_prob is still unbiased, but too skewed for that.
        nfe: (batch,), evaluations of the flow. Each is one net call, or with derivative="forward" one for each product
            with the Jacobian.
        latent: (batch, *shape), the state at T.
    """

    log_prob: Tensor
    stderr: Tensor
    nfe: Tensor
    latent: Tensor


def check_prior(prior: Density | None) -> None:
    """Raise TypeError for a prior without a density."""
    if prior is not None and not callable(getattr(prior, "log_prob", None)):
        raise TypeError(f"prior is {prior!r}; expected anything with log_prob(x), such as a GaussianMixture")


def prior_log_prob(prior: Density, x: Tensor) -> Tensor:
    """The float64 log-density (batch,) of states at T. Raises ValueError for a prior that returns another shape."""
    return check_returned_numbers(prior.log_prob(x), x, "prior.log_prob").to(torch.float64)


def standard_error(estimates: Tensor) -> Tensor:
    """Of the mean over the last axis; NaN for a single estimate."""
    count = estimates.shape[-1]
    if count == 1:
        return torch.full_like(estimates[..., 0], torch.nan)
    return estimates.std(-1) / math.sqrt(count)


@dataclass(frozen=True)
class _AugmentedODE:
    """The flow of z together with the divergence of each group of vectors, in rows (size + groups,)."""

    ode: ProbabilityFlowODE
    vectors: Tensor  # (groups, members, batch, *shape)
    trace: Trace
    derivative: Callable[[Function, Tensor], Product]

    def start(self, z: Tensor) -> Tensor:
        return torch.cat([z.flatten(1), z.new_zeros(len(z), len(self.vectors))], 1)

    def split(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """z (rows, *shape) and the changes of its log-density (rows, groups)."""
        shape = self.vectors.shape[3:]
        size = math.prod(shape)
        return y[:, :size].reshape(-1, *shape), y[:, size:]

    def __call__(self, q: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        product = self.derivative(self.ode.slope(q, rows), self.split(y)[0])
        slope, divergences = self.trace.estimate(product, self.vectors[:, :, rows])
        return torch.cat([slope.flatten(1), divergences], 1)

    def norm(self, rtol: float, atol: float) -> Callable[[Tensor, Tensor], Tensor]:
        """The error of the state (root mean square) or of the log-density (per element), relative to the tolerance."""

        def norm(error: Tensor, size: Tensor) -> Tensor:
            (z, log_prob), (z_size, log_size) = self.split(error), self.split(size)
            state = (z / (atol + rtol * z_size)).flatten(1).square().mean(1).sqrt()
            per_element = log_prob.mean(1).abs() / (atol * z[0].numel() + rtol * log_size.mean(1))
            return torch.maximum(state, per_element)

        return norm


def _solve(
    augmented: _AugmentedODE,
    x: Tensor,
    first: int,
    prior: Density,
    control: GaussianFit | None,
    rtol: float,
    atol: float,
    advance: Callable[[float], None],
) -> Likelihood:
    """The likelihood of one batch, whose first sample has the number `first`."""
    ode = augmented.ode
    start, stop = ode.nodes.tolist()
    begun = augmented.start(x / ode.scales[0])
    done = integrate_adams(augmented, begun, start, stop, augmented.norm(rtol, atol), advance)
    z, changes = augmented.split(done.y)
    if control is not None:
        changes = changes - control.excess(augmented.vectors, *ode.reverse.sde.lam(ode.times).tolist()).T
    latent = ode.scales[1] * z
    constant = z[0].numel() * float((ode.scales[1] / ode.scales[0]).log())
    log_prob = prior_log_prob(prior, latent) + constant + changes.mean(1)
    stderr = torch.zeros_like(log_prob) if augmented.trace.exact else standard_error(changes)
    invalid = done.failed | ~log_prob.isfinite()
    for row in invalid.nonzero().flatten().tolist():
        why = done.reason(row) if done.failed[row] else "its density there, or the prior's, is not finite"
        at = float(ode.time(done.time[row]))
        warnings.warn(
            f"the likelihood of sample {first + row} is NaN: {why} at t = {at:.6g}", RuntimeWarning, stacklevel=3
        )
    return Likelihood(
        log_prob.masked_fill(invalid, torch.nan),
        stderr.masked_fill(invalid, torch.nan),
        done.nfe,
        latent.masked_fill(invalid.reshape(-1, *(1,) * (x.ndim - 1)), torch.nan),
    )


def likelihood(
    sde: LinearSDE,
    net: Any,
    x: Tensor,
    *,
    trace: str | Trace = "hutchinson",
    probes: int = 1,
    control: GaussianFit | None = None,
    derivative: str = "reverse",
    seed: int = 0,
    index_offset: int = 0,
    prior: Density | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    condition: Mapping[str, Tensor] | None = None,
    predicts: str | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Likelihood:
    """The log-density of x (batch, *shape) at t_min under the probability flow of a net, in nats and float64.

    Each sample has its own adaptive steps, so that its result does not depend on the rest of its batch.

    Args:
        sde: The process to integrate on; the net may have been trained on another.
        net: A Denoiser, or any callable net(x, t, **condition). check_net() tells whether one from elsewhere is called
            as in its training: a wrong one has a likelihood, too.
        x: Points, in the scale that the net was trained on.
        trace: "exact" (as many products with the Jacobian as a sample has elements); or unbiased, from random vectors:
            "hutchinson" (signs), "gaussian", "orthogonal", "hutch++"; or a Trace.
        probes: Number of vectors of a sample.
        control: GaussianFit.of(training data) removes the noise that the data's covariance explains.
        derivative: "reverse", or "forward", which is slower and takes less memory.
        seed: Seed of the vectors; those of sample i depend on (seed, index_offset + i) alone.
        index_offset: Number of the first sample, so that several processes can share a set.
        prior: Distribution of x_T, anything with log_prob; the process's own Gaussian by default.
        rtol, atol: Tolerance of a step, for z = x / sqrt(alpha^2 + sigma^2) (root mean square) and for the log-density
            per element. Rounding of a net in half precision is above the default: give 1e-3.
        condition: Tensors (batch, ...) that the net gets by name.
        predicts: What a plain callable outputs: its attribute `predicts`, or "score", by default.
        batch_size: Samples at a time; all at once by default.
        progress: Show a progress bar.

    Raises:
        TypeError, ValueError: For bad arguments, before any net call; for a net that draws random numbers.
        RuntimeError: Under torch.inference_mode(), where there is no reverse derivative.

    A RuntimeWarning names each sample that failed, with the time at which it did, and another one the samples beyond
    the range of the net's training data.
    """
    check_seed(seed, index_offset)
    chosen = find_trace(trace, probes)
    product = choose(DERIVATIVES, derivative, "derivative")
    if control is not None and not isinstance(control, GaussianFit):
        raise TypeError(f"control is {control!r}; expected GaussianFit.of(training data)")
    if control is not None and chosen.estimate is not quadratic:
        raise ValueError(f"control is given with trace={trace!r}; expected a trace whose vectors are fixed beforehand")
    check_prior(prior)
    check_tolerance(rtol, atol)
    given = Batches.of(sde, net, x, condition, predicts, batch_size)
    if control is not None and control.mean.numel() != x[0].numel():
        raise ValueError(f"control is of {control.mean.numel()} elements; samples of x have {x[0].numel()}")
    denoiser = given.denoiser
    warn_out_of_range(sde, denoiser, x, index_offset)
    ends = torch.tensor([sde.t_min, sde.T], dtype=torch.float64)
    parts = []
    with evaluating(denoiser), frozen(denoiser), tqdm(total=len(x), disable=not progress, desc="likelihood") as bar:
        check_deterministic(given)
        for start, state, reverse, advance in given.through(bar):
            first = index_offset + start
            vectors = chosen.vectors(seed, first, state, probes)
            augmented = _AugmentedODE(ProbabilityFlowODE(reverse, ends), vectors, chosen, product)
            parts.append(_solve(augmented, state, first, prior or Prior(sde), control, rtol, atol, advance))
    return Likelihood(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Likelihood)))


def log_likelihood(sde: LinearSDE, net: Any, x: Tensor, **options: Any) -> Tensor:
    """The log_prob (batch,), in nats, of likelihood() with the same arguments and errors."""
    return likelihood(sde, net, x, **options).log_prob
