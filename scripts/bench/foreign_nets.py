#!/usr/bin/env python
"""How near the default comes to the flow of nets that the library did not train, beside the best of its peers.

    python scripts/bench/foreign_nets.py --out runs/foreign_nets

Each cell is the median distance to the flow's end, the data prediction at t_min, over that of the best of all samplers
of diffusers on all grids; for tables its pipelines' own schedules are among them. Guided nets count evaluations of both
branches as one. The flow itself is followed by heun with 250 steps; where rk4 ends elsewhere the table says how far.
Nets are trained once and kept in the folder, which takes a few minutes each. Leaves table.md and results.json.
"""

import inspect
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sdescore import Denoiser, DiscreteSDE, LinearSDE, Solver, guided, karras, sample
from sdescore.cli.command_line import run_with_settings
from sdescore.cli.outputs import make_folder, write_json, write_whole
from sdescore.cli.tables import markdown
from sdescore.common.files import read_json
from sdescore.sampling import uniform_asinh, uniform_lambda, uniform_t
from sdescore.sampling.fitting import distances
from sdescore.sampling.grids import Grid

sys.path.append(str(Path(__file__).parents[1]))  # for what scripts share
from shared.foreign_nets import CLASSES, FLOWS
from shared.peers import Diffusers

SAMPLERS: dict[str, Diffusers] = {
    "DDIM": Diffusers("DDIM"),
    "DPM++ 2M": Diffusers("DPMSolverMultistep", {"solver_order": 2}),
    "DPM++ 3M": Diffusers("DPMSolverMultistep", {"solver_order": 3}),
    "UniPC 2": Diffusers("UniPCMultistep", {"solver_order": 2}),
    "UniPC 3": Diffusers("UniPCMultistep", {"solver_order": 3}),
    "DEIS 2": Diffusers("DEISMultistep", {"solver_order": 2}),
    "DEIS 3": Diffusers("DEISMultistep", {"solver_order": 3}),
    "iPNDM": Diffusers("IPNDM"),
}
SPACINGS: dict[str, dict[str, Any]] = {
    "linspace": {"timestep_spacing": "linspace"},
    "trailing": {"timestep_spacing": "trailing"},
    "leading": {"timestep_spacing": "leading"},
    "Karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "lu": {"use_lu_lambdas": True},
}


@dataclass(frozen=True)
class BenchConfig:
    """Settings of the benchmark.

    Args:
        out: Folder of the results and the nets.
        count: Noises.
        budgets: Net calls, of guided nets evaluations of both branches.
        only: Parts of names of flows to take; all by default.
        seed: Of the noises.
        threads: Of a CPU.
    """

    out: str = "runs/foreign_nets"
    count: int = 48
    budgets: tuple[int, ...] = (5, 6, 8, 10, 15, 20)
    only: list[str] = field(default_factory=list)
    seed: int = 1
    threads: int = 1


@dataclass(frozen=True)
class Problem:
    """States at the start of a flow, and where it takes them."""

    denoiser: Denoiser
    x: Tensor
    end: float  # the last rho
    branches: int
    condition: dict[str, Tensor]

    @property
    def sde(self) -> LinearSDE:
        return self.denoiser.sde

    def run(self, solver: str | Solver, times: Tensor | Grid | None = None, nfe: int | None = None) -> Tensor:
        calls = None if nfe is None else nfe * self.branches
        return sample(
            self.sde, self.denoiser, x=self.x, solver=solver, times=times, nfe=calls, condition=self.condition
        )

    def exact(self, start: float, solver: str = "heun", steps: int = 250) -> Tensor:
        """Where the flow takes x from time `start`."""
        grid = uniform_asinh(40.0, rho_min=self.end)(self.sde, steps)
        first = torch.tensor([start], dtype=torch.float64)
        return self.run(solver, torch.cat([first, grid[grid < start - 1e-9 * self.sde.T]]))

    def grids(self) -> dict[str, Grid]:
        """What peers' schedules are on any process, down to the flow's end."""
        return {
            "Karras": karras(rho_min=self.end),
            "exponential": uniform_lambda(rho_min=self.end),
            "uniform in t": uniform_t(rho_min=self.end),
            "trailing": lambda sde, steps: sde.start * (1 - torch.arange(steps, dtype=torch.float64) / steps),
        }


def make_problem(name: str, config: BenchConfig) -> Problem:
    flow = FLOWS[name]
    denoiser = flow.make(Path(config.out) / "nets")
    known: Any = denoiser
    shape = denoiser.shape or (known.mixture.means.shape[1],)  # a mixture's denoiser states none
    start = torch.tensor(denoiser.sde.start, dtype=torch.float64)
    own = torch.Generator().manual_seed(config.seed)
    x = denoiser.sde.sigma(start).float() * torch.randn(config.count, *shape, generator=own)
    end = max(float(denoiser.sde.rho(torch.tensor(denoiser.sde.t_min, dtype=torch.float64))), 0.002) * (1 + 1e-9)
    if flow.scale is None:
        return Problem(denoiser, x, end, 1, {})
    branches = 1 if flow.scale == 1 else 2
    labels = torch.arange(config.count) % CLASSES
    return Problem(guided(denoiser, flow.scale), x, end, branches, {"label": labels})


