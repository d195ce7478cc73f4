"""The forward and the reverse process of points on a ring, variance exploding and preserving, as an animation (GIF).

The score is exact: the data is a Gaussian mixture. Left of each pair the forward process, right of it the reverse SDE
that starts from pure noise; both clouds follow the same law at the same time (Anderson 1982).
"""

import math
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.artist import Artist
from torch import Tensor
from tqdm.auto import tqdm

from sdescore import VESDE, VPSDE, GaussianMixture, LinearSDE, trajectory
from sdescore.sampling import uniform_lambda

sys.path.append(str(Path(__file__).parents[1]))  # for what scripts share
from shared.experiment import arguments, start, table

N, FRAMES = 500, 32
ANGLES = 2 * math.pi * torch.arange(12) / 12
RING = GaussianMixture(torch.stack([ANGLES.cos(), ANGLES.sin()], 1), 0.05)


def forward(sde: LinearSDE, times: Tensor, seed: int) -> Tensor:
    """A path of each point at rising times, (times, N, 2): x / alpha is the data plus a Brownian motion of rho^2."""
    draw = torch.Generator().manual_seed(seed)
    widths = sde.rho(times).square().diff(prepend=torch.zeros(1)).sqrt().float()
    walk = (widths[:, None, None] * torch.randn(len(times), N, 2, generator=draw)).cumsum(0)
    return sde.alpha(times).float()[:, None, None] * (RING.sample(N, seed) + walk)


def main() -> None:
    given = arguments(__doc__, "animation")
    panels, rows = [], []
    for name, sde in (("VE", VESDE(0.01, 10.0)), ("VP", VPSDE())):
        times = uniform_lambda(rho_min=0.02)(sde, 200)
        backward = list(
            tqdm(
                trajectory(sde, RING.denoiser(sde), (N, 2), solver="euler-maruyama", times=times, seed=given.seed),
                total=len(times) + 1,
                desc=name,
            )
        )[:-1]
        ahead = forward(sde, times.flip(0), given.seed)
        keep = torch.linspace(0, len(times) - 1, FRAMES).long()
        scale = (sde.alpha(times) ** 2 + sde.sigma(times) ** 2).sqrt()
        panels.append((f"{name} forward", ahead[keep], times.flip(0)[keep], scale.flip(0)[keep]))
        panels.append((f"{name} reverse", torch.stack(backward)[keep], times[keep], scale[keep]))
        radius = backward[-1].norm(dim=1)
        rows.append((name, float(radius.mean()), float(radius.std())))
    exact = RING.sample(100_000).norm(dim=1)
    rows.append(("data", float(exact.mean()), float(exact.std())))
    table(("process", "mean radius at the end", "its spread"), rows)

    fig, axes = plt.subplots(1, 4, figsize=(9.6, 2.7))
    fig.subplots_adjust(left=0.01, right=0.99, bottom=0.02, top=0.86, wspace=0.05)
    dots = [axis.scatter([], [], s=2) for axis in axes]

    def draw(frame: int) -> list[Artist]:
        for axis, dot, (name, x, t, scale) in zip(axes, dots, panels, strict=True):
            limit = 1.5 + 2 * (float(scale[frame]) - 1) if name.startswith("VE") else 3.0
            dot.set_offsets(x[frame])
            axis.set(title=f"{name}, t = {float(t[frame]):.2f}", xlim=(-limit, limit), ylim=(-limit, limit))
            axis.set(xticks=[], yticks=[])
        return list(dots)

    movie = FuncAnimation(fig, draw, frames=FRAMES)
    movie.save(given.out / "animation.gif", writer=PillowWriter(fps=12), dpi=56)
    print(given.out / "animation.gif")


if __name__ == "__main__":
    start(main)
