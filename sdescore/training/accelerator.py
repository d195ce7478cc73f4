"""The processes of a training run, and what launchers do not say about them."""

import ctypes
import logging
import os
import sys
from collections.abc import Mapping

import torch
from accelerate import Accelerator
from accelerate.utils import is_tensorboard_available

__all__ = ["build_accelerator", "chosen_precision", "keep_memory", "launcher_warnings"]

logger = logging.getLogger(__name__)


def build_accelerator(mixed_precision: str, tracker: str, out: str) -> Accelerator:
    """The Accelerator of this process, started by python, torchrun or accelerate launch; on a CPU, keep_memory() too.

    Raises ValueError for a tracker that is not installed, a precision that this device does not have, settings of the
    launcher that would change the gradient, and engines that split the weights other than FSDP version 2; RuntimeError
    if the launcher started another number of processes.
    """
    if tracker == "tensorboard" and not is_tensorboard_available():
        raise ValueError("tracker='tensorboard' is not installed; pip install tensorboard, or set tracker='none'")
    check_engines(os.environ)
    mixed_precision = chosen_precision(mixed_precision, os.environ)
    # By default accelerate starts no process group on a CPU: each process would train alone, over the others' files.
    cpu = not (torch.cuda.is_available() or torch.xpu.is_available() or torch.backends.mps.is_available())
    if cpu:
        keep_memory()
    try:
        accelerator = Accelerator(
            cpu=cpu,
            mixed_precision=mixed_precision,
            log_with=None if tracker == "none" else tracker,
            project_dir=out,
        )
    except ImportError as error:  # the launcher asks for something that this torch is too old for
        raise ValueError(f"the launcher asks for something that is not installed: {error}") from error
    if asked_for("FSDP", os.environ) and not accelerator.is_fsdp2:
        raise ValueError(
            "the launcher was asked for FSDP, but accelerate splits no weights "
            f"{'on a CPU' if cpu else 'in a single process'}; launch without FSDP"
        )
    if accelerator.is_fsdp2:
        if mixed_precision == "fp16":
            raise ValueError("mixed_precision='fp16'; expected no or bf16 with FSDP")
        # Its own policy also rounds the net's inputs, noise levels among them, and sums gradients in bf16.
        accelerator.state.fsdp_plugin.mixed_precision_policy = None
    if mixed_precision == "fp16" and not accelerator.native_amp:
        raise ValueError(
            "mixed_precision='fp16'; expected no or bf16 here, since accelerate computes in fp16 on GPUs alone and "
            "would silently use full precision"
        )
    if accelerator.gradient_accumulation_steps != 1:
        raise ValueError(
            f"the launcher asks for {accelerator.gradient_accumulation_steps} gradient accumulation steps; expected 1, "
            "and the setting accumulation instead"
        )
    started = int(os.environ.get("WORLD_SIZE", 1))
    if accelerator.num_processes != started:
        raise RuntimeError(f"the launcher started {started} processes, but accelerate has {accelerator.num_processes}")
    if accelerator.is_main_process:
        for message in launcher_warnings(os.environ, accelerator.num_processes, mixed_precision):
            logger.warning(message)
    return accelerator


def keep_memory() -> None:
    """Tell glibc, if that is the C library, to keep the memory that this process frees.

    Otherwise it returns pages after a step and gets cleared ones for the next: 3 to 15 % of a step on a CPU.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-3, 2**25)  # M_MMAP_THRESHOLD: its largest value
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def asked_for(engine: str, environment: Mapping[str, str]) -> bool:
    """Whether accelerate's launcher was asked for an engine."""
    return environment.get(f"ACCELERATE_USE_{engine}", "false").lower() == "true"


def check_engines(environment: Mapping[str, str]) -> None:
    """Raise ValueError for engines that split the weights, other than FSDP version 2."""
    for engine in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"):
        if asked_for(engine, environment) and (engine != "FSDP" or environment.get("FSDP_VERSION", "1") != "2"):
            raise ValueError(
                f"the launcher was asked for {engine}, which splits the weights: checkpoints and averages would hold "
                "parts of them; expected FSDP version 2, as in scripts/recipes/launch/fsdp2.yaml. To save memory there "
                "are also accumulation, mixed_precision and the U-Net's checkpointing"
            )


def chosen_precision(setting: str, environment: Mapping[str, str]) -> str:
    """The setting; for "auto" what accelerate launch was asked for, else bf16 on a GPU that supports it."""
    if setting != "auto":
        return setting
    asked = environment.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked in ("bf16", "fp16"):
        return asked
    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False) else "no"


def launcher_warnings(environment: Mapping[str, str], processes: int, mixed_precision: str) -> list[str]:
    """What the launcher was asked for and did not give, by the traces that it leaves in the environment."""
    messages = []
    # accelerate launch sets an address to meet at if it was asked for several processes, even if it starts only one.
    if processes == 1 and "ACCELERATE_MIXED_PRECISION" in environment and "MASTER_ADDR" in environment:
        messages.append(
            "accelerate launch was asked for several processes, but started ONE: it cannot start several on a CPU. Use "
            "torchrun --standalone --nproc_per_node 2 ... instead"
        )
    asked = environment.get("ACCELERATE_MIXED_PRECISION", "no")
    if asked not in ("no", mixed_precision):
        messages.append(
            f"the launcher was asked for mixed precision {asked}, but the run's own setting holds: "
            f"mixed_precision={mixed_precision!r}"
        )
    return messages
