"""NCSN and DDPM are one: an eps-net sampled by annealed Langevin, ancestrally, by the reverse SDE and by the ODE.

The net learns the noise of a variance-preserving process on a spiral; the variance-exploding process reads it at equal
signal-to-noise ratio (Song et al. 2021). The table has the energy distance to data, beside that of data to data.
"""

import math
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from sdescore import VESDE, VPSDE, Denoiser, LinearSDE, denoising_score_matching, sample
from sdescore.nets import MLP
from sdescore.solvers import AnnealedLangevin, Langevin

sys.path.append(str(Path(__file__).parents[1]))  # for what scripts share
from shared.experiment import arguments, finish, fit, start, table

N = 2000
VP, VE = VPSDE(), VESDE(0.01, 50.0)


def spiral(n: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    angle = 1.5 * math.pi * (1 + 2 * torch.rand(n, generator=draw))
    points = torch.stack([angle * angle.cos(), angle * angle.sin()], 1) / 10
    return points + 0.03 * torch.randn(n, 2, generator=draw)


def energy_distance(x: Tensor, y: Tensor) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'|, without bias; 0 for equal laws (Szekely & Rizzo 2013)."""

    def among(z: Tensor) -> Tensor:
        return torch.cdist(z, z).sum() / (len(z) * (len(z) - 1))

    return float(2 * torch.cdist(x, y).mean() - among(x) - among(y))


def main() -> None:
    given = arguments(__doc__, "one_net")
    data = spiral(50_000, given.seed)
    net = Denoiser(MLP(2, width=128, depth=3), VP, "noise", data_std=float(data.std()))

    def loss() -> Tensor:
        return denoising_score_matching(
            net, data[torch.randint(len(data), (512,))], time_distribution="low-discrepancy"
        ).mean()

    fit(net, loss, 4000)
    # Even in lam, from the process's own noise to rho = 0.02, finer than the spiral: the net knows all of it.
    ladder = AnnealedLangevin(Langevin(snr=0.16, repeats=10))
    ways: list[tuple[str, object, int, LinearSDE]] = [
        ("annealed Langevin (NCSN), VE", ladder, 60, VE),
        ("ancestral (DDPM), VP", "ddpm", 300, VP),
        ("reverse SDE, VP", "euler-maruyama", 300, VP),
        ("flow ODE (Heun), VP", "heun", 25, VP),
        ("flow ODE (Heun), VE", "heun", 25, VE),
    ]
    test = spiral(N, given.seed + 1)
    rows = [("data to data", 0, energy_distance(spiral(N, given.seed + 2), test))]
    drawn = {}
    for name, solver, steps, sde in ways:
        grid = torch.linspace(float(sde.lam(torch.tensor(sde.T, dtype=torch.float64))), 3.9, steps, dtype=torch.float64)
        times = sde.time(grid).clamp(sde.t_min, sde.T)
        x = sample(sde, net, (N, 2), solver=solver, times=times, seed=given.seed, progress=True)  # type: ignore[arg-type]
        drawn[name] = x
        rows.append((name, steps, energy_distance(x, test)))
    table(("sampler", "steps", "energy distance"), rows)
    fig, axes = plt.subplots(2, 3, figsize=(9.5, 6.6), sharex=True, sharey=True)
    for axis, (name, x) in zip(axes.flat, {"data": test, **drawn}.items(), strict=True):
        axis.scatter(*x.T, s=1)
        axis.set(title=name, aspect="equal", xlim=(-1.7, 1.7), ylim=(-1.7, 1.7))
    fig.tight_layout()
    finish(fig, given.out, "one_net", {row[0]: row[2] for row in rows})


if __name__ == "__main__":
    start(main)
