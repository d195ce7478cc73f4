"""Training in tests: in this process or in several, and what a run leaves."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import training_worker

from sdescore.data.batches import order
from sdescore.data.source import Arrays, read
from sdescore.training import checkpoints
from sdescore.training.accelerator import build_accelerator
from sdescore.training.config import TrainConfig
from sdescore.training.trainer import Trainer

WORKER = Path(__file__).with_name("training_worker.py")
SOURCE = Arrays(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)))
FORKING = multiprocessing.get_context("forkserver")


class Finished(NamedTuple):
    """The first exit status that is not 0, if any, and what all processes wrote to stderr."""

    returncode: int
    stderr: str


def make_trainer(config: TrainConfig) -> Trainer:
    accelerator = build_accelerator(config.mixed_precision, config.tracker, config.out)
    return Trainer(config, config.build_source(), accelerator)


def next_batch(own: Trainer) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    config, source = own.config, own.source
    return read(source, order(config.seed, len(source), own.step, config.batch_size).tolist())


def outcome(out: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of the newest checkpoint, by file and name, and its step."""
    tensors, state = checkpoints.load(checkpoints.newest(Path(out) / "checkpoints"))
    found = {f"{group}.{name}": tensor for group, named in tensors.items() for name, tensor in named.items()}
    return {**found, "step": torch.tensor(state["step"])}


def assert_same_bits(one: str | Path, two: str | Path) -> None:
    a, b = outcome(one), outcome(two)
    assert a.keys() == b.keys()
    assert [name for name in a if not a[name].equal(b[name])] == []


def assert_close(one: str | Path, two: str | Path) -> None:
    """Equal but for the order of sums in float64."""
    a, b = outcome(one), outcome(two)
    assert a.keys() == b.keys()
    for name, value in a.items():
        scale = float(value.abs().max())
        torch.testing.assert_close(b[name], value, rtol=1e-9, atol=1e-10 * scale + 1e-13, msg=name)


def run(processes: int, config: TrainConfig, resume: bool = False, fatal: int = 0, fatal_update: int = 0) -> Finished:
    """Train in so many processes; fatal and fatal_update are those of training_worker.train_whole."""
    arguments = [config.to_json(), resume, fatal, fatal_update]
    return fork(processes, training_worker.train_whole, Path(config.out).parent, arguments)


def fork(
    processes: int,
    target: Callable[..., None],
    folder: Path,
    arguments: Sequence[Any],
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """Call a function of training_worker in so many processes; the others are killed with the first that fails."""
    around = [{"RANK": str(rank), **(environment or {})} for rank in range(processes)]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        for own in around:
            own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "LOCAL_RANK": own["RANK"]}
            own |= dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(processes))
    start_server()
    running = [FORKING.Process(target=training_worker.forked, args=(target, folder, own, arguments)) for own in around]
    for process in running:
        process.start()
    while any(process.is_alive() for process in running):
        ended = wait([process.sentinel for process in running if process.is_alive()], timeout=600)
        failed = not ended or any(process.exitcode for process in running)
        for process in running:
            if failed and process.is_alive():
                process.kill()
                process.join()
    statuses = [process.exitcode or 0 for process in running]
    errors = [(folder / f"errors-{own['RANK']}.txt").read_text() for own in around]
    return Finished(next((status for status in statuses if status), 0), "".join(errors))


@cache
def start_server() -> None:
    """Start the process from which the others are forked."""
    FORKING.set_forkserver_preload(["training_preload"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(WORKER.parent), prepend=os.pathsep)  # before 3.13 it knows no other sys.path
        forkserver.ensure_running()


def torchrun(processes: int, config: TrainConfig) -> Finished:
    """Train in so many processes, started by torchrun."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [*launcher, str(WORKER), json.dumps([config.to_json(), False, 0, 0])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    return Finished(done.returncode, done.stderr)
