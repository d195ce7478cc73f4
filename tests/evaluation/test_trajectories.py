"""Pictures of volumes and of samples on their way from noise to data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from sdescore import Denoiser, KarrasSDE, Scaling
from sdescore.evaluation import animate, plot_trajectory, save_slices, save_trajectory
from sdescore.evaluation.pictures import grid, grid_of_slices, slices
from sdescore.evaluation.trajectories import on_the_way

MODEL = Scaling(-1.0, 1.0, None)


class Zero(nn.Module):
    """Of EDM's output: a denoiser of N(0, data_std^2), whose flow only shrinks what it starts from."""

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return torch.zeros_like(x)


def gaussian(*shape: int) -> Denoiser:
    return Denoiser(Zero(), KarrasSDE(), "edm", 0.5, shape=shape)


def test_a_way_has_the_contrast_of_the_data_throughout() -> None:
    """Its flow is exactly the scaling of the first state: every state shown is the same picture."""
    shown = on_the_way(gaussian(1, 6, 6), 5, 7, seed=3)
    levels = [level for level, _ in shown]
    assert (
        len(shown) == 7
        and levels[0] == pytest.approx(80)
        and levels[-1] == 0
        and all(0.01 <= one <= 1.5 for one in levels[1:-1])
    )
    assert levels == sorted(levels, reverse=True)
    for _, x in shown:
        assert x.shape == (5, 1, 6, 6) and (x - shown[0][1]).abs().max() < 0.05 * shown[0][1].abs().max()


@pytest.mark.parametrize("shape", [(1, 6, 6), (2,), (1,), (2, 9), (1, 5, 6, 6), (3, 4, 6)])
def test_figures_and_files_of_every_kind_of_data(shape: tuple[int, ...], tmp_path: Path) -> None:
    figure: Any = plot_trajectory(gaussian(*shape), count=4, frames=3)
    assert [axis.get_title() for axis in figure.axes][-1] == "data" and len(figure.axes) == 3
    save_trajectory(tmp_path / "way.gif", gaussian(*shape), count=4, frames=3)
    with Image.open(tmp_path / "way.gif") as image:
        assert image.format == "GIF" and getattr(image, "n_frames", 1) in (2, 3)  # equal pictures may be put together


def test_an_animation_has_a_frame_for_each_state() -> None:
    animation: Any = animate(gaussian(2), count=4, frames=5)
    assert len(list(animation.new_frame_seq())) == 5
    animation._draw_was_started = True  # it is not shown here
    with pytest.raises(ValueError, match="does not say the shape"):
        animate(Denoiser(Zero(), KarrasSDE(), "edm", 0.5))


def test_slices_are_evenly_spaced_along_the_depth(tmp_path: Path) -> None:
    raw = torch.linspace(-1, 1, 5).reshape(1, 1, 5, 1, 1).expand(2, 1, 5, 4, 4)
    assert slices(raw, 3)[:, 0, 0, 0].tolist() == [-1, 0, 1, -1, 0, 1]
    save_slices(tmp_path / "volumes.png", raw, MODEL, 3)
    pixels = np.asarray(Image.open(tmp_path / "volumes.png"))
    assert np.array_equal(pixels, grid(slices(raw, 3), MODEL, 3))
    assert np.array_equal(grid_of_slices(raw, MODEL), grid(raw.movedim(2, 1).flatten(0, 1), MODEL, 5))
    zoom, gap = 12, 2  # of pictures of 4 pixels: a row for each volume
    middles = [gap + zoom // 2 + k * (4 * zoom + gap) for k in range(3)]
    assert [[int(pixels[row, column]) for column in middles] for row in middles[:2]] == [[0, 128, 255]] * 2
    with pytest.raises(ValueError, match=r"volumes have shape \(2, 2, 5, 4, 4\)"):
        slices(torch.zeros(2, 2, 5, 4, 4))
