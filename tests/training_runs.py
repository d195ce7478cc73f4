"""How tests train: here, in processes of their own, and what a run leaves."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

os.environ.setdefault("ACCELERATE_USE_CPU", "true")  # what is compared bit by bit is compared on the CPU

import torch

from sdescore.data.batches import order
from sdescore.training import checkpoints
from sdescore.training.accelerator import build_accelerator
from sdescore.training.config import TrainConfig
from sdescore.training.trainer import Trainer

# One process of several, for torchrun: trains with a config, in float64; may kill itself at its n-th flush to disk, or,
# if it is the last of them, at its n-th update.
WORKER = """
import json, os, signal, sys
import torch
from sdescore.training.trainer import Trainer
from sdescore.training import TrainConfig, train

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
fields, resume, fatal, fatal_update = json.loads(sys.argv[1])
flush, calls = os.fsync, 0
update, updates = Trainer.update, 0

def fsync(handle):
    global calls
    calls += 1
    if calls == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    flush(handle)

def counted(self, *batch):
    global updates
    updates += 1
    if updates == fatal_update and self.accelerator.is_last_process:
        os.kill(os.getpid(), signal.SIGKILL)
    return update(self, *batch)

os.fsync, Trainer.update = fsync, counted
train(TrainConfig(**fields), resume=resume)
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
"""


def make_trainer(config: TrainConfig) -> Trainer:
    accelerator = build_accelerator(config.mixed_precision, config.tracker, config.out)
    return Trainer(config, config.build_source(), accelerator)


def next_batch(own: Trainer) -> tuple[torch.Tensor, torch.Tensor | None]:
    config, source = own.config, own.source
    return source.__getitems__(order(config.seed, len(source), own.step, config.batch_size).tolist())


def outcome(out: str | Path) -> dict[str, torch.Tensor]:
    """Everything that the newest checkpoint holds, by file and name."""
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


def run(
    processes: int, config: TrainConfig, resume: bool = False, fatal: int = 0, fatal_update: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run the worker above as so many processes, under torchrun if they are several."""
    return start(processes, WORKER, Path(config.out).parent, [config.to_json(), resume, fatal, fatal_update])


def start(
    processes: int, code: str, folder: Path, argument: object, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run code in a folder as so many processes, under torchrun if they are several; the argument comes as JSON."""
    script = folder / "worker.py"
    script.write_text(code)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else ()), str(script), json.dumps(argument)]
    around = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    return subprocess.run(command, env=around, capture_output=True, text=True, timeout=600, cwd=folder)
