#!/usr/bin/env python
"""Stochastic solvers against an exact target: how far their samples are from its law, for each budget of net calls.

    python scripts/bench/stochastic.py --out runs/bench_stochastic

Target, process, grids and peers are those of bench/solvers.py. Two distances: sliced W2 to exact samples of the target,
and the error of the standard deviation within modes, each sample given to its nearest mean, relative to the true one.
A second set of exact samples of the same size says what no sampler can beat. Leaves table.md and results.json.
"""

import sys
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm.auto import tqdm

from sdescore import GaussianMixture, Solver, find_solver, sample
from sdescore.cli.command_line import run_with_settings
from sdescore.cli.outputs import make_folder, write_json, write_whole
from sdescore.cli.tables import markdown
from sdescore.evaluation.metrics import sliced_wasserstein
from sdescore.solvers import CUBE_ROOT_RHO, DATA, LAM, Adams

sys.path.append(str(Path(__file__).parents[1]))  # for what scripts share
from bench.solvers import GRIDS as ALL_GRIDS
from bench.solvers import BenchConfig, methods
from shared.flows import BATCH
from shared.peers import Diffusers, KDiffusion

GRIDS = {name: ALL_GRIDS[name] for name in ("karras", "lam", "approaching")}
SDE_DPM = {"algorithm_type": "sde-dpmsolver++", "solver_order": 2}
COORDINATES = {"lam": LAM, "rho^1/3": CUBE_ROOT_RHO}
OURS: dict[str, Solver] = {
    **{
        name: find_solver(name)
        for name in (
            *("ddpm", "sde-dpm++", "sde-dpm++2s", "sde-dpm++3m", "sde-dpm++3s", "sa", "seeds", "seeds2", "seeds3"),
            *("er-sde", "sra", "euler-maruyama"),
        )
    },
    **{
        f"adams: x0, {order}, {name}, tau {tau}, end {end}": Adams(order, DATA, coordinate, tau=tau, end=end)
        for order, (name, coordinate), tau, end in product((2, 3), COORDINATES.items(), (0.3, 1.0), (1, 3))
    },
}
PEERS: dict[str, dict[str, Solver]] = {
    "diffusers": {
        "DDIM, eta 1": Diffusers("DDIM", step={"eta": 1.0}),
        "Euler ancestral": Diffusers("EulerAncestralDiscrete"),
        "SDE-DPM++ 2M": Diffusers("DPMSolverMultistep", SDE_DPM),
        "SDE-DPM++ 2M, heun": Diffusers("DPMSolverMultistep", {**SDE_DPM, "solver_type": "heun"}),
        "SA 2": Diffusers("SASolver", {"predictor_order": 2, "corrector_order": 2}),
    },
    "k_diffusion": {
        "Euler ancestral": KDiffusion("euler_ancestral"),
        "DPM++ 2S ancestral": KDiffusion("dpmpp_2s_ancestral", stages=2),
        "DPM++ 2M SDE": KDiffusion("dpmpp_2m_sde"),
        "DPM++ 3M SDE": KDiffusion("dpmpp_3m_sde"),
        "DPM++ 3M SDE, eta 0.3": KDiffusion("dpmpp_3m_sde", {"eta": 0.3}),
    },
}


@dataclass(frozen=True)
class StochasticConfig(BenchConfig):
    """Settings of the comparison: those of bench/solvers.py, without its `model`, `fitted` and `farthest`."""

    out: str = "runs/bench_stochastic"
    count: int = 8000
    budgets: tuple[int, ...] = (10, 20, 50)


def distances(mixture: GaussianMixture, exact: Tensor, x: Tensor) -> dict[str, float]:
    own = (x[:, None] - mixture.means).square().sum(2).argmin(1)
    spread = float((x - mixture.means[own]).square().mean().sqrt() / mixture.stds.square().mean().sqrt())
    return {"W2": sliced_wasserstein(exact, x, projections=256)[0], "std": abs(spread - 1)}


def measure(config: StochasticConfig) -> list[dict[str, Any]]:
    """A row for each solver on each grid, and one for exact samples."""
    sde, mixture = config.sde(), config.mixture()
    exact, start = (
        mixture.sample(config.count, config.seed + 1),
        mixture.at(sde, sde.T).sample(config.count, config.seed),
    )
    compare = partial(distances, mixture, exact)
    floor = compare(mixture.sample(config.count, config.seed + 2))
    rows: list[dict[str, Any]] = [{"method": "exact samples", **{str(nfe): floor for nfe in config.budgets}}]
    chosen = methods(OURS, PEERS if config.peers else {}, GRIDS)
    for name, solver, grid in tqdm(chosen, desc=config.process):
        given: dict[str, Any] = dict(x=start, solver=solver, times=grid, seed=config.seed, batch_size=BATCH)
        draw = partial(sample, sde, mixture.denoiser(sde), **given)
        found = {str(nfe): compare(draw(nfe=nfe)) for nfe in config.budgets}
        rows.append({"method": name, **found})
    return rows


def table(config: StochasticConfig, rows: list[dict[str, Any]]) -> str:
    """Best methods first, with the ratios of our best to the best peer."""
    budgets = [str(nfe) for nfe in config.budgets]
    ranked = [rows[0], *sorted(rows[1:], key=lambda row: sum(row[nfe]["W2"] for nfe in budgets))]
    cells = [
        {"method": row["method"]}
        | {f"{kind} {nfe}": f"{row[nfe][kind]:.1e}" for kind, nfe in product(("W2", "std"), budgets)}
        for row in ranked
    ]
    text = markdown(cells)
    mine = [row for row in rows if row["method"].startswith("sdescore")]
    peers = [row for row in rows[1:] if row not in mine]
    for kind in ("W2", "std") if peers else ():
        best = [[min(row[nfe][kind] for row in group) for nfe in budgets] for group in (mine, peers)]
        ratios = "  ".join(f"{nfe}: {a:.2g} / {b:.2g}" for nfe, a, b in zip(budgets, *best, strict=True))
        text += f"\nOur best setting and the best peer, {kind}, by net calls: {ratios}\n"
    return f"{config.process}, {config.count} samples in {config.dims} dimensions, by net calls.\n\n{text}"


def bench(config: StochasticConfig) -> None:
    out = make_folder(Path(config.out))
    rows = measure(config)
    write_json(out / "results.json", {"rows": rows})
    write_whole(out / "table.md", table(config, rows))
    print(table(config, rows))


if __name__ == "__main__":
    run_with_settings(StochasticConfig, bench, "bench/stochastic.py", __doc__)
