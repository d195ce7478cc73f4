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

from sdescore.denoiser import as_denoiser, state_like
from sdescore.noise import generator
from sdescore.ode import integrate
from sdescore.reverse import Reverse
from sdescore.sampling import check_condition, check_range, evaluating
from sdescore.scaling import Scaling
from sdescore.sde import LinearSDE, expand

__all__ = ["Likelihood", "bits_per_dim", "dequantize", "likelihood", "log_likelihood"]


class Density(Protocol):
    """Anything with a log-density."""

    def log_prob(self, x: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class _Prior:
    """The process's own stand-in for p_T."""

    sde: LinearSDE

    def log_prob(self, x: Tensor) -> Tensor:
        return self.sde.prior_log_prob(x)


@dataclass(frozen=True)
class Likelihood:
    """What likelihood() knows of each sample.

    log_prob (batch,) is the natural-log density at t_min; stderr (batch,) its standard error over the probes (NaN for a
    single probe, 0 for the exact trace); nfe (batch,) the net calls; latent (batch, *shape) the state at T.
    """

    log_prob: Tensor
    stderr: Tensor
    nfe: Tensor
    latent: Tensor


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


def _rademacher(seed: int, first: int, like: Tensor, count: int) -> Tensor:
    """Signs (count, batch, *shape); those of a sample depend on (seed, its number) alone."""
    device, shape = like.device, (count, *like.shape[1:])
    own = (generator("probe", seed, first + i, device=device) for i in range(len(like)))
    return torch.stack([torch.randint(0, 2, shape, generator=g, device=device) for g in own], 1).to(like) * 2 - 1


def _identity(like: Tensor) -> Tensor:
    """The unit vectors (elements, batch, *shape) of one sample's space, the same for each sample."""
    size = like[0].numel()
    unit = torch.eye(size, dtype=like.dtype, device=like.device).reshape(size, 1, *like.shape[1:])
    return unit.expand(size, *like.shape)


@dataclass(frozen=True)
class _Flow:
    """The ODE of z = x / s, s^2 = alpha^2 + sigma^2, in lam: dz/dlam = -sin cos (cos eps - sin x0).

    With cos = alpha / s and sin = sigma / s. It is the same equation on every linear process, its right side is
    bounded, and the scale of x does not enter. The rows integrated are z and, for each trace estimate, the change of
    the log-density of z, the divergence.
    """

    reverse: Reverse
    probes: Tensor  # (probes, batch, *shape)
    exact: bool

    def scale(self, t: Tensor) -> Tensor:
        return torch.hypot(self.reverse.sde.alpha(t), self.reverse.sde.sigma(t))

    def start(self, x: Tensor, t: Tensor) -> Tensor:
        estimates = 1 if self.exact else len(self.probes)
        return torch.cat([(x / self.scale(t)).flatten(1), x.new_zeros(len(x), estimates)], 1)

    def split(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """z (rows, *shape) and the changes of its log-density (rows, estimates)."""
        shape = self.probes.shape[2:]
        return y[:, : math.prod(shape)].reshape(-1, *shape), y[:, math.prod(shape) :]

    def __call__(self, lam: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        sde = self.reverse.sde
        t = sde.time(lam).clamp(sde.t_min, sde.T)
        sin, cos = torch.sigmoid(-2 * lam).sqrt(), torch.sigmoid(2 * lam).sqrt()
        probes = self.probes[:, rows]
        with torch.enable_grad():
            z = self.split(y.detach())[0].requires_grad_()
            x = expand(self.scale(t), z) * z
            slope = self.reverse.take(rows).combination(x, t, sin * sin * cos, -sin * cos * cos)
            (products,) = torch.autograd.grad(slope, z, probes, is_grads_batched=True)
        estimates = (products * probes).flatten(2).sum(2).T
        if self.exact:
            estimates = estimates.sum(1, keepdim=True)
        return torch.cat([slope.detach().flatten(1), estimates], 1)

    def norm(self, rtol: float, atol: float) -> Callable[[Tensor, Tensor], Tensor]:
        """The larger of the state's error, root mean square, and the log-density's per element, to the tolerance."""

        def norm(error: Tensor, size: Tensor) -> Tensor:
            (z, log_prob), (z_size, log_size) = self.split(error), self.split(size)
            state = (z / (atol + rtol * z_size)).flatten(1).square().mean(1).sqrt()
            per_element = log_prob.mean(1).abs() / (atol * z[0].numel() + rtol * log_size.mean(1))
            return torch.maximum(state, per_element)

        return norm


def _solve(
    flow: _Flow,
    x: Tensor,
    first: int,
    prior: Density,
    rtol: float,
    atol: float,
    advance: Callable[[float], None],
) -> Likelihood:
    """The likelihood of one batch, whose first sample has the number `first`."""
    sde = flow.reverse.sde
    ends = torch.tensor([sde.t_min, sde.T], dtype=torch.float64)
    start, stop = sde.lam(ends).tolist()
    done = integrate(flow, flow.start(x, ends[0]), start, stop, flow.norm(rtol, atol), advance=advance)
    z, changes = flow.split(done.y)
    scales = flow.scale(ends)
    latent = scales[1] * z
    constant = z[0].numel() * float((scales[1] / scales[0]).log())
    log_prob = prior.log_prob(latent).to(torch.float64) + constant + changes.mean(1)
    spread = (
        changes.std(1) / math.sqrt(changes.shape[1]) if changes.shape[1] > 1 else torch.full_like(log_prob, torch.nan)
    )
    stderr = torch.zeros_like(log_prob) if flow.exact else spread
    for row in done.failed.nonzero().flatten().tolist():
        at = float(sde.time(done.time[row]))
        warnings.warn(
            f"the likelihood of sample {first + row} is NaN: its flow is not finite at t = {at:.6g}",
            RuntimeWarning,
            stacklevel=3,
        )
    invalid = done.failed | ~log_prob.isfinite()
    return Likelihood(
        log_prob.masked_fill(invalid, torch.nan), stderr.masked_fill(invalid, torch.nan), done.calls, latent
    )


def likelihood(
    sde: LinearSDE,
    net: Any,
    x: Tensor,
    *,
    trace: str = "hutchinson",
    probes: int = 1,
    seed: int = 0,
    first: int = 0,
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
        trace: "exact" (one vector-Jacobian product an element), or "hutchinson": unbiased, from random signs.
        probes: How many sign vectors a sample.
        seed: Seed of the signs; those of sample i depend on (seed, first + i) alone.
        first: Number of the first sample, so that several processes can share a set.
        prior: Distribution of x_T, anything with log_prob; the process's own Gaussian unless told.
        rtol, atol: Tolerance of a step, for the state (root mean square) and for the log-density per element.
        condition: Tensors, sample first, that are handed to the net by name.
        predicts: What a plain callable outputs.
        batch_size: Samples at a time; all at once unless told.
        progress: Show a progress bar.

    Raises:
        TypeError, ValueError: For bad arguments, before any net call.

    A sample whose integration fails has log_prob NaN, and a RuntimeWarning says where.
    """
    if not isinstance(sde, LinearSDE):
        raise TypeError(f"sde is {sde!r}; valid is a LinearSDE, such as VPSDE()")
    if not x.is_floating_point():
        raise TypeError(f"x has dtype {x.dtype}; scale it to floating point first, as for training")
    if trace not in ("exact", "hutchinson"):
        raise ValueError(f"trace={trace!r}; valid are 'exact', 'hutchinson'")
    if not (rtol > 0 and atol > 0) or probes < 1 or (batch_size is not None and batch_size < 1):
        raise ValueError(
            f"rtol={rtol}, atol={atol}, probes={probes}, batch_size={batch_size}; valid are positive numbers"
        )
    if x.ndim < 2 or len(x) == 0:
        raise ValueError(f"x has shape {tuple(x.shape)}; valid is (batch, *shape) with at least one sample")
    finite = x.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        raise ValueError(f"x is not finite in sample {int((~finite).nonzero()[0])}")
    denoiser = as_denoiser(net, sde, predicts)
    if denoiser.shape is not None and tuple(x.shape[1:]) != denoiser.shape:
        raise ValueError(f"x has samples of shape {tuple(x.shape[1:])}; the net takes {denoiser.shape}")
    ends = torch.tensor([sde.T, sde.t_min], dtype=torch.float64)
    check_range(sde, denoiser, ends)
    given = check_condition(condition, len(x))
    like = state_like(denoiser)
    device = x.device if like is None else like.device
    size = len(x) if batch_size is None else batch_size
    parts = []
    with evaluating(denoiser), frozen(denoiser), tqdm(total=len(x), disable=not progress, desc="likelihood") as bar:
        for start in range(0, len(x), size):
            state = x[start : start + size].to(device, torch.float64)
            own = {name: value[start : start + size].to(device) for name, value in given.items()}
            signs = _identity(state) if trace == "exact" else _rademacher(seed, first + start, state, probes)
            flow = _Flow(Reverse(sde, denoiser, own), signs, trace == "exact")

            def advance(share: float, start: int = start, count: int = len(state)) -> None:
                bar.update(start + share * count - bar.n)

            parts.append(_solve(flow, state, first + start, prior or _Prior(sde), rtol, atol, advance))
    return Likelihood(*(torch.cat([getattr(part, name.name) for part in parts]) for name in fields(Likelihood)))


def log_likelihood(sde: LinearSDE, net: Any, x: Tensor, **options: Any) -> Tensor:
    """The log_prob (batch,), in nats, of likelihood() with the same arguments."""
    return likelihood(sde, net, x, **options).log_prob


def bits_per_dim(log_prob: Tensor, shape: tuple[int, ...], scaling: Scaling) -> Tensor:
    """Bits per element (batch,) of quantised data, from the log-density of its dequantised model values.

    Raw levels are low, low + d, ..., high, with d one level's width; data is dequantised by adding uniform noise in
    [-d/2, d/2), so that a level has the probability mass density * d (Theis et al. 2016, section 3.1).

    Args:
        log_prob: Natural-log density (batch,) in model scale, where the levels are 2 / (levels - 1) apart.
        shape: Shape of a sample.
        scaling: How raw data is scaled. Raises ValueError if it has no levels.
    """
    if scaling.levels is None:
        raise ValueError("scaling.levels is None: bits per dimension are defined for quantised data only")
    width = 2 / (scaling.levels - 1)
    return -(log_prob / math.prod(shape) + math.log(width)) / math.log(2)


def dequantize(x: Tensor, scaling: Scaling, seed: int = 0, first: int = 0) -> Tensor:
    """Add uniform noise of one level's width to model data (batch, *shape); that of sample i depends on (seed, i)."""
    if scaling.levels is None:
        raise ValueError("scaling.levels is None: only quantised data can be dequantised")
    own = (generator("dequantize", seed, first + i, device=x.device) for i in range(len(x)))
    u = torch.stack([torch.rand(x.shape[1:], generator=g, device=x.device, dtype=x.dtype) for g in own])
    return x + (u - 0.5) * (2 / (scaling.levels - 1))
