#!/usr/bin/env python
"""Show the ways between pairs of images, through their latents.

    python scripts/interpolate.py --model runs/digits/model --data digits:test --out runs/digits/interpolation.png

Each row begins and ends with an image of the data; between them are the images of the latents on the great circle from
one to the other. Nothing is drawn: the probability-flow ODE takes an image to its latent and back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sdescore import decode, dequantize, encode
from sdescore.cli.command_line import run_with_settings
from sdescore.cli.models import load_model
from sdescore.cli.outputs import make_folder
from sdescore.data.load import load
from sdescore.density import scale_temperature, slerp
from sdescore.evaluation.pictures import is_image, save_grid


@dataclass(frozen=True)
class InterpolateConfig:
    """Settings of a picture of interpolations.

    Args:
        model: Folder of a saved model, such as runs/digits/model, or its name on the Hugging Face Hub.
        data: digits:test, digits:train, a .npz file (array x) or a folder of images.
        out: Picture to write.
        pairs: Rows; row i goes from image 2 i of the data to the next.
        first: Number of the first image.
        steps: Images in a row, both ends included.
        temperature: Of the latents: below 1 images are plainer, and at 1 the ends are the data's own.
        seed: Of the noise that dequantises data with levels.
        rtol: Relative tolerance of the ODE.
        atol: Absolute tolerance of the ODE.
    """

    model: str
    out: str
    data: str = "digits:test"
    pairs: int = 8
    first: int = 0
    steps: int = 10
    temperature: float = 1.0
    seed: int = 0
    rtol: float = 1e-4
    atol: float = 1e-4

    def __post_init__(self) -> None:
        for name, least in (("pairs", 1), ("first", 0), ("steps", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}; expected integers of at least {least}")


def draw(config: InterpolateConfig) -> None:
    make_folder(Path(config.out).parent)
    denoiser, shape = load_model(config.model)
    source = load(config.data, scaling=denoiser.scaling)
    last = config.first + 2 * config.pairs
    if source.shape != shape or not is_image(shape):
        raise ValueError(f"data={config.data!r} has samples of shape {source.shape}; expected images {shape}")
    if last > len(source):
        raise ValueError(f"first={config.first} and pairs={config.pairs} need {last} images; data has {len(source)}")
    raw, _ = source.__getitems__(range(config.first, last))
    x = source.scaling.to_model(raw)
    if source.scaling.levels is not None:
        x = dequantize(x, source.scaling, config.seed, config.first)
    options: dict[str, Any] = {"rtol": config.rtol, "atol": config.atol, "progress": True}
    z = scale_temperature(encode(denoiser.sde, denoiser, x, **options), config.temperature)
    weights = torch.linspace(0, 1, config.steps).repeat(config.pairs)
    starts, ends = (z[i::2].repeat_interleave(config.steps, 0) for i in (0, 1))
    images = decode(denoiser.sde, denoiser, slerp(starts, ends, weights.to(z)), **options)
    error = (images[[0, config.steps - 1]].cpu() - x[:2]).flatten(1).norm(dim=1) / x[:2].flatten(1).norm(dim=1)
    save_grid(config.out, source.scaling.to_data(images), source.scaling, config.steps)
    print(f"{config.out}: {config.pairs} ways of {config.steps} images", end="")
    print(f"; the first way's ends are back within {float(error.max()):.1e}" if config.temperature == 1 else "")


def main(arguments: Sequence[str] | None = None) -> None:
    run_with_settings(InterpolateConfig, draw, "interpolate.py", __doc__, arguments)


if __name__ == "__main__":
    main()
