#!/usr/bin/env python
"""Solvers against exact targets: the distance to the endpoint of the exact flow, for each budget of net calls.

    python scripts/bench/solvers.py --out runs/bench_solvers
    python scripts/bench/solvers.py --out runs/bench_net --model runs/demo/train/model

The target is a Gaussian mixture, whose denoiser is exact; its means, standard deviation and seed are settings. Or it is
a saved net, whose own flow is followed down to noise-to-signal 0.002, where the net denoises. Where the packages
diffusers, azula and k-diffusion are installed (pip install "sdescore[bench]"), their samplers run beside ours on the
same process and grids and from the same noises. Some of ours also take times fitted to the target (fit_times) on noises
of their own. Leaves table.md, results.json and a log-log picture.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sdescore import VESDE, VPSDE, DiscreteSDE, GaussianMixture, LinearSDE, Solver, find_solver, karras, sample
from sdescore.cli.command_line import run_with_settings
from sdescore.cli.outputs import make_folder, write_json, write_whole
from sdescore.cli.tables import markdown
from sdescore.evaluation.figures import panels, save_figure
from sdescore.sampling import approaching, uniform_lambda
from sdescore.sampling.fitting import distances
from sdescore.sampling.grids import Grid
from sdescore.solvers import CUBE_ROOT_RHO, DATA, DIFFERENCE, LAM, NOISE, NOISE_SHARE, Adams

sys.path.append(str(Path(__file__).parents[1]))  # for what scripts share
from shared.flows import BATCH, Problem, of_mixture, of_model
from shared.peers import Azula, Diffusers, KDiffusion


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
        model: Folder of a saved denoiser to follow instead of a mixture.
        peers: Run the other libraries that are installed.
        fitted: Which of our solvers to fit times for, by their names in this file; a fit costs 19,200 samples.
        farthest: Which to fit times for that keep the farthest samples near; a fit costs at most 42,496 samples.
    """

    out: str = "runs/bench_solvers"
    process: str = "VP"
    dims: int = 64
    components: int = 10
    std: float = 0.1
    count: int = 2048
    budgets: tuple[int, ...] = (5, 10, 20, 40, 80)
    seed: int = 0
    model: str | None = None
    peers: bool = True
    fitted: tuple[str, ...] = ("adams", "dpm++", "heun", "adams: x0, 5, rho^1/3, corrected, end 2")
    farthest: tuple[str, ...] = ("adams", "adams: x0, 5, rho^1/3, corrected, end 2")

    def __post_init__(self) -> None:
        if self.process not in ("VP", "VE"):
            raise ValueError(f"process={self.process!r}; expected 'VP', 'VE'")
        for argument in ("fitted", "farthest"):
            given = getattr(self, argument)
            if not set(given) <= set(OURS):
                raise ValueError(f"{argument}={given}; expected {', '.join(OURS)}")

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
    "approaching": approaching(),
}
APPROACHING = "approaching"  # the only one that no peer has
OURS: dict[str, Solver] = {
    **{name: find_solver(name) for name in ("adams", "ddim", "heun", "dpm++", "dpm++3m", "deis", "unipc")},
    "adams: d, 2, mu, end 3": Adams(2, DIFFERENCE, NOISE_SHARE, end=3),
    "adams: d, 3, mu, end 3": Adams(3, DIFFERENCE, NOISE_SHARE, end=3),
    "adams: d, 3, lam, end 3": Adams(3, DIFFERENCE, LAM, end=3),
    "adams: d, 4, lam, end 3": Adams(4, DIFFERENCE, LAM, end=3),
    "adams: eps, 4, lam, end 3": Adams(4, NOISE, LAM, end=3),
    "adams: x0, 2, rho^1/3, corrected, end 2": Adams(2, DATA, CUBE_ROOT_RHO, corrector=True, end=2),
    "adams: x0, 4, lam, corrected, end 3": Adams(4, DATA, LAM, corrector=True, end=3),
    "adams: x0, 5, rho^1/3, corrected, end 2": Adams(5, DATA, CUBE_ROOT_RHO, corrector=True, end=2),
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


def methods(
    ours: Mapping[str, Solver], peers: Mapping[str, Mapping[str, Solver]], grids: Mapping[str, Grid]
) -> list[tuple[str, Solver, Grid]]:
    """Every solver on every grid, by name; those of a peer whose package is installed."""
    choices = {f"sdescore {name}": solver for name, solver in ours.items()}
    for package, solvers in peers.items():
        if find_spec(package):
            choices |= {f"{package} {name}": solver for name, solver in solvers.items()}
    return [
        (f"{name}, {grid_name}", solver, grid)
        for (name, solver), (grid_name, grid) in product(choices.items(), grids.items())
    ]


def find_problem(config: BenchConfig) -> Problem:
    """The flow of the saved net, or of the mixture."""
    if config.model:
        return of_model(config.model, config.count, config.seed)
    own = f"{config.components} Gaussians of std {config.std} in {config.dims} dimensions, seed {config.seed}"
    return of_mixture(f"{config.process}, {own}", config.sde(), config.mixture(), config.count, config.seed)


def measure(config: BenchConfig, problem: Problem) -> list[dict[str, Any]]:
    """A row for each method: its median and root-mean-square distance per root dimension at each budget."""
    rows = []
    fitted = [
        (f"sdescore {name}, fitted{how}", OURS[name], fit(OURS[name]))
        for names, how, fit in (
            (config.fitted, "", problem.fitted),
            (config.farthest, " to the farthest", problem.farthest),
        )
        for name in names
    ]
    for name, solver, grid in tqdm(methods(OURS, PEERS if config.peers else {}, GRIDS) + fitted, desc="methods"):
        row: dict[str, Any] = {"method": name}
        for nfe in config.budgets:
            given: dict[str, Any] = dict(x=problem.x, solver=solver, nfe=nfe, times=grid, batch_size=BATCH)
            found = sample(problem.sde, problem.denoiser, **given)
            distance = distances(found, problem.exact)
            row[str(nfe)] = {"median": float(distance.median()), "rms": float(distance.square().mean().sqrt())}
        rows.append(row)
    return rows


def table(config: BenchConfig, problem: Problem, rows: list[dict[str, Any]]) -> str:
    """The medians, best methods first, and the ratios at each budget of our best and of adams to the best peer, on the
    grids that peers have and on ours as well."""
    budgets = [str(nfe) for nfe in config.budgets]
    ranked = sorted(rows, key=lambda row: sum(math.log(row[nfe]["median"]) for nfe in budgets))
    cells = [{"method": row["method"], **{nfe: f"{row[nfe]['median']:.1e}" for nfe in budgets}} for row in ranked]
    mine = [row for row in rows if row["method"].startswith("sdescore")]
    everywhere = [row for row in rows if row not in mine]
    groups = {
        "our best setting": mine,
        "our best setting without fitted times": [row for row in mine if ", fitted" not in row["method"]],
        "adams with fitted times": [row for row in mine if row["method"] == "sdescore adams, fitted"],
        "adams as it is": [row for row in mine if row["method"] == f"sdescore adams, {APPROACHING}"],
    }
    peers = {
        "": [row for row in everywhere if not row["method"].endswith(APPROACHING)],
        ", on our grid too": everywhere,
    }
    lines = []
    for kind, (name, group), (where, others) in product(("median", "rms"), groups.items(), peers.items()):
        if others:
            best = [[min(row[nfe][kind] for row in rows) for nfe in budgets] for rows in (group, others)]
            ratios = [f"{a / b:.2g}" for a, b in zip(*best, strict=True)]
            lines.append({"ratio": f"{name} / best peer{where}, {kind}", **dict(zip(budgets, ratios, strict=True))})
    title = f"{problem.text}, {config.count} noises: median distance to the endpoint of the flow, by net calls."
    return "\n\n".join([title, *([markdown(lines)] if lines else []), markdown(cells)])


def draw(path: Path, config: BenchConfig, text: str, rows: list[dict[str, Any]]) -> None:
    """Error against net calls: the best of each package's methods at each budget above the faint lines of them all."""
    figure, (axis,) = panels(1, (8, 5))
    groups: dict[str, list[list[float]]] = {}
    for row in rows:
        package, fitted = row["method"].split(" ")[0], ", fitted" in row["method"]
        medians = [row[str(nfe)]["median"] for nfe in config.budgets]
        groups.setdefault(f"{package}, fitted times" if fitted else package, []).append(medians)
        if row["method"] == f"sdescore adams, {APPROACHING}":
            groups["sdescore's default"] = [medians]
    for i, (name, lines) in enumerate(sorted(groups.items())):
        best, style = [min(each) for each in zip(*lines, strict=True)], "-o" if name.startswith("sdescore") else "--s"
        label = name if len(lines) == 1 else f"{name}, best of {len(lines)}"
        axis.loglog(config.budgets, best, style, color=f"C{i}", label=label, markersize=5)
        for line in lines:
            axis.loglog(config.budgets, line, color=f"C{i}", alpha=0.15, linewidth=0.7)
    axis.set_xticks(config.budgets, [str(nfe) for nfe in config.budgets])
    axis.minorticks_off()
    axis.set(xlabel="net calls", ylabel="median distance to the endpoint of the flow", title=text, ylim=(None, 1))
    axis.legend(fontsize=8, loc="lower left")
    save_figure(path, figure, dpi=120)


def bench(config: BenchConfig) -> None:
    out = make_folder(Path(config.out))
    problem = find_problem(config)
    rows = measure(config, problem)
    write_json(out / "results.json", {"problem": problem.text, "rows": rows})
    text = table(config, problem, rows)
    write_whole(out / "table.md", text)
    draw(out / "error.png", config, problem.text, rows)
    print(text)


if __name__ == "__main__":
    run_with_settings(BenchConfig, bench, "bench/solvers.py", __doc__)
