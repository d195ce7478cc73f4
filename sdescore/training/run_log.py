"""The output of a training run in progress: log.jsonl, the tracker, the progress bar and pictures of samples."""

import json
import logging
import math
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from sdescore.common.files import parse_json, refused, replace_file
from sdescore.common.scaling import Scaling
from sdescore.data.batches import evenly_spaced
from sdescore.data.source import Source
from sdescore.denoisers import Autoencoder, Denoiser
from sdescore.evaluation.metrics import sliced_wasserstein
from sdescore.evaluation.pictures import grid, grid_of_slices, is_image, is_volume, save_grid, save_slices
from sdescore.sampling.sample import sample
from sdescore.training.config import TrainConfig

__all__ = ["RunLog", "picture", "read_log", "track"]

logger = logging.getLogger(__name__)
PICTURE_SECONDS = 15.0
AT_A_TIME = 16
SHOWN = 8  # volumes in a picture
COMPARED = 512  # samples of the data that a preview is compared with


def read_log(out: str | Path) -> list[dict[str, float]]:
    """The lines of a run's log.jsonl: step, loss, grad_norm, lr and images_per_second, since the line before.

    Raises ValueError, naming the file and the line, for a damaged one.
    """
    path = Path(out) / "log.jsonl"
    lines = path.read_bytes().splitlines() if path.exists() else []
    found = [parse_json(line, f"{path}, line {number},") for number, line in enumerate(lines, 1)]
    wrong = [number for number, line in enumerate(found, 1) if not isinstance(line, dict)]
    if wrong:
        raise ValueError(f"{path}, line {wrong[0]}, holds {found[wrong[0] - 1]!r}; expected an object")
    return found


def _whole_lines(path: Path, step: int) -> bytes:
    """The lines of a log up to a step, without those that are damaged and an incomplete last one."""
    kept = []
    for line in path.read_bytes().splitlines(keepends=True) if path.exists() else ():
        try:
            if line.endswith(b"\n") and parse_json(line, path)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    return b"".join(kept)


class RunLog:
    """Collects losses and gradient norms without waiting for the device, and writes their means when asked.

    A context manager; only the main process writes. Lines after `step`, by a run that was killed, are removed.
    """

    def __init__(self, config: TrainConfig, accelerator: Accelerator, step: int) -> None:
        self.config = config
        self.accelerator = accelerator
        self.step = step
        self.path = Path(config.out) / "log.jsonl"
        self.pending: list[Tensor] = []
        self.since = time.perf_counter()
        main = accelerator.is_main_process
        if main:
            replace_file(self.path, _whole_lines(self.path, step))
        if config.tracker != "none":
            # What a killed run logged after its checkpoint is removed.
            accelerator.init_trackers("tracker", init_kwargs={config.tracker: {"purge_step": step + 1}})
        self.bar = tqdm(total=config.steps, initial=step, disable=not (main and config.progress), unit="step")

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.close()
        for tracker in self.accelerator.trackers:
            tracker.finish()

    def add(self, loss: Tensor, grad_norm: Tensor) -> None:
        """Add a step: this process's part of the loss, whose mean over the processes is the batch's, and the norm."""
        self.pending.append(torch.stack([loss, grad_norm.to(loss)]))
        self.step += 1
        self.bar.update()

    def restart_clock(self) -> None:
        """Exclude the time since the last line from the speed."""
        self.since = time.perf_counter()

    def write(self, lr: Tensor | float) -> None:
        """Write a line about the steps since the last. Raises FloatingPointError, in all processes, for NaN or Inf."""
        if not self.pending:
            return
        means: Any = self.accelerator.reduce(torch.stack(self.pending).mean(0), reduction="mean")
        loss, grad_norm = means.tolist()
        # In fp16 a step whose gradient overflows is skipped, and the scale lowered.
        if not math.isfinite(loss) or not (math.isfinite(grad_norm) or self.accelerator.mixed_precision == "fp16"):
            first = self.step - len(self.pending) + 1
            raise FloatingPointError(
                f"in steps {first} to {self.step} the loss is {loss} and the gradient's norm {grad_norm}; the last "
                "checkpoint is from before. Try a smaller lr, a longer warmup or another mixed_precision"
            )
        now = time.perf_counter()
        speed = len(self.pending) * self.config.batch_size / (now - self.since)
        self.pending, self.since = [], now
        line = {"loss": loss, "grad_norm": grad_norm, "lr": float(lr), "images_per_second": round(speed, 1)}
        self.bar.set_postfix(loss=f"{loss:.4f}", img_s=f"{speed:.0f}")
        if self.config.tracker != "none":
            self.accelerator.log(line, step=self.step)
        if self.accelerator.is_main_process:
            try:
                with open(self.path, "a") as file:
                    file.write(json.dumps({"step": self.step, **line}) + "\n")
            except OSError as error:
                raise refused(error, f"{self.path} was not written: {error}; checkpoints are untouched") from error


