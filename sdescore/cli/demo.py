"""Train a U-Net on 1,500 handwritten digits, sample it with several solvers, and score the samples.

    sdescore demo --out runs/demo

Takes a few minutes on two CPU cores. Leaves table.md, results.json, pictures and the trained model in the folder. After
an interruption the same command goes on from the last checkpoint.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdescore.cli import digits_judge
from sdescore.cli.command_line import run_with_settings
from sdescore.cli.likelihood import measure
from sdescore.cli.models import counted
from sdescore.cli.outputs import write_json, write_whole
from sdescore.cli.sources import all_values
from sdescore.cli.tables import markdown, mean_and_error
from sdescore.common.checks import check_fields
from sdescore.common.files import locked
from sdescore.data.load import digits
from sdescore.denoisers import Denoiser
from sdescore.evaluation.figures import draw_against_nfe, draw_loss, draw_overview, save_figure
from sdescore.evaluation.judge import Judge
from sdescore.evaluation.metrics import nearest
from sdescore.evaluation.pictures import save_grid
from sdescore.evaluation.trajectories import plot_trajectory
from sdescore.sampling import Solver, find_solver, sample
from sdescore.training.checkpoints import steps as checkpoints_of
from sdescore.training.config import TrainConfig
from sdescore.training.loop import train
from sdescore.training.run_log import read_log

THRESHOLD = 0.9


def predictor_corrector() -> Solver:
    """Euler-Maruyama with a step of Langevin dynamics of a small signal-to-noise ratio."""
    pair: Any = find_solver("predictor-corrector")
    return replace(pair, predictor=find_solver("euler-maruyama"), corrector=replace(pair.corrector, snr=0.1))


# What is sampled with: the solver and the length of its time grid.
SOLVERS: dict[str, tuple[str, Solver, int]] = {
    "heun": ("ODE", find_solver("heun"), 18),
    "dpm++": ("ODE", find_solver("dpm++"), 20),
    "euler-maruyama": ("SDE", find_solver("euler-maruyama"), 100),
    "predictor-corrector": ("SDE", predictor_corrector(), 100),
}


@dataclass(frozen=True)
class DemoConfig:
    """Settings of the demonstration.

    Args:
        out: Folder of the results.
        steps: Training steps, each on 128 digits.
        training_minutes: Most time for training: a machine that is too slow for all steps makes fewer.
        count: Samples per solver.
        seed: Of everything that is random.
    """

    out: str = "runs/demo"
    steps: int = 3000
    training_minutes: float = 3.5
    count: int = 1500
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        for name, least in (("steps", 1), ("training_minutes", 0.01), ("count", 100)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}; expected numbers of at least {least}")

    def training(self) -> TrainConfig:
        """The settings of training, that were tuned for a few minutes on two cores."""
        return TrainConfig(
            data="digits",
            dequantize=True,
            net="UNet",
            net_args={"base_width": 28, "multipliers": [1, 2], "blocks": 1, "attention": [], "dropout": 0.1},
            sde="KarrasSDE",
            predicts="edm",
            weighting="edm",
            time_distribution="log-normal",
            steps=self.steps,
            minutes=self.training_minutes,
            batch_size=128,
            lr=2e-3,
            betas=(0.9, 0.99),
            weight_decay=0.0,
            warmup=100,
            decay="none",
            ema_halflives=(90_000,),
            ema_warmup=0.08,
            seed=self.seed,
            out=str(Path(self.out) / "train"),
            save_every=250,
            log_every=10,
            sample_every=500,
            tracker="none",
        )


def trained(config: DemoConfig) -> Denoiser:
    """The denoiser after all steps, or as many as the time allows; goes on from the last checkpoint if there is one."""
    settings = config.training()
    found = checkpoints_of(Path(settings.out) / "checkpoints")
    if found:
        print(f"Resuming: training was at step {found[-1]} of {settings.steps} when it was last saved.", flush=True)
    return train(settings, resume=bool(found))


def drawn(config: DemoConfig, denoiser: Denoiser, solver: Solver, steps: int) -> tuple[Tensor, int, float]:
    """Samples rounded to the levels of the data, uint8, the net calls that each took, and the seconds for all."""
    assert denoiser.shape is not None and denoiser.scaling is not None
    since, size = time.perf_counter(), min(500, config.count)
    with counted(denoiser) as called:
        shape = (config.count, *denoiser.shape)
        x = sample(
            denoiser.sde, denoiser, shape, solver=solver, steps=steps, seed=config.seed, batch_size=size, progress=True
        )
    seconds = time.perf_counter() - since
    return denoiser.scaling.to_data(x).round().to(torch.uint8), len(called) // -(-config.count // size), seconds


def score(config: DemoConfig, denoiser: Denoiser) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Sample with every solver, write the pictures of samples, and compare with the real digits.

    Returns what is measured of the two sets of real digits, and of the samples of each solver.
    """
    out, source = Path(config.out), digits("test")
    training, test = all_values(digits("train")), all_values(source)
    judge = Judge(test, digits_judge.features, digits_judge.probabilities, THRESHOLD)

    def novelty(x: Tensor) -> float:
        return float(nearest(x.flatten(1), training.flatten(1))[0].mean())

    real: list[dict[str, Any]] = [
        {"set": "test digits", "frechet": None, "recognised": judge.recognised(test), "novelty": novelty(test)},
        {
            "set": "training digits",
            "frechet": judge.distance(training),
            "recognised": judge.recognised(training),
            "novelty": None,
        },
    ]
    save_grid(out / "real.png", source.raw[:100], source.scaling)
    rows: list[dict[str, Any]] = []
    pictures = {"real digits": source.raw}
    for name, (kind, solver, steps) in SOLVERS.items():
        raw, nfe, seconds = drawn(config, denoiser, solver, steps)
        save_grid(out / f"samples-{name}.png", raw[:100], source.scaling)
        pictures[f"{name}, {nfe} net calls"] = raw
        x = source.scaling.to_model(raw)
        row = {"solver": name, "kind": kind, "nfe": nfe, "seconds": seconds}
        rows.append(row | {"frechet": judge.distance(x), "recognised": judge.recognised(x), "novelty": novelty(x)})
    draw_overview(out / "overview.png", pictures)
    return real, rows


