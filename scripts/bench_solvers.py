#!/usr/bin/env python
"""Solvers against exact targets: the distance to the endpoint of the exact flow, for each budget of net calls.

    python scripts/bench_solvers.py --out runs/bench_solvers

The target is a Gaussian mixture, whose denoiser is exact; its means, standard deviation and seed are settings. Where
the packages diffusers, azula and k-diffusion are installed (pip install "sdescore[bench]"), their samplers run beside
ours on the same process and grids and from the same noises. Leaves table.md, results.json and a log-log picture.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import matplotlib
import torch
from peers import Azula, Diffusers, KDiffusion
from shared import markdown, parse, run, write_json, write_whole
from torch import Tensor
from tqdm.auto import tqdm

from sdescore import (
    VESDE,
    VPSDE,
    DiscreteSDE,
    GaussianMixture,
    KarrasSDE,
    LinearSDE,
    Solver,
    find_solver,
    karras,
    sample,
)
from sdescore.grids import Grid, uniform_lambda
from sdescore.solvers import DATA, DIFFERENCE, LAM, NOISE, QUARTER_RHO, Adams
from sdescore.testing import exact_flow

Method = Callable[[Tensor, int], Tensor]  # (states at T, net calls) -> samples


@dataclass(frozen=True)
class BenchConfig:
    """Settings of the comparison.

    Args:
        out: Folder of the results.
        process: VP (DDPM's table of 1,000 betas) or VE.
        dims: Dimensions of the target.
        components: Gaussians in the target, of equal weight, their means normal with standard deviation 0.49.
        std: Standard deviation of each.
        count: Starting noises.
        budgets: Net calls.
        seed: Of the means and the noises.
        peers: Run the other libraries that are installed.
    """

    out: str = "runs/bench_solvers"
    process: str = "VP"
    dims: int = 64
    components: int = 10
    std: float = 0.1
    count: int = 2048
    budgets: tuple[int, ...] = (5, 10, 20, 40, 80)
    seed: int = 0
    peers: bool = True

    def __post_init__(self) -> None:
        if self.process not in ("VP", "VE"):
            raise ValueError(f"process={self.process!r}; valid are 'VP', 'VE'")

    def sde(self) -> LinearSDE:
        return DiscreteSDE.from_betas(VPSDE().betas(1000)) if self.process == "VP" else VESDE()

    def mixture(self) -> GaussianMixture:
        own = torch.Generator().manual_seed(self.seed)
        means = torch.randn(self.components, self.dims, generator=own, dtype=torch.float64)
        return GaussianMixture(0.49 * means / means.std(), self.std)


def leading(sde: LinearSDE, steps: int) -> Tensor:
    """Uniform in t, one step short of the data: diffusers' default."""
    return torch.linspace(sde.T, 0, steps + 1, dtype=torch.float64)[:-1].clamp(min=sde.t_min)


GRIDS: dict[str, Grid] = {
    "karras": karras(),
    "karras to 0.01": karras(rho_min=0.01),
    "lam": uniform_lambda(),
    "t": leading,
}
OURS: dict[str, Solver] = {
    **{name: find_solver(name) for name in ("adams", "ddim", "heun", "dpm++", "dpm++3m", "deis", "unipc")},
    "adams: eps, 2, rho^1/4": Adams(2, NOISE, QUARTER_RHO),
    "adams: eps, 2, rho^1/4, end 2": Adams(2, NOISE, QUARTER_RHO, end=2),
    "adams: d, 4, rho^1/4, end 2": Adams(4, DIFFERENCE, QUARTER_RHO, end=2),
    "adams: d, 4, rho^1/4, corrected, end 3": Adams(4, DIFFERENCE, QUARTER_RHO, corrector=True, end=3),
    "adams: x0, 3, lam, corrected, end 3": Adams(3, DATA, LAM, corrector=True, end=3),
}


# The peers' own code on the same grids; each package takes part if it is installed.
PEERS: dict[str, dict[str, Solver]] = {
    "diffusers": {
        "DDIM": Diffusers("DDIM"),
        "DEIS 3": Diffusers("DEISMultistep", {"solver_order": 3}),
        "UniPC 2": Diffusers("UniPCMultistep", {"solver_order": 2}),
        "UniPC 3": Diffusers("UniPCMultistep", {"solver_order": 3}),
        "DPM++ 2M": Diffusers("DPMSolverMultistep", {"solver_order": 2}),
        "DPM++ 3M": Diffusers("DPMSolverMultistep", {"solver_order": 3}),
        "DPM++ 2S": Diffusers("DPMSolverSinglestep", {"solver_order": 2}),
        "DPM++ 3S": Diffusers("DPMSolverSinglestep", {"solver_order": 3}),
        "iPNDM": Diffusers("IPNDM"),
        "DPM-2": Diffusers("KDPM2Discrete", stages=2),
    },
    "azula": {
        "Euler": Azula("Euler"),
        "Heun": Azula("Heun", stages=2),
        **{
            f"{name} {order}": Azula(name, {"order": order})
            for name in ("zAB", "vAB", "zEAB", "xEAB")
            for order in (2, 3)
        },
        "REAB": Azula("REAB"),
    },
    "k_diffusion": {
        "Heun": KDiffusion("heun", stages=2),
        "LMS": KDiffusion("lms"),
        "DPM-2": KDiffusion("dpm_2", stages=2),
        "DPM++ 2S": KDiffusion("dpmpp_2s_ancestral", {"eta": 0.0}, stages=2),
        "DPM++ 2M": KDiffusion("dpmpp_2m"),
        "DPM++ 3M": KDiffusion("dpmpp_3m_sde", {"eta": 0.0}),
    },
}


def methods(sde: LinearSDE, mixture: GaussianMixture, peers: bool) -> Iterator[tuple[str, Method]]:
    """Every solver on every grid, by name."""
    denoiser = mixture.denoiser(sde)
    choices = {f"sdescore {name}": solver for name, solver in OURS.items()}
    for package, solvers in PEERS.items() if peers else ():
        if find_spec(package):
            choices |= {f"{package} {name}": solver for name, solver in solvers.items()}
    for name, solver in choices.items():
        for grid_name, grid in GRIDS.items():

            def method(x: Tensor, nfe: int, solver: Solver = solver, grid: Grid = grid) -> Tensor:
                return sample(sde, denoiser, x=x, solver=solver, nfe=nfe, times=grid)

            yield f"{name}, {grid_name}", method


def endpoint(sde: LinearSDE, mixture: GaussianMixture, x: Tensor) -> Tensor:
    """Where the exact flow takes states at T, at noise-to-signal 1e-7."""
    start = torch.tensor(sde.T, dtype=torch.float64)
    lams = torch.tensor([float(sde.lam(start)), math.log(1e7)], dtype=torch.float64)
    return exact_flow(KarrasSDE(1e-8, 1e4), mixture, x / sde.alpha(start), lams)[1]


def measure(config: BenchConfig) -> list[dict[str, Any]]:
    """A row for each method: its median and root-mean-square distance per root dimension at each budget."""
    sde, mixture = config.sde(), config.mixture()
    x = mixture.at(sde, sde.T).sample(config.count, config.seed)
    exact = endpoint(sde, mixture, x)
    rows = []
    for name, method in tqdm(list(methods(sde, mixture, config.peers)), desc=config.process):
        row: dict[str, Any] = {"method": name}
        for nfe in config.budgets:
            distance = (method(x, nfe) - exact).norm(dim=1) / math.sqrt(config.dims)
            row[str(nfe)] = {"median": float(distance.median()), "rms": float(distance.square().mean().sqrt())}
        rows.append(row)
    return rows


def table(config: BenchConfig, rows: list[dict[str, Any]]) -> str:
    """The medians, best methods first, and the ratio of our best to the best peer at each budget."""
    budgets = [str(nfe) for nfe in config.budgets]
    ranked = sorted(rows, key=lambda row: sum(math.log(row[nfe]["median"]) for nfe in budgets))
    cells = [{"method": row["method"], **{nfe: f"{row[nfe]['median']:.1e}" for nfe in budgets}} for row in ranked]
    text = markdown(cells)
    mine = [row for row in rows if row["method"].startswith("sdescore")]
    peers = [row for row in rows if row not in mine]
    if peers:
        best = [[min(row[nfe]["median"] for row in group) for nfe in budgets] for group in (mine, peers)]
        ratios = "  ".join(f"{nfe}: {a / b:.2g}" for nfe, a, b in zip(budgets, *best, strict=True))
        text += f"\nOur best setting over the best peer, by net calls: {ratios}\n"
    return (
        f"{config.process}, {config.components} Gaussians of std {config.std} in {config.dims} dimensions, "
        f"{config.count} noises, seed {config.seed}: median distance to the exact endpoint, by net calls.\n\n{text}"
    )


def draw(path: Path, config: BenchConfig, rows: list[dict[str, Any]]) -> None:
    """Error against net calls: the best grid of every method, peers dashed."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    best: dict[str, dict[str, Any]] = {}
    for row in rows:
        name = row["method"].rsplit(", ", 1)[0]
        best[name] = min(row, best.get(name, row), key=lambda each: each[str(config.budgets[-1])]["median"])
    for name, row in best.items():
        medians = [row[str(nfe)]["median"] for nfe in config.budgets]
        axes.loglog(config.budgets, medians, "-o" if name.startswith("sdescore") else "--x", label=name, markersize=4)
    axes.set(xlabel="net calls", ylabel="median distance to the exact endpoint", title=config.process)
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)


def bench(config: BenchConfig) -> None:
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    rows = measure(config)
    write_json(out / "results.json", {"rows": rows})
    text = table(config, rows)
    write_whole(out / "table.md", text)
    draw(out / "error.png", config, rows)
    print(text)


if __name__ == "__main__":
    run("bench_solvers.py", lambda: bench(parse(BenchConfig, "bench_solvers.py", __doc__)))
