#!/usr/bin/env python
"""Time training steps of the U-Net beside other libraries' nets of equal size, and the scaling over processes.

    python scripts/bench/train.py                                            the small pair, on what is at hand
    python scripts/bench/train.py --size full --batch_size 128 --compile true    35.7 M parameters, for a GPU
    python scripts/bench/train.py --weak_scaling 2                           the same batch per process, in 1 and 2

A step is forward, mean squared error, backward, clipping and a fused AdamW, the same for all; the row "train()" is the
library's whole step, with noise, averages and log. All take turns, so that what else the machine does falls on all
alike; times are medians, on a CPU of the time that the process itself computed. Nets of unlike size are compared per
operation, by torch's count. The matrix rate is that of products of large square matrices. Needs the extra `bench`; a
library that is absent is left out.
"""

import ctypes
import gc
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from sdescore.cli.command_line import run_with_settings
from sdescore.cli.outputs import npz_bytes, write_json
from sdescore.cli.tables import markdown
from sdescore.data.source import Arrays
from sdescore.training.accelerator import build_accelerator, keep_memory
from sdescore.training.config import TrainConfig
from sdescore.training.run_log import read_log
from sdescore.training.trainer import Trainer

sys.path.append(str(Path(__file__).parents[1]))  # for what scripts share
from bench.nets import SIZES, builders, cost
from shared.clock import clock


@dataclass(frozen=True)
class BenchConfig:
    """Settings of the benchmark.

    Args:
        size: small, for a CPU, or full: 35.7 M parameters and 37.5 GFLOP an image in diffusers' net.
        batch_size: Images a step.
        rounds: Steps of each that are timed.
        threads: Of a CPU.
        compile: Add the compiled nets; on a GPU they come in bf16 and channels-last.
        weak_scaling: Instead, train in one process and in so many, at batch_size images each.
        out: JSON file for the table; must not exist yet.
    """

    size: str = "small"
    batch_size: int = 16
    rounds: int = 7
    threads: int = 1
    compile: bool = False
    weak_scaling: int | None = None
    out: str | None = None

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ValueError(f"size={self.size!r}; expected {', '.join(SIZES)}")
        for name in ("batch_size", "rounds", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; expected integers of at least 1")
        if self.weak_scaling is not None and self.weak_scaling < 2:
            raise ValueError(f"weak_scaling={self.weak_scaling}; expected integers of at least 2")
        if self.out is not None and Path(self.out).exists():
            raise ValueError(f"out={self.out!r} exists; expected a new file")


@dataclass(frozen=True)
class Setting:
    """How a net is computed."""

    precision: torch.dtype = torch.float32
    channels_last: bool = False
    compile: bool = False

    def __str__(self) -> str:
        named = {"channels-last": self.channels_last, "compiled": self.compile}
        return ", ".join([str(self.precision).removeprefix("torch."), *(name for name, on in named.items() if on)])


def settings(device: torch.device, compiled: bool) -> list[Setting]:
    """What is tried on a device."""
    if device.type == "cpu":
        plain = [Setting(), Setting(channels_last=True)]
        return plain + [Setting(compile=True)] * compiled
    best = Setting(torch.bfloat16, channels_last=True)
    return [Setting(), Setting(torch.bfloat16), best] + [replace(best, compile=True)] * compiled


def stepper(build: Callable[[], nn.Module], setting: Setting, device: torch.device, batch: int) -> Callable[[], None]:
    """A training step of a net on one batch of noise."""
    net = build().to(device)
    layout = torch.channels_last if setting.channels_last else torch.contiguous_format
    net = net.to(memory_format=layout)  # type: ignore[call-overload]
    x = torch.randn(batch, 3, 32, 32, device=device).to(memory_format=layout)
    target, c_noise = torch.randn_like(x), torch.linspace(-1.2, 1.2, batch, device=device)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, fused=True)
    called = torch.compile(net) if setting.compile else net

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=setting.precision == torch.bfloat16):
            loss = (called(x, c_noise) - target).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def whole_step(net_args: dict[str, Any], batch: int, setting: Setting) -> Callable[[], None]:
    """The library's own training step with a net, with all that belongs to it."""
    config = TrainConfig(
        net="UNet",
        net_args=net_args,
        batch_size=batch,
        tracker="none",
        mixed_precision="bf16" if setting.precision == torch.bfloat16 else "no",
        compile=setting.compile,
        sample_every=0,
        flips=True,
    )
    images = torch.randint(0, 256, (max(batch, 64), 3, 32, 32), dtype=torch.uint8)
    learner = Trainer(config, Arrays(images), build_accelerator(config.mixed_precision, "none", "."))
    raw = images[:batch].pin_memory() if torch.cuda.is_available() else images[:batch]  # as training reads them

    def step() -> None:
        learner.update(raw, {})

    return step


