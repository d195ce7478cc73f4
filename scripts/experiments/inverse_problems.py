"""Digits from what is left of them, each with noise, by several methods: a half, a quarter of the pixels, a blur, grey.

One net, which never saw a measurement, is the prior of all, and another one, of digits in colours, that of the last;
every method draws several samples of each digit. Means and deviations of the samples are shown, and how well they fit:
the residual in units of the noise, which is 1 for the truth, the distance to the original, and the share that a
classifier takes for the right digit, by 50 net calls and by 200.
"""

import sys
import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from sdescore import Denoiser, posterior, sample
from sdescore.cli.digits_judge import probabilities
from sdescore.operators import Blur, Channels, Downsample, LinearOperator, Mask
from sdescore.solvers import DAPS, DDRM, DPS, HEUN, DiffPIR, RePaint, Replacement

sys.path.append(str(Path(__file__).parents[1]))  # for what scripts share
from shared.experiment import arguments, finish, start, table
from shared.labelled_digits import digit_denoiser, some_digits, tinted

DIGITS, DRAWS, STD = 6, 8, 0.1
UPPER = torch.zeros(8, 8)
UPPER[:4] = 1
WINDOW = torch.tensor([1.0, 2.0, 3.0, 2.0, 1.0])
TASKS: dict[str, LinearOperator] = {
    "upper half": Mask(UPPER),
    "means of 2 x 2": Downsample(2),
    "blur": Blur(torch.outer(WINDOW, WINDOW) / 81),
    "grey": Channels(),
}


def methods(net: Denoiser, operator: LinearOperator) -> dict[str, tuple[Denoiser, Any]]:
    """Denoiser and solver of each method that suits the operator."""
    found: dict[str, tuple[Denoiser, Any]] = {
        "MMPS": (posterior(net, operator, STD, "mmps", iterations=3), "ddpm"),
        "TMPD": (posterior(net, operator, STD, "tmpd"), "ddpm"),
        "ΠGDM": (posterior(net, operator, STD, "pigdm"), "ddpm"),
        "DPS": (net, DPS(operator, zeta=0.5)),
        "DiffPIR": (net, DiffPIR(operator, STD)),
        "DDRM": (net, DDRM(operator, STD)),
        "DAPS": (net, DAPS(operator, STD, calls=5, method=HEUN)),
    }
    if not isinstance(operator, Blur):  # DDNM takes y as exact, and to undo a blur would be to blow its noise up
        found["DDNM"] = (posterior(net, operator, STD, "ddnm"), "ddpm")
    if isinstance(operator, Mask):
        found["replacement"] = (net, Replacement(operator, STD))
        found["RePaint"] = (net, RePaint(operator, STD, repeats=5))
    return found


def run(
    net: Denoiser, task: str, truth: Tensor, nfe: int, seed: int
) -> tuple[list[list[object]], dict[str, Tensor], Tensor]:
    """Numbers of each method, its samples (digits, draws, channels, 8, 8), and what was measured of the truth."""
    operator = TASKS[task]
    labels = some_digits("test", DIGITS)[1]
    own = torch.Generator().manual_seed(seed)
    clean = operator.A(truth)
    y = clean + STD * torch.randn(clean.shape, generator=own)
    condition = {"measurement": y.repeat_interleave(DRAWS, 0)}
    rows: list[list[object]] = []
    drawn = {}
    for name, (way, solver) in methods(net, operator).items():
        since = time.perf_counter()
        shape = (DIGITS * DRAWS, *truth.shape[1:])
        x = sample(net.sde, way, shape, solver=solver, nfe=nfe, seed=seed, condition=condition, progress=True)
        took = time.perf_counter() - since
        seen = clean.repeat_interleave(DRAWS, 0) != 0 if isinstance(operator, Mask) else torch.ones_like(clean[:1]) > 0
        gap = (operator.A(x) - condition["measurement"])[seen.expand(len(x), *y.shape[1:])]
        error = (x - truth.repeat_interleave(DRAWS, 0)).square().mean().sqrt()
        right = probabilities(x.amax(1, keepdim=True)).argmax(1) == labels.repeat_interleave(DRAWS)
        spread = x.unflatten(0, (DIGITS, DRAWS)).std(1).mean()
        numbers = [float(gap.square().mean().sqrt() / STD), float(error), float(spread), float(right.float().mean())]
        rows.append([task, name, nfe, *numbers, round(took, 1)])
        drawn[name] = x.unflatten(0, (DIGITS, DRAWS))
    return rows, drawn, y


def show(axis: Axes, image: Tensor) -> None:
    """An image (channels, 8, 8) in [-1, 1]."""
    axis.imshow(((image.movedim(0, -1) + 1) / 2).clamp(0, 1).squeeze(-1), cmap="gray", vmin=0, vmax=1)


def picture(shown: dict[str, tuple[Tensor, dict[str, Tensor], Tensor]]) -> Figure:
    """The second digit, for each task: the original, what was measured, and every method's mean over its deviation."""
    width = 2 + max(len(drawn) for _, drawn, _ in shown.values())
    fig, axes = plt.subplots(2 * len(shown), width, figsize=(width, 2.2 * len(shown)), layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    which = 1
    for i, (task, (truth, drawn, y)) in enumerate(shown.items()):
        for axis, name, image in zip(axes[2 * i], ("original", task), (truth[which], y[which]), strict=False):
            show(axis, image)
            axis.set_title(name, fontsize=8)
        for j, (name, x) in enumerate(drawn.items(), start=2):
            show(axes[2 * i, j], x[which].mean(0))
            axes[2 * i, j].set_title(name, fontsize=8)
            axes[2 * i + 1, j].imshow(x[which].std(0).mean(0), cmap="magma", vmin=0, vmax=0.8)
    return fig


def main() -> None:
    given = arguments(__doc__, "inverse_problems")
    digits = some_digits("test", DIGITS)[0]
    grey, coloured = (digit_denoiser(), digits), (digit_denoiser(images=tinted), tinted(digits))
    priors = {task: coloured if task == "grey" else grey for task in TASKS}
    rows, shown = [], {}
    for task, (net, truth) in priors.items():
        found, drawn, y = run(net, task, truth, 50, given.seed)
        rows += found
        shown[task] = truth, drawn, y
    for task, (net, truth) in priors.items():
        rows += run(net, task, truth, 200, given.seed)[0]
    table(("measured", "method", "net calls", "residual", "distance", "deviation", "right digits", "seconds"), rows)
    numbers = {f"{task}, {name}, {nfe} calls": rest for task, name, nfe, *rest in rows}
    finish(picture(shown), given.out, "inverse_problems", numbers)


if __name__ == "__main__":
    start(main)
