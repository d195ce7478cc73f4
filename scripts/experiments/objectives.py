"""Explicit, implicit, sliced, finite-difference and denoising score matching, trained on one set of the plane.

Each trains the same four nets, side by side, on batches of their own. The table has the Fisher divergence
E ||s - grad log p||^2 / 2 that they reach, its standard error over the four, and what share that is of the divergence
of s = 0 (denoising: to the density that it sees, the noised one); the milliseconds of processor time of a step; and the
variance of the gradient of a batch, at one and the same net, relative to the squared mean. Energy nets follow: KL to
the truth.
"""

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.distributions import Normal

from sdescore import Energy, GaussianMixture, denoising_score_matching, implicit_score_matching, sliced_score_matching
from sdescore.cli.tables import mean_and_error
from sdescore.objectives import (
    explicit_score_matching,
    finite_difference_score_matching,
    variance_reduced_score_matching,
)

sys.path.append(str(Path(__file__).parents[1]))  # for what scripts share
from shared.experiment import arguments, finish, fit, perceptron, plane, start, table

SIGMA, NETS, PROBE = 0.3, 4, 512
STEPS, BATCH, WIDTH = 2500, 2048, 16  # of each score net
ENERGY_STEPS, ENERGY_BATCH = 2000, 512
TRUTH = GaussianMixture([[-1.2, 0.0], [1.0, 0.8], [0.6, -1.0]], [0.6, 0.7, 0.5], [0.4, 0.35, 0.25])
NOISED = GaussianMixture(TRUTH.means, (TRUTH.stds**2 + SIGMA**2).sqrt(), TRUTH.weights)
Loss = Callable[[nn.Module, Tensor], Tensor]


def explicit_on_noised(net: nn.Module, x: Tensor) -> Tensor:
    x = x + SIGMA * torch.randn_like(x)
    return explicit_score_matching(net, x, NOISED.score(x))


LOSSES: dict[str, Loss] = {
    "explicit": lambda net, x: explicit_score_matching(net, x, TRUTH.score(x)),
    "implicit": implicit_score_matching,
    "sliced": sliced_score_matching,
    "sliced, reduced": variance_reduced_score_matching,
    "finite difference": finite_difference_score_matching,
    "explicit, noised": explicit_on_noised,
    "denoising": lambda net, x: denoising_score_matching(net, x, lambda x0: Normal(x0, SIGMA), weighting=1.0),
}
SEES_NOISE = ("explicit, noised", "denoising")


class Linears(nn.Module):
    """A linear layer of each of the nets."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(NETS, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(NETS, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class Nets(nn.Module):
    """Independent perceptrons of the plane: each has its part of the batch, as if it were alone."""

    def __init__(self, outputs: int, width: int) -> None:
        super().__init__()
        middle = Linears(width, width)
        self.net = nn.Sequential(Linears(2, width), nn.SiLU(), middle, nn.SiLU(), Linears(width, outputs))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x.reshape(NETS, -1, 2)).flatten(0, 1)
        return out


class Scalar(nn.Module):
    """A net's output above a bowl, which keeps the energy high far from the data."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Nets(1, 64)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)[:, 0] + x.square().sum(1) / 4
        return out


def batch(size: int) -> Tensor:
    chosen = torch.multinomial(TRUTH.weights, size, replacement=True)
    return TRUTH.means[chosen] + TRUTH.stds[chosen] * torch.randn(size, 2)


def relative_variance(loss: Loss, net: nn.Module, draws: int = 100) -> float:
    parameters = list(net.parameters())
    drawn = []
    for _ in range(draws):
        found = torch.autograd.grad(loss(net, batch(PROBE)).mean(), parameters, allow_unused=True)
        drawn.append(torch.cat([g.flatten() for g in found if g is not None]))
    gradients = torch.stack(drawn)
    return float(gradients.var(0).sum() / gradients.mean(0).square().sum())


