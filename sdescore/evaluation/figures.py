"""Figures of runs and of evaluations; matplotlib is imported as they are drawn."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from torch import Tensor

from sdescore.common.files import replace_file

__all__ = ["draw_against_nfe", "draw_loss", "draw_overview", "panels", "save_figure"]


def panels(columns: int, size: tuple[float, float], **options: Any) -> tuple[Any, Any]:
    """A figure of matplotlib, of a size in inches, and its axes (columns,) side by side."""
    from matplotlib.figure import Figure

    figure = Figure(size, layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False, **options)[0]


def save_figure(path: Path, figure: Any, **options: Any) -> None:
    """Write a figure of matplotlib as PNG, whole or not at all. Raises OSError, naming the file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, buffer.getvalue())


def draw_overview(path: Path, sets: Mapping[str, Tensor], side: int = 8) -> None:
    """The first images of some sets (n, 1, height, width) side by side, each under its title."""
    figure, axes = panels(len(sets), (2.6 * len(sets), 3.3))
    for axis, (title, raw) in zip(axes, sets.items(), strict=True):
        framed = np.pad(raw[: side**2].numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=int(raw.max()) // 3)
        axis.imshow(rearrange(framed, "(r c) 1 h w -> (r h) (c w)", r=side), cmap="gray")
        axis.set_title(title.replace(", ", "\n"), fontsize="medium")
        axis.set(xticks=[], yticks=[])
    save_figure(path, figure, dpi=120)


def draw_loss(path: Path, log: Sequence[Mapping[str, float]]) -> None:
    """The training loss over the steps: each line of the log, and a running mean of them."""
    steps = [line["step"] for line in log]
    losses = np.array([line["loss"] for line in log])
    width = max(1, len(losses) // 25)
    running = np.convolve(losses, np.ones(width) / width, mode="valid")
    figure, (axis,) = panels(1, (6, 3.5))
    axis.plot(steps, losses, color="0.75", label=f"mean of {steps[1] - steps[0] if len(steps) > 1 else 1:g} steps")
    axis.plot(steps[width - 1 :], running, label="running mean")
    axis.set(xlabel="step", ylabel="training loss", yscale="log")
    axis.legend()
    save_figure(path, figure, dpi=120)


def draw_against_nfe(
    path: Path, rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str], levels: Mapping[str, tuple[str, float]]
) -> None:
    """Measures of sets over the net calls that a sample took, a panel each and a line for each solver.

    titles are of the measures, keys of the rows; levels, for some, a name and a value to compare with.
    """
    figure, axes = panels(len(titles), (4.5 * len(titles), 3.5))
    for axis, (key, title) in zip(axes, titles.items(), strict=True):
        for solver in dict.fromkeys(row["solver"] for row in rows):
            line = sorted((row for row in rows if row["solver"] == solver), key=lambda row: float(row["nfe"]))
            values = [row[key] for row in line]
            errors = [row.get(f"{key}_error") or 0 for row in line]
            costs = [row["nfe"] for row in line]
            axis.errorbar(costs, values, errors, marker="o", markersize=4, label=solver, clip_on=False)
        if key in levels:
            name, value = levels[key]
            axis.axhline(value, color="0.5", linestyle="--", label=name)
        axis.set(xlabel="net calls per sample", ylabel=title, xscale="log")
        costs = sorted({row["nfe"] for row in rows})
        axis.set_xticks(costs, [f"{nfe:g}" for nfe in costs])
        axis.set_xticks([], minor=True)
        axis.margins(0.08, 0.12)
        axis.legend(fontsize="small")
    save_figure(path, figure, dpi=120)
