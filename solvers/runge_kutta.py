"""Exponential Runge-Kutta methods: one step in any target, spacing of the nodes and amount of noise; and presets.

To add one: its stages, a line here, its name in __init__.py, and a line in pyproject.toml.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from sdescore.common.linear_combinations import Coefficient, Summand, in_one, total, weighted
from sdescore.processes import LinearSDE
from sdescore.sampling import Noise, OneStep, ReverseProcess
from sdescore.sampling.reverse import SummandsAlong
from sdescore.sampling.solver import Step

from .exponential import Interval, Tau, interval, lagrange, tau_squared
from .targets import DATA, IN_LAM, NOISE, Spacing, Target

__all__ = [
    "DPMPP_2S",
    "DPMPP_3S",
    "DPM_2",
    "DPM_3",
    "EULER",
    "HEUN",
    "MIDDLE",
    "MIDPOINT",
    "ONE",
    "RALSTON",
    "RK4",
    "SDE_DPMPP_2S",
    "SDE_DPMPP_3S",
    "SEEDS_2",
    "SEEDS_3",
    "SIMPSON",
    "SRA",
    "THIRDS",
    "TRAPEZOID",
    "RungeKutta",
    "Tableau",
]


@dataclass(frozen=True)
class Tableau:
    """A tableau whose weights are exact integrals of polynomials.

    c are the nodes' shares of the step, the first 0. Each row, of the later nodes and then of the end, interpolates the
    nodes whose entry is not 0; an entry multiplies that node's weight, and those of one node met twice add up to 1.
    Where the measure is uniform the weights are Butcher's: (1, 0.5, 0.5, 1) over (0, 1/2, 1/2, 1) is Simpson's rule.
    Orders up to 3 hold in every spacing, that of SIMPSON, 4, in the measure alone: elsewhere it is 3.
    """

    c: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        sizes = [len(row) for row in self.rows]
        if (
            self.c[:1] != (0.0,)
            or max(self.c) > 1
            or sizes != list(range(1, len(self.c) + 1))
            or not all(map(any, self.rows))
        ):
            raise ValueError(
                f"c={self.c}, rows={self.rows}; expected c in [0, 1] from 0 on, and row i with i + 1 entries"
            )


ONE = Tableau((0.0,), ((1,),))
TRAPEZOID = Tableau((0.0, 1.0), ((1,), (1, 1)))
MIDDLE = Tableau((0.0, 1 / 2), ((1,), (0, 1)))
RALSTON = Tableau((0.0, 3 / 4), ((1,), (1, 1)))
THIRDS = Tableau((0.0, 1 / 3, 2 / 3), ((1,), (1, 1), (1, 0, 1)))
SIMPSON = Tableau((0.0, 1 / 2, 1 / 2, 1.0), ((1,), (0, 1), (0, 0, 1), (1, 1 / 2, 1 / 2, 1)))


@dataclass(frozen=True)
class RungeKutta(OneStep):
    """len(stages.c) net calls a step, without memory.

    With noise, the nodes share one path: each is drawn from the bridge between the step's start and the node after it,
    the last before the end by the normal that belongs to the path's area, those before by fresh ones. Weak order 2 for
    tableaux of order 2 and more; strong order 1 with the path of brownian.snr_clock for DATA or brownian.rho_clock for
    NOISE and tau = 1, and 1.5 for DATA with one node, at 3/4.

    Args:
        stages: Nodes, and which of them each row interpolates.
        target: What is interpolated.
        spacing: In which variable, which also spaces the nodes; the measure of the target unless told.
        tau: Noise: 0 for the ODE, 1 for the reverse SDE; a number, or a function of lam and the step h in lam.
    """

    stages: Tableau
    target: Target = NOISE
    spacing: Spacing | None = None
    tau: Tau = 0.0

    def __post_init__(self) -> None:
        tau_squared(self.tau, torch.zeros(1), torch.ones(1))

    def nodes(self, sde: LinearSDE, t: Tensor, s: Tensor) -> Tensor:
        """The times (n, nodes) at which steps from t to s, each (n,), call the net, and s itself at last."""
        spacing = self.spacing or self.target
        q, q_end = spacing.mu(sde.lam(t)), spacing.mu(sde.lam(s))
        inner = [sde.time(spacing.lam(q + c * (q_end - q))) for c in self.stages.c]
        exact = {0.0: t, 1.0: s}
        return torch.stack([*(exact.get(c, at) for c, at in zip(self.stages.c, inner, strict=True)), s], -1)

    def rows(self, sde: LinearSDE, nodes: Tensor) -> Tensor:
        """Coefficients (n, rows, 1 + nodes + normals) of steps over nodes(): of x, each node's target, each normal."""
        spacing, count = self.spacing or self.target, len(self.stages.c)
        q, lam = spacing.mu(sde.lam(nodes)), sde.lam(nodes)
        ends = dict(zip((*self.stages.c[1:], 1.0), nodes.unbind(1)[1:], strict=True))
        h = lam[:, -1] - lam[:, 0]
        parts = {c: interval(self.target, sde, nodes[:, 0], end, self.tau, h) for c, end in ends.items()}
        normals = self._shared(sde, ends, parts, h)
        found = nodes.new_zeros(len(nodes), count, 1 + count + len(normals))
        for i, (c, shares) in enumerate(zip((*self.stages.c[1:], 1.0), self.stages.rows, strict=True)):
            part = parts[c]
            found[:, i, 0], found[:, i, 1 + count :] = part.kept, part.spread[:, None] * normals[c]
            used = [j for j, share in enumerate(shares) if share]
            places = sorted({self.stages.c[j]: j for j in reversed(used)}.items())
            basis = lagrange(spacing.mu(part.inside), q[:, [j for _, j in places]])
            weights = (basis * part.measure[:, None]).sum(2)
            own = [[c for c, _ in places].index(self.stages.c[j]) for j in used]
            found[:, i, [1 + j for j in used]] = weights[:, own] * q.new_tensor([shares[j] for j in used])
        return found

    def _shared(
        self, sde: LinearSDE, ends: dict[float, Tensor], parts: dict[float, Interval], h: Tensor
    ) -> dict[float, Tensor]:
        """The path's unit noise from the start to each place, by its share of the step: a sum (n, normals)."""
        places, own = sorted(ends, reverse=True), torch.eye(len(ends), dtype=h.dtype, device=h.device)
        found = {places[0]: own[:1].expand(len(h), -1)}
        for k, (later, c) in enumerate(pairwise(places), start=1):
            rest = interval(self.target, sde, ends[c], ends[later], self.tau, h)
            common = parts[c].spread * rest.kept / parts[later].spread.clamp(min=torch.finfo(h.dtype).tiny)
            common = common.clamp(max=1)[:, None]
            found[c] = common * found[later] + (1 - common**2).sqrt() * own[k]
        return found

    def prepare(self, reverse: ReverseProcess, t: Tensor, s: Tensor) -> Step:
        count, nodes = len(self.stages.c), self.nodes(reverse.sde, t, s)
        flat, coefficients = nodes[:, :-1].flatten(), self.rows(reverse.sde, nodes)
        target = reverse.summands(flat, *self.target.pair(reverse.sde.lam(flat)))
        rows = coefficients.tolist()

        def go(i: int, x: Tensor, noise: Noise) -> Tensor:
            return _through(
                rows[i], x, self._normals(rows[i], x, t[i], s[i], noise), lambda j, at: target(count * i + j, at)
            )

        return go

    def step(self, reverse: ReverseProcess, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        sde, nodes = reverse.sde, self.nodes(reverse.sde, t.reshape(-1), s.reshape(-1))
        coefficients = self.rows(sde, nodes)
        rows = [list(row.T) for row in coefficients.unbind(1)] if t.ndim else coefficients[0].tolist()

        def target(j: int, state: Tensor) -> list[Summand]:
            at = nodes[:, j].reshape(t.shape)
            return [(reverse.linear(state, at, *self.target.pair(sde.lam(at))), 1.0)]

        return _through(rows, x, self._normals(rows, x, t, s, noise), target)

    def _normals(self, rows: list[list[Coefficient]], x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> list[Tensor]:
        factors = (factor for row in rows for factor in row[1 + len(rows) :])
        if self.tau == 0 or all(isinstance(factor, float) and factor == 0 for factor in factors):
            return []
        inside = len({*self.stages.c[1:], 1.0}) - 1
        return [noise(x, t, s), *(noise.randn(x) if k else noise.levy_area(x, t, s) for k in range(inside))]

    def calls(self, steps: int) -> int:
        return len(self.stages.c) * (steps - 1) + 1


def _through(rows: list[list[Coefficient]], x: Tensor, normals: list[Tensor], target: SummandsAlong) -> Tensor:
    """The state at the end of a step that begins at x."""
    state, targets, noises = x, [], [[(z, 1.0)] for z in normals]
    for j, (kept, *rest) in enumerate(rows):
        targets.append(target(j, state))
        state = total([(x, kept), *weighted(rest[len(rows) :], noises), *weighted(rest, targets)])
        if any(isinstance(row[1 + j], Tensor) or row[1 + j] for row in rows[j + 1 :]):
            targets[j] = [in_one(targets[j])]  # the next call may write over the output of this one
    return state


# Euler's method in rho, which is DDIM, without memory.
EULER = RungeKutta(ONE)
# Karras et al. 2022, algorithm 1: EDM's deterministic sampler.
HEUN = RungeKutta(TRAPEZOID)
# The midpoint in rho.
MIDPOINT = RungeKutta(MIDDLE)
# Lu et al. 2022a, algorithm 1, and DPM-2 of Karras et al. 2022 as implemented by Crowson.
DPM_2 = RungeKutta(MIDDLE, NOISE, IN_LAM)
# Lu et al. 2022a, algorithm 2: Heun's method of order 3 with exact weights.
DPM_3 = RungeKutta(THIRDS, NOISE, IN_LAM)
# Lu et al. 2022b, algorithm 1 with r = 1/2.
DPMPP_2S = RungeKutta(MIDDLE, DATA, IN_LAM)
# Lu et al. 2022b, appendix: the same as DPM_3 on the data.
DPMPP_3S = RungeKutta(THIRDS, DATA, IN_LAM)
# Kutta 1901: the classic method, in rho.
RK4 = RungeKutta(SIMPSON)
# Gonzalez et al. 2023, SEEDS-2 and SEEDS-3: the same steps as DPM_2's and DPM_3's on the reverse SDE.
SEEDS_2 = RungeKutta(MIDDLE, NOISE, IN_LAM, tau=1.0)
SEEDS_3 = RungeKutta(THIRDS, NOISE, IN_LAM, tau=1.0)
# Their data-prediction mode, and Crowson's DPM-Solver++ (stochastic).
SDE_DPMPP_2S = RungeKutta(MIDDLE, DATA, IN_LAM, tau=1.0)
SDE_DPMPP_3S = RungeKutta(THIRDS, DATA, IN_LAM, tau=1.0)
# Roessler 2010, SRA1, with exact weights.
SRA = RungeKutta(RALSTON, DATA, IN_LAM, tau=1.0)