def picture(
    config: TrainConfig,
    denoiser: Denoiser,
    step: int,
    condition: Mapping[str, Tensor],
    autoencoder: Autoencoder | None = None,
) -> tuple[Tensor, Tensor, Scaling] | None:
    """Write samples to samples/step-...: images and slices of volumes as .png, others as .npz; decoded, if need be.

    Returns the samples as model values, as data, and the data's scaling; None if the net has failed.
    A preview must not take the training's time: those of sample_count that are begun within PICTURE_SECONDS are drawn.
    """
    assert denoiser.shape is not None and denoiser.scaling is not None
    options: dict[str, Any] = {"solver": config.sample_solver, "steps": config.sample_steps, "seed": config.seed}
    since, drawn = time.monotonic(), []
    try:
        for start in range(0, config.sample_count, AT_A_TIME):
            stop = min(start + AT_A_TIME, config.sample_count)
            part = {name: rows[start:stop] for name, rows in condition.items()}
            shape = (stop - start, *denoiser.shape)
            drawn.append(sample(denoiser.sde, denoiser, shape, index_offset=start, condition=part, **options))
            if time.monotonic() - since > PICTURE_SECONDS:
                break
    except FloatingPointError as error:  # no reason to end a run that may recover
        logger.warning("no samples at step %d: %s", step, error)
        return None
    x = torch.cat(drawn)
    raw, scaling = denoiser.scaling.to_data(x), denoiser.scaling
    if autoencoder is not None and denoiser.codes is not None:
        scaling = denoiser.codes.scaling
        raw = scaling.to_data(autoencoder.to_data(raw))
    raw = raw.cpu()
    path = Path(config.out) / "samples" / f"step-{step:06d}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if is_image(tuple(raw.shape[1:])):
            save_grid(path.with_suffix(".png"), raw, scaling)
        elif is_volume(tuple(raw.shape[1:])):
            save_slices(path.with_suffix(".png"), raw[:SHOWN], scaling)
        else:
            np.savez(path.with_suffix(".npz"), x=raw.numpy())
    except OSError as error:  # the run ends only if a checkpoint cannot be written
        logger.warning("no picture at step %d: %s", step, error)
    return x, raw, scaling


def track(accelerator: Accelerator, source: Source, step: int, drawn: tuple[Tensor, Tensor, Scaling]) -> None:
    """Show a preview in the tracker: images and slices, and its sliced Wasserstein distance to as much data.

    The distance is that of model values, to evenly spaced samples of the data: few and the same at every step, so that
    it says how the run goes, and no more.
    """
    if not accelerator.trackers:
        return
    x, raw, scaling = drawn
    shape = tuple(raw.shape[1:])
    if is_image(shape) or is_volume(shape):
        pixels = grid(raw, scaling) if is_image(shape) else grid_of_slices(raw[:SHOWN], scaling)
        for tracker in accelerator.trackers:
            layout = {"dataformats": "HW" if pixels.ndim == 2 else "HWC"}
            tracker.tracker.add_image("samples", pixels, step, **layout)
    chosen = evenly_spaced(len(source), max(COMPARED, len(x)))
    real = source.scaling.to_model(source.__getitems__(chosen)[0])
    distance, _ = sliced_wasserstein(x.cpu().flatten(1), real.flatten(1), projections=200)
    accelerator.log({"sliced_wasserstein": distance}, step=step)
