"""The benchmark of solvers: that it ranks, and measures what it says."""

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from scripting import NEEDS_SCRIPTS

from sdescore import fit_times, sample

pytestmark = NEEDS_SCRIPTS


def test_the_benchmark_of_solvers_ranks_and_compares(
    script: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, flows = script("bench.solvers"), script("shared.flows")
    monkeypatch.setattr(flows, "fit_times", partial(fit_times, runs=60))
    monkeypatch.setattr(flows, "DRAWN", 256)
    monkeypatch.setattr(module, "find_problem", cache(module.find_problem))
    config = module.BenchConfig(
        out=str(tmp_path),
        dims=4,
        components=3,
        count=24,
        budgets=(5, 8),
        peers=False,
        fitted=("adams",),
        farthest=("adams",),
    )
    module.bench(config)
    rows = {row["method"]: row for row in json.loads((tmp_path / "results.json").read_text())["rows"]}
    assert rows["sdescore adams, fitted"]["5"]["median"] < rows["sdescore adams, approaching"]["5"]["median"]
    problem = module.find_problem(config)
    for name, nfe in (("ddim", 8), ("heun", 5)):
        solver, grid = module.OURS[name], module.GRIDS["lam"]
        found = sample(problem.sde, problem.denoiser, x=problem.x, solver=solver, nfe=nfe, times=grid)
        distance = (found - problem.exact).square().mean(1).sqrt()
        assert rows[f"sdescore {name}, lam"][str(nfe)]["median"] == pytest.approx(float(distance.median()))
    table = (tmp_path / "table.md").read_text()
    assert table.startswith("VP, 3 Gaussians of std 0.1 in 4 dimensions, seed 0, 24 noises")
    assert "| sdescore ddim, t " in table and (tmp_path / "error.png").stat().st_size > 5000
