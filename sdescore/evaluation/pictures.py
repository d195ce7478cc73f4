"""Samples as a picture."""

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sdescore.common.files import replace_file
from sdescore.common.scaling import Scaling

__all__ = ["is_image", "save_grid", "to_pixels"]


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether samples of this shape can be shown: (1 or 3 channels, height, width)."""
    return len(shape) == 3 and shape[0] in (1, 3)


def to_pixels(raw: Tensor, scaling: Scaling | None = None) -> Tensor:
    """Raw data in the scaling's range as uint8 from 0 to 255, rounded; of the same shape."""
    scaling = scaling or Scaling()
    unit = (raw.to("cpu", torch.float64) - scaling.low) / (scaling.high - scaling.low)
    return (unit.clamp(0, 1) * 255).round().to(torch.uint8)


def save_grid(path: str | Path, raw: Tensor, scaling: Scaling | None = None, columns: int | None = None) -> None:
    """Write raw images (n, channels, height, width) as one picture, row by row; small ones are magnified.

    columns is by default about the square root of n. Raises ValueError unless there are 1 or 3 channels; OSError,
    naming the file, if the disk refuses.
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
    write_picture(Path(path), canvas.movedim(0, 2).squeeze(2).numpy())


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 pixels (height, width) or (height, width, 3), whole or not at all, in the format that its name says.

    Raises ValueError for a name that says none, and OSError, naming the file, if the disk refuses.
    """
    from PIL import Image

    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path} is not the name of a picture; expected names that end in .png, for example")
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, format=kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, buffer.getvalue())
