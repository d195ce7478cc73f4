"""Embedded Runge-Kutta pairs, and an adaptive integrator in which every sample has its own time and step."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["BOGACKI_SHAMPINE", "DORMAND_PRINCE", "TSITOURAS", "EmbeddedPair", "Solution", "integrate_runge_kutta"]


@dataclass(frozen=True)
class EmbeddedPair:
    """Butcher's tableau of an explicit method of order `order`, with that of order `order` - 1 embedded in it.

    Row i of `a` gives stage i + 1 from the stages before it, `b` the step, `c` the nodes; the last stage is the first
    of the next step. `error` is the difference between b and the weights of the embedded method.
    """

    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    c: tuple[float, ...]
    error: tuple[float, ...]
    order: int


# The 3(2) pair of Bogacki & Shampine (1989).
BOGACKI_SHAMPINE = EmbeddedPair(
    a=((1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    b=(2 / 9, 1 / 3, 4 / 9, 0.0),
    c=(0.0, 1 / 2, 3 / 4, 1.0),
    error=(-5 / 72, 1 / 12, 1 / 9, -1 / 8),
    order=3,
)

# The 5(4) pair of Dormand & Prince (1980).
DORMAND_PRINCE = EmbeddedPair(
    a=(
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    b=(35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
    c=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    error=(71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
    order=5,
)

# The 5(4) pair of Tsitouras (2011), with smaller errors at the same cost.
TSITOURAS = EmbeddedPair(
    a=(
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383),
        (0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774),
    ),
    b=(0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774, 0.0),
    c=(0.0, 0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0),
    error=(
        0.001780011052225777,
        0.0008164344596567469,
        -0.007880878010261995,
        0.1447110071732629,
        -0.5823571654525552,
        0.45808210592918697,
        -1 / 66,
    ),
    order=5,
)


@dataclass(frozen=True)
class Solution:
    """Where each sample ended: the state y (batch, n) at `time` (batch,), and its evaluations of f, nfe (batch,).

    `failed` (batch,) marks the samples that stopped at `time`, short of the end. Those that are `stuck` (batch,) too
    would have needed steps that no longer move, or more evaluations than allowed; the derivative of the others is not
    finite.
    """

    y: Tensor
    time: Tensor
    nfe: Tensor
    failed: Tensor
    stuck: Tensor

    def reason(self, row: int) -> str:
        """Why a sample failed."""
        if self.stuck[row]:
            return f"its tolerance was not met within {int(self.nfe[row])} calls"
        return "its flow is not finite"


def integrate_runge_kutta(
    f: Callable[[Tensor, Tensor, Tensor], Tensor],
    y: Tensor,
    start: float,
    stop: float,
    norm: Callable[[Tensor, Tensor], Tensor],
    pair: EmbeddedPair = TSITOURAS,
    advance: Callable[[float], None] = lambda done: None,
    limit: int = 10_000,
) -> Solution:
    """Solve dy/dt = f for each row of y (batch, n) from start to stop, never evaluating outside of them.

    Args:
        f: f(t, y, rows) is the derivative (rows, n) at times t (rows,) of the samples whose numbers are `rows`.
        y: The states at start.
        start, stop: Times, in either order.
        norm: norm(error, size) is the error (rows,) of a step relative to the tolerance, from the error (rows, n) and
            the larger absolute value of its two states (rows, n). A step is accepted up to 1.
        pair: The method and its error estimate.
        advance: Called after every step with the share of the way that the samples have gone, on average.
        limit: Evaluations of f that a sample may take.
    """
    stages = len(pair.b)
    span = abs(stop - start)
    sign = 1.0 if stop > start else -1.0
    y = y.clone()
    rows = torch.arange(len(y), device=y.device)
    time = torch.full((len(y),), start, dtype=y.dtype, device=y.device)
    step = torch.full_like(time, span / 20)
    nfe = torch.ones_like(rows)
    failed, stuck = torch.zeros(2, len(y), dtype=torch.bool, device=y.device)
    first = f(time, y, rows)
    while len(rows):
        t, h, old = time[rows], step[rows], y[rows]
        h = torch.minimum(h, sign * (stop - t))
        slopes = [first]
        for row, c in zip(pair.a, pair.c[1:], strict=True):
            change = sum(weight * slope for weight, slope in zip(row, slopes, strict=True) if weight)
            new = old + (sign * h)[:, None] * change
            slopes.append(f(t + c * sign * h, new, rows))
        nfe[rows] += stages - 1
        error = sum(weight * slope for weight, slope in zip(pair.error, slopes, strict=True) if weight)
        size = norm(h[:, None] * error, torch.maximum(old.abs(), new.abs()))
        finite = size.isfinite() & slopes[-1].isfinite().all(1)
        size = torch.where(finite, size, torch.inf)
        good = size <= 1
        y[rows] = torch.where(good[:, None], new, old)
        first = torch.where(good[:, None], slopes[-1], first)
        time[rows] = torch.where(good, torch.where(h < sign * (stop - t), t + sign * h, stop), t)
        # Careful growth: a rejected step costs all its calls, and with factors of 0.9 and 5 a quarter of them were.
        step[rows] = h * (0.8 * size.clamp(min=1e-10) ** (-1 / pair.order)).clamp(0.2, 1.5)
        vanished = step[rows] < 1e-12 * span
        spent = nfe[rows] >= limit
        reached = time[rows] == stop
        stuck[rows] = ~reached & (finite & vanished | spent)
        failed[rows] = ~reached & (vanished | spent) | ~first.isfinite().all(1)
        going = ~reached & ~failed[rows]
        rows, first = rows[going], first[going]
        advance(float((time - start).abs().mean()) / span)
    return Solution(y, time, nfe, failed, stuck)
