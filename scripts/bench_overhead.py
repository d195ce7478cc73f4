#!/usr/bin/env python
"""What a sampling loop costs beyond the net: the time of a call of sample() whose net returns a tensor made before.

    python scripts/bench_overhead.py --out runs/bench_overhead

Beside it the schedulers of diffusers, if it is installed (pip install "sdescore[bench]"), in the loop of its own
pipelines, and what no loop can do without: an in-place update, and one draw of noise. On a CPU times are those that the
process itself computed, so that what else the machine does counts little; all take turns, and the least of the rounds
is kept. What is done once, before the first call, drops out: a call is what twice as many take more. Leaves table.md
and results.json.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import torch
from shared import clock, make_folder, markdown, parse, run, write_json, write_whole
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm.auto import tqdm

from sdescore import VPSDE, find_solver, sample

Loop = Callable[[int], float]  # net calls -> seconds


@dataclass(frozen=True)
class BenchConfig:
    """Settings of the benchmark.

    Args:
        out: Folder of the results.
        shape: Of the state.
        calls: Net calls of a loop.
        rounds: Turns of each loop.
        threads: Of a CPU.
        device: Where the state is.
        peers: Run diffusers if it is installed.
    """

    out: str = "runs/bench_overhead"
    shape: tuple[int, ...] = (64, 3, 32, 32)
    calls: int = 60
    rounds: int = 20
    threads: int = 1
    device: str = "cpu"
    peers: bool = True


OURS = {
    "order 1 and 2": ("ddim", "dpm++", "heun", "midpoint", "dpm2", "dpm++2s"),
    "higher order": ("adams", "dpm++3m", "unipc", "unipc-bh2", "lms", "deis", "ipndm", "rk4", "dpm++3s"),
    "stochastic": (
        "ddpm",
        "sde-dpm++",
        "sa",
        "seeds",
        "er-sde",
        "euler-ancestral",
        "euler-maruyama",
        "reverse-diffusion",
    ),
}
# Scheduler, options, and which of ours it is the counterpart of.
DIFFUSERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "DDIM": ("DDIMScheduler", {}, "ddim"),
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {}, "dpm++"),
    "DPM++ 3M": ("DPMSolverMultistepScheduler", {"solver_order": 3}, "dpm++3m"),
    "UniPC 2": ("UniPCMultistepScheduler", {}, "unipc-bh2"),
    "UniPC 3": ("UniPCMultistepScheduler", {"solver_order": 3}, "unipc"),
    "DEIS 3": ("DEISMultistepScheduler", {"solver_order": 3}, "deis"),
    "iPNDM": ("IPNDMScheduler", {}, "ipndm"),
    "DDPM": ("DDPMScheduler", {}, "ddpm"),
    "Euler ancestral": ("EulerAncestralDiscreteScheduler", {}, "euler-ancestral"),
    "SDE-DPM++ 2M": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, "sde-dpm++"),
    "SA 3": ("SASolverScheduler", {"predictor_order": 3, "corrector_order": 4}, "sa"),
}


class Allocations(TorchDispatchMode):
    """Counts the new tensors of at least a given size."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.count = size, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in args if isinstance(x, Tensor)}
        self.count += (
            isinstance(found, Tensor) and found.numel() >= self.size and found.untyped_storage().data_ptr() not in given
        )
        return found


def timed(task: Callable[[], Any], device: torch.device) -> float:
    since = clock(device)
    task()
    return clock(device) - since


def our_loop(name: str, x: Tensor) -> Loop:
    solver, sde, output = find_solver(name), VPSDE(), torch.randn_like(x)

    def net(x: Tensor, t: Tensor) -> Tensor:
        return output

    def loop(calls: int) -> float:
        return timed(partial(sample, sde, net, x=x, solver=solver, nfe=calls, predicts="noise"), x.device)

    return loop


def their_loop(scheduler: str, options: dict[str, Any], x: Tensor) -> Loop:
    import diffusers

    logging.getLogger("diffusers").setLevel(logging.ERROR)
    made, output = getattr(diffusers, scheduler)(**options), torch.randn_like(x)

    def loop(calls: int) -> float:
        made.set_timesteps(calls, device=x.device)

        def task() -> None:
            y = x
            for t in made.timesteps[:calls]:
                made.scale_model_input(y, t)
                y = made.step(output, t, y).prev_sample

        return timed(task, x.device)

    return loop


def bare_loop(x: Tensor) -> Loop:
    output = torch.randn_like(x)

    def loop(calls: int) -> float:
        y = x.clone()

        def task() -> None:
            for _ in range(calls):
                y.mul_(0.99).add_(output, alpha=0.01)

        return timed(task, x.device)

    return loop


def noise_loop(x: Tensor) -> Loop:
    def loop(calls: int) -> float:
        def task() -> None:
            for _ in range(calls):
                torch.randn_like(x)

        return timed(task, x.device)

    return loop


def allocations(name: str, x: Tensor, calls: int = 40) -> float:
    """New tensors of the state's size for each net call, the set-up and the last step left out."""
    loop, counts = our_loop(name, x), []
    for n in (calls, 2 * calls):
        with Allocations(x.numel()) as found:
            loop(n)
        counts.append(found.count)
    return (counts[1] - counts[0]) / calls


def bench(config: BenchConfig) -> None:
    torch.set_num_threads(config.threads)
    x = torch.randn(config.shape, device=config.device)
    loops: dict[str, Loop] = {"in-place update": bare_loop(x), "one draw of noise": noise_loop(x)}
    for names in OURS.values():
        loops |= {f"sdescore {name}": our_loop(name, x) for name in names}
    if config.peers and find_spec("diffusers"):
        loops |= {f"diffusers {name}": their_loop(*spec[:2], x) for name, spec in DIFFUSERS.items()}
    lengths = config.calls, 2 * config.calls
    least: dict[tuple[str, int], float] = {}
    for _ in tqdm(range(config.rounds), desc="rounds"):
        for (name, loop), calls in product(loops.items(), lengths):
            least[name, calls] = min(loop(calls), least.get((name, calls), math.inf))
    best = {name: 1e6 * (least[name, lengths[1]] - least[name, lengths[0]]) / config.calls for name in loops}
    leanest = min((value for name, value in best.items() if name.startswith("diffusers")), default=None)
    counterparts = {f"sdescore {ours}": f"diffusers {name}" for name, (_, _, ours) in DIFFUSERS.items()}
    kinds = {f"sdescore {name}": kind for kind, names in OURS.items() for name in names}
    rows = []
    for name, value in best.items():
        beside = best.get(counterparts.get(name, ""))
        rows.append(
            {
                "loop": name,
                "kind": kinds.get(name),
                "µs a call": f"{value:.0f}",
                "÷ leanest peer": f"{value / leanest:.2f}" if leanest and name in kinds else None,
                "÷ counterpart": f"{value / beside:.2f}" if beside else None,
                "allocations": f"{allocations(name.removeprefix('sdescore '), x):.1f}" if name in kinds else None,
            }
        )
    out = make_folder(Path(config.out))
    write_json(out / "results.json", {"shape": config.shape, "device": config.device, "microseconds": best})
    write_whole(out / "table.md", markdown(rows))
    print(markdown(rows))


if __name__ == "__main__":
    run("bench_overhead.py", lambda: bench(parse(BenchConfig, "bench_overhead.py", __doc__)))
