"""Fit the times of a solver's steps to a trained model: samples come nearer to its exact flow at the same cost.

    sdescore fit --model runs/digits/model --nfe 8 --out runs/digits/adams-8.json
    sdescore sample --model runs/digits/model --times runs/digits/adams-8.json --out runs/digits/adams-8

Writes the times, the distances before and after on samples that were not fitted to, and a picture of the steps beside
the file. Costs about as many net calls as `runs` times `pilots` samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdescore.cli.command_line import run_with_settings
from sdescore.cli.models import build_solver, load_model
from sdescore.cli.outputs import make_folder, write_json
from sdescore.common.checks import check_fields
from sdescore.common.fingerprint import fingerprint
from sdescore.evaluation.figures import panels, save_figure
from sdescore.processes import LinearSDE
from sdescore.sampling import fit_times, sample
from sdescore.sampling.fitting import REFERENCE, distances
from sdescore.sampling.times import time_grid


@dataclass(frozen=True)
class FitConfig:
    """Settings of a fit.

    Args:
        model: Folder of a saved model, such as runs/digits/model, or its name on the Hugging Face Hub.
        out: JSON file to write.
        solver: Name of an installed solver of the ODE, or module:name of one in a Python file of yours.
        solver_args: Arguments of the named solver.
        steps: Steps of the solver.
        nfe: Net calls per sample, instead of steps.
        pilots: Samples that the times are fitted to; as many others judge them.
        runs: How often the solver runs on the pilots.
        seed: Of the pilots and of the search.
        trust_code: Import the net's class where the model names one of someone's own, as module:name.
    """

    model: str
    out: str
    solver: str = "adams"
    solver_args: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None
    nfe: int | None = None
    pilots: int = 32
    runs: int = 300
    seed: int = 0
    trust_code: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("pilots", "runs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; expected integers of at least 1")
        if Path(self.out).suffix != ".json":
            raise ValueError(f"out={self.out!r}; expected the name of a .json file")


def draw(path: Path, sde: LinearSDE, before: Tensor, after: Tensor) -> None:
    """The noise levels of the steps."""
    figure, (axis,) = panels(1, (7, 4))
    for times, label in ((before, "the solver's own"), (after, "fitted")):
        axis.semilogy(sde.rho(times), "-o", label=label, markersize=4)
    axis.set(xlabel="step", ylabel="noise-to-signal ratio")
    axis.legend()
    save_figure(path, figure, dpi=120)


def fit(config: FitConfig) -> None:
    denoiser, shape = load_model(config.model, config.trust_code)
    solver = build_solver(config.solver, config.solver_args)
    out, sde, count = Path(config.out), denoiser.sde, config.pilots
    make_folder(out.parent)
    denoiser = denoiser.to("cuda" if torch.cuda.is_available() else "cpu")
    before = time_grid(sde, solver, config.steps, config.nfe)
    x = sde.prior_sample((2 * count, *shape), generator=torch.Generator().manual_seed(config.seed))
    after = fit_times(
        sde,
        denoiser,
        solver=solver,
        steps=config.steps,
        nfe=config.nfe,
        x=x[:count],
        seed=config.seed,
        runs=config.runs,
        progress=True,
    )

    exact = sample(sde, denoiser, x=x[count:], nfe=REFERENCE, progress=True)

    def distance(times: Tensor) -> float:
        found = sample(sde, denoiser, x=x[count:], solver=solver, times=times)
        return float(distances(found, exact).median())

    found = {"own": distance(before), "fitted": distance(after)}
    known = {"solver": config.solver, "solver_args": config.solver_args, "weights": fingerprint(denoiser)}
    known |= {"times": after.tolist(), "distance": found}
    write_json(out, known)
    draw(out.with_suffix(".png"), sde, before, after)
    print(f"median distance to the flow's endpoint of other samples: {found['own']:.3g} with the solver's own times,")
    print(f"{found['fitted']:.3g} with those in {out}")


def main(arguments: Sequence[str] | None = None) -> None:
    run_with_settings(FitConfig, fit, "sdescore fit", __doc__, arguments)
