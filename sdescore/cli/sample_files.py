"""What `sdescore sample` writes: samples as the data had them, by the kind of data."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sdescore.cli.outputs import npz_bytes, write_whole
from sdescore.cli.sets import MARGIN
from sdescore.common.scaling import Scaling
from sdescore.data.table import write_table
from sdescore.denoisers import Autoencoder, Denoiser
from sdescore.evaluation.pictures import (
    grid,
    is_image,
    is_volume,
    save_animation,
    save_grid,
    save_slices,
    to_pixels,
    write_picture,
)
from sdescore.interop import find_autoencoder

__all__ = ["beyond", "decoded", "find_decoder", "raw_array", "write_images", "write_set"]

AT_A_TIME = 16  # codes that are decoded together: images need more memory than they
SHOWN = 64  # images in grid.png
VOLUMES = 8  # volumes in grid.png, and in volumes.gif


def find_decoder(denoiser: Denoiser, name: str | None, trust_code: bool) -> Autoencoder | None:
    """The autoencoder that decodes a model's samples, under another name if one is given; None where they are data.

    Raises ValueError for another autoencoder than that of the model's codes, and FileNotFoundError if there is none.
    """
    codes = denoiser.codes
    if codes is None:
        if name is not None:
            raise ValueError(f"autoencoder={name!r}, but the model makes data, not codes; expected none")
        return None
    if not (name or codes.autoencoder):
        raise ValueError("the autoencoder of the model's codes has no name; expected autoencoder=, its own")
    try:
        found = find_autoencoder(name or codes.autoencoder, codes.args, trust_code=trust_code)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; expected autoencoder=, where that of the model's codes is now") from error
    found.check(codes)
    return found


def decoded(denoiser: Denoiser, autoencoder: Autoencoder | None, x: Tensor) -> Tensor:
    """The data, scaled to [-1, 1], of samples of codes; samples as they are without an autoencoder."""
    if autoencoder is None:
        return x
    assert denoiser.scaling is not None
    autoencoder = autoencoder.to(x.device)
    return torch.cat([autoencoder.to_data(part) for part in denoiser.scaling.to_data(x).split(AT_A_TIME)])


def raw_array(scaling: Scaling | None, x: Tensor) -> np.ndarray:
    """Samples as the data had them: rounded to its levels, uint8 where these are small integers.

    float64 where each column has a scale of its own, whose values may need more digits than float32 has.
    """
    if scaling is None:
        return x.float().cpu().numpy()
    if isinstance(scaling.low, tuple) or isinstance(scaling.high, tuple):
        return scaling.to_data(x.cpu().double()).numpy()
    raw = scaling.to_data(x).cpu()
    integral = scaling.levels is not None and scaling.high - scaling.low == scaling.levels - 1
    if integral and scaling.low == int(scaling.low) and scaling.low >= 0 and scaling.high <= 255:
        return raw.round().to(torch.uint8).numpy()
    return raw.float().numpy()


def beyond(denoiser: Denoiser, x: Tensor) -> int:
    """How many samples leave the data's range, where it has ends, by more than an eighth of its width somewhere."""
    if denoiser.scaling is None or not denoiser.scaling.bounded:
        return 0
    return int((x.flatten(1).abs().amax(1) > 1 + 2 * MARGIN).sum())


def write_images(folder: Path, first: int, raw: np.ndarray, scaling: Scaling) -> None:
    """Write raw images as PNG files, numbered."""
    for i, pixels in enumerate(to_pixels(torch.from_numpy(raw), scaling).movedim(1, 3).squeeze(3).numpy()):
        write_picture(folder / f"{first + i:06d}.png", pixels)


def write_set(out: Path, arrays: dict[str, np.ndarray], scaling: Scaling, classes: list[str] | None) -> None:
    """Write all samples, x, and labels, y, if there are any: samples.npz last, and before it what shows them.

    Images and volumes get grid.png, volumes an animation through their slices too, and tables samples.csv.
    """
    x, names = arrays["x"], scaling.names
    if is_image(x.shape[1:]):
        save_grid(out / "grid.png", torch.from_numpy(x[:SHOWN]), scaling)
    elif is_volume(x.shape[1:]):
        some = torch.from_numpy(x[:VOLUMES])
        save_slices(out / "grid.png", some, scaling)
        save_animation(out / "volumes.gif", (grid(some[:, :, k], scaling) for k in range(some.shape[2])))
    elif x.ndim == 2:
        columns: dict[str, Any] = dict(zip(names or [f"column {k}" for k in range(x.shape[1])], x.T, strict=True))
        if "y" in arrays:
            columns["label"] = [classes[k] for k in arrays["y"]] if classes else arrays["y"]
        write_whole(out / "samples.csv", write_table(columns))
    named = {} if names is None else {"columns": np.array(names)}
    write_whole(out / "samples.npz", npz_bytes(**arrays, **named))
