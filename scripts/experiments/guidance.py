"""What guidance does: digits of a class at rising scales, and the law that it samples beside the one it is taken for.

The score null + w (conditional - null) is that of p(x)^(1-w) p(x|c)^w at t = 0 alone; at other times it is no noised
version of that density, so that samples follow another law. In the plane both are known: the guided flow's by exact
scores, the density by quadrature. A Metropolis-adjusted chain, begun at the guided samples, draws from the density.
"""

import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from torch import Tensor

from sdescore import Denoiser, GaussianMixture, KarrasSDE, guided, sample
from sdescore.cli.digits_judge import probabilities
from sdescore.denoisers import APG
from sdescore.mcmc import mala
from sdescore.sampling.solver import Solver
from sdescore.solvers import HEUN, CFGPlusPlus

sys.path.append(str(Path(__file__).parents[1]))  # for what scripts share
from shared.experiment import arguments, finish, plane, start, table
from shared.labelled_digits import CLASSES, digit_denoiser, some_digits

COUNT, NFE, W = 200, 36, 3.0
SDE = KarrasSDE()
LAW = GaussianMixture(
    [[-1.0, 0.6], [0.9, 0.5], [0.2, -1.0]], [[0.6, 0.4], [0.4, 0.6], [0.7, 0.4]], [0.4, 0.3, 0.3], labels=[0, 1, 1]
)


def ways(net: Denoiser) -> dict[str, tuple[Denoiser, Solver]]:
    plain = {f"scale {w:g}": (guided(net, w), HEUN) for w in (1.0, 2.0, 4.0, 8.0)}
    return {
        **plain,
        "scale 8, APG": (guided(net, 8.0, rule=APG(radius=1.0)), HEUN),
        "scale 8, 0.2 < rho < 1": (guided(net, 8.0, interval=(0.2, 1.0)), HEUN),
        "CFG++, scale 0.6": (guided(net, 0.6), CFGPlusPlus()),
    }


def spread(x: Tensor, labels: Tensor) -> float:
    """The standard deviation of pixels within a class."""
    return float(torch.stack([x[labels == c].std(0).mean() for c in range(CLASSES)]).mean())


def of_digits(net: Denoiser, seed: int) -> tuple[list[tuple[object, ...]], dict[str, Tensor]]:
    """A row of numbers for each way, and its samples."""
    labels = torch.arange(COUNT) % CLASSES
    rows: list[tuple[object, ...]] = []
    drawn = {}
    for name, (way, solver) in ways(net).items():
        x = sample(SDE, way, (COUNT, 1, 8, 8), solver=solver, nfe=NFE, seed=seed, condition={"label": labels})
        right = float((probabilities(x).argmax(1) == labels).float().mean())
        rows.append((name, right, spread(x, labels), float((x.abs() > 1.1).float().mean())))
        drawn[name] = x
    test, own = some_digits("test")
    drawn["test digits"] = torch.stack([test[own == c][i] for i in range(2) for c in range(CLASSES)])
    rows.append(("test digits", float((probabilities(test).argmax(1) == own).float().mean()), spread(test, own), 0.0))
    return rows, drawn


def tilted(x: Tensor) -> Tensor:
    """log p(x)^(1-w) p(x|1)^w, unnormalised."""
    return (1 - W) * LAW.log_prob(x) + W * LAW.given(1).log_prob(x)


def in_the_plane(seed: int) -> tuple[dict[str, Tensor], dict[str, list[float]]]:
    """Samples of each law, and their mean and standard deviations beside those of the density by quadrature."""
    n = 3000
    label = {"label": torch.ones(n, dtype=torch.long)}
    by_flow = sample(SDE, guided(LAW.denoiser(SDE), W), (n, 2), solver="heun", steps=60, seed=seed, condition=label)
    corrected = mala(tilted, by_flow, step=0.05, steps=300, thin=300, seed=seed, progress=True).x
    grid = plane(5, 401)
    mass = tilted(grid).softmax(0)[:, None]
    mean = (mass * grid).sum(0)
    exact = [*mean.tolist(), *(mass * (grid - mean) ** 2).sum(0).sqrt().tolist()]
    laws = {"the class": LAW.given(1).sample(n, seed), f"guided, w = {W:g}": by_flow, "corrected": corrected}
    moments = {name: [*x.mean(0).tolist(), *x.std(0).tolist()] for name, x in laws.items()}
    return laws, {**moments, "tilted, by quadrature": exact}


def picture(drawn: dict[str, Tensor], laws: dict[str, Tensor]) -> Figure:
    fig = plt.figure(figsize=(10, 9.5), layout="constrained")
    halves: Any = fig.subfigures(2, 1, height_ratios=[1.45, 1])
    above, below = halves
    for axis, (name, x) in zip(above.subplots(4, 2).T.flat, drawn.items(), strict=False):
        tiles = torch.nn.functional.pad(x[: 2 * CLASSES, 0], (1, 1, 1, 1), value=0.0)
        sheet = tiles.unflatten(0, (2, CLASSES)).transpose(1, 2).reshape(2 * 10, CLASSES * 10)
        axis.imshow(sheet, cmap="gray", vmin=-1, vmax=1)
        axis.set_title(name, fontsize=9)
    for axis in above.axes:
        axis.set_axis_off()
    grid = plane(3, 121)
    density = tilted(grid).softmax(0).reshape(121, 121).T
    for axis, (name, x) in zip(below.subplots(1, 3, sharex=True, sharey=True), laws.items(), strict=True):
        axis.contour(density, levels=6, extent=(-3, 3, -3, 3), cmap="viridis", linewidths=1)
        axis.scatter(*x[:1500].T, s=2, c="tab:orange")
        axis.set(title=name, aspect="equal", xlim=(-1.5, 3), ylim=(-2.7, 2))
    return fig


def main() -> None:
    given = arguments(__doc__, "guidance")
    net = digit_denoiser()
    rows, drawn = of_digits(net, given.seed)
    table(("way", "right classes", "deviation in a class", "share of pixels beyond 1.1"), rows)
    laws, moments = in_the_plane(given.seed)
    table(("law", "mean x", "mean y", "deviation x", "deviation y"), [(name, *each) for name, each in moments.items()])
    numbers = {"digits": {str(name): list(each) for name, *each in rows}, "plane": moments}
    finish(picture(drawn, laws), given.out, "guidance", numbers)


if __name__ == "__main__":
    start(main)
