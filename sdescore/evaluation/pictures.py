"""Samples as pictures: grids, slices of volumes, and animations."""

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdescore.common.files import replace_file
from sdescore.common.scaling import Scaling

__all__ = [
    "grid",
    "grid_of_slices",
    "is_image",
    "is_volume",
    "save_animation",
    "save_grid",
    "save_slices",
    "slices",
    "to_pixels",
]

FRAME = 0.12  # seconds that an animation shows each picture; the last one ten times as long


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether samples of this shape can be shown: (1 or 3 channels, height, width)."""
    return len(shape) == 3 and shape[0] in (1, 3)


def to_pixels(raw: Tensor, scaling: Scaling | None = None) -> Tensor:
    """Raw data (n, *shape) in the scaling's range as uint8 from 0 to 255, rounded; of the same shape."""
    unit = ((scaling or Scaling()).unchecked(raw.to("cpu", torch.float64)) + 1) / 2
    return (unit.clamp(0, 1) * 255).round().to(torch.uint8)


def is_volume(shape: tuple[int, ...]) -> bool:
    """Whether samples of this shape are volumes that can be shown: (1 or 3 channels, depth, height, width)."""
    return len(shape) == 4 and shape[0] in (1, 3)


def grid(raw: Tensor, scaling: Scaling | None = None, columns: int | None = None) -> np.ndarray:
    """Raw images (n, channels, height, width) as one picture, row by row; small ones are magnified.

    columns is by default about the square root of n. Returns uint8 (height, width) or (height, width, 3). Raises
    ValueError unless there are 1 or 3 channels.
    """
    if raw.ndim != 4 or not len(raw) or not is_image(tuple(raw.shape[1:])):
        raise ValueError(f"images have shape {tuple(raw.shape)}; expected (n, 1 or 3, height, width)")
    count, channels, height, width = raw.shape
    columns = columns or int((count - 1) ** 0.5) + 1
    rows = -(-count // columns)
    zoom, gap = max(1, 48 // max(height, width)), 2
    pixels = to_pixels(raw, scaling).repeat_interleave(zoom, 2).repeat_interleave(zoom, 3)
    high, wide = height * zoom + gap, width * zoom + gap
    canvas = torch.full((channels, rows * high + gap, columns * wide + gap), 255, dtype=torch.uint8)
    for i, image in enumerate(pixels):
        top, left = i // columns * high + gap, i % columns * wide + gap
        canvas[:, top : top + height * zoom, left : left + width * zoom] = image
    return canvas.movedim(0, 2).squeeze(2).numpy()


def slices(raw: Tensor, most: int = 8) -> Tensor:
    """Of raw volumes (n, channels, depth, height, width) evenly spaced slices along the depth, (n k, channels, ...).

    The first and the last slice are among them. Raises ValueError unless there are 1 or 3 channels.
    """
    if raw.ndim != 5 or not len(raw) or not is_volume(tuple(raw.shape[1:])):
        raise ValueError(f"volumes have shape {tuple(raw.shape)}; expected (n, 1 or 3, depth, height, width)")
    depth = raw.shape[2]
    chosen = torch.linspace(0, depth - 1, min(most, depth)).round().long()
    return raw[:, :, chosen].movedim(2, 1).flatten(0, 1)


def grid_of_slices(raw: Tensor, scaling: Scaling | None = None, most: int = 8) -> np.ndarray:
    """Raw volumes as one picture, a row of slices for each: see slices()."""
    return grid(slices(raw, most), scaling, min(most, raw.shape[2]))


def save_grid(path: str | Path, raw: Tensor, scaling: Scaling | None = None, columns: int | None = None) -> None:
    """Write raw images as one picture: see grid(). Raises OSError, naming the file, if the disk refuses."""
    write_picture(Path(path), grid(raw, scaling, columns))


def save_slices(path: str | Path, raw: Tensor, scaling: Scaling | None = None, most: int = 8) -> None:
    """Write raw volumes as one picture: see grid_of_slices()."""
    write_picture(Path(path), grid_of_slices(raw, scaling, most))


def save_animation(path: str | Path, pictures: Iterable[np.ndarray]) -> None:
    """Write pictures of uint8 as an animated GIF, or what else the file's name says, that starts over for ever.

    Raises ValueError for no pictures and for a name that says no format, OSError, naming the file, if the disk refuses.
    """
    from PIL import Image

    frames = [Image.fromarray(pixels) for pixels in pictures]
    if not frames:
        raise ValueError("there are no pictures; expected at least one")
    pauses = [round(1000 * FRAME)] * (len(frames) - 1) + [round(10_000 * FRAME)]
    _write(Path(path), frames[0], save_all=True, append_images=frames[1:], duration=pauses, loop=0)


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 pixels (height, width) or (height, width, 3), whole or not at all, in the format that its name says.

    Raises ValueError for a name that says none, and OSError, naming the file, if the disk refuses.
    """
    from PIL import Image

    _write(path, Image.fromarray(pixels))


def _write(path: Path, image: Any, **options: Any) -> None:
    from PIL import Image

    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path} is not the name of a picture; expected names that end in .png, for example")
    buffer = BytesIO()
    image.save(buffer, format=kind, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, buffer.getvalue())
