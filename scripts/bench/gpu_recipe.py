"""The last step of bench/gpu.py: the recipe for CIFAR-10 for as long as there is time, and what came of it."""

import math
import shutil
import statistics
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdescore import Denoiser, sample
from sdescore.cli.likelihood import measure
from sdescore.cli.train import parse
from sdescore.common.files import read_json
from sdescore.data.source import Arrays
from sdescore.evaluation import frechet_distance, save_grid
from sdescore.training import checkpoints, train
from sdescore.training.run_log import read_log

__all__ = ["units"]

RECIPE = Path(__file__).parents[1] / "recipes/cifar10-edm.yaml"
TRAINING = 0.55  # share of the time; the rest is for what is measured then


def units(work: Any) -> Iterator[tuple[str, Callable[[Any], dict[str, Any]]]]:
    """Training, samples with their distance to the test images, and the bits of these."""
    sizes, device, images = work.sizes, work.device, work.images
    run = Path(work.work, "cifar10")

    def training(report: Any) -> dict[str, Any]:
        config, _ = parse(["--config", str(RECIPE)])
        minutes = TRAINING * work.left / 60
        begun = list((run / "checkpoints").glob("*/"))
        if not begun:
            shutil.rmtree(run, ignore_errors=True)  # of a run that was cut off before its first checkpoint
        else:
            minutes += minutes_before(run)
        config = replace(config, **{**sizes.recipe, "out": str(run), "minutes": minutes})
        train(config, resume=bool(begun), source=Arrays(images.raw))
        log = read_log(run)
        seen = log[-1]["step"] * config.batch_size
        losses = [line["loss"] for line in log[-10:]]
        speed = statistics.median(line["images_per_second"] for line in log)
        return {"images seen": int(seen), "loss": statistics.mean(losses), "images/s": speed, "data": images.origin}

    def model() -> Denoiser:
        return Denoiser.from_pretrained(run / "model").to(device).eval()

    def features(x: Tensor) -> Tensor:
        judge = images.judge.to(device)
        return torch.cat([judge.features(part.to(device)) for part in x.split(sizes.at_a_time)])

    def samples(report: Any) -> dict[str, Any]:
        denoiser = model()
        shape = (sizes.samples, 3, 32, 32)
        x = sample(denoiser.sde, denoiser, shape, nfe=20, batch_size=sizes.at_a_time).cpu()
        scaling = denoiser.scaling
        assert scaling is not None
        save_grid(Path(work.out, "samples.png"), scaling.to_data(x[: sizes.columns**2]), scaling, sizes.columns)
        test = features(images.test)
        found = frechet_distance(features(x.clamp(-1, 1)), test)
        own = frechet_distance(features(images.train[: len(test)]), test)
        return {"Fréchet distance to the test images": found, "that of training images": own, "samples": len(x)}

    def bits(report: Any) -> dict[str, Any]:
        denoiser, values = model(), []
        x = images.test[: sizes.tested]
        figures: dict[str, Any] = {}
        for first in range(0, len(x), sizes.at_a_time):
            part = x[first : first + sizes.at_a_time].to(device)
            values.append(measure(denoiser, part, first=first, rtol=1e-2, atol=1e-2)["bits_per_dim"].cpu())
            found = torch.cat(values)
            error = float(found.std()) / math.sqrt(len(found)) if len(found) > 1 else None
            figures = {"bits/dim": float(found.mean()), "±": error, "test images": len(found)}
            report(figures)
        return figures

    yield "training", training
    yield f"{sizes.samples} samples", samples
    yield f"bits of {sizes.tested} test images", bits


def minutes_before(run: Path) -> float:
    """What a run took up to its newest checkpoint."""
    state = read_json(checkpoints.newest(run / "checkpoints") / checkpoints.STATE)
    return float(state["seconds"]) / 60
