"""Where a learnt score is wrong: between two far modes there is no data to learn from.

p = N((-5, -5), I) / 5 + 4 N((5, 5), I) / 5, learnt by sliced score matching (Song & Ermon 2019, figure 2).
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from sdescore import sliced_score_matching

sys.path.append(str(Path(__file__).parents[1]))  # for what scripts share
from shared.experiment import FAR, PlainScore, arguments, finish, fit, plane, start, table


def main() -> None:
    given = arguments(__doc__, "low_density")
    data = FAR.sample(100_000, given.seed)
    net = PlainScore(2)

    def loss() -> Tensor:
        return sliced_score_matching(net, data[torch.randint(len(data), (256,))]).mean()

    fit(net, loss, 4000)
    with torch.no_grad():
        test = FAR.sample(20_000, given.seed + 1)
        on_data = (net(test) - FAR.score(test)).norm(dim=1)
        grid = plane(8, 81)
        error = (net(grid) - FAR.score(grid)).norm(dim=1)
        small = test.sum(1) < 0
        rows = [
            ("at the data: large mode", float(on_data[~small].square().mean().sqrt())),
            ("at the data: small mode", float(on_data[small].square().mean().sqrt())),
            ("grid, density above 1e-3", float(error[FAR.log_prob(grid).exp() > 1e-3].square().mean().sqrt())),
            ("grid, density below 1e-8", float(error[FAR.log_prob(grid).exp() < 1e-8].square().mean().sqrt())),
        ]
        arrows = plane(8, 19)
        fields = [("true score", FAR.score(arrows)), ("learnt score", net(arrows))]
    table(("where", "root-mean-square error"), rows)
    fig, axes = plt.subplots(1, 3, figsize=(11.5, 3.9), layout="constrained")
    for axis, (title, field) in zip(axes, fields, strict=False):
        axis.scatter(*data[:500].T, s=2, c="tab:orange")
        axis.quiver(*arrows.T, *field.T, scale=200, width=0.003)
        axis.set(title=title, aspect="equal", xlim=(-8.5, 8.5), ylim=(-8.5, 8.5))
    shown = axes[2].imshow(error.reshape(81, 81).T, origin="lower", extent=(-8, 8, -8, 8), cmap="magma")
    axes[2].set(title="length of the difference")
    fig.colorbar(shown, ax=axes[2], shrink=0.8)
    finish(fig, given.out, "low_density", dict(rows))


if __name__ == "__main__":
    start(main)