def divergences(score: Callable[[Tensor], Tensor], truth: GaussianMixture, seed: int) -> Tensor:
    """Of each net, (NETS,), from 50,000 points."""
    x = truth.sample(50_000, seed).repeat(NETS, 1)
    with torch.no_grad():
        return explicit_score_matching(score, x, truth.score(x)).reshape(NETS, -1).mean(1)


def on_grid(nets: Energy, truth: GaussianMixture) -> tuple[Tensor, Tensor]:
    """The first energy's density normalised on a grid (201, 201), and each one's divergence KL(truth || density)."""
    grid = plane(5, 201)
    with torch.no_grad():
        log_q = nets.log_density(grid.repeat(NETS, 1)).reshape(NETS, -1).log_softmax(1)
    log_p = truth.log_prob(grid).log_softmax(0)
    return log_q[0].exp().reshape(201, 201), (log_p.exp() * (log_p - log_q)).sum(1)


def main() -> None:
    given = arguments(__doc__, "objectives")
    probe = perceptron(2, 2)
    fit(probe, lambda: explicit_score_matching(probe, x := batch(PROBE), TRUTH.score(x)).mean(), 100, name="common net")
    rows: list[tuple[str, float, float, float, float, float]] = []
    for name, loss in LOSSES.items():
        torch.manual_seed(given.seed)
        nets = Nets(2, WIDTH)
        began = time.process_time()
        fit(nets, lambda n=nets, loss=loss: loss(n, batch(NETS * BATCH)).mean(), STEPS, 3e-2, name)  # type: ignore[misc]
        cost = 1e3 * (time.process_time() - began) / STEPS
        truth = NOISED if name in SEES_NOISE else TRUTH
        reached, error = mean_and_error(divergences(nets, truth, given.seed + 1))
        share = reached / float(divergences(torch.zeros_like, truth, given.seed + 1).mean())
        rows.append((name, reached, error, share, cost, relative_variance(loss, probe)))
    table(("objective", "Fisher divergence", "±", "of that of s = 0", "ms a step", "variance of the gradient"), rows)

    fig, axes = plt.subplots(2, 2, figsize=(9.5, 7))
    bars, *maps = axes.flat
    bars.barh([row[0] for row in rows][::-1], [row[1] for row in rows][::-1], xerr=[row[2] for row in rows][::-1])
    bars.set(title="Fisher divergence reached, ± standard error")
    maps[0].imshow(TRUTH.log_prob(plane(5, 201)).exp().reshape(201, 201).T, origin="lower", extent=(-5, 5, -5, 5))
    maps[0].set(title="truth")
    energies: list[tuple[str, float, float]] = []
    for axis, name in zip(maps[1:], ("implicit", "denoising"), strict=True):
        torch.manual_seed(given.seed)
        energy, loss = Energy(Scalar()), LOSSES[name]
        fit(
            energy,
            lambda n=energy, loss=loss: loss(n, batch(NETS * ENERGY_BATCH)).mean(),  # type: ignore[misc]
            ENERGY_STEPS,
            name=f"energy, {name}",
        )
        density, kl = on_grid(energy, NOISED if name in SEES_NOISE else TRUTH)
        energies.append((name, *mean_and_error(kl)))
        axis.imshow(density.T, origin="lower", extent=(-5, 5, -5, 5))
        axis.set(title=f"energy net, {name}: KL {energies[-1][1]:.4f}")
    table(("energy nets, trained by", "KL to the truth", "±"), energies)
    fig.tight_layout()
    keys = ("fisher_divergence", "standard_error", "share_of_zero", "ms_per_step", "relative_gradient_variance")
    scores = {row[0]: dict(zip(keys, row[1:], strict=True)) for row in rows}
    finish(fig, given.out, "objectives", {"scores": scores, "energy_kl": {name: kl for name, kl, _ in energies}})


if __name__ == "__main__":
    start(main)
