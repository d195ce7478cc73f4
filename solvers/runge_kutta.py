"""Exponential Runge-Kutta methods: one step in any target, spacing of the nodes and amount of noise; and presets.

To add one: its tableau, a preset below, its name in __init__.py, and a line in pyproject.toml.
"""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sdescore.common.linear_combinations import Coefficient, combine, materialise, weight
from sdescore.processes import LinearSDE
from sdescore.sampling import About, Noise, PlannedOneStep, ReverseProcess, Step

from .exponential import Interval, interval, lagrange
from .tableaux import HEUN as HEUN2
from .tableaux import HEUN3, KUTTA4, RALSTON, Tableau
from .tableaux import MIDPOINT as MIDDLE
from .targets import DATA, IN_LAM, NOISE, Spacing, Target
from .tau import Tau, tau_squared

__all__ = [
    "DPMPP_2S",
    "DPMPP_3S",
    "DPM_2",
    "DPM_3",
    "HEUN",
    "MIDPOINT",
    "RK4",
    "SDE_DPMPP_2S",
    "SDE_DPMPP_3S",
    "SEEDS_2",
    "SEEDS_3",
    "SRA",
    "RungeKutta",
]


@dataclass(frozen=True)
class RungeKutta(PlannedOneStep):
    """One net call for each node of the tableau, without memory.

    With noise, the nodes share one path: each is drawn from the bridge between the step's start and the node after it,
    the last before the end by the normal that belongs to the path's area, those before by fresh ones. Weak order 2 for
    tableaux of order 2 and more; strong order 1 with the path of brownian.snr_clock for DATA or brownian.rho_clock for
    NOISE and tau = 1, and 1.5 for DATA with one node, at 3/4.

    Args:
        tableau: Nodes, and which of them each row interpolates.
        target: What is interpolated.
        spacing: In which variable, which also spaces the nodes; by default the measure of the target.
        tau: Noise: 0 for the ODE, 1 for the reverse SDE; a number, or a function of lam and the step h in lam.
        about: What it says of itself in the table of solvers.
    """

    tableau: Tableau
    target: Target = NOISE
    spacing: Spacing | None = None
    tau: Tau = 0.0
    about: About | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        tau_squared(self.tau, torch.zeros(1), torch.ones(1))

    def nodes(self, sde: LinearSDE, t: Tensor, s: Tensor) -> Tensor:
        """The times (n, nodes) at which steps from t to s, each (n,), call the net, and s itself at last."""
        spacing = self.spacing or self.target
        q, q_end = spacing.mu(sde.lam(t)), spacing.mu(sde.lam(s))
        inner = [sde.time(spacing.lam(q + c * (q_end - q))) for c in self.tableau.c]
        exact = {0.0: t, 1.0: s}
        return torch.stack([*(exact.get(c, at) for c, at in zip(self.tableau.c, inner, strict=True)), s], -1)

    def rows(self, sde: LinearSDE, nodes: Tensor) -> Tensor:
        """Coefficients (n, rows, 1 + nodes + normals) of steps over nodes(): of x, each node's target, each normal."""
        spacing, count = self.spacing or self.target, len(self.tableau.c)
        q, lam = spacing.mu(sde.lam(nodes)), sde.lam(nodes)
        ends = dict(zip((*self.tableau.c[1:], 1.0), nodes.unbind(1)[1:], strict=True))
        h = lam[:, -1] - lam[:, 0]
        parts = {c: interval(self.target, sde, nodes[:, 0], end, self.tau, h) for c, end in ends.items()}
        normals = self._shared(sde, ends, parts, h)
        found = nodes.new_zeros(len(nodes), count, 1 + count + len(normals))
        for i, (c, shares) in enumerate(zip((*self.tableau.c[1:], 1.0), self.tableau.rows, strict=True)):
            part = parts[c]
            found[:, i, 0], found[:, i, 1 + count :] = part.kept, part.spread[:, None] * normals[c]
            used = [j for j, share in enumerate(shares) if share]
            places = sorted({self.tableau.c[j]: j for j in reversed(used)}.items())
            basis = lagrange(spacing.mu(part.inside), q[:, [j for _, j in places]])
            weights = (basis * part.measure[:, None]).sum(2)
            own = [[c for c, _ in places].index(self.tableau.c[j]) for j in used]
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

    def plan(self, reverse: ReverseProcess, t: Tensor, s: Tensor) -> Step:
        count = len(self.tableau.c)
        nodes = self.nodes(reverse.sde, t.flatten(), s.flatten())
        tables = _tables(self.rows(reverse.sde, nodes), t)
        along = nodes[:, :-1].reshape(*t.shape, count).movedim(-1, 1).flatten(0, 1)  # (n count,) or (n count, batch)
        target = reverse.summands(along, *self.target.pair(reverse.sde.lam(along)))

        def go(i: int, x: Tensor, noise: Noise) -> Tensor:
            rows = tables[i]
            normals = [[(z, 1.0)] for z in self._normals(rows, x, t[i], s[i], noise)]
            state, targets = x, []
            for j, (kept, *rest) in enumerate(rows):
                targets.append(target(count * i + j, state))
                state = combine([(x, kept), *weight(rest[count:], normals), *weight(rest, targets)])
                if any(isinstance(row[1 + j], Tensor) or row[1 + j] for row in rows[j + 1 :]):
                    targets[j] = [materialise(targets[j])]  # the next call may write over the output of this one
            return state

        return go

    def _normals(self, rows: list[list[Coefficient]], x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> list[Tensor]:
        factors = (factor for row in rows for factor in row[1 + len(rows) :])
        if self.tau == 0 or all(isinstance(factor, float) and factor == 0 for factor in factors):
            return []
        inside = len({*self.tableau.c[1:], 1.0}) - 1
        return [noise(x, t, s), *(noise.randn(x) if k else noise.levy_area(x, t, s) for k in range(inside))]

    def nfe(self, intervals: int) -> int:
        return len(self.tableau.c) * intervals


def _tables(coefficients: Tensor, t: Tensor) -> list[list[list[Any]]]:
    """The rows of coefficients of each step: of numbers for t (n,), of tensors (batch,) for t (n, batch)."""
    if t.ndim == 1:
        return list(coefficients.tolist())
    whole = coefficients.reshape(*t.shape, *coefficients.shape[1:]).movedim(1, -1)
    return [[list(row) for row in rows] for rows in whole]


EDM = "https://arxiv.org/abs/2206.00364"
DPM = "https://arxiv.org/abs/2206.00927"
DPMPP = "https://arxiv.org/abs/2211.01095"
SEEDS = "https://arxiv.org/abs/2305.14267"

HEUN = RungeKutta(
    HEUN2,
    about=About(
        "ODE",
        2,
        "Karras et al. 2022, algorithm 1",
        EDM,
        "EDM's deterministic sampler: robust, from 18 steps (35 calls) on",
        ("heundiscrete",),
        least=20,
    ),
)
MIDPOINT = RungeKutta(
    MIDDLE, about=About("ODE", 2, "Karras et al. 2022, appendix D.1 (alpha = 1/2)", EDM, "the midpoint rule in rho")
)
DPM_2 = RungeKutta(
    MIDDLE,
    NOISE,
    IN_LAM,
    about=About(
        "ODE",
        2,
        "Lu et al. 2022a, algorithm 1",
        DPM,
        "DPM-Solver-2, singlestep, on the noise prediction",
        ("dpm-2", "kdpm2discrete", "dpm-solver-2"),
        least=20,
    ),
)
DPM_3 = RungeKutta(
    HEUN3,
    NOISE,
    IN_LAM,
    about=About(
        "ODE",
        3,
        "Lu et al. 2022a, algorithm 2",
        DPM,
        "DPM-Solver-3, singlestep, with exact weights",
        ("dpm-3", "dpm-solver-3"),
        least=16,
    ),
)
DPMPP_2S = RungeKutta(
    MIDDLE,
    DATA,
    IN_LAM,
    about=About(
        "ODE",
        2,
        "Lu et al. 2022b, algorithm 1 with r = 1/2",
        DPMPP,
        "DPM-Solver++ (2S), singlestep, on the data prediction",
        ("dpmpp-2s", "dpmsolversinglestep"),
    ),
)
DPMPP_3S = RungeKutta(
    HEUN3,
    DATA,
    IN_LAM,
    about=About("ODE", 3, "Lu et al. 2022b, appendix", DPMPP, "DPM-Solver++ (3S), singlestep", ("dpmpp-3s",)),
)
RK4 = RungeKutta(
    KUTTA4,
    about=About(
        "ODE",
        4,
        "Kutta 1901 (Hairer, Nørsett & Wanner 1993, II.1), in rho",
        "https://doi.org/10.1007/978-3-540-78862-1",
        "near the exact flow with several hundred calls",
        least=16,
    ),
)
SEEDS_2 = RungeKutta(
    MIDDLE,
    NOISE,
    IN_LAM,
    tau=1.0,
    about=About(
        "SDE", 2, "Gonzalez et al. 2023, SEEDS-2", SEEDS, "DPM-Solver-2's step on the SDE; from 50 calls on", least=40
    ),
)
SEEDS_3 = RungeKutta(
    HEUN3,
    NOISE,
    IN_LAM,
    tau=1.0,
    about=About(
        "SDE", 2, "Gonzalez et al. 2023, SEEDS-3", SEEDS, "DPM-Solver-3's step on the SDE; from 50 calls on", least=40
    ),
)
SDE_DPMPP_2S = RungeKutta(
    MIDDLE,
    DATA,
    IN_LAM,
    tau=1.0,
    about=About(
        "SDE",
        2,
        "Gonzalez et al. 2023, in data-prediction mode",
        SEEDS,
        "DPM-Solver++ (2S)'s step on the SDE; Crowson's DPM-Solver++ (stochastic)",
        ("dpmpp-sde", "dpmsolversde"),
    ),
)
SDE_DPMPP_3S = RungeKutta(
    HEUN3,
    DATA,
    IN_LAM,
    tau=1.0,
    about=About("SDE", 2, "Gonzalez et al. 2023, in data-prediction mode", SEEDS, "DPM-Solver++ (3S) on the SDE"),
)
SRA = RungeKutta(
    RALSTON,
    DATA,
    IN_LAM,
    tau=1.0,
    about=About(
        "SDE",
        2,
        "Rößler 2010, SRA1, with exact weights",
        "https://doi.org/10.1137/09076636X",
        "stochastic Runge-Kutta of strong order 1.5 along a Brownian path",
    ),
)
