"""Refine a forecast by one denoising step, and sample whole futures, on a seasonal series or a column of a CSV file.

A first-stage forecaster gives the next 24 values from the last 96, and its own estimate of its error. An energy net E,
trained by denoising score matching on futures alone, then cleans each forecast y as y - sigma^2 grad E(y), the
posterior mean if the forecast's error were white noise (Tweedie): with one sigma0 for all, with a net of many sigmas,
and with each window's own estimated sigma. A perceptron y + f(y) of the same size, trained on the forecasts' errors,
stands beside it, and a score model conditioned on the past that samples futures. Whatever the series, no split sees
the future: train, validation and test follow each other in time. CRPS is that of a normal law about each forecast with
the estimated error, and of 32 samples for the score model.
"""

import argparse
import csv
import math
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn

from sdescore import VPSDE, Denoiser, Energy, KarrasSDE, denoising_score_matching, sample
from sdescore.cli.outputs import make_folder, write_json
from sdescore.denoisers import Distance
from sdescore.evaluation.figures import save_figure
from sdescore.nets import MLP
from sdescore.objectives import TimeDistribution

sys.path.append(str(Path(__file__).parents[1]))  # for what scripts share
from shared.experiment import fit, start, table

PAST, AHEAD, DRAWS = 96, 24, 32
LEVELS = KarrasSDE(0.02, 4.0)  # its time is sigma itself


def seasonal(hours: int = 10_000) -> Tensor:
    """A day, a week, a slow swing and autoregressive noise whose size depends on the hour."""
    draw = torch.Generator().manual_seed(0)
    t = torch.arange(hours, dtype=torch.float64)
    noise, x = torch.randn(hours, generator=draw, dtype=torch.float64), torch.zeros(())
    correlated = []
    for i in range(hours):
        x = 0.9 * x + 0.25 * noise[i] * (1 + 0.7 * math.sin(2 * math.pi * i / 24))
        correlated.append(x)
    day, week = torch.sin(2 * math.pi * t / 24), torch.cos(2 * math.pi * t / 168)
    return day * (1 + 0.5 * week) + 0.5 * week + 0.5 * torch.sin(2 * math.pi * t / 2000) + torch.stack(correlated)


def column(path: Path, name: str) -> Tensor:
    """A numeric column of a CSV file with a header. Raises ValueError naming what is missing."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        try:
            header = reader.fieldnames or ["no header"]
            values = [float(row[name] or "nan") for row in reader] if name in header else None
        except (ValueError, csv.Error) as error:  # a file that is no text, too
            raise ValueError(f"{path}, column {name!r}: {error}") from None
    if values is None:
        raise ValueError(f"--column={name!r}: {path} has {', '.join(header)}")
    return torch.tensor(values, dtype=torch.float64)


def windows(series: Tensor, first: int, last: int, stride: int) -> tuple[Tensor, Tensor]:
    """Pasts (n, PAST) and futures (n, AHEAD) whose futures lie in first <= i < last."""
    both = series[max(first - PAST, 0) : last].unfold(0, PAST + AHEAD, stride).float()
    return both[:, :PAST], both[:, PAST:]


class First(nn.Module):
    """The forecast, relative to the last value, and the logarithm of its error's size."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(PAST, AHEAD)
        self.size = nn.Sequential(nn.Linear(PAST, 64), nn.SiLU(), nn.Linear(64, 1))

    def forward(self, past: Tensor) -> tuple[Tensor, Tensor]:
        moved = past - past[:, -1:]
        return past[:, -1:] + self.linear(moved), self.size(moved)[:, 0].clamp(-4, 2).exp()


class Future(nn.Module):
    """A net of futures that is shown the past."""

    def __init__(self) -> None:
        super().__init__()
        self.net = MLP(PAST + AHEAD, width=192, depth=3)

    def forward(self, x: Tensor, level: Tensor, past: Tensor) -> Tensor:
        out: Tensor = self.net(torch.cat([past, x], 1), level)[:, PAST:]
        return out


