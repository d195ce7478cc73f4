"""A process with state-dependent diffusion, learnt by simulation: Cox-Ingersoll-Ross from a two-humped law to Gamma.

dx = kappa (theta - x) dt + nu sqrt(x) dw has no Gaussian kernel. Its states are simulated by torchsde, their score is
learnt by sliced score matching, and data returns through the reverse SDE and the ODE, with div(g g^T) in their drift.
"""

import math
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from sdescore import sliced_score_matching
from sdescore.processes import CIRSDE, simulate
from sdescore.sampling import FlowHeun, ItoEuler, reverse_sample

sys.path.append(str(Path(__file__).parents[1]))  # for what scripts share
from shared.experiment import arguments, finish, fit, perceptron, start, table

SDE = CIRSDE()
HUMPS = [stats.gamma(30, scale=0.6 / 30), stats.gamma(60, scale=2.2 / 60)]
WEIGHTS = [0.45, 0.55]
N, STEPS = 10_000, 5000


def cdf(x: np.ndarray) -> np.ndarray:
    value: np.ndarray = sum(w * hump.cdf(x) for w, hump in zip(WEIGHTS, HUMPS, strict=True))
    return value


def data(n: int, seed: int) -> Tensor:
    draw = np.random.default_rng(seed)
    chosen = draw.choice(2, n, p=WEIGHTS)
    x = np.where(chosen == 0, HUMPS[0].rvs(n, random_state=draw), HUMPS[1].rvs(n, random_state=draw))
    return torch.tensor(x, dtype=torch.float32).reshape(-1, 1)


class Score(nn.Module):
    """The stationary score at rest, and a net of log x and the time for the rest: p falls as a power at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.net = perceptron(2, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        x = x.clamp(min=1e-2)
        rest = (SDE.shape - 1) / x - SDE.shape / SDE.theta
        width = torch.exp(-SDE.kappa * t)[:, None]
        out: Tensor = rest + width / x * 10 * self.net(torch.cat([2 * x.log(), (t + 0.01).log()[:, None]], 1))
        return out


def main() -> None:
    given = arguments(__doc__, "cir")
    times = SDE.T * torch.linspace(0, 1, 241, dtype=torch.float64) ** 2
    path = simulate(SDE, data(20_000, given.seed), times, seed=given.seed)
    net = Score()

    def loss() -> Tensor:
        when = torch.randint(len(times), (1024,))  # the grid is dense where the law changes fast
        x, t = path[when, torch.randint(path.shape[1], (1024,))], times[when].float()
        # In r = sqrt(x), whose score is 2 r s + 1 / r: there errors of s count by x, as g^2 and so the flow does.
        return sliced_score_matching(lambda r: 2 * r * net(r**2, t) + 1 / r, x.clamp(min=2e-2).sqrt()).mean()

    fit(net, loss, STEPS)
    rows: list[tuple[str, float]] = []
    final = stats.gamma(SDE.shape, scale=SDE.theta / SDE.shape)
    rows.append(("simulated x_T, to the Gamma law", float(stats.kstest(path[-1, :N, 0].numpy(), final.cdf).statistic)))
    grid = SDE.T * torch.linspace(1, 0, 401, dtype=torch.float64) ** 2
    fig, axes = plt.subplots(1, 3, figsize=(11, 3.2))
    axes[0].plot(times, path[:, :40, 0], lw=0.5)
    axes[0].set(title="forward paths", xlabel="t", ylabel="x")
    line = np.linspace(0.01, 4, 400)
    density = sum(w * hump.pdf(line) for w, hump in zip(WEIGHTS, HUMPS, strict=True))
    for axis, (name, solver) in zip(axes[1:], (("reverse SDE", ItoEuler()), ("flow ODE", FlowHeun())), strict=True):
        x = reverse_sample(SDE, net, (N, 1), solver=solver, times=grid, seed=given.seed, progress=True)[:, 0].numpy()
        rows.append((f"{name}, to the law of the data", float(stats.kstest(x, cdf).statistic)))
        axis.hist(x, 80, (0, 4), density=True, alpha=0.6)
        axis.plot(line, density, "k", lw=1, label="law of the data")
        axis.set(title=f"{name}: KS distance {rows[-1][1]:.3f}", xlabel="x")
    axes[1].legend()
    rows.append(("for scale: 95 % of exact sets of this size", 1.36 / math.sqrt(N)))
    table(("law", "KS distance"), rows)
    finish(fig, given.out, "cir", dict(rows))


if __name__ == "__main__":
    start(main)
