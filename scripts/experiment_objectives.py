"""Explicit, implicit, sliced, finite-difference and denoising score matching, trained on one set of the plane.

Each trains the same net for the same steps. The table has the Fisher divergence E ||s - grad log p||^2 / 2 that it
reaches (denoising: to the density that it sees, the noised one), the milliseconds of processor time of a step, and the
variance of the gradient of a batch, at one and the same net, relative to the squared mean. Energy nets follow: KL to
the truth.
"""

import time
from collections.abc import Callable

import matplotlib.pyplot as plt
import torch
from experiment_shared import arguments, finish, fit, perceptron, plane, table
from torch import Tensor, nn
from torch.distributions import Normal

from sdescore import (
    Energy,
    GaussianMixture,
    denoising_score_matching,
    explicit_score_matching,
    finite_difference_score_matching,
    implicit_score_matching,
    sliced_score_matching,
    variance_reduced_score_matching,
)

SIGMA, STEPS, BATCH = 0.3, 6000, 512
TRUTH = GaussianMixture([[-1.2, 0.0], [1.0, 0.8], [0.6, -1.0]], [0.6, 0.7, 0.5], [0.4, 0.35, 0.25])
NOISED = GaussianMixture(TRUTH.means, (TRUTH.stds**2 + SIGMA**2).sqrt(), TRUTH.weights)
Loss = Callable[[nn.Module, Tensor], Tensor]
LOSSES: dict[str, Loss] = {
    "explicit": lambda net, x: explicit_score_matching(net, x, TRUTH.score(x)),
    "implicit": implicit_score_matching,
    "sliced": sliced_score_matching,
    "sliced, reduced": variance_reduced_score_matching,
    "finite difference": finite_difference_score_matching,
    "denoising": lambda net, x: denoising_score_matching(net, x, lambda x0: Normal(x0, SIGMA), weighting=1.0),
}


def batch() -> Tensor:
    chosen = torch.multinomial(TRUTH.weights, BATCH, replacement=True)
    return TRUTH.means[chosen] + TRUTH.stds[chosen] * torch.randn(BATCH, 2)


def relative_variance(loss: Loss, net: nn.Module, draws: int = 100) -> float:
    parameters = list(net.parameters())
    drawn = []
    for _ in range(draws):
        found = torch.autograd.grad(loss(net, batch()).mean(), parameters, allow_unused=True)
        drawn.append(torch.cat([g.flatten() for g in found if g is not None]))
    gradients = torch.stack(drawn)
    return float(gradients.var(0).sum() / gradients.mean(0).square().sum())


def divergence(net: nn.Module, truth: GaussianMixture, seed: int) -> float:
    x = truth.sample(50_000, seed)
    with torch.no_grad():
        return float(explicit_score_matching(net, x, truth.score(x)).mean())


def on_grid(net: Energy, truth: GaussianMixture) -> tuple[Tensor, float]:
    """The energy's density normalised on a grid (201, 201), and the divergence KL(truth || density)."""
    grid = plane(5, 201)
    with torch.no_grad():
        log_q = net.log_density(grid).log_softmax(0)
    log_p = truth.log_prob(grid).log_softmax(0)
    return log_q.exp().reshape(201, 201), float((log_p.exp() * (log_p - log_q)).sum())


class Scalar(nn.Module):
    """A net's output above a bowl, which keeps the energy high far from the data."""

    def __init__(self) -> None:
        super().__init__()
        self.net = perceptron(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)[:, 0] + x.square().sum(1) / 4
        return out


def main() -> None:
    given = arguments(__doc__, "objectives")
    probe = perceptron(2, 2)
    fit(probe, lambda: explicit_score_matching(probe, x := batch(), TRUTH.score(x)).mean(), 100, name="common net")
    rows: list[tuple[str, float, float, float]] = []
    for name, loss in LOSSES.items():
        torch.manual_seed(given.seed)
        net = perceptron(2, 2)
        began = time.process_time()
        fit(net, lambda net=net, loss=loss: loss(net, batch()).mean(), STEPS, name=name)  # type: ignore[misc]
        cost = 1e3 * (time.process_time() - began) / STEPS
        truth = NOISED if name == "denoising" else TRUTH
        rows.append((name, divergence(net, truth, given.seed + 1), cost, relative_variance(loss, probe)))
    table(("objective", "Fisher divergence", "ms of processor a step", "relative variance of the gradient"), rows)

    fig, axes = plt.subplots(1, 4, figsize=(15, 3.4))
    axes[0].barh([row[0] for row in rows][::-1], [row[1] for row in rows][::-1])
    axes[0].set(title="Fisher divergence reached")
    axes[1].imshow(TRUTH.log_prob(plane(5, 201)).exp().reshape(201, 201).T, origin="lower", extent=(-5, 5, -5, 5))
    axes[1].set(title="truth")
    energies: dict[str, float] = {}
    for axis, name in zip(axes[2:], ("implicit", "denoising"), strict=True):
        torch.manual_seed(given.seed)
        energy = Energy(Scalar())
        fit(energy, lambda m=energy, n=name: LOSSES[n](m, batch()).mean(), STEPS, name=f"energy, {name}")  # type: ignore[misc]
        density, energies[name] = on_grid(energy, NOISED if name == "denoising" else TRUTH)
        axis.imshow(density.T, origin="lower", extent=(-5, 5, -5, 5))
        axis.set(title=f"energy net, {name}: KL {energies[name]:.4f}")
    table(("energy net, trained by", "KL to the truth"), list(energies.items()))
    keys = ("fisher_divergence", "ms_per_step", "relative_gradient_variance")
    scores = {row[0]: dict(zip(keys, row[1:], strict=True)) for row in rows}
    finish(fig, given.out, "objectives", {"scores": scores, "energy_kl": energies})


if __name__ == "__main__":
    main()