def crps_normal(mean: Tensor, std: Tensor, y: Tensor) -> float:
    """Mean CRPS of N(mean, std^2) (Gneiting & Raftery 2007, section 4.2)."""
    z = (y - mean) / std[:, None]
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    return float((std[:, None] * (z * (2 * torch.special.ndtr(z) - 1) + 2 * density - 1 / math.sqrt(math.pi))).mean())


def crps_samples(x: Tensor, y: Tensor) -> float:
    """Mean CRPS of samples (draws, n, AHEAD), without bias: E|x - y| - E|x - x'| / 2 (eq. 21 there)."""
    n = len(x)
    rank = torch.arange(n).mul(2).sub(n - 1).reshape(n, 1, 1)
    spread = (rank * x.sort(0).values).sum(0) * 2 / (n * (n - 1))
    return float(((x - y).abs().mean(0) - spread / 2).mean())


def one_seed(series: Tensor, seed: int, steps: int) -> tuple[dict[str, tuple[float, float]], tuple[Tensor, ...]]:
    """MSE and CRPS of each method on the test windows, and what the picture shows."""
    torch.manual_seed(seed)
    n = len(series)
    ends = int(0.6 * n), int(0.8 * n)
    past, future = windows(series, 0, ends[0], 1)
    held, held_future = windows(series, *ends, 1)
    test, truth = windows(series, ends[1], n, 8)

    def rows() -> Tensor:
        return torch.randint(len(past), (256,))

    first = First()

    def first_loss() -> Tensor:
        chosen = rows()
        mean, size = first(past[chosen])
        error = (future[chosen] - mean).square().mean(1)
        return (error + error.detach() / (2 * size**2) + size.log()).mean()

    fit(first, first_loss, steps, name=f"seed {seed}: forecaster")
    with torch.no_grad():
        of_past, (guess, size) = first(past)[0], first(test)
        offset = first(held)
        # Both sizes from data that the forecaster was not trained on.
        sigma0 = float((offset[0] - held_future).square().mean().sqrt())
        size = size * sigma0 / float(offset[1].square().mean().sqrt())

    def energy(levels: TimeDistribution, name: str) -> Denoiser:
        net = Denoiser(Energy(Distance(MLP(AHEAD, width=96, depth=2))), LEVELS, "score", data_std=1.0)
        fit(
            net,
            lambda: denoising_score_matching(net, future[rows()], time_distribution=levels).mean(),
            steps,
            1e-3,
            name,
        )
        return net

    only = energy(
        TimeDistribution(lambda sde, u: (torch.full_like(u, sigma0), torch.ones_like(u))), "energy, one level"
    )
    many = energy(
        TimeDistribution(lambda sde, u: (torch.exp(math.log(0.05) + u * math.log(40)), torch.ones_like(u))), "energy"
    )
    plain = MLP(AHEAD, width=96, depth=2)

    def residual(y: Tensor) -> Tensor:
        out: Tensor = y + plain(y, y.new_zeros(len(y)))
        return out

    def plain_loss() -> Tensor:
        chosen = rows()
        return (residual(of_past[chosen]) - future[chosen]).square().mean()

    fit(plain, plain_loss, steps, 1e-3, "residual perceptron")
    score = Denoiser(Future(), VPSDE(), "v", data_std=1.0)

    def score_loss() -> Tensor:
        chosen = rows()
        given = {"past": past[chosen] - past[chosen, -1:]}
        return denoising_score_matching(
            score, future[chosen] - past[chosen, -1:], weighting="edm", condition=given
        ).mean()

    fit(score, score_loss, 2 * steps, 1e-3, "conditional score")
    with torch.no_grad():
        level = torch.tensor(sigma0)
        means = {
            "no refinement": guess,
            "one step, fixed sigma": only(guess, level),
            "one step, multi-scale net": many(guess, level),
            "one step, sigma per window": many(guess, size.clamp(LEVELS.t_min, LEVELS.T)),
            "residual perceptron": residual(guess),
        }
    last = test[:, -1:]
    given = {"past": (test - last).repeat(DRAWS, 1)}
    drawn = sample(
        VPSDE(),
        score,
        (DRAWS * len(test), AHEAD),
        solver="heun",
        steps=12,
        condition=given,
        seed=seed,
        progress=True,
    )
    futures = drawn.reshape(DRAWS, len(test), AHEAD) + last
    results = {
        name: (float((mean - truth).square().mean()), crps_normal(mean, size, truth)) for name, mean in means.items()
    }
    mse = float((futures.mean(0) - truth).square().mean())
    results["conditional score model"] = mse, crps_samples(futures, truth)
    return results, (test, truth, guess, means["one step, sigma per window"], futures)


