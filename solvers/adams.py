"""Exponential Adams methods: multistep in any target, interpolation coordinate and amount of noise.

A step is the exponential one (exponential.py) of the polynomial through the last targets: exact where the target is
a polynomial of q.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sdescore.common.linear_combinations import Summand, in_one, total, weighted
from sdescore.processes import LinearSDE
from sdescore.sampling import Noise, OneStep, ReverseProcess, karras
from sdescore.sampling.grids import Grid
from sdescore.sampling.solver import Step

from .exponential import Tau, interval, lagrange, points, tau_squared
from .runge_kutta import ONE, RungeKutta
from .targets import DATA, DIFFERENCE, Target

__all__ = ["BH1", "BH2", "CUBE_ROOT_RHO", "INDEX", "LAM", "NOISE_SHARE", "RHO", "TIME", "Adams", "Coordinate", "Tau"]


@dataclass(frozen=True)
class Coordinate:
    """The variable q in which targets are interpolated, a function (sde, times) of the grid.

    Within a step q follows the time exactly; where it has no value between nodes, as an index, it advances linearly in
    the measure of the target.
    """

    name: str
    q: Callable[[LinearSDE, Tensor], Tensor] = field(repr=False)
    linear: bool = False


LAM = Coordinate("lam", lambda sde, times: sde.lam(times))
RHO = Coordinate("rho", lambda sde, times: sde.rho(times))
CUBE_ROOT_RHO = Coordinate("rho^1/3", lambda sde, times: sde.rho(times) ** (1 / 3))
NOISE_SHARE = Coordinate("sigma/(alpha+sigma)", lambda sde, times: DIFFERENCE.mu(sde.lam(times)))
TIME = Coordinate("t", lambda sde, times: times)
INDEX = Coordinate("index", lambda sde, times: torch.arange(len(times), dtype=times.dtype), linear=True)


def BH1(total: Tensor, end: Tensor) -> Tensor:
    """B(h) = h of Zhao et al. 2023, eq. 11, in the units of the weights: the measure's density at the end, times h."""
    return end


def BH2(total: Tensor, end: Tensor) -> Tensor:
    """B(h) = e^h - 1: the whole measure, as in DPM-Solver++ 2M."""
    return total


@dataclass(frozen=True)
class _Table:
    """The coefficients of every step of a grid, as numbers."""

    kept: list[float]
    spread: list[float]
    predict: list[list[float]]  # weights of the newest target, the one before, ...
    correct: list[list[float]]  # what is added to the prediction: the same with the target there first


