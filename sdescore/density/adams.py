"""An adaptive Adams method in which every sample has its own time, step and order: one evaluation a step."""

from collections.abc import Callable

import torch
from torch import Tensor

from sdescore.common.quadrature import gauss
from sdescore.density.runge_kutta import Solution

__all__ = ["integrate_adams"]

# The highest order of the predictor, and the number of derivatives kept; smooth problems at 1e-10 use all of them.
HIGHEST = 8
# Factor of a step's error estimate, which leaves out the errors that earlier steps left in the kept derivatives. With
# it a tolerance gives about the error that it gives with a Runge-Kutta pair.
CAUTION = 10.0
# The first step, of order 1, as a share of the way. If it is too long, one call is lost.
FIRST = 1e-3

NODES, WEIGHTS = gauss(HIGHEST // 2 + 1)  # exact for products of HIGHEST nodes


def _newton(nodes: Tensor) -> Tensor:
    """Weights (rows, m, m) of values at the nodes (rows, m): row j gives term j of Newton's polynomial, over [0, 1].

    The first j + 1 terms are the integral of the polynomial through the first j + 1 values.
    """
    gaps = nodes[:, :, None] - nodes[:, None, :] + torch.eye(nodes.shape[1], dtype=nodes.dtype, device=nodes.device)
    differences = gaps.cumprod(2).reciprocal().mT.tril()
    products = (NODES.to(nodes)[:, None] - nodes[:, None, :-1]).cumprod(2)
    integrals = (WEIGHTS.to(nodes)[:, None] * products).sum(1)
    return torch.cat([torch.ones_like(nodes[:, :1]), integrals], 1)[:, :, None] * differences


def integrate_adams(
    f: Callable[[Tensor, Tensor, Tensor], Tensor],
    y: Tensor,
    start: float,
    stop: float,
    norm: Callable[[Tensor, Tensor], Tensor],
    advance: Callable[[float], None] = lambda done: None,
    limit: int = 10_000,
) -> Solution:
    """Solve dy/dt = f for each row of y (batch, n) from start to stop; arguments as of integrate_runge_kutta().

    The Adams-Bashforth formula of order k predicts from the last k derivatives, f is evaluated there, and the
    Adams-Moulton formula of order k + 1 corrects (Shampine & Gordon 1975, without their second evaluation). The last
    term of the correction is the error estimate; those of the neighbouring orders decide the next order. Where f costs
    more than the arithmetic on `HIGHEST` states, this needs half the evaluations of a Runge-Kutta pair or less.
    """
    span = abs(stop - start)
    sign = 1.0 if stop > start else -1.0
    y = y.clone()
    rows = torch.arange(len(y), device=y.device)
    orders = torch.arange(HIGHEST + 1, device=y.device)
    time = torch.full((len(y),), start, dtype=y.dtype, device=y.device)
    step = torch.full_like(time, FIRST * span)
    order, known, nfe = torch.ones_like(rows), torch.ones_like(rows), torch.ones_like(rows)
    # The derivatives, newest first, and their times. Those not known yet have invented times, and weight 0.
    past = y.new_zeros(len(y), HIGHEST, y.shape[1])
    past[:, 0] = f(time, y, rows)
    when = time[:, None] - sign * span * orders[:-1]
    failed = ~past[:, 0].isfinite().all(1)
    stuck = torch.zeros_like(failed)
    rows = rows[~failed]
    while len(rows):
        t, h, old, k, count = time[rows], step[rows], y[rows], order[rows], known[rows]
        left = sign * (stop - t)
        last = h >= left
        h = torch.where(last, left, h)
        ahead = (sign * h)[:, None]
        slopes = past[rows]
        nodes = sign * (when[rows] - t[:, None]) / h[:, None]
        weights = (_newton(nodes) * (orders[:-1] < k[:, None])[:, :, None]).sum(1)
        now = torch.where(last, stop, t + sign * h)
        slopes = torch.cat([f(now, old + ahead * _dot(weights, slopes), rows)[:, None], slopes], 1)
        nfe[rows] += 1
        terms = _newton(torch.cat([torch.ones_like(h)[:, None], nodes], 1))
        new = old + ahead * _dot((terms * (orders <= k[:, None])[:, :, None]).sum(1), slopes)
        size = torch.maximum(old.abs(), new.abs())
        # The errors of the orders below, at and above k, and from them the next step of each.
        near = torch.stack([k - 1, k, k + 1])
        each = torch.arange(len(rows), device=y.device)
        errors = torch.stack([norm(h[:, None] * _dot(terms[each, j.clamp(max=HIGHEST)], slopes), size) for j in near])
        errors = CAUTION * errors
        finite = errors[1].isfinite()
        errors = torch.where(finite, errors, torch.inf)
        good = errors[1] <= 1
        growth = 0.7 * errors.clamp(min=1e-10) ** (-1 / (near + 1))
        growth = growth.masked_fill((near < 1) | (near > count.clamp(max=HIGHEST)), 0)
        # At the start every step adds a derivative, and the order rises with their number.
        young = good & (k == count) & (k < HIGHEST)
        choice = torch.where(young | ~finite, 1, growth.argmax(0))
        order[rows] = near[choice, each] + young.long()
        step[rows] = h * growth[choice, each].clamp(0.2, 2.0)
        y[rows] = torch.where(good[:, None], new, old)
        time[rows] = torch.where(good, now, t)
        past[rows] = torch.where(good[:, None, None], slopes[:, :-1], slopes[:, 1:])
        when[rows] = torch.where(good[:, None], torch.cat([now[:, None], when[rows, :-1]], 1), when[rows])
        known[rows] = (count + good.long()).clamp(max=HIGHEST)
        vanished = step[rows] < 1e-12 * span
        spent = nfe[rows] >= limit
        reached = good & last
        stuck[rows] = ~reached & (finite & vanished | spent)
        failed[rows] = ~reached & (vanished | spent)
        rows = rows[~reached & ~failed[rows]]
        advance(float((time - start).abs().mean()) / span)
    return Solution(y, time, nfe, failed, stuck)


def _dot(weights: Tensor, values: Tensor) -> Tensor:
    """The sums (rows, n) of values (rows, m, n) with weights (rows, m)."""
    return (weights[:, None] @ values)[:, 0]
