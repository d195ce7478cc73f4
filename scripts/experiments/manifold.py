"""Score matching where data fills no volume: the sliced loss on handwritten digits, as they are and with faint noise.

Some pixels of the digits never change, and every pixel has 17 levels: there is no density, and the loss has no lower
bound. Noise of variance 1e-4, which the eye does not see, gives them one (Song & Ermon 2019, figure 1).
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from sdescore.objectives import variance_reduced_score_matching

sys.path.append(str(Path(__file__).parents[1]))  # for what scripts share
from shared.experiment import PlainScore, arguments, finish, fit, start, table

STEPS, BATCH, VARIANCE, SCALE = 1500, 128, 1e-4, 100.0


def main() -> None:
    given = arguments(__doc__, "manifold")
    digits = torch.tensor(load_digits().data, dtype=torch.float32) / 16
    fig, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True)
    numbers: dict[str, object] = {}
    rows = []
    for axis, (name, std) in zip(axes, (("raw", 0.0), ("noise", VARIANCE**0.5)), strict=True):
        torch.manual_seed(given.seed)
        net = PlainScore(64, width=256)

        def loss(net: PlainScore = net, std: float = std) -> Tensor:
            x = digits[torch.randint(len(digits), (BATCH,))]
            x = x + std * torch.randn_like(x)
            return variance_reduced_score_matching(lambda x: SCALE * net(x), x).mean()

        history = torch.tensor(fit(net, loss, STEPS, rate=1e-3, name=name))
        quarter = STEPS // 4
        third, last = history[-2 * quarter : -quarter], history[-quarter:]
        floor = -64 / (2 * std**2) if std else float("-inf")
        rows.append((name, float(third.mean()), float(last.mean()), float(last.std() / last.mean().abs()), floor))
        numbers[name] = dict(zip(("third_quarter", "last_quarter", "relative_spread"), rows[-1][1:4], strict=True))
        axis.plot(history, lw=0.5)
        axis.set(title=f"digits + N(0, {std**2:g})" if std else "raw digits", xlabel="step")
        if std:
            axis.axhline(floor, color="tab:red", ls="--", lw=1, label="bound of a density")
            axis.legend()
    axes[0].set_yscale("symlog", linthresh=1e3)
    axes[0].set(ylabel="sliced loss", ylim=(-2e7, 2e3), yticks=[0, *(-(10.0**k) for k in range(3, 8))])
    table(("data", "mean, third quarter", "mean, last quarter", "spread / mean, last", "bound of a density"), rows)
    finish(fig, given.out, "manifold", numbers)


if __name__ == "__main__":
    start(main)
