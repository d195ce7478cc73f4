#!/usr/bin/env python
"""Posterior samplers against exact posteriors: MCGDiff's mixture (Cardoso et al. 2024, appendix B.1), by sliced W1.

    python scripts/bench/posterior.py --out runs/bench_posterior
    python scripts/bench/posterior.py --dims [8] --measured [1] --problems 3 --projections 1000 --peers false

A row of the table is a method, a column a dimension and a number of measurements, a cell the mean over the problems of
the distance between its samples and exact ones; the first row is that of two exact sets. Every method sees the prior's
denoiser, the operator and y, makes `steps` net calls a sample, and starts from N(0, sigma^2) of a process of exploding
variance up to rho = 20,000, beside which the means, up to 16 sqrt(d) long, are small. "mmps" twists add a product with
the Jacobian for each measurement. Sequential Monte Carlo makes four runs of 256 particles for 1,000 samples. If azula
is installed (pip install "sdescore[bench]"), its methods run on the same problems, process and times. Results are kept
in results.jsonl, from which a run that was stopped goes on. Leaves table.md besides.

azula's PiGDM adds the whole J^T A^+ (y - A x0) at every step, however short, and knows no measurement noise: its law
moves with the number of steps (W2 of 6.9, 2.5 and 1.2 by 50, 200 and 800 on the first problem of 8/4), and of one
Gaussian, for which ours is exact, it ends at A x = y. It is ahead where 200 steps happen to pull as hard as is right.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sdescore import KarrasSDE, Solver, posterior, sample, smc
from sdescore.cli.command_line import run_with_settings
from sdescore.cli.outputs import make_folder, write_whole
from sdescore.cli.tables import markdown, mean_and_error
from sdescore.evaluation.metrics import sliced_wasserstein
from sdescore.sampling import uniform_lambda
from sdescore.solvers import DAPS, DDRM, DPS, DiffPIR

sys.path.append(str(Path(__file__).parents[1]))  # for what scripts share
from shared.clock import clock
from shared.kept import add, kept_rows
from shared.posteriors import AZULA, LinearProblem, mcgdiff_problem

SDE = KarrasSDE(1e-3, 2e4)
GRID = uniform_lambda()

Draw = Callable[[LinearProblem, "PosteriorConfig", int], Tensor]


@dataclass(frozen=True)
class PosteriorConfig:
    """Settings of the comparison.

    Args:
        out: Folder of the results.
        dims: Sizes of x.
        measured: Sizes of y.
        problems: Problems in each cell, from 0.
        count: Samples of each method.
        particles: In each run of sequential Monte Carlo.
        steps: Net calls a sample.
        noise_std: Of the measurements; 0 for the paper's own, which differs between problems.
        projections: Directions of the distance.
        methods: Which to run, by their names in this file; all by default.
        peers: Run azula's methods if it is installed.
    """

    out: str = "runs/bench_posterior"
    dims: tuple[int, ...] = (8, 80, 800)
    measured: tuple[int, ...] = (1, 2, 4)
    problems: int = 20
    count: int = 1000
    particles: int = 256
    steps: int = 200
    noise_std: float = 0.1
    projections: int = 10_000
    methods: tuple[str, ...] = ()
    peers: bool = True

    def __post_init__(self) -> None:
        if not set(self.methods) <= set(OURS):
            raise ValueError(f"methods={self.methods}; expected {', '.join(OURS)}")


def monte_carlo(**options: Any) -> Draw:
    def draw(problem: LinearProblem, config: PosteriorConfig, seed: int) -> Tensor:
        given: dict[str, Any] = dict(noise_std=problem.noise_std, n=config.count, particles=config.particles)
        given |= dict(steps=config.steps, seed=seed, dtype=torch.float64) | options
        return smc(SDE, problem.denoiser(SDE), problem.operator, problem.y, **given).samples

    return draw


def denoised(method: str) -> Draw:
    def draw(problem: LinearProblem, config: PosteriorConfig, seed: int) -> Tensor:
        net = posterior(problem.denoiser(SDE), problem.operator, problem.noise_std, method)
        return _sample(problem, config, seed, net, "ddpm")

    return draw


def solved(make: Callable[[LinearProblem], Solver]) -> Draw:
    def draw(problem: LinearProblem, config: PosteriorConfig, seed: int) -> Tensor:
        return _sample(problem, config, seed, problem.denoiser(SDE), make(problem))

    return draw


def _sample(problem: LinearProblem, config: PosteriorConfig, seed: int, net: Any, solver: str | Solver) -> Tensor:
    shape = (config.count, problem.means.shape[1])
    given: dict[str, Any] = dict(condition={"measurement": problem.y.expand(config.count, -1)}, dtype=torch.float64)
    return sample(SDE, net, shape, solver=solver, nfe=config.steps, times=GRID, seed=seed, **given)


OURS: dict[str, Draw] = {
    "TDS": monte_carlo(),
    "TDS, PiGDM": monte_carlo(twist="pigdm"),
    "MCGDiff": monte_carlo(method="mcgdiff"),
    "MMPS": denoised("mmps"),
    "TMPD": denoised("tmpd"),
    "PiGDM": denoised("pigdm"),
    "DDNM": denoised("ddnm"),
    "DDRM": solved(lambda problem: DDRM(problem.operator, problem.noise_std)),
    "DiffPIR": solved(lambda problem: DiffPIR(problem.operator, problem.noise_std)),
    "DPS": solved(lambda problem: DPS(problem.operator)),
    "DAPS": solved(lambda problem: DAPS(problem.operator, problem.noise_std)),
}


def peer(name: str) -> Draw:
    def draw(problem: LinearProblem, config: PosteriorConfig, seed: int) -> Tensor:
        times = GRID(SDE, config.steps)
        torch.manual_seed(seed)
        size = -(-config.count // config.particles) * config.particles
        x = SDE.prior_sample((size, problem.means.shape[1]), dtype=torch.float64)
        return AZULA[name](problem, SDE, times, x)[: config.count]

    return draw


def methods(config: PosteriorConfig) -> dict[str, Draw]:
    chosen = {name: OURS[name] for name in config.methods or OURS}
    peers = AZULA if config.peers and find_spec("azula") else {}
    return {
        "two exact sets": lambda problem, config, seed: problem.exact(config.count, seed + 1),
        **{f"sdescore {name}": draw for name, draw in chosen.items()},
        **{f"azula {name}": peer(name) for name in peers},
    }


def measure(config: PosteriorConfig, kept: Path) -> list[dict[str, Any]]:
    """A row for each method and problem, those that are in the file `kept` as they are."""
    key = ("method", "size", "measured", "problem", "steps", "particles", "count", "noise_std", "projections")
    rows = kept_rows(kept)
    known = {tuple(row[name] for name in key) for row in rows}
    settings = (config.steps, config.particles, config.count, config.noise_std, config.projections)
    todo = [
        (name, draw, size, measured, number)
        for number, size, measured in product(range(config.problems), config.dims, config.measured)
        for name, draw in methods(config).items()
        if (name, size, measured, number, *settings) not in known
    ]
    for name, draw, size, measured, number in tqdm(todo):
        problem = mcgdiff_problem(size, measured, number, config.noise_std or None)
        begun = clock(torch.device("cpu"))
        try:
            found = draw(problem, config, number)
        except FloatingPointError:  # it diverged
            found = torch.full((config.count, size), float("nan"))
        seconds = clock(torch.device("cpu")) - begun
        finite = bool(found.isfinite().all())
        exact = problem.exact(config.count, 10_000 + number)
        value = sliced_wasserstein(exact, found, config.projections, number, order=1)[0] if finite else None
        row = dict(zip(key, (name, size, measured, number, *settings), strict=True))
        rows.append(add(kept, row | {"W1": value, "seconds": seconds}))
    wanted = set(methods(config))
    return [
        row
        for row in rows
        if row["method"] in wanted
        and tuple(row[name] for name in key[4:]) == settings
        and row["problem"] < config.problems
    ]


def table(config: PosteriorConfig, rows: list[dict[str, Any]]) -> str:
    """Mean distances and their standard errors over problems, and how the best method stands to the floor."""
    cells = list(product(config.dims, config.measured))

    def values(name: str, cell: tuple[int, int]) -> list[float | None]:
        return [row["W1"] for row in rows if row["method"] == name and (row["size"], row["measured"]) == cell]

    def mean(name: str, cell: tuple[int, int]) -> float:
        found = [value for value in values(name, cell) if value is not None]
        return sum(found) / len(found) if found and len(found) == len(values(name, cell)) else float("inf")

    names = list(methods(config))
    text = []
    for name in names:
        line = {"method": name}
        for cell in cells:
            found = values(name, cell)
            lost = sum(value is None for value in found)
            average, error = mean_and_error(
                torch.tensor([value for value in found if value is not None] or [float("nan")])
            )
            line[f"{cell[0]}/{cell[1]}"] = f"{average:.2f} ± {error:.2f}" + (f" ({lost} lost)" if lost else "")
        seconds = [row["seconds"] for row in rows if row["method"] == name]
        text.append(line | {"CPU s": f"{sum(seconds) / max(len(seconds), 1):.1f}"})
    floor = {cell: mean(names[0], cell) for cell in cells}
    ranked = sorted(names[1:], key=lambda name: max(mean(name, cell) / floor[cell] for cell in cells))
    ratios = ", ".join(f"{d}/{m}: {mean(ranked[0], (d, m)) / floor[d, m]:.2f}" for d, m in cells) if ranked else ""
    noise = f"noise {config.noise_std:g}" if config.noise_std else "the paper's own noise"
    return (
        f"Sliced W1 to exact samples, mean over {config.problems} problems and its standard error, by size of x / y; "
        f"{noise}, {config.count} samples, {config.steps} net calls, {config.particles} particles a run, "
        f"{config.projections} directions, {SDE}.\n\n{markdown(text)}\n\n"
        f"Over the floor, the best method, {ranked[0] if ranked else '–'}: {ratios}\n"
    )


def bench(config: PosteriorConfig) -> None:
    out = make_folder(Path(config.out))
    rows = measure(config, out / "results.jsonl")
    write_whole(out / "table.md", table(config, rows))
    print(table(config, rows))


if __name__ == "__main__":
    run_with_settings(PosteriorConfig, bench, "bench/posterior.py", __doc__)
