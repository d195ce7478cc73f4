#!/usr/bin/env python
"""Prove it on a GPU, in a few minutes: the tests, training, sampling, likelihood, and a short run on CIFAR-10.

    make gpu                                                    scripts/bench/gpu.py --minutes 8
    python scripts/bench/gpu.py --rehearse true                 small, on a CPU, as it also is without a GPU
    python scripts/bench/gpu_pack.py --data FOLDER              for a machine without a network: what it lacks
    .ci/gpu --minutes 8 --out OUT                               there: installs that, and does the same

Each step is a process with its own share of the time, in order of worth. Whatever is measured is in out/results.json
and out/table.md at once, so that it stands wherever this is cut off; run again it measures what is missing. out/log.txt
has what the steps print, out/samples.png images; the net that was trained stays in `work`.
"""

import ctypes
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1]))  # for what scripts share
from bench.gpu_table import Table

from sdescore.cli.command_line import run_with_settings
from sdescore.cli.outputs import make_folder
from sdescore.common.files import locked

ROOT = Path(__file__).parents[2]
# Shares of the whole time, in order of worth; the last has what the others leave, and it is kept for it.
STEPS = {"tests": 0.2, "train": 0.35, "sample": 0.16, "likelihood": 0.09, "cifar10": 0.2}
LEAST = 2.0  # seconds: with less no step is begun


@dataclass(frozen=True)
class GpuConfig:
    """Settings of the proof.

    Args:
        minutes: For all steps together.
        rehearse: Everything at small size on the CPU, as without a GPU.
        out: Folder of results.json, table.md, log.txt and samples.png.
        work: Folder of what is needed to go on.
        pack: Folder of scripts/bench/gpu_pack.py: images and features. Without them images are made up.
    """

    minutes: float = 8.0
    rehearse: bool = False
    out: str = "runs/gpu"
    work: str = "build/gpu/work"
    pack: str = "build/gpu/pack"

    def __post_init__(self) -> None:
        if not self.minutes > 0:
            raise ValueError(f"minutes={self.minutes}; expected positive numbers")

    @property
    def kind(self) -> str:
        """The column of sizes."""
        return "cpu" if self.rehearse or not torch.cuda.is_available() else "cuda"


def commit(pack: Path) -> str:
    """Of the clone, or of the one that was packed where only its files went."""
    if (ROOT / ".git").exists():
        command = ["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    noted = pack / "commit.txt"
    return noted.read_text("utf-8").strip() if noted.exists() else "unknown"


def machine(config: GpuConfig) -> dict[str, str]:
    """What the figures are of."""
    found = {"card": torch.cuda.get_device_name() if config.kind == "cuda" else f"none, {platform.machine()} rehearsal"}
    for name in ("torch", "diffusers", "torchdiffeq", "accelerate", "sdescore"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found | {"python": platform.python_version(), "commit": commit(Path(config.pack))}


def command(step: str, config: GpuConfig, seconds: float) -> list[str]:
    """What a step's process runs."""
    given = {"step": step, "kind": config.kind, "seconds": seconds, "parent": os.getpid()}
    given |= {"out": config.out, "work": config.work, "pack": config.pack}
    return [sys.executable, str(Path(__file__).with_name("gpu_steps.py")), json.dumps(given)]


def end_with_parent() -> None:
    """Ask the system to kill this process when the one that started it ends, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def attempt(argv: Sequence[str], seconds: float, log: Path) -> str:
    """Run a process, and end it with all its children when its time is over; how it ended, empty for well."""
    with open(log, "ab") as file:
        process = subprocess.Popen(
            argv, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=end_with_parent
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"cut off after {seconds:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    return f"ended with status {status}" if status else ""


def prove(config: GpuConfig, told: Callable[[str, GpuConfig, float], list[str]] = command) -> None:
    """Take the steps that are not finished yet."""
    end = time.monotonic() + 60 * config.minutes
    out = make_folder(Path(config.out))
    make_folder(Path(config.work))
    with locked(out):
        of = machine(config)
        Table(out, of).write()  # so that the steps' own figures are this machine's
        for step, share in STEPS.items():
            table = Table(out, of)
            done = table.done(step)
            if step in table.finished:
                print(f"{step}: done before, {len(done)} figures", flush=True)
                continue
            left = end - time.monotonic()
            kept = 0.0 if step == list(STEPS)[-1] else STEPS["cifar10"] * 60 * config.minutes
            seconds = left if not kept else min(share * 60 * config.minutes, left - kept)
            if seconds < LEAST:
                print(f"{step}: no time left", flush=True)
                continue
            began = time.monotonic()
            told_before = f", {len(done)} figures done before" if done else ""
            print(f"{step}: {seconds:.0f} s at most{told_before}", flush=True)
            how = attempt(told(step, config, seconds), seconds, out / "log.txt")
            table = Table(out, of)
            if not how:
                table.finish(step)
            new = len(table.done(step) - done)
            print(f"{step}: {how or 'finished'}, {new} new figures in {time.monotonic() - began:.0f} s", flush=True)
        print(Table(out, of).markdown())


def main(arguments: Sequence[str] | None = None) -> None:
    run_with_settings(GpuConfig, prove, "bench/gpu.py", __doc__, arguments)


if __name__ == "__main__":
    main()
