"""What the processes of a distributed run do; they are forked from a server, or started by torchrun."""

import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("ACCELERATE_USE_CPU", "true")  # what is compared bit by bit is compared on the CPU

import torch
from accelerate import Accelerator

from sdescore.nets import UNet
from sdescore.training import TrainConfig, train
from sdescore.training.sharding import local
from sdescore.training.trainer import Trainer

Run = tuple[dict[str, Any], bool]  # the fields of a config, and whether to resume


def forked(target: Any, folder: Path, environment: dict[str, str], arguments: Sequence[Any]) -> None:
    """Call a function of this module in a folder, as one process of several; errors go to a file there."""
    os.chdir(folder)
    os.environ.update(environment)
    errors = os.open(f"errors-{environment['RANK']}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(errors, 2)
    torch.set_num_threads(1)
    target(*arguments)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def train_whole(fields: dict[str, Any], resume: bool, fatal: int, fatal_update: int) -> None:
    """Train in float64; kill this process at its n-th flush to disk, or, if it is the last, at its n-th update."""
    torch.set_default_dtype(torch.float64)
    flush = os.fsync
    update = Trainer.update
    flushes = 0
    updates = 0

    def counted_flush(handle: int) -> None:
        nonlocal flushes
        flushes += 1
        if flushes == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(handle)

    def counted_update(self: Trainer, *batch: Any) -> Any:
        nonlocal updates
        updates += 1
        if updates == fatal_update and self.accelerator.is_last_process:
            os.kill(os.getpid(), signal.SIGKILL)
        return update(self, *batch)

    os.fsync = counted_flush  # type: ignore
    Trainer.update = counted_update  # type: ignore
    train(TrainConfig(**fields), resume=resume)


def train_split(dtype: str, runs: Sequence[Run]) -> None:
    """Train one run after the other with split weights, of which each process writes how much it holds.

    accelerate splits weights on GPUs alone. What it decides there is decided here in its place; the splitting itself is
    torch's and accelerate's own.
    """
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    torch.set_default_dtype(getattr(torch, dtype))
    init = Accelerator.__init__
    save = Trainer.save
    forward = UNet.forward

    def split(self: Any, *args: Any, **named: Any) -> None:
        init(self, *args, **named)
        self.state.distributed_type = DistributedType.FSDP
        self.state.fsdp_plugin = FullyShardedDataParallelPlugin()
        if self.mixed_precision != "no":
            self.state.fsdp_plugin.set_mixed_precision(self.mixed_precision)

    def weighed(self: Trainer) -> None:
        save(self)
        moments = [moment["exp_avg"] for moment in self.optimizer.state.values()]
        held = [list(self.denoiser.parameters()), *(list(m.parameters()) for m in self.averages.models), moments]
        shares = [sum(local(t).numel() for t in each) / sum(t.numel() for t in each) for each in held]
        Path(f"shares-{self.accelerator.process_index}.json").write_text(json.dumps(shares))

    def exact(self: UNet, x: torch.Tensor, c_noise: torch.Tensor, label: Any = None, **conditions: Any) -> torch.Tensor:
        # Neither samples nor noise levels are rounded on their way into the net.
        assert x.dtype == c_noise.dtype == torch.get_default_dtype()
        assert torch.is_autocast_enabled("cpu") == (Accelerator().mixed_precision == "bf16") or not self.training
        return forward(self, x, c_noise, label, **conditions)

    Accelerator.__init__ = split
    Trainer.save = weighed  # type: ignore
    UNet.forward = exact  # type: ignore
    for fields, resume in runs:
        train(TrainConfig(**fields), resume=resume)


def run_command(arguments: Sequence[str]) -> None:
    """Run the command `sdescore`."""
    from sdescore.cli import main

    main(arguments)


if __name__ == "__main__":  # by torchrun
    torch.set_num_threads(1)
    train_whole(*json.loads(sys.argv[1]))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
