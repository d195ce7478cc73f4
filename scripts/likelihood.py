#!/usr/bin/env python
"""Compute the log-likelihood of data under a trained model, by its probability-flow ODE.

    python scripts/likelihood.py --model runs/digits/model --data digits:test
    python scripts/likelihood.py --model ... --data my.npz --trace exact --out runs/mine/likelihood.json

Prints means over the samples with their standard errors: nats (the log-density of values scaled to [-1, 1]) and, for
data with levels such as images, bits per dimension (of the levels' probability: uniform noise of one level's width is
added first).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from shared import load_model, markdown, model_values, open_source, parse, run, write_json
from torch import Tensor

from sdescore import Denoiser, bits_per_dim, dequantize, log_likelihood


@dataclass(frozen=True)
class LikelihoodConfig:
    """Settings of a likelihood.

    Args:
        model: Folder of a saved model, such as runs/digits/model, or its name on the Hugging Face Hub.
        data: digits:test, digits:train, a .npz file (array x) or a folder of images.
        out: JSON file for the summary and the values of each sample; must not exist yet.
        count: Take this many samples from the start of the data; all unless told.
        trace: hutchinson (one random direction a sample, unbiased) or exact (slower by the number of dimensions).
        conditional: Tell the model the labels of the data.
        seed: Of the random directions and of the noise that dequantises.
        rtol: Relative tolerance of the ODE.
        atol: Absolute tolerance of the ODE.
        batch_size: Samples at a time.
    """

    model: str
    data: str = "digits:test"
    out: str | None = None
    count: int | None = None
    trace: str = "hutchinson"
    conditional: bool = False
    seed: int = 0
    rtol: float = 1e-4
    atol: float = 1e-4
    batch_size: int = 500

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 1:
            raise ValueError(f"count={self.count}; valid are integers of at least 1")
        if self.out is not None and Path(self.out).exists():
            raise ValueError(f"out={self.out!r} exists; valid is a new file")


def measure(denoiser: Denoiser, x: Tensor, labels: Tensor | None = None, **options: Any) -> dict[str, Tensor]:
    """The nats and, for a model of data with levels, the bits per dimension of each sample; x are model values.

    options are those of log_likelihood; its seed also seeds the noise that dequantises.
    """
    scaling, shape = denoiser.scaling, tuple(x.shape[1:])
    condition = None if labels is None else {"label": labels}
    if scaling is None or scaling.levels is None:
        return {"nats": log_likelihood(denoiser.sde, denoiser, x, condition=condition, **options)}
    x = dequantize(x, scaling, options.get("seed", 0))
    nats = log_likelihood(denoiser.sde, denoiser, x, condition=condition, **options)
    return {"nats": nats, "bits_per_dim": bits_per_dim(nats, shape, scaling)}


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean over samples, and its standard error."""
    return float(values.mean()), float(values.std() / len(values) ** 0.5)


def compute(config: LikelihoodConfig) -> None:
    denoiser, shape = load_model(config.model)
    source = open_source(config.data, denoiser.scaling)
    if source.shape != shape:
        raise ValueError(f"data={config.data!r} has samples of shape {source.shape}; the model's are {shape}")
    if denoiser.scaling is not None and source.scaling != denoiser.scaling:
        raise ValueError(f"data={config.data!r} has {source.scaling}; the model was trained on {denoiser.scaling}")
    parts = list(model_values(source, progress="reading"))
    x, labels = torch.cat([x for x, _ in parts])[: config.count], None
    if config.conditional:
        if source.classes is None:
            raise ValueError(f"conditional=True, but data={config.data!r} has no labels")
        labels = torch.cat([labels for _, labels in parts if labels is not None])[: config.count]
    options = {name: getattr(config, name) for name in ("trace", "seed", "rtol", "atol", "batch_size")}
    values = measure(denoiser, x, labels, progress=True, **options)
    means = {name: mean_and_error(each) for name, each in values.items()}
    rows = [{"": name.replace("_", " "), "mean": f"{m:.4f}", "±": f"{e:.4f}"} for name, (m, e) in means.items()]
    print(f"{len(x)} samples of {config.data}\n{markdown(rows)}")
    if config.out is not None:
        summary = {name: {"mean": m, "stderr": e} for name, (m, e) in means.items()}
        samples = {name: each.tolist() for name, each in values.items()}
        write_json(Path(config.out), {"config": asdict(config), "count": len(x), **summary, "samples": samples})


def main(arguments: Sequence[str] | None = None) -> None:
    run("likelihood.py", lambda: compute(parse(LikelihoodConfig, "likelihood.py", __doc__, arguments)))


if __name__ == "__main__":
    main()
