"""An adaptive Adams method in which every sample has its own time, step and order: one evaluation a step."""

from collections.abc import Callable

import torch
from torch import Tensor

from sdescore.common.quadrature import gauss
from sdescore.density.runge_kutta import Solution

__all__ = ["multistep"]

# Of the predictor, and how many derivatives are kept; smooth problems at tolerances of 1e-10 use all of it.
HIGHEST = 8
# How much a step's error counts: the errors of the steps before are in its derivatives, which are not made anew. With
# this a tolerance gives about the error that it gives with a Runge-Kutta pair.
CAUTION = 10.0
# The first step, of order 1, as a share of the way. One that is too long costs one call.
FIRST = 1e-3


NODES, WEIGHTS = gauss(HIGHEST // 2 + 1)  # exact for products of as many nodes as there are


def _newton(nodes: Tensor) -> Tensor:
    """Row j of the (rows, m, m) weighs values at the nodes (rows, m): term j of Newton's polynomial over [0, 1].

    The first j + 1 terms are the integral of the polynomial through the first j + 1 values.
    """
    gaps = nodes[:, :, None] - nodes[:, None, :] + torch.eye(nodes.shape[1], dtype=nodes.dtype, device=nodes.device)
    differences = gaps.cumprod(2).reciprocal().mT.tril()
    products = (NODES.to(nodes)[:, None] - nodes[:, None, :-1]).cumprod(2)
    integrals = (WEIGHTS.to(nodes)[:, None] * products).sum(1)
    return torch.cat([torch.ones_like(nodes[:, :1]), integrals], 1)[:, :, None] * differences


def multistep(
    f: Callable[[Tensor, Tensor, Tensor], Tensor],
    y: Tensor,
    start: float,
    stop: float,
    norm: Callable[[Tensor, Tensor], Tensor],
    advance: Callable[[float], None] = lambda done: None,
    limit: int = 10_000,
) -> Solution:
    """Solve dy/dt = f for each row of y (batch, n) from start to stop; arguments and result are those of integrate().

    Adams and Bashforth's formula of order k on the last k derivatives predicts, the derivative there is the only one
    of the step, and Adams and Moulton's of order k + 1 corrects (Shampine & Gordon 1975, without their second
    evaluation). The last term of the correction is the error; those of the neighbouring orders say which is best next.
    Where f costs more than the arithmetic on `HIGHEST` states this takes half the calls of a Runge-Kutta pair or less.
    """
    sign, span = (1.0 if stop > start else -1.0), abs(stop - start)
    y, rows, orders = y.clone(), torch.arange(len(y), device=y.device), torch.arange(HIGHEST + 1, device=y.device)
    time = torch.full((len(y),), start, dtype=y.dtype, device=y.device)
    step = torch.full_like(time, FIRST * span)
    order, known, calls = torch.ones_like(rows), torch.ones_like(rows), torch.ones_like(rows)
    # The derivatives, newest first, and their times; those that are not known yet have made-up times and no weight.
    past = y.new_zeros(len(y), HIGHEST, y.shape[1])
    past[:, 0] = f(time, y, rows)
    when = time[:, None] - sign * span * orders[:-1]
    failed, stuck = ~past[:, 0].isfinite().all(1), torch.zeros_like(rows, dtype=torch.bool)
    rows = rows[~failed]
    while len(rows):
        t, h, old, k, count = time[rows], step[rows], y[rows], order[rows], known[rows]
        left = sign * (stop - t)
        last = h >= left
        h = torch.where(last, left, h)
        ahead, slopes, nodes = (sign * h)[:, None], past[rows], sign * (when[rows] - t[:, None]) / h[:, None]
        weights = (_newton(nodes) * (orders[:-1] < k[:, None])[:, :, None]).sum(1)
        now = torch.where(last, stop, t + sign * h)
        slopes = torch.cat([f(now, old + ahead * _dot(weights, slopes), rows)[:, None], slopes], 1)
        calls[rows] += 1
        terms = _newton(torch.cat([torch.ones_like(h)[:, None], nodes], 1))
        new = old + ahead * _dot((terms * (orders <= k[:, None])[:, :, None]).sum(1), slopes)
        size = torch.maximum(old.abs(), new.abs())
        # The errors, and by them the next steps, of the orders below, at and above k.
        near = torch.stack([k - 1, k, k + 1])
        each = torch.arange(len(rows), device=y.device)
        errors = torch.stack([norm(h[:, None] * _dot(terms[each, j.clamp(max=HIGHEST)], slopes), size) for j in near])
        errors = CAUTION * errors
        finite = errors[1].isfinite()
        errors = torch.where(finite, errors, torch.inf)
        good = errors[1] <= 1
        growth = 0.7 * errors.clamp(min=1e-10) ** (-1 / (near + 1))
        growth = growth.masked_fill((near < 1) | (near > count.clamp(max=HIGHEST)), 0)
        # At the start every step brings one more derivative, and the order rises with them.
        young = good & (k == count) & (k < HIGHEST)
        choice = torch.where(young | ~finite, 1, growth.argmax(0))
        order[rows] = near[choice, each] + young.long()
        step[rows] = h * growth[choice, each].clamp(0.2, 2.0)
        y[rows], time[rows] = torch.where(good[:, None], new, old), torch.where(good, now, t)
        past[rows] = torch.where(good[:, None, None], slopes[:, :-1], slopes[:, 1:])
        when[rows] = torch.where(good[:, None], torch.cat([now[:, None], when[rows, :-1]], 1), when[rows])
        known[rows] = (count + good.long()).clamp(max=HIGHEST)
        vanished, spent, reached = step[rows] < 1e-12 * span, calls[rows] >= limit, good & last
        stuck[rows] = ~reached & (finite & vanished | spent)
        failed[rows] = ~reached & (vanished | spent)
        rows = rows[~reached & ~failed[rows]]
        advance(float((time - start).abs().mean()) / span)
    return Solution(y, time, calls, failed, stuck)


def _dot(weights: Tensor, values: Tensor) -> Tensor:
    """The sums (rows, n) of values (rows, m, n) with weights (rows, m)."""
    return (weights[:, None] @ values)[:, 0]