def pipelines(problem: Problem, nfe: int) -> Iterator[tuple[str, float, Tensor]]:
    """diffusers as its pipelines call it, on a table: name, the time at which it begins, and samples."""
    import diffusers

    sde = problem.sde
    if not isinstance(sde, DiscreteSDE):
        return
    kind = {"noise": "epsilon", "v": "v_prediction"}[problem.denoiser.predicts]
    lam = torch.tensor(sde.lambdas, dtype=torch.float64)
    alphas = torch.sigmoid(2 * lam)
    betas = 1 - alphas / torch.cat([alphas.new_ones(1), alphas[:-1]])
    for name, known in {
        "DDIM": ("DDIM", {"clip_sample": False}),
        "DPM++ 2M": ("DPMSolverMultistep", {}),
        "UniPC 2": ("UniPCMultistep", {}),
        "DEIS 2": ("DEISMultistep", {}),
        "Euler": ("EulerDiscrete", {}),
    }.items():
        cls = getattr(diffusers, f"{known[0]}Scheduler")
        for spacing, options in SPACINGS.items():
            if not set(options) <= set(inspect.signature(cls).parameters):
                continue
            scheduler = cls(len(betas), trained_betas=betas.tolist(), prediction_type=kind, **known[1], **options)
            scheduler.set_timesteps(nfe)
            begin = min(float(scheduler.timesteps[0]), sde.T)
            try:
                yield f"{name}, {spacing} (pipeline)", begin, _pipeline(problem, scheduler)
            except (AssertionError, IndexError):  # a schedule that visits an entry twice
                continue


def _pipeline(problem: Problem, scheduler: Any) -> Tensor:
    x = problem.x * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        given = scheduler.scale_model_input(x, t)
        time = torch.as_tensor(float(t), dtype=torch.float64).clamp(0, problem.sde.T)
        output = problem.denoiser.predict(problem.denoiser.predicts, given, time, **problem.condition)
        x = scheduler.step(output, t, x).prev_sample
    return torch.as_tensor(x)


def medians(problem: Problem, budgets: tuple[int, ...]) -> dict[str, Any]:
    """Of each budget, the median distances of the default and of all peers."""
    with torch.no_grad():
        exact = problem.exact(problem.sde.start)
        other = problem.exact(problem.sde.start, "rk4", 60)
        known: dict[float, Tensor] = {}

        def distance(found: Tensor, to: Tensor = exact) -> float:
            return float(distances(found, to).nan_to_num(math.inf).median())

        cells: dict[str, Any] = {"check": distance(other), "mean": distance(exact.mean(0).expand_as(exact))}
        for nfe in budgets:
            peers = {}
            for name, solver in SAMPLERS.items():
                for spacing, grid in problem.grids().items():
                    try:
                        peers[f"{name}, {spacing}"] = distance(problem.run(solver, grid, nfe))
                    except (FloatingPointError, ValueError, IndexError):  # diffusers takes no such table
                        peers[f"{name}, {spacing}"] = math.inf
            for name, start, found in pipelines(problem, nfe):
                if start not in known:
                    known[start] = problem.exact(start)
                peers[name] = min(distance(found), distance(found, known[start]))
            cells[str(nfe)] = {"default": distance(problem.run("adams", None, nfe)), "peers": peers}
    return cells


def table(config: BenchConfig, found: dict[str, Any]) -> str:
    """The ratios, with the distances and the best peer."""
    rows = []
    logs: dict[int, list[float]] = {nfe: [] for nfe in config.budgets}
    for name, cells in found.items():
        row = {"net": name}
        for nfe in config.budgets:
            cell = cells[str(nfe)]
            best, who = min((value, peer) for peer, value in cell["peers"].items())
            logs[nfe].append(math.log(cell["default"] / best))
            row[f"{nfe} calls"] = f"{cell['default'] / best:.2f} ({cell['default']:.2g}; {who}: {best:.2g})"
        row |= {"two integrators apart": f"{cells['check']:.1g}", "the data's mean": f"{cells['mean']:.2g}"}
        rows.append(row)
    means = {f"{nfe} calls": f"{math.exp(sum(each) / len(each)):.2f}" for nfe, each in logs.items()}
    rows.append({"net": "geometric mean", **means, "two integrators apart": "", "the data's mean": ""})
    return markdown(rows)


def bench(config: BenchConfig) -> None:
    torch.set_num_threads(config.threads)
    out = make_folder(Path(config.out))
    results = out / "results.json"
    found: dict[str, Any] = read_json(results) if results.exists() else {}  # of a run that was cut off
    names = [name for name in FLOWS if not config.only or any(part in name for part in config.only)]
    for name in tqdm([name for name in names if name not in found], desc="nets"):
        found[name] = medians(make_problem(name, config), config.budgets)
        write_json(results, found)
        write_whole(out / "table.md", table(config, found))
    print(table(config, found))


if __name__ == "__main__":
    run_with_settings(BenchConfig, bench, "bench/foreign_nets.py", __doc__)