@dataclass(frozen=True)
class Adams(OneStep):
    """An Adams-Bashforth predictor of the given order and, if asked, an Adams-Moulton corrector at no further call.

    Deterministic, order `order`, or one more with the corrector (Zhao et al. 2023); for tau > 0 weak order at most 2.
    The first steps are of the order that their history allows. One net call a step.

    Args:
        order: Number of targets that the predictor combines.
        target: What is interpolated.
        coordinate: In which variable.
        corrector: Correct each state, but the last, with the target at the predicted one.
        tau: Noise: 0 for the ODE, 1 for the reverse SDE; a number, or a function of lam and the step h in lam.
        bh: What the slope through two targets weighs, doubled, instead of its exact integral: BH1 or BH2.
        end: Number of last data predictions that are extrapolated, in rho^2, to the data at rho = 0. With 1 the error
            of the last step is of order rho^2 and does not fall with the steps.
        grid: The times that are used unless sample() is told others.
    """

    order: int = 2
    target: Target = DATA
    coordinate: Coordinate = LAM
    corrector: bool = False
    tau: Tau = 0.0
    bh: Callable[[Tensor, Tensor], Tensor] | None = None
    end: int = 1
    grid: Grid = field(default=karras(), repr=False)

    def __post_init__(self) -> None:
        for name, value in (("order", self.order), ("end", self.end)):
            if not 1 <= value <= 6:
                raise ValueError(f"{name}={value}; expected 1 to 6")
        tau_squared(self.tau, torch.zeros(1), torch.ones(1))

    def table(self, sde: LinearSDE, times: Tensor) -> _Table:
        """The coefficients on a grid of times, float64 and in one pass over all steps."""
        kept, inside, measure, spread, end = interval(self.target, sde, times[:-1], times[1:], self.tau)
        q = self.coordinate.q(sde, times)
        if self.coordinate.linear:
            nodes, weights, _ = points()
            q_inside = q[:-1, None] + q.diff()[:, None] * nodes
            measure = measure.sum(1, keepdim=True) * weights
        else:
            q_inside = self.coordinate.q(sde, sde.time(inside))
        predict = self._weights(q, q_inside, measure, end, ahead=0)
        correct = self._weights(q, q_inside, measure, end, ahead=1) if self.corrector else []
        for i, (ahead, *row) in enumerate(correct):
            correct[i] = [ahead, *(a - b for a, b in zip(row, predict[i], strict=True))]
        return _Table(kept.tolist(), spread.tolist(), predict, correct)

    def _weights(self, q: Tensor, q_inside: Tensor, measure: Tensor, end: Tensor, ahead: int) -> list[list[float]]:
        """The weights of each step over its nodes: `ahead` in front, then as many as there are, newest first."""
        steps = torch.arange(len(q_inside))
        rows: list[list[float]] = []
        for count in range(1, self.order + 1):
            # The first step has one target behind it, the second two, until there are enough.
            here = steps[count - 1 :] if count == self.order else steps[count - 1 : count]
            nodes = q[here[:, None] + torch.arange(ahead, -count, -1)]
            weights = (lagrange(q_inside[here], nodes) * measure[here, None, :]).sum(2)
            if self.bh and count + ahead == 2:
                total = weights.sum(1)
                slope = self.bh(total, end[here]) / 2 * q.diff()[here] / (nodes[:, 0] - nodes[:, 1])
                weights = torch.stack([slope, total - slope] if ahead else [total + slope, -slope], 1)
            rows += weights.tolist()
        return rows

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        table, levels = self.table(reverse.sde, times), times.unbind()
        terms = reverse.summands(times, *self.target.pair(reverse.sde.lam(times)))
        ending, last = self._ending_at(reverse.sde, times), len(times) - 2
        looks_back = self.order - (not self.corrector)  # at so many earlier targets
        again = self.corrector or looks_back > 1  # after the next call, which may write over the output of this one

        def target(i: int, x: Tensor) -> list[Summand]:
            found = terms(i, x)
            return [in_one(found)] if again or i in ending else found

        def rest(i: int, older: list[list[Summand]]) -> Tensor | None:
            """What step i adds to its start and newest target."""
            drawn = noise(x, levels[i], levels[i + 1], table.spread[i]) if table.spread[i] > 0 else None
            history = weighted(table.predict[i][1:], older)
            return total(history, drawn) if history else drawn

        newest, known, ends = target(0, x), rest(0, []), {}
        older: list[list[Summand]] = []
        for i in range(last + 1):
            if i in ending:
                ends[i] = [(x, 1.0)], newest
            x = total([(x, table.kept[i]), *weighted(table.predict[i], [newest])], known)
            older = [newest, *older][:looks_back]
            known = rest(i + 1, older) if i < last else None
            correct = self.corrector and i < last
            if not correct:
                yield x
            if i == last and self.end == 1:
                return  # sample() denoises
            newest = target(i + 1, x)
            if correct:
                x = total([(x, 1.0), *weighted(table.correct[i], [newest, *older])])
                yield x
        ends[last + 1] = [(x, 1.0)], newest
        parts = [ends[i][part] for part in (0, 1) for i in ending]
        yield total(weighted(self._ending(reverse.sde, times[ending]), parts))

    def _ending_at(self, sde: LinearSDE, times: Tensor) -> list[int]:
        """Which times the end extrapolates from, newest first; a factor 2 in rho^2 apart: errors stay small."""
        square = (sde.rho(times) ** 2).tolist()
        found = [len(times) - 1]
        for i in reversed(range(len(times) - 1)):
            if len(found) < self.end and square[i] >= 2 * square[found[-1]]:
                found.append(i)
        return found

    def _ending(self, sde: LinearSDE, times: Tensor) -> list[float]:
        """The weights of the states at given times, and then of the targets, in the data at rho = 0."""
        rho, lam, zero = sde.rho(times) ** 2, sde.lam(times), torch.zeros(1, 1, dtype=times.dtype)
        share = lagrange(zero, rho[None])[0, :, 0]
        p, q = (torch.as_tensor(c, dtype=times.dtype) for c in self.target.pair(lam))
        alpha, sigma = sde.alpha(times), sde.sigma(times)
        determinant = alpha * q - sigma * p  # x0 = (q x - sigma m) / determinant
        return [*(share * q / determinant).tolist(), *(-share * sigma / determinant).tolist()]

    def step(self, reverse: ReverseProcess, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        """One step without history, of order 1."""
        return self._alone.step(reverse, x, t, s, noise)

    def prepare(self, reverse: ReverseProcess, t: Tensor, s: Tensor) -> Step:
        return self._alone.prepare(reverse, t, s)

    @property
    def _alone(self) -> OneStep:
        return RungeKutta(ONE, self.target, tau=self.tau)