def draw_quality(path: Path, real: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    """What each solver reaches with how many net calls, beside what real digits reach."""
    test, training = real
    titles = {"frechet": "Fréchet distance to the test digits", "recognised": "share recognised"}
    levels = {"frechet": ("training digits", training["frechet"]), "recognised": ("test digits", test["recognised"])}
    named = [{**row, "solver": f"{row['solver']} ({row['kind']})"} for row in rows]
    draw_against_nfe(path, named, titles, levels)


def report(real: list[dict[str, Any]], rows: list[dict[str, Any]], bits: tuple[float, float], count: int) -> str:
    """The results as text with a Markdown table."""
    test, training = real
    table = []
    for row in rows:
        table.append(
            {
                "solver": row["solver"],
                "kind": row["kind"],
                "NFE": row["nfe"],
                "seconds": f"{row['seconds']:.1f}",
                "Fréchet": f"{row['frechet']:.3f}",
                "÷ train-to-test": f"{row['frechet'] / training['frechet']:.2f}",
                "recognised": f"{row['recognised']:.3f}",
                "÷ real": f"{row['recognised'] / test['recognised']:.2f}",
                "novelty ÷ real": f"{row['novelty'] / test['novelty']:.2f}",
            }
        )
    return f"""{markdown(table)}

{count:,} samples per solver, rounded to the 17 levels of the data. NFE: net calls per sample.
Fréchet: squared distance to the 297 test digits in the features of a classifier of the training digits; that of the
1,500 training digits is {training["frechet"]:.3f} (÷ train-to-test: 1 is as near as the training digits).
Recognised: share with a class of probability {THRESHOLD:g} or more; of the real test digits {test["recognised"]:.3f}.
Novelty: mean distance to the nearest training digit; of the test digits {test["novelty"]:.2f} (÷ real: copies have 0).
Test log-likelihood: at most {bits[0]:.3f} ± {bits[1]:.3f} bits per dimension (17 equally likely levels: 4.087).
"""


def demonstrate(config: DemoConfig) -> None:
    with locked(Path(config.out)):
        demonstrate_in(Path(config.out), config)


def demonstrate_in(out: Path, config: DemoConfig) -> None:
    since = time.perf_counter()
    denoiser = trained(config)
    training_seconds = time.perf_counter() - since
    real, rows = score(config, denoiser)
    x = all_values(digits("test"))
    bits = mean_and_error(measure(denoiser, x, seed=config.seed, rtol=1e-3, atol=1e-3, progress=True)["bits_per_dim"])
    draw_loss(out / "loss.png", read_log(out / "train"))
    draw_quality(out / "quality.png", real, rows)
    save_figure(out / "trajectory.png", plot_trajectory(denoiser, seed=config.seed), dpi=120)
    text = report(real, rows, bits, config.count)
    write_whole(out / "table.md", text)
    seconds = {"training": training_seconds, "total": time.perf_counter() - since}
    write_json(
        out / "results.json",
        {
            "count": config.count,
            "real": real,
            "solvers": rows,
            "bits_per_dim": dict(zip(("mean", "stderr"), bits, strict=True)),
            "seconds": seconds,
        },
    )
    print(f"\n{text}\n{seconds['total']:.0f} s, training {training_seconds:.0f} s of them. Pictures and model: {out}")


def main(arguments: Sequence[str] | None = None) -> None:
    run_with_settings(DemoConfig, demonstrate, "sdescore demo", __doc__, arguments)
