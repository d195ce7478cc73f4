"""Exponential Adams methods: multistep in any target, interpolation coordinate and amount of noise.

A step is the exponential one (exponential.py) of the polynomial through the last targets: exact where the target is
a polynomial of q.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sdescore.common.linear_combinations import Summand, combine, materialise, weight
from sdescore.processes import LinearSDE
from sdescore.sampling import About, Grid, Noise, ReverseProcess, karras

from .coordinates import LAM, Coordinate
from .exponential import interval, lagrange, points
from .targets import DATA, Target
from .tau import Tau, tau_squared

__all__ = ["Adams"]


@dataclass(frozen=True)
class _Table:
    """The coefficients of every step of a grid, as numbers."""

    kept: list[float]
    spread: list[float]
    predict: list[list[float]]  # weights of the newest target, the one before, ...
    correct: list[list[float]]  # what is added to the prediction: the same with the target there first


@dataclass(frozen=True)
class Adams:
    """An Adams-Bashforth predictor of the given order and, if asked, an Adams-Moulton corrector at no further call.

    Deterministic, order `order`, or one more with the corrector (Zhao et al. 2023); for tau > 0 weak order at most 2.
    The first steps are of the order that their history allows. One net call a step.

    Args:
        order: Number of targets that the predictor combines.
        target: What is interpolated.
        coordinate: In which variable.
        corrector: Correct each state, but the last, with the target at the predicted one.
        tau: Noise: 0 for the ODE, 1 for the reverse SDE; a number, or a function of lam and the step h in lam.
        bh: What the slope through two targets weighs, doubled, instead of its exact integral (Zhao et al. 2023, eq.
            11): "bh1" for B(h) = h, the measure's density at the end of the step times h; "bh2" for B(h) = e^h - 1,
            the whole measure, as in DPM-Solver++ 2M.
        end: Number of last data predictions that are extrapolated, in rho^2, to the process's own end, t_min, where the
            flow ends. With 1 the grid has to lead there itself.
        reach: How far to extrapolate: a step of size h in lam combines at most 1 + reach / h targets, so that large
            steps are of low order. Guidance of a scale above 3, which bends the flow, shortens it by 3 / scale.
        grid: The times by default.
        about: What it says of itself in the table of solvers.
    """

    order: int = 2
    target: Target = DATA
    coordinate: Coordinate = LAM
    corrector: bool = False
    tau: Tau = 0.0
    bh: str | None = None
    end: int = 1
    reach: float = math.inf
    grid: Grid = karras()
    about: About | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, value in (("order", self.order), ("end", self.end)):
            if not 1 <= value <= 6:
                raise ValueError(f"{name}={value}; expected 1 to 6")
        if self.bh not in (None, "bh1", "bh2"):
            raise ValueError(f"bh={self.bh!r}; expected None, 'bh1' or 'bh2'")
        if not self.reach > 0:
            raise ValueError(f"reach={self.reach}; expected a positive number")
        tau_squared(self.tau, torch.zeros(1), torch.ones(1))

    def _counts(self, lam: Tensor, strength: Tensor | None) -> Tensor:
        """How many targets the predictor of each step combines."""
        reach = self.reach * (3 / strength[:-1]).clamp(max=1) if strength is not None else self.reach
        counts = 1 + (reach / lam.diff()).floor()
        return torch.minimum(counts, 1.0 + torch.arange(len(counts))).clamp(max=self.order).long()

    def table(self, sde: LinearSDE, times: Tensor, strength: Tensor | None = None) -> _Table:
        """The coefficients on a grid of times, float64 and in one pass over all steps.

        `strength` is the scale of guidance at those times.
        """
        kept, inside, measure, spread, end = interval(self.target, sde, times[:-1], times[1:], self.tau)
        q = self.coordinate.q(sde, times)
        if self.coordinate.linear:
            nodes, weights, _ = points()
            q_inside = q[:-1, None] + q.diff()[:, None] * nodes
            measure = measure.sum(1, keepdim=True) * weights
        else:
            q_inside = self.coordinate.q(sde, sde.time(inside))
        counts = self._counts(sde.lam(times), strength)
        predict = self._weights(counts, q, q_inside, measure, end, ahead=0)
        correct = self._weights(counts, q, q_inside, measure, end, ahead=1) if self.corrector else []
        for i, (ahead, *row) in enumerate(correct):
            correct[i] = [ahead, *(a - b for a, b in zip(row, predict[i], strict=True))]
        return _Table(kept.tolist(), spread.tolist(), predict, correct)

    def _weights(
        self, counts: Tensor, q: Tensor, q_inside: Tensor, measure: Tensor, end: Tensor, ahead: int
    ) -> list[list[float]]:
        """The weights of each step over its nodes: `ahead` in front, then its count of them, newest first."""
        rows: list[list[float]] = [[]] * len(counts)
        for count in counts.unique().tolist():
            here = (counts == count).nonzero()[:, 0]
            nodes = q[here[:, None] + torch.arange(ahead, -count, -1)]
            weights = (lagrange(q_inside[here], nodes) * measure[here, None, :]).sum(2)
            if self.bh and count + ahead == 2:
                total = weights.sum(1)
                bh = total if self.bh == "bh2" else end[here]
                slope = bh / 2 * q.diff()[here] / (nodes[:, 0] - nodes[:, 1])
                weights = torch.stack([slope, total - slope] if ahead else [total + slope, -slope], 1)
            for i, row in zip(here.tolist(), weights.tolist(), strict=True):
                rows[i] = row
        return rows

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        table, levels = self.table(reverse.sde, times, reverse.strength(times)), times.unbind()
        summands = reverse.summands(times, *self.target.pair(reverse.sde.lam(times)))
        ending = self._ending_at(reverse.sde, times)
        last = len(times) - 2
        looks_back = self.order - (not self.corrector)  # at so many earlier targets
        again = self.corrector or looks_back > 1  # after the next call, which may write over the output of this one

        def target(i: int, x: Tensor) -> list[Summand]:
            found = summands(i, x)
            return [materialise(found)] if again or i in ending else found

        def rest(i: int, older: list[list[Summand]]) -> Tensor | None:
            """What step i adds to its start and newest target."""
            drawn = noise(x, levels[i], levels[i + 1], table.spread[i]) if table.spread[i] > 0 else None
            history = weight(table.predict[i][1:], older)
            return combine(history, drawn) if history else drawn

        newest, known, ends = target(0, x), rest(0, []), {}
        older: list[list[Summand]] = []
        for i in range(last + 1):
            if i in ending:
                ends[i] = [(x, 1.0)], newest
            x = combine([(x, table.kept[i]), *weight(table.predict[i], [newest])], known)
            older = [newest, *older][:looks_back]
            known = rest(i + 1, older) if i < last else None
            correct = self.corrector and i < last
            if not correct:
                yield x
            if i == last and not self.denoises:
                return
            newest = target(i + 1, x)
            if correct:
                x = combine([(x, 1.0), *weight(table.correct[i], [newest, *older])])
                yield x
        ends[last + 1] = [(x, 1.0)], newest
        parts = [ends[i][part] for part in (0, 1) for i in ending]
        yield combine(weight(self._ending(reverse.sde, times[ending]), parts))

    def _ending_at(self, sde: LinearSDE, times: Tensor) -> list[int]:
        """Which times the end extrapolates from, newest first; a factor 2 in rho^2 apart: errors stay small."""
        square = (sde.rho(times) ** 2).tolist()
        found = [len(times) - 1]
        for i in reversed(range(len(times) - 1)):
            if len(found) < self.end and square[i] >= 2 * square[found[-1]]:
                found.append(i)
        return found

    def _ending(self, sde: LinearSDE, times: Tensor) -> list[float]:
        """The weights of the states at given times, and then of the targets, in the data prediction at t_min."""
        lam = sde.lam(times)
        end = sde.rho(torch.tensor([[sde.t_min]], dtype=times.dtype)) ** 2
        share = lagrange(end, sde.rho(times)[None] ** 2)[0, :, 0]
        p, q = (torch.as_tensor(c, dtype=times.dtype) for c in self.target.pair(lam))
        alpha, sigma = sde.alpha(times), sde.sigma(times)
        determinant = alpha * q - sigma * p  # x0 = (q x - sigma m) / determinant
        return [*(share * q / determinant).tolist(), *(-share * sigma / determinant).tolist()]

    @property
    def denoises(self) -> bool:
        return self.end > 1

    def nfe(self, intervals: int) -> int:
        return intervals + self.denoises
