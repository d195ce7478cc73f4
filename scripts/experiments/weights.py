"""What Langevin dynamics does with the weights of far modes, and how annealing and the reverse SDE get them right.

The small mode of p = N((-5, -5), I) / 5 + 4 N((5, 5), I) / 5 holds 0.2 of the mass. Its score near one mode hardly
depends on the weights, and chains do not cross the gap (Song & Ermon 2019, figure 3).
"""

import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from sdescore import VESDE, Denoiser, GaussianMixture, denoising_score_matching, langevin, sample, sliced_score_matching
from sdescore.mcmc import annealed_langevin
from sdescore.nets import MLP

sys.path.append(str(Path(__file__).parents[1]))  # for what scripts share
from shared.experiment import FAR, PlainScore, arguments, finish, fit, start, table

N, FEW, LEVELS, REPEATS = 10_000, 2000, 40, 100  # chains with the exact score, and with nets
SDE = VESDE(0.1, 50.0)
STEP = 0.1 * SDE.sigma_min**2
Annealed = Callable[[Tensor, Tensor], Tensor]


def exact(x: Tensor, sigma: Tensor) -> Tensor:
    noised = GaussianMixture(FAR.means, (FAR.stds**2 + float(sigma[0]) ** 2).sqrt(), FAR.weights)
    return noised.score(x)


def small(x: Tensor) -> float:
    return float((x.sum(1) < 0).float().mean())


def main() -> None:
    given = arguments(__doc__, "weights")
    data = FAR.sample(100_000, given.seed)
    plain = PlainScore(2)
    fit(plain, lambda: sliced_score_matching(plain, data[torch.randint(len(data), (256,))]).mean(), 2000, name="sliced")
    levels = Denoiser(MLP(2, width=128, depth=2), SDE, "edm", data_std=7.1)

    def loss() -> Tensor:
        x0 = data[torch.randint(len(data), (512,))]
        return denoising_score_matching(levels, x0, weighting="edm", time_distribution="importance").mean()

    fit(levels, loss, 3000, name="denoising")
    start = 16 * torch.rand(N, 2) - 8
    wide = SDE.sigma_max * torch.randn(N, 2)
    sigmas = SDE.sigmas(LEVELS).flip(0).float()

    def learnt(x: Tensor, sigma: Tensor) -> Tensor:
        return levels.score(x, SDE.time(-sigma[0].double().log()).clamp(SDE.t_min, SDE.T))

    def anneal(score: Annealed, n: int) -> Tensor:
        return annealed_langevin(score, wide[:n], sigmas, step=STEP, repeats=REPEATS, seed=given.seed, progress=True).x

    def backwards(net: Denoiser, n: int) -> Tensor:
        return sample(SDE, net, (n, 2), solver="euler-maruyama", steps=500, seed=given.seed, progress=True)

    def plainly(score: Callable[[Tensor], Tensor], n: int) -> Tensor:
        return langevin(score, start[:n], step=0.05, steps=1000, thin=1000, seed=given.seed, progress=True).x

    results = {
        "independent samples": (FAR.sample(N, given.seed + 1),) * 2,
        "Langevin": (plainly(FAR.score, N), plainly(plain, FEW)),
        "annealed Langevin": (anneal(exact, N), anneal(learnt, FEW)),
        "reverse SDE": (backwards(FAR.denoiser(SDE), N), backwards(levels, FEW)),
    }
    table(
        ("sampler", "small mode (0.2): exact score", "learnt net"),
        [(name, small(a), "-" if a is b else small(b)) for name, (a, b) in results.items()],
    )
    fig, axes = plt.subplots(1, 4, figsize=(11, 3.2), sharex=True, sharey=True)
    for axis, (name, (x, _)) in zip(axes, results.items(), strict=True):
        axis.scatter(*x[:1500].T, s=2)
        axis.set(title=f"{name}\nsmall mode {small(x):.3f}", aspect="equal", xlim=(-9, 9), ylim=(-9, 9))
    finish(
        fig, given.out, "weights", {name: {"exact": small(a), "learnt": small(b)} for name, (a, b) in results.items()}
    )


if __name__ == "__main__":
    start(main)