def picture(shown: tuple[Tensor, ...], path: Path) -> None:
    past, truth, guess, refined, futures = shown
    fig, axes = plt.subplots(1, 3, figsize=(11.5, 3.2))
    hours = torch.arange(AHEAD)
    for axis, i in zip(axes, torch.linspace(0, len(past) - 1, 5).long()[1:4].tolist(), strict=True):
        for low, high, shade in ((0.05, 0.95, 0.2), (0.25, 0.75, 0.35)):
            band = futures[:, i].quantile(torch.tensor([low, high]), 0)
            axis.fill_between(hours, *band, color="tab:blue", alpha=shade, lw=0, label=f"samples, {high - low:.0%}")
        axis.plot(torch.arange(-48, 0), past[i, -48:], "k", lw=1)
        axis.plot(hours, truth[i], "k", lw=1.5, label="truth")
        axis.set(xlabel="steps ahead", title=f"test window {i}")
        axis.plot(hours, guess[i], "tab:red", lw=1, label="forecast")
        axis.plot(hours, refined[i], "tab:green", lw=1, ls="--", label="refined")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="upper center", bbox_to_anchor=(0.5, 1.08), ncol=5)
    save_figure(path, fig, dpi=80, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, help="file with a header; a synthetic seasonal series unless given")
    parser.add_argument("--column", help="which column of the file to forecast")
    parser.add_argument("--seeds", type=int, default=3, help="how often all is trained and measured")
    parser.add_argument("--steps", type=int, default=1000, help="training steps of each net")
    parser.add_argument("--out", type=Path, default=Path("runs/forecast"), help="folder of the table and the picture")
    given = parser.parse_args()
    if (given.csv is None) != (given.column is None):
        parser.error("--csv and --column go together")
    if given.seeds < 1 or given.steps < 1:
        parser.error(f"--seeds={given.seeds}, --steps={given.steps}; expected positive integers")
    try:
        series = seasonal() if given.csv is None else column(given.csv, given.column)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if len(series) < 20 * (PAST + AHEAD) or not bool(series.isfinite().all()):
        parser.error(f"the series has {len(series)} values; expected at least {20 * (PAST + AHEAD)}, all finite")
    known = series[: int(0.6 * len(series))]
    if not float(known.std()) > 0:
        parser.error("the series does not change in its first 60 %")
    series = (series - known.mean()) / known.std()
    make_folder(given.out)
    runs = []
    for seed in range(given.seeds):
        results, shown = one_seed(series, seed, given.steps)
        runs.append(results)
        if seed == 0:
            picture(shown, given.out / "forecast.png")
    rows = []
    for name in runs[0]:
        values = torch.tensor([run[name] for run in runs], dtype=torch.float64)
        spread = values.std(0) if len(runs) > 1 else torch.full((2,), math.nan)
        rows.append((name, *values.mean(0).tolist(), *spread.tolist()))
    print(f"test windows, values in standard deviations of the training part, {given.seeds} seeds")
    table(("method", "MSE", "CRPS", "MSE over seeds ±", "CRPS ±"), rows)
    write_json(given.out / "forecast.json", runs)
    print(given.out / "forecast.png")


if __name__ == "__main__":
    start(main)
