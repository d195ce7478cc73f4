"""Exact likelihood: the instantaneous change of variables along the probability-flow ODE (Song et al. 2021, 4.3)."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sdescore.common.checks import check_count, check_returned_numbers, choose
from sdescore.density.adams import multistep
from sdescore.density.flow import Flow, Input, warn_outside
from sdescore.density.traces import DERIVATIVES, TRACES, Function, GaussianFit, Product, Trace, quadratic
from sdescore.processes.base import LinearSDE
from sdescore.sampling.sample import evaluating

__all__ = ["Density", "Likelihood", "likelihood", "log_likelihood"]


class Density(Protocol):
    """Anything with a log-density."""

    def log_prob(self, x: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Prior:
    """The process's own stand-in for p_T."""

    sde: LinearSDE

    def log_prob(self, x: Tensor) -> Tensor:
        return self.sde.prior_log_prob(x)


@dataclass(frozen=True)
class Likelihood:
    """What likelihood() knows of each sample.

    log_prob (batch,) is the natural-log density at t_min; stderr (batch,) its standard error over the independent
    groups of probes (NaN for a single one, 0 for the exact trace); nfe (batch,) the evaluations of
    the flow, each a single net call, or with derivative="forward" one for each product with the Jacobian; latent
    (batch, *shape) the state at T. A sample that failed has log_prob, stderr and latent NaN.

    Of m groups (log_prob - truth) / stderr follows Student's t with m - 1 degrees of freedom where many directions
    make the noise. Where one does, as for a mixture of two modes in 768 dimensions along its own axes, estimates stay
    unbiased, but are too skew for it.
    """

    log_prob: Tensor
    stderr: Tensor
    nfe: Tensor
    latent: Tensor


def prior_log_prob(prior: Density, x: Tensor) -> Tensor:
    """The float64 log-density (batch,) of states at T. Raises ValueError for a prior that returns another shape."""
    return check_returned_numbers(prior.log_prob(x), x, "prior.log_prob").to(torch.float64)


def find_trace(trace: str | Trace, probes: int) -> Trace:
    """The trace by its name, or itself. Raises TypeError or ValueError for what is none, and for bad probes."""
    chosen = choose(TRACES, trace, "trace")
    if not isinstance(chosen, Trace):
        raise TypeError(f"trace is {trace!r}; expected {', '.join(map(repr, TRACES))} or a Trace")
    check_count("probes", probes)
    return chosen


