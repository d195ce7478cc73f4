#!/usr/bin/env python
"""Measure what a likelihood costs: its error against a known density, by seconds and by net calls.

    python scripts/bench/likelihood.py --problem mixture
    python scripts/bench/likelihood.py --problem net --out runs/bench/likelihood.json

Beside ours stand, restated here for the same net, probes and data: score_sde's algorithm (SciPy's RK45 in t, one error
norm for the batch, two net calls an evaluation, through NumPy), torchdiffeq's dopri5 on the whole batch, in t and in
our coordinates, and fixed grids. A mixture knows its density; for a convolutional net the reference is our own result
at a tolerance of 1e-9 with the net in float64, to which the others converge too. Times are the processor's; those to
equal errors are interpolated on the logarithms.
"""

import copy
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor
from torchdiffeq import odeint

from sdescore import VPSDE, Denoiser, GaussianMixture, LinearSDE, ReverseProcess, denoising_score_matching, likelihood
from sdescore.cli.command_line import run_with_settings
from sdescore.cli.outputs import write_json
from sdescore.cli.tables import markdown
from sdescore.common.evaluation_mode import evaluating, frozen
from sdescore.density.flow import ProbabilityFlowODE
from sdescore.density.likelihood import Density, Prior
from sdescore.density.traces import DERIVATIVES, TRACES, quadratic
from sdescore.nets import UNet


@dataclass(frozen=True)
class BenchConfig:
    """Settings of the benchmark.

    Args:
        problem: mixture (64 dimensions, exact trace, known density) or net (3 x 16 x 16, one probe, 0.5 M parameters).
        count: Samples, in one batch.
        training: Steps of the net's training, on a mixture.
        repeats: Runs of which the fastest counts.
        threads: Of the processor.
        out: JSON file for all measurements.
    """

    problem: str = "mixture"
    count: int = 16
    training: int = 200
    repeats: int = 2
    threads: int = 1
    out: str | None = None

    def __post_init__(self) -> None:
        if self.problem not in PROBLEMS:
            raise ValueError(f"problem={self.problem!r}; expected {', '.join(PROBLEMS)}")


