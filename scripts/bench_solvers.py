#!/usr/bin/env python
"""Solvers against exact targets: the distance to the endpoint of the exact flow, for each budget of net calls.

    python scripts/bench_solvers.py --out runs/bench_solvers

The target is a Gaussian mixture, whose denoiser is exact; its means, standard deviation and seed are settings. Where
the packages diffusers and azula are installed (pip install "sdescore[bench]"), their samplers run beside ours on the
same process and from the same noises. Leaves table.md, results.json and a log-log picture.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import matplotlib
import torch
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


GRIDS: dict[str, Grid] = {"karras": karras(), "karras to 0.01": karras(rho_min=0.01), "lam": uniform_lambda()}
OURS: dict[str, Solver] = {
    **{name: find_solver(name) for name in ("adams", "ddim", "heun", "dpm++", "dpm++3m", "deis", "unipc")},
    "adams: eps, 2, rho^1/4": Adams(2, NOISE, QUARTER_RHO),
    "adams: eps, 2, rho^1/4, end 2": Adams(2, NOISE, QUARTER_RHO, end=2),
    "adams: d, 4, rho^1/4, end 2": Adams(4, DIFFERENCE, QUARTER_RHO, end=2),
    "adams: d, 4, rho^1/4, corrected, end 3": Adams(4, DIFFERENCE, QUARTER_RHO, corrector=True, end=3),
    "adams: x0, 3, lam, corrected, end 3": Adams(3, DATA, LAM, corrector=True, end=3),
}


def ours(sde: LinearSDE, mixture: GaussianMixture) -> Iterator[tuple[str, Method]]:
    denoiser = mixture.denoiser(sde)
    for name, solver in OURS.items():
        for grid_name, grid in GRIDS.items():

            def method(x: Tensor, nfe: int, solver: Solver = solver, grid: Grid = grid) -> Tensor:
                return sample(sde, denoiser, x=x, solver=solver, nfe=nfe, times=grid)

            yield f"sdescore {name}, {grid_name}", method


def of_diffusers(sde: LinearSDE, mixture: GaussianMixture) -> Iterator[tuple[str, Method]]:
    """Its schedulers work on DDPM's table alone."""
    import diffusers

    denoiser = mixture.denoiser(sde)
    table = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "timestep_spacing": "linspace"}
    choices: dict[str, tuple[str, dict[str, Any]]] = {
        "DDIM": ("DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": True}),
        "DEIS 3": ("DEISMultistepScheduler", {"solver_order": 3}),
        "UniPC 2": ("UniPCMultistepScheduler", {"solver_order": 2}),
        "UniPC 3": ("UniPCMultistepScheduler", {"solver_order": 3}),
        "DPM++ 2M": ("DPMSolverMultistepScheduler", {"solver_order": 2}),
        "DPM++ 3M": ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    }
    for name, (cls, options) in choices.items():
        for spacing in ({}, {"use_karras_sigmas": True}) if cls != "DDIMScheduler" else ({},):
            scheduler = getattr(diffusers, cls)(**table, **options, **spacing)

            def method(x: Tensor, nfe: int, scheduler: Any = scheduler) -> Tensor:
                scheduler.set_timesteps(nfe)
                for t in scheduler.timesteps:
                    eps = denoiser.noise(x, torch.as_tensor(float(t), dtype=torch.float64))
                    x = scheduler.step(eps, t, x).prev_sample
                return x

            yield f"diffusers {name}{', karras' if spacing else ''}", method


def of_azula(sde: LinearSDE, mixture: GaussianMixture) -> Iterator[tuple[str, Method]]:
    """Its samplers step uniformly in a schedule's time: here the index of our grids."""
    import azula.sample

    denoiser = mixture.denoiser(sde)

    class Posterior:
        def __init__(self, mean: Tensor) -> None:
            self.mean = mean

    for cls in ("EulerSampler", "HeunSampler", "zEABSampler", "xEABSampler", "REABSampler"):
        for grid_name, grid in GRIDS.items():

            def method(x: Tensor, nfe: int, cls: str = cls, grid: Grid = grid) -> Tensor:
                intervals = (nfe - 1) // 2 if cls == "HeunSampler" else nfe - 1
                times = grid(sde, intervals + 1).flip(0)

                class Wrapped:
                    def time(self, share: Tensor) -> Tensor:
                        return times[(share * intervals).round().long()]

                    def schedule(self, share: Tensor) -> tuple[Tensor, Tensor]:
                        return sde.alpha(self.time(share)), sde.sigma(self.time(share))

                    def __call__(self, x: Tensor, share: Tensor) -> Posterior:
                        return Posterior(denoiser(x, self.time(share)))

                sampler = getattr(azula.sample, cls)(Wrapped(), steps=intervals, silent=True, dtype=torch.float64)
                return denoiser(sampler(x), times[0])

            yield f"azula {cls.removesuffix('Sampler')}, {grid_name}", method


PEERS = {"diffusers": of_diffusers, "azula": of_azula}


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
    methods = list(ours(sde, mixture))
    for name, peer in PEERS.items():
        if not config.peers or not find_spec(name) or (name == "diffusers" and config.process != "VP"):
            continue
        methods += peer(sde, mixture)
    rows = []
    for name, method in tqdm(methods, desc=config.process):
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
