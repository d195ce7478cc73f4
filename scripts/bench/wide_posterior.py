#!/usr/bin/env python
"""Posterior samplers where half of 256 numbers are measured: the distance of one run's samples and of their mean.

    python scripts/bench/wide_posterior.py --out runs/bench_wide_posterior
    python scripts/bench/wide_posterior.py --problems 3 --methods "[MMPS, DDRM]"

The mixture of arXiv 2609.37227, as far as its authors say: shared/posteriors.py states what is chosen here. Each method
draws as many samples as sequential Monte Carlo has particles, in one run of it. A row of the table is a method: its
sliced W2 to an exact set, and how far the samples' mean is from the exact one; the first row is that of a second exact
set. Published, for the best method: .093 and .841, where exact sets have .084 and .543. Methods, process and times are
those of posterior.py. Results are kept in results.jsonl, from which a run that was stopped goes on. Leaves table.md.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from sdescore.cli.command_line import run_with_settings
from sdescore.cli.outputs import make_folder, write_whole
from sdescore.cli.tables import markdown, mean_and_error
from sdescore.evaluation.metrics import sliced_wasserstein

sys.path.append(str(Path(__file__).parents[1]))  # for what scripts share
from bench.posterior import OURS, PosteriorConfig, methods
from shared.clock import clock
from shared.kept import add, kept_rows
from shared.posteriors import wide_problem


@dataclass(frozen=True)
class WidePosteriorConfig:
    """Settings of the comparison.

    Args:
        out: Folder of the results.
        problems: Problems, from 0, each with a run of its own.
        particles: Of the run, and samples of each method.
        steps: Net calls a sample.
        projections: Directions of the distance.
        methods: Which to run, by their names in posterior.py. "TDS" takes a product with the Jacobian for each of 128
            measurements, which is minutes a problem.
    """

    out: str = "runs/bench_wide_posterior"
    problems: int = 20
    particles: int = 256
    steps: int = 200
    projections: int = 10_000
    methods: tuple[str, ...] = ("TDS, PiGDM", "MMPS", "PiGDM", "DDNM", "DDRM", "DiffPIR")

    def __post_init__(self) -> None:
        if not set(self.methods) <= set(OURS):
            raise ValueError(f"methods={self.methods}; expected {', '.join(OURS)}")


def measure(config: WidePosteriorConfig, kept: Path) -> list[dict[str, Any]]:
    """A row for each method and problem, those that are in the file `kept` as they are."""
    given = PosteriorConfig(
        count=config.particles,
        particles=config.particles,
        steps=config.steps,
        methods=config.methods,
        peers=False,
    )
    settings = {"steps": config.steps, "particles": config.particles, "projections": config.projections}
    rows = [row for row in kept_rows(kept) if settings.items() <= row.items() and row["problem"] < config.problems]
    known = {(row["method"], row["problem"]) for row in rows}
    draws = methods(given)
    todo = [(name, n) for n in range(config.problems) for name in draws if (name, n) not in known]
    for name, n in tqdm(todo):
        problem, begun = wide_problem(n), clock(torch.device("cpu"))
        x = draws[name](problem, given, n)
        seconds = clock(torch.device("cpu")) - begun
        distance = sliced_wasserstein(problem.exact(len(x), 10_000 + n), x, config.projections, n)[0]
        error = float((x.mean(0) - problem.mean).norm())
        rows.append(
            add(kept, {"method": name, "problem": n, "W2": distance, "mean": error, "seconds": seconds} | settings)
        )
    return [row for row in rows if row["method"] in draws]


def table(config: WidePosteriorConfig, rows: list[dict[str, Any]]) -> str:
    """Means over problems and their standard errors."""
    text = []
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name]
        line = {"method": name, "problems": str(len(own))}
        for column in ("W2", "mean"):
            average, error = mean_and_error(torch.tensor([row[column] for row in own]))
            line[column] = f"{average:.4f} ± {error:.4f}"
        text.append(line | {"CPU s": f"{sum(row['seconds'] for row in own) / len(own):.1f}"})
    return (
        f"Sliced W2 to exact samples and the distance of the mean to the exact one, over problems, and errors; "
        f"{config.particles} samples, {config.steps} net calls, {config.projections} directions.\n\n{markdown(text)}\n"
    )


def bench(config: WidePosteriorConfig) -> None:
    out = make_folder(Path(config.out))
    rows = measure(config, out / "results.jsonl")
    write_whole(out / "table.md", table(config, rows))
    print(table(config, rows))


if __name__ == "__main__":
    run_with_settings(WidePosteriorConfig, bench, "bench/wide_posterior.py", __doc__)