@dataclass
class Problem:
    """What all methods share; `nfe` counts evaluations of the net, whatever the batch."""

    sde: LinearSDE
    denoiser: Denoiser
    x: Tensor
    trace: str
    prior: Density
    truth: Tensor
    nfe: int = 0

    def __post_init__(self) -> None:
        self.vectors = TRACES[self.trace].vectors(0, 0, self.x, 1)
        self.rows = torch.arange(len(self.x))
        self.reverse = ReverseProcess(self.sde, self.denoiser)
        self.ends = torch.tensor([self.sde.t_min, self.sde.T], dtype=torch.float64)
        self.flow = ProbabilityFlowODE(self.reverse, self.ends)

    def drift(self, t: Tensor) -> Callable[[Tensor], Tensor]:
        """dx/dt = f x - g^2 / 2 score, at t ()."""

        def drift(x: Tensor) -> Tensor:
            self.nfe += 1
            return self.sde.f(t) * x - self.sde.g(t) ** 2 / 2 * self.reverse.score(x, t)

        return drift

    def slope(self, q: Tensor) -> Callable[[Tensor], Tensor]:
        """Our coordinates, z in q ()."""
        slope = self.flow.slope(q.expand(len(self.x)), self.rows)

        def counted(z: Tensor) -> Tensor:
            self.nfe += 1
            return slope(z)

        return counted

    def change(self, function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """The derivative of the state, and the divergence (batch,), from one net call."""
        value, divergence = quadratic(DERIVATIVES["reverse"](function, x), self.vectors)
        return value, divergence[:, 0]

    def finish(self, x: Tensor, change: Tensor) -> Tensor:
        return self.prior.log_prob(x) + change

    def finish_scaled(self, z: Tensor, change: Tensor) -> Tensor:
        scales = self.flow.scales
        return self.finish(float(scales[1]) * z, change + z[0].numel() * float((scales[1] / scales[0]).log()))


def ours(problem: Problem, tolerance: float) -> Tensor:
    found = likelihood(
        problem.sde,
        problem.denoiser,
        problem.x,
        trace=problem.trace,
        prior=problem.prior,
        rtol=tolerance,
        atol=tolerance,
    )
    problem.nfe = int(found.nfe.float().mean().round())
    return found.log_prob


def score_sde(problem: Problem, tolerance: float) -> Tensor:
    """Two net calls an evaluation, one for the drift and one for the divergence (Song et al. 2021, appendix D.2)."""
    shape, count = problem.x.shape, problem.x.numel()

    def slope(t: float, y: np.ndarray) -> np.ndarray:
        time_ = torch.tensor(t, dtype=torch.float64)
        x = torch.from_numpy(y[:count]).reshape(shape)
        with torch.no_grad():
            value = problem.drift(time_)(x)
        _, divergence = problem.change(problem.drift(time_), x)
        return np.concatenate([value.reshape(-1).numpy(), divergence.numpy()])

    start = np.concatenate([problem.x.reshape(-1).numpy(), np.zeros(len(problem.x))])
    ends = tuple(problem.ends.tolist())
    end = solve_ivp(slope, ends, start, method="RK45", rtol=tolerance, atol=tolerance).y[:, -1]
    return problem.finish(torch.from_numpy(end[:count]).reshape(shape), torch.from_numpy(end[count:]))


def torchdiffeq_t(problem: Problem, tolerance: float) -> Tensor:
    def slope(t: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return problem.change(problem.drift(t.clamp(problem.sde.t_min, problem.sde.T)), y[0])

    return problem.finish(*_odeint(problem, slope, problem.x, problem.ends, tolerance))


def torchdiffeq_q(problem: Problem, tolerance: float) -> Tensor:
    def slope(q: Tensor, y: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return problem.change(problem.slope(q), y[0])

    z = problem.x / problem.flow.scales[0]
    return problem.finish_scaled(*_odeint(problem, slope, z, problem.flow.nodes, tolerance))


def _odeint(problem: Problem, slope: Any, x: Tensor, ends: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    start = (x, x.new_zeros(len(x)))
    options = {"step_t": ends[1:]}  # or it would step past the end
    with torch.no_grad():
        found = odeint(slope, start, ends, rtol=tolerance, atol=tolerance, method="dopri5", options=options)
    return found[0][-1], found[1][-1]


def fixed(order: int) -> Callable[[Problem, float], Tensor]:
    """Euler, Heun or the classic method on a grid uniform in our q; the setting is the number of steps."""
    weights, nodes = {
        1: ((1.0,), (0.0,)),
        2: ((1 / 2, 1 / 2), (0.0, 1.0)),
        4: ((1 / 6, 1 / 3, 1 / 3, 1 / 6), (0.0, 1 / 2, 1 / 2, 1.0)),
    }[order]

    def method(problem: Problem, steps: float) -> Tensor:
        z = problem.x / problem.flow.scales[0]
        change = torch.zeros(len(z), dtype=z.dtype)
        first, last = problem.flow.nodes.tolist()
        grid = torch.linspace(first, last, int(steps) + 1, dtype=torch.float64)
        for q, width in zip(grid[:-1], grid.diff(), strict=True):
            value, total, growth = torch.zeros_like(z), torch.zeros_like(z), torch.zeros_like(change)
            for weight, node in zip(weights, nodes, strict=True):
                value, divergence = problem.change(problem.slope(q + node * width), z + node * width * value)
                total, growth = total + weight * value, growth + weight * divergence
            z, change = z + width * total, change + width * growth
        return problem.finish_scaled(z, change)

    return method


TOLERANCES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5, 3e-6)
STEPS = (8, 16, 32, 64)
METHODS: dict[str, tuple[Callable[[Problem, float], Tensor], tuple[float, ...]]] = {
    "ours": (ours, TOLERANCES[:-1]),
    "score_sde": (score_sde, TOLERANCES[2:-1]),
    "torchdiffeq, t": (torchdiffeq_t, TOLERANCES[2:]),
    "torchdiffeq, q": (torchdiffeq_q, TOLERANCES[2:]),
    "Euler": (fixed(1), STEPS),
    "Heun": (fixed(2), STEPS),
    "RK4": (fixed(4), STEPS),
}


def _data(shape: tuple[int, ...]) -> GaussianMixture:
    own = torch.Generator().manual_seed(0)
    means = 0.4 * torch.randn(4, *shape, generator=own, dtype=torch.float64)
    return GaussianMixture(means, 0.2 + 0.3 * torch.rand(4, *shape, generator=own, dtype=torch.float64))


def mixture_problem(config: BenchConfig) -> Problem:
    sde, oracle = VPSDE(), _data((64,))
    data = oracle.at(sde, sde.t_min)
    x = data.sample(config.count)
    return Problem(sde, oracle.denoiser(sde), x, "exact", oracle.at(sde, sde.T), data.log_prob(x))


def net_problem(config: BenchConfig) -> Problem:
    """A net after a short training: what it learnt does not matter, that it is no smooth formula does."""
    torch.manual_seed(0)
    sde, shape = VPSDE(), (3, 16, 16)
    coarse = _data((3, 4, 4))
    denoiser = Denoiser(UNet(3, 16, base_width=32, multipliers=(1, 2), blocks=1, attention=()), sde)
    optimizer = torch.optim.Adam(denoiser.parameters(), 1e-3)

    def data(seed: int, count: int) -> Tensor:
        large = torch.nn.functional.interpolate(coarse.sample(count, seed), scale_factor=4, mode="bilinear")
        noise = torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return large + 0.05 * noise

    for step in range(config.training):
        optimizer.zero_grad()
        denoising_score_matching(denoiser, data(step, 32).float(), time_distribution="importance").mean().backward()
        optimizer.step()
    x, prior = data(10**6, config.count), Prior(sde)
    exact = copy.deepcopy(denoiser).double()
    truth = likelihood(sde, exact, x, rtol=1e-9, atol=1e-9, progress=True).log_prob
    print(f"{sum(p.numel() for p in denoiser.parameters())} parameters")
    return Problem(sde, denoiser, x, "hutchinson", prior, truth)


PROBLEMS = {"mixture": mixture_problem, "net": net_problem}


def measure(problem: Problem, name: str, setting: float, repeats: int) -> dict[str, Any]:
    seconds = math.inf
    for _ in range(repeats):
        problem.nfe = 0
        start = time.process_time()
        found = METHODS[name][0](problem, setting)
        seconds = min(seconds, time.process_time() - start)
    error = float((found - problem.truth).abs().mean()) / problem.x[0].numel()
    return {"method": name, "setting": setting, "error": error, "nfe": problem.nfe, "seconds": seconds}


def to_reach(rows: list[dict[str, Any]], error: float, what: str) -> float:
    """Seconds or net calls to an error, between the measurements that enclose it; NaN outside of them."""
    points = sorted((math.log(max(row["error"], 1e-300)), math.log(row[what])) for row in rows)
    errors, costs = zip(*points, strict=True)
    return float(np.exp(np.interp(math.log(error), errors, costs, left=math.nan, right=math.nan)))


def compute(config: BenchConfig) -> None:
    torch.set_num_threads(config.threads)
    problem, rows = PROBLEMS[config.problem](config), []
    with evaluating(problem.denoiser), frozen(problem.denoiser):
        for name, (_, settings) in METHODS.items():
            for setting in settings:
                rows.append(measure(problem, name, setting, config.repeats))
                row = rows[-1]
                print("{method:17} {setting:8g} {error:9.2e} nats/dim {nfe:6d} calls {seconds:8.2f} s".format(**row))
    table, ratios = [], []
    for error in (1e-3, 3e-4, 1e-4, 3e-5, 1e-5):
        costs = {
            name: [to_reach([row for row in rows if row["method"] == name], error, what) for what in ("seconds", "nfe")]
            for name in METHODS
        }
        ratios.append({"error": error, **{name: cost[0] / costs["ours"][0] for name, cost in costs.items()}})
        table.append({"nats/dim": f"{error:g}", **{name: f"{a:.2f} s, {b:.0f}" for name, (a, b) in costs.items()}})
    print(f"processor seconds and net calls to an error\n{markdown(table)}")
    print(f"seconds over ours\n{markdown([{k: f'{v:.3g}' for k, v in ratio.items()} for ratio in ratios])}")
    if config.out is not None:
        finite = [{k: None if v != v else v for k, v in ratio.items()} for ratio in ratios]
        write_json(Path(config.out), {"config": asdict(config), "measurements": rows, "seconds over ours": finite})


if __name__ == "__main__":
    run_with_settings(BenchConfig, compute, "bench/likelihood.py", __doc__)
