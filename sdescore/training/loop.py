"""Training: the result depends on the settings alone, not on the number of processes, nor on interruptions."""

import json
import logging
import signal
import time
from collections.abc import Iterator
from contextlib import closing, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from accelerate import Accelerator

from sdescore.common.files import locked, read_json, replace_file
from sdescore.data.batches import batches
from sdescore.data.source import Source
from sdescore.data.statistics import measure, read_statistics
from sdescore.denoisers.denoiser import Denoiser
from sdescore.training import checkpoints
from sdescore.training.accelerator import build_accelerator
from sdescore.training.clock import Caught, Clock, catching
from sdescore.training.codes import codes_of
from sdescore.training.config import TrainConfig
from sdescore.training.run_log import RunLog, picture, track
from sdescore.training.trainer import Trainer

__all__ = ["TrainConfig", "train"]

logger = logging.getLogger(__name__)
Sample = TypeVar("Sample")


def find_start(config: TrainConfig, resume: bool) -> tuple[Path | None, TrainConfig]:
    """The checkpoint to resume from, None for a new run; and the settings, with the run's net if they name none.

    Raises FileExistsError for a new run in a folder with checkpoints, FileNotFoundError if there is nothing to resume
    from, and ValueError, naming the fields, for other settings than the run's or fewer steps than are done.
    """
    root = Path(config.out) / "checkpoints"
    if not resume:
        if checkpoints.steps(root):
            raise FileExistsError(f"out={config.out!r} has checkpoints; resume that run, or choose another folder")
        return None, config
    folder = checkpoints.newest(root)
    state = read_json(folder / checkpoints.STATE)
    saved = state["config"]
    if config.net is None:
        config = replace(config, net=saved["net"], net_args={**saved["net_args"], **config.net_args})
    conflicts = config.conflicts(saved)
    if conflicts:
        raise ValueError(
            f"{folder} belongs to a run with other settings (saved, given): {', '.join(conflicts)}. "
            f"The run's own are in {Path(config.out) / 'config.json'}"
        )
    if config.steps < state["step"]:
        raise ValueError(f"steps={config.steps}, but {folder} has made {state['step']}; expected at least as many")
    return folder, config


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

    Runs in one process or in one of many. A resumed run gives the same bits as one that was never interrupted, where no
    `minutes` are set, by which the learning rate follows the clock. On SIGINT, SIGTERM and SIGHUP a checkpoint is
    written, and then KeyboardInterrupt raised, or SystemExit with the status 128 + the signal's number.

    Args:
        config: The settings.
        resume: Go on from the newest intact checkpoint in config.out.
        source: Data in place of what config.data names.

    Raises:
        ValueError, FileExistsError, FileNotFoundError: For settings, data or a folder that do not fit, before training.
        FloatingPointError: If the loss is no longer finite.
        OSError: If a checkpoint cannot be written; BlockingIOError if another process trains in the folder.
    """
    began = time.monotonic()
    accelerator = build_accelerator(config.mixed_precision, config.tracker, config.out)
    nowhere = resume and not Path(config.out).exists()  # which find_start() refuses, and a lock would make
    with locked(Path(config.out)) if accelerator.is_main_process and not nowhere else nullcontext():
        return _train(config, resume, source, accelerator, began)


def _train(
    config: TrainConfig, resume: bool, source: Source | None, accelerator: Accelerator, began: float
) -> Denoiser:
    """train() in a folder that no other process writes to."""
    start, config = find_start(config, resume)
    source = codes_of(source or config.build_source(), config, accelerator)
    config = config.resolved(source, accelerator.device.type)
    out = Path(config.out)
    device = accelerator.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        trainer = Trainer(config, source, accelerator, find_std(config, source, accelerator, start is None))
        if start is not None:
            trainer.load(start)
        if accelerator.is_main_process:  # only now, so that settings that fail leave the run's own alone
            replace_file(out / "config.json", json.dumps(config.to_json(), indent=2) + "\n")
        if start is not None:  # it may have been killed between the checkpoint and what follows it
            _say(trainer, f"resumed from {start}")
            trainer.publish()
            _keep(trainer, trainer.step == config.steps)
        if trainer.finished:
            _say(trainer, f"nothing to do: {out} is finished, {trainer.finished}; more of them go on from there")
        else:
            _run(trainer, Clock(config, accelerator, trainer.seconds, began))
    averaged: Denoiser = trainer.averaged.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return averaged.eval()  # in the memory layout of a loaded one


def _run(trainer: Trainer, clock: Clock) -> None:
    config, accelerator = trainer.config, trainer.accelerator
    reader = batches(
        trainer.source,
        config.seed,
        config.batch_size,
        range(trainer.step, config.steps),
        rank=accelerator.process_index,
        processes=accelerator.num_processes,
        workers=config.workers,
        pin=accelerator.device.type == "cuda",
    )
    with closing(reader), RunLog(config, accelerator, trainer.step) as report, catching() as caught:
        for raw, known in _unless(caught, reader):
            rate = trainer.rate
            report.add(*trainer.update(raw, known))
            done = trainer.step
            due = clock.due(done, done == config.steps, caught)
            trainer.seconds = max(due.seconds, 60 * (config.minutes or 0)) if due.end else due.seconds
            last = due.signal > 0 or due.end or done == config.steps
            saves = last or due.save or done % config.save_every == 0
            if saves or due.log or done % config.log_every == 0:
                report.write(rate)
                clock.logged = time.monotonic()
            if saves:
                began = time.monotonic()
                trainer.save()
                clock.saved(began)
            if due.signal:
                _stop(trainer, due.signal)
            began = time.monotonic()
            pictured = _keep(trainer, last or due.picture)
            if pictured:
                clock.pictured(began)
                report.restart_clock()
            if due.end:
                _say(trainer, f"stopped at step {done} of {config.steps}: minutes={config.minutes:g} are over")
                return
        if caught.signal and trainer.step < config.steps:
            trainer.save()
            _stop(trainer, caught.signal)


def _unless(caught: Caught, reader: Iterator[Sample]) -> Iterator[Sample]:
    """The same samples, to an early end if a signal to all processes killed those that read them."""
    try:
        yield from reader
    except RuntimeError:
        if not caught.signal:
            raise


def _stop(trainer: Trainer, number: int) -> None:
    """End a run that a signal stopped, once its checkpoint is written."""
    config, name = trainer.config, signal.Signals(number).name
    message = (
        f"{name}: the checkpoint of step {trainer.step} of {config.steps} is in {config.out}; resume goes on from it"
    )
    if number == signal.SIGINT:
        raise KeyboardInterrupt(message)
    _say(trainer, message)
    raise SystemExit(128 + number)


def _say(trainer: Trainer, message: str) -> None:
    if trainer.accelerator.is_main_process:
        logger.info(message)


def _keep(trainer: Trainer, pictured: bool) -> bool:
    """Write the snapshots and the picture that are due after a step; returns whether there was a picture."""
    config, step = trainer.config, trainer.step
    if config.snapshot_every and (step == config.steps or step % config.snapshot_every == 0):
        trainer.snapshot()
    pictured = config.sample_every > 0 and (pictured or step % config.sample_every == 0)
    if pictured:
        averaged = trainer.averaged
        if trainer.accelerator.is_main_process:
            decoder = getattr(trainer.source, "autoencoder", None)
            drawn = picture(config, averaged, step, trainer.shown(), decoder)
            if drawn is not None:
                track(trainer.accelerator, trainer.source, step, drawn)
    return pictured