@contextmanager
def frozen(net: nn.Module) -> Iterator[None]:
    """Leave the parameters out of the graph for a while: the vector-Jacobian product of the state then costs less."""
    wanted = [parameter for parameter in net.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


def standard_error(estimates: Tensor) -> Tensor:
    """Of the mean over the last axis; NaN for a single estimate."""
    count = estimates.shape[-1]
    if count == 1:
        return torch.full_like(estimates[..., 0], torch.nan)
    return estimates.std(-1) / math.sqrt(count)


@dataclass(frozen=True)
class _Change:
    """The flow with the change of the log-density: the rows are z and, for each group of vectors, the divergence."""

    flow: Flow
    vectors: Tensor  # (groups, members, batch, *shape)
    trace: Trace
    derivative: Callable[[Function, Tensor], Product]

    def start(self, z: Tensor) -> Tensor:
        return torch.cat([z.flatten(1), z.new_zeros(len(z), len(self.vectors))], 1)

    def split(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """z (rows, *shape) and the changes of its log-density (rows, groups)."""
        shape = self.vectors.shape[3:]
        return y[:, : math.prod(shape)].reshape(-1, *shape), y[:, math.prod(shape) :]

    def __call__(self, q: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        product = self.derivative(self.flow.slope(q, rows), self.split(y)[0])
        slope, divergences = self.trace.estimate(product, self.vectors[:, :, rows])
        return torch.cat([slope.flatten(1), divergences], 1)

    def norm(self, rtol: float, atol: float) -> Callable[[Tensor, Tensor], Tensor]:
        """The larger of the state's error, root mean square, and the log-density's per element, to the tolerance."""

        def norm(error: Tensor, size: Tensor) -> Tensor:
            (z, log_prob), (z_size, log_size) = self.split(error), self.split(size)
            state = (z / (atol + rtol * z_size)).flatten(1).square().mean(1).sqrt()
            per_element = log_prob.mean(1).abs() / (atol * z[0].numel() + rtol * log_size.mean(1))
            return torch.maximum(state, per_element)

        return norm


def _solve(
    change: _Change,
    x: Tensor,
    first: int,
    prior: Density,
    control: GaussianFit | None,
    rtol: float,
    atol: float,
    advance: Callable[[float], None],
) -> Likelihood:
    """The likelihood of one batch, whose first sample has the number `first`."""
    flow = change.flow
    sde = flow.reverse.sde
    ends = torch.tensor([sde.t_min, sde.T], dtype=torch.float64)
    start, stop = flow.coordinate(ends).tolist()
    scales = flow.scale(ends)
    begun = change.start(x / float(scales[0]))
    done = multistep(change, begun, start, stop, change.norm(rtol, atol), advance)
    z, changes = change.split(done.y)
    if control is not None:
        changes = changes - control.excess(change.vectors, *sde.lam(ends).tolist()).T
    latent = float(scales[1]) * z
    constant = z[0].numel() * float((scales[1] / scales[0]).log())
    log_prob = prior_log_prob(prior, latent) + constant + changes.mean(1)
    stderr = torch.zeros_like(log_prob) if change.trace.exact else standard_error(changes)
    invalid = done.failed | ~log_prob.isfinite()
    for row in invalid.nonzero().flatten().tolist():
        why = done.reason(row) if done.failed[row] else "its density there, or the prior's, is not finite"
        at = float(flow.time(done.time[row]))
        warnings.warn(
            f"the likelihood of sample {first + row} is NaN: {why} at t = {at:.6g}", RuntimeWarning, stacklevel=3
        )
    latent = latent.masked_fill(invalid.reshape(-1, *(1,) * (x.ndim - 1)), torch.nan)
    return Likelihood(
        log_prob.masked_fill(invalid, torch.nan), stderr.masked_fill(invalid, torch.nan), done.calls, latent
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
    """The log-density of x (batch, *shape) at t_min under the probability flow of a net, in float64.

    Each sample has its own adaptive steps, so that its result does not depend on the others beside it.

    Args:
        sde: The process to integrate on; the net may have been trained on another.
        net: A Denoiser, or any callable net(x, t, **condition).
        x: Points, in the scale that the net was trained on.
        trace: "exact" (one product with the Jacobian an element); or unbiased, from random vectors: "hutchinson"
            (signs), "gaussian", "orthogonal", "hutch++"; or a Trace.
        probes: How many vectors a sample.
        control: GaussianFit.of(training data) takes off the noise that the data's covariance explains.
        derivative: "reverse", or "forward", which is slower and takes less memory.
        seed: Seed of the vectors; those of sample i depend on (seed, index_offset + i) alone.
        index_offset: Number of the first sample, so that several processes can share a set.
        prior: Distribution of x_T, anything with log_prob; the process's own Gaussian unless told.
        rtol, atol: Tolerance of a step, for the state (root mean square) and for the log-density per element.
        condition: Tensors, sample first, that are handed to the net by name.
        predicts: What a plain callable outputs.
        batch_size: Samples at a time; all at once unless told.
        progress: Show a progress bar.

    Raises:
        TypeError, ValueError: For bad arguments, before any net call.
        RuntimeError: Under torch.inference_mode(), where there is no reverse derivative.

    A sample whose integration fails has log_prob NaN, and a RuntimeWarning says where; another names samples outside
    of the range that the denoiser's data had. The rounding of a net in half precision is above the default tolerance:
    give 1e-3.
    """
    chosen, product = find_trace(trace, probes), choose(DERIVATIVES, derivative, "derivative")
    if control is not None and chosen.estimate is not quadratic:
        raise ValueError(f"control is given with trace={trace!r}; it needs a trace of fixed vectors")
    if prior is not None and not callable(getattr(prior, "log_prob", None)):
        raise TypeError(f"prior is {prior!r}; expected anything with log_prob(x), such as a GaussianMixture")
    given = Input.check(sde, net, x, rtol, atol, condition, predicts, batch_size)
    if control is not None and control.mean.numel() != x[0].numel():
        raise ValueError(f"control is of {control.mean.numel()} elements; samples of x have {x[0].numel()}")
    parts = []
    denoiser = given.denoiser
    warn_outside(sde, denoiser, x, index_offset)
    with evaluating(denoiser), frozen(denoiser), tqdm(total=len(x), disable=not progress, desc="likelihood") as bar:
        for start, state, reverse, advance in given.batches(bar):
            vectors = chosen.vectors(seed, index_offset + start, state, probes)
            change = _Change(Flow(reverse), vectors, chosen, product)
            parts.append(_solve(change, state, index_offset + start, prior or Prior(sde), control, rtol, atol, advance))
    return Likelihood(*(torch.cat([getattr(part, name.name) for part in parts]) for name in fields(Likelihood)))


def log_likelihood(sde: LinearSDE, net: Any, x: Tensor, **options: Any) -> Tensor:
    """The log_prob (batch,), in nats, of likelihood() with the same arguments."""
    return likelihood(sde, net, x, **options).log_prob
