"""Training: the result depends on the settings alone, not on the number of processes, nor on interruptions."""

import json
import logging
import math
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from sdescore.common.files import locked, read_json, replace_file
from sdescore.data.batches import batches
from sdescore.data.source import Source
from sdescore.data.statistics import measure, read_statistics
from sdescore.denoisers.denoiser import Denoiser
from sdescore.training import checkpoints
from sdescore.training.accelerator import build_accelerator
from sdescore.training.config import TrainConfig
from sdescore.training.run_log import RunLog, picture
from sdescore.training.trainer import Trainer

__all__ = ["TrainConfig", "train"]

logger = logging.getLogger(__name__)


def find_start(config: TrainConfig, resume: bool) -> Path | None:
    """The checkpoint to resume from; None for a new run.

    Raises FileExistsError for a new run in a folder with checkpoints, FileNotFoundError if there is nothing to resume
    from, and ValueError, naming the fields, for other settings than the run's or fewer steps than are done.
    """
    root = Path(config.out) / "checkpoints"
    if not resume:
        if checkpoints.steps(root):
            raise FileExistsError(f"out={config.out!r} has checkpoints; resume that run, or choose another folder")
        return None
    folder = checkpoints.newest(root)
    state = read_json(folder / checkpoints.STATE)
    conflicts = config.conflicts(state["config"])
    if conflicts:
        raise ValueError(
            f"{folder} belongs to a run with other settings (saved, given): {', '.join(conflicts)}. "
            f"The run's own are in {Path(config.out) / 'config.json'}"
        )
    if config.steps < state["step"]:
        raise ValueError(f"steps={config.steps}, but {folder} has made {state['step']}; expected at least as many")
    return folder


def find_std(config: TrainConfig, source: Source, accelerator: Accelerator, new: bool = True) -> float:
    """The data's standard deviation: that of the settings, of the file they name, or of the run's own statistics.

    Raises ValueError for a file of other data.
    """
    if config.data_std is not None:
        return config.data_std
    if config.statistics is not None:
        return read_statistics(config.statistics, source).std
    own = Path(config.out) / "statistics.json"
    if not new:  # a new run may find statistics of other data, even of the same shape and range
        with suppress(ValueError):
            return read_statistics(own, source).std
    found = measure(source, 4096)
    accelerator.wait_for_everyone()  # every process has looked before one writes
    if accelerator.is_main_process and (new or not own.exists()):
        found.write(own)
    return found.std


def train(config: TrainConfig, *, resume: bool = False, source: Source | None = None) -> Denoiser:
    """Train a denoiser; returns it with its averaged weights, as saved in the folder config.out/model.

    Runs in one process or in one of many. A resumed run gives the same bits as one that was never interrupted.

    Args:
        config: The settings.
        resume: Go on from the newest intact checkpoint in config.out.
        source: Data in place of what config.data names.

    Raises:
        ValueError, FileExistsError, FileNotFoundError: For settings, data or a folder that do not fit, before training.
        FloatingPointError: If the loss is no longer finite.
        OSError: If a checkpoint cannot be written; BlockingIOError if another process trains in the folder.
    """
    accelerator = build_accelerator(config.mixed_precision, config.tracker, config.out)
    nowhere = resume and not Path(config.out).exists()  # which find_start() refuses, and a lock would make
    with locked(Path(config.out)) if accelerator.is_main_process and not nowhere else nullcontext():
        return _train(config, resume, source, accelerator)


def _train(config: TrainConfig, resume: bool, source: Source | None, accelerator: Accelerator) -> Denoiser:
    """train() in a folder that no other process writes to."""
    start = find_start(config, resume)
    source = source or config.build_source()
    out = Path(config.out)
    device = accelerator.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        trainer = Trainer(config, source, accelerator, find_std(config, source, accelerator, start is None))
        if start is not None:
            trainer.load(start)
        if accelerator.is_main_process:  # only now, so that settings that fail leave the run's own alone
            out.mkdir(parents=True, exist_ok=True)
            replace_file(out / "config.json", json.dumps(config.to_json(), indent=2) + "\n")
        if start is not None and accelerator.is_main_process:
            logger.info("resumed from %s", start)
        if start is not None:  # it may have been killed between the checkpoint and what follows it
            trainer.publish()
            _keep(trainer, trainer.step == config.steps)
        _run(trainer)
    averaged: Denoiser = trainer.averaged.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return averaged.eval()  # in the memory layout of a loaded one


def _run(trainer: Trainer) -> None:
    config, accelerator, source = trainer.config, trainer.accelerator, trainer.source
    reader = batches(
        source,
        config.seed,
        config.batch_size,
        range(trainer.step, config.steps),
        rank=accelerator.process_index,
        processes=accelerator.num_processes,
        workers=config.workers,
        pin=accelerator.device.type == "cuda",
    )
    deadline = time.monotonic() + 60 * (config.minutes or math.inf)
    with RunLog(config, accelerator, trainer.step) as report:
        for raw, labels in reader:
            rate = trainer.schedule.get_last_lr()[0]
            report.add(*trainer.update(raw, labels))
            done = trainer.step
            late = False
            if config.minutes is not None and done % config.log_every == 0:
                late = _any(deadline < time.monotonic(), trainer)
            last = late or done == config.steps
            if last or done % config.log_every == 0 or done % config.save_every == 0:
                report.write(rate)
            if last or done % config.save_every == 0:
                trainer.save()
            if _keep(trainer, last):
                report.restart_clock()
            if late:
                if accelerator.is_main_process:
                    logger.info("stopped at step %d of %d: minutes=%g are over", done, config.steps, config.minutes)
                break


def _keep(trainer: Trainer, last: bool) -> bool:
    """Write the snapshots and the picture that are due after a step; returns whether there was a picture."""
    config, step = trainer.config, trainer.step
    if config.snapshot_every and (step == config.steps or step % config.snapshot_every == 0):
        trainer.snapshot()
    pictured = config.sample_every > 0 and (last or step % config.sample_every == 0)
    if pictured:
        averaged = trainer.averaged
        if trainer.accelerator.is_main_process:
            picture(config, averaged, step, trainer.classes)
    return pictured


def _any(here: bool, trainer: Trainer) -> bool:
    """Whether `here` is true in any process: the same answer in all of them."""
    accelerator = trainer.accelerator
    total: Any = accelerator.reduce(torch.tensor(float(here), device=accelerator.device))
    return bool(total > 0)
