"""Samples on their way from noise to data: a figure, an animation, a file. Matplotlib is imported as they are drawn."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from sdescore.common.linear_combinations import expand
from sdescore.common.scaling import Scaling
from sdescore.denoisers import Denoiser
from sdescore.evaluation.figures import panels
from sdescore.evaluation.pictures import grid, grid_of_slices, is_image, is_volume, save_animation
from sdescore.processes.base import LinearSDE
from sdescore.sampling import Solver, karras, trajectory

__all__ = ["animate", "on_the_way", "plot_trajectory", "save_trajectory"]

STEPS = 36
NOISE = 3.0  # times the data's deviation: what is noisier looks like noise alone
MODEL = Scaling(-1.0, 1.0, None)


def on_the_way(
    denoiser: Denoiser,
    count: int,
    frames: int,
    *,
    sde: LinearSDE | None = None,
    solver: str | Solver = "heun",
    seed: int = 0,
    condition: Mapping[str, Tensor] | None = None,
) -> list[tuple[float, Tensor]]:
    """The first state of some samples, states at falling noise, and the last: sigma / alpha, and (count, *shape) each.

    Every state has the contrast of the data. All but the first are those in which more than noise is to be seen.
    Arguments are those of sample(), and so are the errors; ValueError too for a denoiser that does not know its shape.
    """
    if denoiser.shape is None:
        raise ValueError("denoiser does not say the shape of its samples; expected one with shape=")
    sde, std = sde or denoiser.sde, denoiser.data_std
    times = karras()(sde, STEPS)
    given: dict[str, Any] = {"solver": solver, "times": times, "seed": seed, "condition": condition}
    states = list(trajectory(sde, denoiser, (count, *denoiser.shape), **given))
    scale = std / (sde.alpha(times) ** 2 * std**2 + sde.sigma(times) ** 2).sqrt()
    levels = sde.rho(times).tolist()
    seen = [k for k, level in enumerate(levels) if k and NOISE * std > level > std / 50] or [0]
    chosen = [0, *(seen[k] for k in np.linspace(0, len(seen) - 1, max(frames - 2, 0)).round().astype(int))]
    shown = [(levels[k], (expand(scale[k], states[k]) * states[k]).cpu()) for k in chosen]
    return [*shown, (0.0, states[-1].cpu())]


def show(axis: Any, x: Tensor) -> None:
    """Draw states (n, *shape): images and slices of volumes as a grid, series as lines, vectors by two columns."""
    shape = tuple(x.shape[1:])
    axis.set(xticks=[], yticks=[])
    if is_image(shape) or is_volume(shape):
        pixels = grid(x, MODEL) if is_image(shape) else grid_of_slices(x, MODEL, 3)
        axis.imshow(pixels, cmap="gray", vmin=0, vmax=255)
    elif len(shape) == 1:
        wide = x.numpy() if shape[0] > 1 else np.stack([x[:, 0].numpy(), np.arange(len(x)) / len(x)], 1)
        axis.scatter(wide[:, 0], wide[:, 1], s=4, alpha=0.6)
        axis.set(xlim=(-2, 2), ylim=(-2, 2) if shape[0] > 1 else (0, 1))
    else:
        axis.plot(x.flatten(1, -2)[:, 0].T.numpy(), linewidth=0.8)
        axis.set(ylim=(-2, 2))


def plot_trajectory(denoiser: Denoiser, count: int = 9, frames: int = 8, **options: Any) -> Any:
    """A figure of matplotlib: some samples from noise, left, to data, right; options are those of on_the_way()."""
    shown = on_the_way(denoiser, count, frames, **options)
    figure, axes = panels(len(shown), (1.8 * len(shown), 2.1))
    for axis, (level, x) in zip(axes, shown, strict=True):
        show(axis, x)
        axis.set_title(f"σ/α = {level:.2g}" if level else "data", fontsize="small")
    return figure


def animate(denoiser: Denoiser, count: int = 16, frames: int = 24, **options: Any) -> Any:
    """An animation of matplotlib of the way from noise to data: in a notebook, HTML(animate(net).to_jshtml())."""
    from matplotlib.animation import FuncAnimation

    shown = on_the_way(denoiser, count, frames, **options)
    figure, (axis,) = panels(1, (4, 4.3))

    def draw(number: int) -> list[Any]:
        axis.clear()
        show(axis, shown[number][1])
        axis.set_title(f"σ/α = {shown[number][0]:.2g}", fontsize="small")
        return []

    return FuncAnimation(figure, draw, frames=len(shown), interval=120, init_func=list)


def save_trajectory(path: str | Path, denoiser: Denoiser, count: int = 16, frames: int = 24, **options: Any) -> None:
    """Write the way of some samples as an animated GIF. Raises OSError, naming the file, if the disk refuses."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    shown = on_the_way(denoiser, count, frames, **options)
    if is_image(tuple(shown[0][1].shape[1:])):
        save_animation(path, (grid(x, MODEL) for _, x in shown))
        return
    figure, (axis,) = panels(1, (4, 4))
    canvas = FigureCanvasAgg(figure)

    def drawn(x: Tensor) -> np.ndarray:
        axis.clear()
        show(axis, x)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()

    save_animation(path, (drawn(x) for _, x in shown))