def peak_memory(step: Callable[[], None], device: torch.device) -> float | None:
    """GB that a step takes beyond what is held before it; None where the system does not say."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        step()
        return (torch.cuda.max_memory_allocated(device) - held) / 1e9
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    if not reset.exists():
        return None
    ctypes.CDLL(None).malloc_trim(0)
    reset.write_text("5")  # the highest use so far becomes the present one

    def kilobytes(name: str) -> int:
        return int(next(line for line in status.read_text().splitlines() if line.startswith(name)).split()[1])

    held = kilobytes("VmRSS")
    step()
    return (kilobytes("VmHWM") - held) * 1024 / 1e9


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """GFLOP per second of large matrix products."""
    size = 1024 if device.type == "cpu" else 8192
    a = torch.randn(size, size, device=device, dtype=dtype)
    times = []
    for _ in range(8):
        since = clock(device)
        for _ in range(5):
            a @ a
        times.append(clock(device) - since)
    return 5 * 2 * size**3 / min(times) / 1e9


def compare(config: BenchConfig) -> list[dict[str, Any]]:
    """The rows of the table, each of a net in a setting."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(config.threads)
    keep_memory()  # as in train(), for all
    made, costs = builders(config.size), {name: cost(build) for name, build in builders(config.size).items()}
    rates = {dtype: matrix_rate(device, dtype) for dtype in {each.precision for each in settings(device, False)}}
    steps = {
        (name, str(setting), setting.precision): stepper(build, setting, device, config.batch_size)
        for setting in settings(device, config.compile)
        for name, build in made.items()
    }
    _, base, multipliers = SIZES[config.size]
    own = {"base_width": base, "multipliers": list(multipliers), "blocks": 2, "attention": [16]}
    usual = settings(device, config.compile)[-1]  # the last is what train() would be told
    steps["sdescore", "train()", usual.precision] = whole_step(own, config.batch_size, usual)
    memory = {}
    for key, step in steps.items():
        step()
        memory[key] = peak_memory(step, device)
    times: dict[Any, list[float]] = {key: [] for key in steps}
    for _ in tqdm(range(config.rounds), desc="rounds"):
        for key, step in steps.items():
            since = clock(device)
            step()
            times[key].append(clock(device) - since)
    rows = []
    for (name, how, precision), taken in times.items():
        (parameters, operations), seconds = costs[name], statistics.median(taken)
        row = {"net": name, "setting": how, "parameters, M": parameters, "GFLOP/image": operations}
        row |= {"images/s": config.batch_size / seconds, "GFLOP/s": config.batch_size * operations / seconds}
        row["of the matrix rate"] = row["GFLOP/s"] / rates[precision]
        rows.append(row | {"peak, GB": memory[name, how, precision]})
    return rows


def best(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    """The fastest row of a net."""
    return max((row for row in rows if row["net"] == name and row["setting"] != "train()"), key=lambda r: r["images/s"])


def verdict(rows: list[dict[str, Any]]) -> list[str]:
    """Ours against each peer that has or lacks attention as ours does, each in its own best setting."""
    names, lines = list(dict.fromkeys(row["net"] for row in rows)), []
    for name in names:
        own_name = name.replace(name.partition(",")[0], "sdescore", 1)
        if name != own_name and own_name in names:
            own, peer = best(rows, own_name), best(rows, name)
            operations, images = (own[key] / peer[key] for key in ("GFLOP/s", "images/s"))
            lines.append(
                f"{own_name} ({own['setting']}) against {name} ({peer['setting']}): {operations:.3f} x per operation, "
                f"{images:.3f} x images/s"
            )
    return lines


def train_in(processes: int, batch: int, threads: int, data: Path, out: Path) -> float:
    """Images per second of a training run in so many processes, at so many images and threads each."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(processes), "-m"]
    options = {
        "data": data, "out": out, "net": "UNet", "net_args": '{"base_width": 32, "blocks": 1}',
        "batch_size": processes * batch,
        "steps": 30, "log_every": 5, "save_every": 30, "sample_every": 0, "tracker": "none", "progress": "false",
    }  # fmt: skip
    flags = [f"--{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", *launcher, "sdescore.cli", "train", *flags]
    # Told, since torchrun gives a single process all cores, and several of them one each.
    around = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=around)
    if done.returncode:
        raise RuntimeError(f"training in {processes} processes failed: {done.stderr[-2000:]}")
    return statistics.median(line["images_per_second"] for line in read_log(out)[1:])


def scale(processes: int, batch: int, threads: int) -> list[dict[str, Any]]:
    """Images per second of one process and of several, and the share of the ideal."""
    with tempfile.TemporaryDirectory() as folder:
        images = torch.randint(0, 256, (1024, 3, 32, 32), dtype=torch.uint8).numpy()
        data = Path(folder, "noise.npz")
        data.write_bytes(npz_bytes(x=images))
        speeds = [(n, train_in(n, batch, threads, data, Path(folder, f"run{n}"))) for n in (1, processes)]
    alone = speeds[0][1]
    return [{"processes": n, "images/s": speed, "efficiency": speed / alone / n} for n, speed in speeds]


def bench(config: BenchConfig) -> None:
    """Print the table, and write it if a file is named."""
    rows = scale(config.weak_scaling, config.batch_size, config.threads) if config.weak_scaling else compare(config)
    shown = [{key: f"{v:.3f}" if isinstance(v, float) else v for key, v in row.items()} for row in rows]
    print(markdown(shown))
    lines = [] if config.weak_scaling else verdict(rows)
    print("\n".join(lines))
    if config.out is not None:
        write_json(Path(config.out), {"rows": rows, "verdict": lines})


def main(arguments: Sequence[str] | None = None) -> None:
    run_with_settings(BenchConfig, bench, "bench/train.py", __doc__, arguments)


if __name__ == "__main__":
    main()
