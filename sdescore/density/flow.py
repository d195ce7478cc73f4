"""The probability-flow ODE of any linear process in one set of coordinates, and the batches that travel along it."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sdescore.common.checks import check_count
from sdescore.common.linear_combinations import expand
from sdescore.denoisers.denoiser import Denoiser, as_denoiser, state_like
from sdescore.density.runge_kutta import TSITOURAS, Solution, Tableau, integrate
from sdescore.processes.base import LinearSDE, check_linear
from sdescore.sampling.reverse import ReverseProcess
from sdescore.sampling.sample import check_condition, check_range

__all__ = ["Flow", "Input", "transport"]

# Errors that rounding makes in one step: no step is better than this, whatever its length.
FINEST = 1e-13


@dataclass(frozen=True)
class Flow:
    """The ODE of z = x / s, s^2 = alpha^2 + sigma^2, in q with atan(rho) = pi/2 sin(q)^2: dz/dq = dangle/dq v.

    v = cos eps - sin x0 with cos = alpha / s and sin = sigma / s. It is the same equation on every linear process, its
    right side is bounded, and the scale of x does not enter (Song et al. 2021, eq. 13, in other coordinates). The
    square spreads the two ends: data near a surface has a divergence of 1 / angle, and nets see the logarithm of rho.
    """

    reverse: ReverseProcess

    def scale(self, t: Tensor) -> Tensor:
        """s(t)."""
        return torch.hypot(self.reverse.sde.alpha(t), self.reverse.sde.sigma(t))

    def coordinate(self, t: Tensor) -> Tensor:
        """q at a time."""
        return torch.asin((torch.atan(self.reverse.sde.rho(t)) / (math.pi / 2)).sqrt())

    def time(self, q: Tensor) -> Tensor:
        """The time at q."""
        sde = self.reverse.sde
        return sde.time(-torch.tan(math.pi / 2 * q.sin() ** 2).log()).clamp(sde.t_min, sde.T)

    def slope(self, q: Tensor, rows: Tensor) -> Callable[[Tensor], Tensor]:
        """dz/dq as a function of z (rows, *shape), at q (rows,), of the samples whose numbers are `rows`."""
        t, angle, rate = self.time(q), math.pi / 2 * q.sin() ** 2, math.pi / 2 * (2 * q).sin()
        reverse, scale = self.reverse.select(rows), self.scale(t)
        of_data, of_noise = -rate * angle.sin(), rate * angle.cos()
        return lambda z: reverse.linear(expand(scale, z) * z, t, of_data, of_noise)


def transport(
    reverse: ReverseProcess,
    x: Tensor,
    start: float,
    stop: float,
    rtol: float,
    atol: float,
    advance: Callable[[float], None] = lambda done: None,
    tableau: Tableau = TSITOURAS,
) -> Solution:
    """Carry x (batch, *shape) from time start to time stop along the flow, each sample with its own adaptive steps.

    The y of the solution is the state (batch, *shape) at its `time`, in the dtype of x; the root mean square of a
    step's error is at most atol + rtol |z|. Integrated in float64.
    """
    flow, shape = Flow(reverse), x.shape[1:]
    ends = torch.tensor([start, stop], dtype=torch.float64)
    scales = flow.scale(ends).tolist()

    def slope(q: Tensor, z: Tensor, rows: Tensor) -> Tensor:
        return flow.slope(q, rows)(z.reshape(-1, *shape)).flatten(1)

    def norm(error: Tensor, size: Tensor) -> Tensor:
        return (error / (atol + rtol * size)).square().mean(1).sqrt()

    z = x.to(torch.float64).flatten(1) / scales[0]
    first, last = flow.coordinate(ends).tolist()
    done = integrate(slope, z, first, last, norm, tableau, advance)
    y = (scales[1] * done.y).reshape(x.shape).to(x.dtype)
    return Solution(y, flow.time(done.time), done.calls, done.failed, done.stuck)


def warn_outside(sde: LinearSDE, denoiser: Denoiser, x: Tensor, first: int = 0) -> None:
    """Warn of samples with values that no training data had, as far as the denoiser knows the range of its data."""
    scaling = denoiser.scaling
    if scaling is None:
        return
    t = torch.tensor(sde.t_min, dtype=torch.float64)
    # Half a level for dequantisation, and the noise of t_min.
    reach = 1 + (1 / (scaling.levels - 1) if scaling.levels else 0.0) + 6 * float(sde.rho(t))
    largest = x.flatten(1).abs().amax(1) / float(sde.alpha(t))
    rows = (largest > reach).nonzero().flatten().tolist()
    if rows:
        worst = max(rows, key=lambda row: float(largest[row]))
        names = ", ".join(str(first + row) for row in rows[:8]) + (", …" if len(rows) > 8 else "")
        warnings.warn(
            f"outside of [-1, 1], where the net was trained, are values of sample {names}, up to "
            f"{float(largest[worst]):.4g} in sample {first + worst}: what the net says there is extrapolated; "
            "scale raw data with denoiser.scaling.to_model()",
            RuntimeWarning,
            stacklevel=3,
        )


@dataclass(frozen=True)
class Input:
    """Checked arguments of what integrates data along the flow: log-densities, latents."""

    sde: LinearSDE
    denoiser: Denoiser
    x: Tensor
    condition: Mapping[str, Tensor]
    batch_size: int
    device: torch.device

    @staticmethod
    def check(
        sde: LinearSDE,
        net: Any,
        x: Tensor,
        rtol: float,
        atol: float,
        condition: Mapping[str, Tensor] | None,
        predicts: str | None,
        batch_size: int | None,
    ) -> "Input":
        """Raise TypeError or ValueError for what cannot be integrated, naming the argument, before any net call."""
        check_linear(sde)
        if not isinstance(x, Tensor):
            raise TypeError(f"x is a {type(x).__name__}; expected a tensor (batch, *shape)")
        if not x.is_floating_point():
            raise TypeError(f"x has dtype {x.dtype}; scale it to floating point first, as for training")
        if not all(isinstance(each, Real) and FINEST <= each < math.inf for each in (rtol, atol)):
            raise ValueError(
                f"rtol={rtol}, atol={atol}; expected numbers from {FINEST:g} on, the rounding of a step, and finite"
            )
        if batch_size is not None:
            check_count("batch_size", batch_size)
        if x.ndim < 2 or x.numel() == 0:
            raise ValueError(f"x has shape {tuple(x.shape)}; expected (batch, *shape) with at least one sample")
        finite = x.isfinite().flatten(1).all(1)
        if not bool(finite.all()):
            raise ValueError(f"x is not finite in sample {int((~finite).nonzero()[0])}")
        denoiser = as_denoiser(net, sde, predicts)
        if denoiser.shape is not None and tuple(x.shape[1:]) != denoiser.shape:
            raise ValueError(f"x has samples of shape {tuple(x.shape[1:])}; the net takes {denoiser.shape}")
        check_range(sde, denoiser, torch.tensor([sde.T, sde.t_min], dtype=torch.float64))
        like = state_like(denoiser)
        device = x.device if like is None else like.device
        return Input(sde, denoiser, x, check_condition(condition, len(x)), batch_size or len(x), device)

    def batches(self, bar: tqdm) -> Iterator[tuple[int, Tensor, ReverseProcess, Callable[[float], None]]]:
        """Of each batch the number of its first sample, the float64 states, the ReverseProcess, and a callback of progress."""
        for start in range(0, len(self.x), self.batch_size):
            rows = slice(start, start + self.batch_size)
            # The changes are summed without a graph: a gradient through the rest would be a wrong one.
            state = self.x[rows].detach().to(self.device, torch.float64)
            own = {name: value[rows].to(self.device) for name, value in self.condition.items()}

            def advance(share: float, start: int = start, count: int = len(state)) -> None:
                bar.update(start + share * count - bar.n)

            yield start, state, ReverseProcess(self.sde, self.denoiser, own), advance
