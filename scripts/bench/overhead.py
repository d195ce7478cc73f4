#!/usr/bin/env python
"""What a sampling loop costs beyond the net: the time of a call of sample() whose net returns a tensor made before.

    python scripts/bench/overhead.py --out runs/bench_overhead

Beside it the schedulers of diffusers, if it is installed (pip install "sdescore[bench]"), in the loop of its own
pipelines, and what no loop can do without: an in-place update, and one draw of noise. On a CPU times are those that the
process itself computed, so that what else the machine does counts little; all take turns, and of all blocks of ten
steps the least is kept. What is done before the first block drops out. A second table has whole calls, by name and from
call to return, set-up included, beside the diffusers loop with its set_timesteps(). Leaves table.md, whole_calls.md and
results.json.
"""

import logging
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm.auto import tqdm

from sdescore import VPSDE, Noise, ReverseProcess, Solver, find_solver, sample
from sdescore.cli.command_line import run_with_settings
from sdescore.cli.outputs import make_folder, write_json, write_whole
from sdescore.cli.tables import markdown
from sdescore.sampling.solver import denoises

sys.path.append(str(Path(__file__).parents[1]))  # for what scripts share
from shared.clock import clock

Stamp = tuple[int, float]  # net calls so far, and the time
Loop = Callable[[Tensor, int], list[Stamp]]  # of a state and the number of net calls
BLOCK = 10  # steps between stamps
WHOLE = (2, 10, 50)  # net calls of the calls that are timed whole


@dataclass(frozen=True)
class BenchConfig:
    """Settings of the benchmark.

    Args:
        out: Folder of the results.
        shape: Of the state.
        nfe: Net calls of a loop, at least 120: a step takes up to four.
        rounds: Turns of each loop.
        threads: Of a CPU.
        device: Where the state is.
        peers: Run diffusers if it is installed.
    """

    out: str = "runs/bench_overhead"
    shape: tuple[int, ...] = (64, 3, 32, 32)
    nfe: int = 120
    rounds: int = 20
    threads: int = 1
    device: str = "cpu"
    peers: bool = True

    def __post_init__(self) -> None:
        if self.nfe < 12 * BLOCK:
            raise ValueError(f"nfe={self.nfe}; expected integers of at least {12 * BLOCK}")


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


def stamped(step: Callable[[int], Any], nfe: int, device: torch.device) -> list[Stamp]:
    """Take steps of one net call each."""
    stamps = []
    for i in range(nfe):
        if i % BLOCK == 0:
            stamps.append((i, clock(device)))
        step(i)
    return stamps


@dataclass
class Stamped:
    """A solver that takes the time every few steps."""

    solver: Solver
    stamps: list[Stamp]

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        for i, state in enumerate(self.solver.solve(reverse, x, times, noise)):
            if i % BLOCK == 0:
                self.stamps.append((reverse.net_calls.count, clock(x.device)))
            yield state

    @property
    def denoises(self) -> bool:
        return denoises(self.solver)

    def nfe(self, intervals: int) -> int:
        found: int = self.solver.nfe(intervals)  # type: ignore[attr-defined]
        return found


def our_call(solver: str | Solver, x: Tensor, output: Tensor, nfe: int) -> None:
    sample(VPSDE(), lambda x, t: output, x=x, solver=solver, nfe=nfe, predicts="noise")


def our_loop(name: str, x: Tensor, nfe: int) -> list[Stamp]:
    solver = Stamped(find_solver(name), [])
    our_call(solver, x, torch.randn_like(x), nfe)
    return solver.stamps


def their_loop(scheduler: str, options: dict[str, Any], x: Tensor, nfe: int) -> list[Stamp]:
    import diffusers

    logging.getLogger("diffusers").setLevel(logging.ERROR)
    made, output, state = getattr(diffusers, scheduler)(**options), torch.randn_like(x), [x]
    made.set_timesteps(nfe, device=x.device)

    def step(i: int) -> None:
        t = made.timesteps[i]
        made.scale_model_input(state[0], t)
        state[0] = made.step(output, t, state[0]).prev_sample

    return stamped(step, nfe, x.device)


def their_call(scheduler: str, options: dict[str, Any], x: Tensor, output: Tensor, nfe: int) -> None:
    import diffusers

    made = getattr(diffusers, scheduler)(**options)
    made.set_timesteps(nfe, device=x.device)
    for t in made.timesteps:
        made.scale_model_input(x, t)
        x = made.step(output, t, x).prev_sample


def whole_calls(x: Tensor, rounds: int, peers: bool) -> dict[str, dict[int, float]]:
    """Milliseconds from call to return, the least of all rounds, by loop and net calls; all take turns."""
    output = torch.randn_like(x)
    calls: dict[str, Callable[[int], None]] = {}
    for peer, (scheduler, options, ours) in DIFFUSERS.items():
        calls[f"sdescore {ours}"] = partial(our_call, ours, x, output)
        if peers:
            calls[f"diffusers {peer}"] = partial(their_call, scheduler, options, x, output)
    best = {name: dict.fromkeys(WHOLE, math.inf) for name in calls}
    for _ in tqdm(range(rounds), desc="whole calls"):
        for name, call in calls.items():
            for nfe in WHOLE:
                since = clock(x.device)
                call(nfe)
                best[name][nfe] = min(best[name][nfe], 1e3 * (clock(x.device) - since))
    return best


def whole_rows(best: dict[str, dict[int, float]]) -> list[dict[str, Any]]:
    """The table of whole calls: ours, their ratio to the counterpart, and what two steps cost above their steps."""
    rows = []
    for peer, (_, _, name) in DIFFUSERS.items():
        ours, theirs = best[f"sdescore {name}"], best.get(f"diffusers {peer}")
        few, most = WHOLE[0], WHOLE[-1]
        step = (ours[most] - ours[few]) / (most - few)
        row: dict[str, Any] = {"loop": name, "counterpart": peer}
        row |= {f"ms at {nfe} calls": f"{ours[nfe]:.2f}" for nfe in WHOLE}
        row |= {f"÷ counterpart at {nfe}": f"{ours[nfe] / theirs[nfe]:.2f}" if theirs else None for nfe in WHOLE}
        rows.append(row | {"ms above its steps": f"{ours[few] - few * step:.2f}"})
    return rows


def bare_loop(x: Tensor, nfe: int) -> list[Stamp]:
    y, output = x.clone(), torch.randn_like(x)
    return stamped(lambda i: y.mul_(0.99).add_(output, alpha=0.01), nfe, x.device)


def noise_loop(x: Tensor, nfe: int) -> list[Stamp]:
    return stamped(lambda i: torch.randn_like(x), nfe, x.device)


def least(stamps: list[Stamp]) -> float:
    """Seconds a call in the fastest block after the first."""
    return min((end - since) / (after - before) for (before, since), (after, end) in pairwise(stamps[1:]))


def allocations(name: str, x: Tensor, nfe: int = 40) -> float:
    """New tensors of the state's size for each net call, the set-up and the last step left out."""
    counts = []
    for n in (nfe, 2 * nfe):
        with Allocations(x.numel()) as found:
            our_call(find_solver(name), x, torch.randn_like(x), n)
        counts.append(found.count)
    return (counts[1] - counts[0]) / nfe


def bench(config: BenchConfig) -> None:
    torch.set_num_threads(config.threads)
    x = torch.randn(config.shape, device=config.device)
    loops: dict[str, Loop] = {"in-place update": bare_loop, "one draw of noise": noise_loop}
    for names in OURS.values():
        loops |= {f"sdescore {name}": partial(our_loop, name) for name in names}
    if config.peers and find_spec("diffusers"):
        loops |= {f"diffusers {name}": partial(their_loop, *spec[:2]) for name, spec in DIFFUSERS.items()}
    best = dict.fromkeys(loops, math.inf)
    for _ in tqdm(range(config.rounds), desc="rounds"):
        for name, loop in loops.items():
            best[name] = min(best[name], 1e6 * least(loop(x, config.nfe)))
    whole = whole_calls(x, config.rounds, config.peers and find_spec("diffusers") is not None)
    leanest = min((value for name, value in best.items() if name.startswith("diffusers")), default=None)
    draw = best["one draw of noise"]
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
                "÷ half of it + draw": f"{value / (leanest / 2 + draw):.2f}"
                if leanest and kinds.get(name) == "stochastic"
                else None,
                "÷ counterpart": f"{value / beside:.2f}" if beside else None,
                "allocations": f"{allocations(name.removeprefix('sdescore '), x):.1f}" if name in kinds else None,
            }
        )
    out = make_folder(Path(config.out))
    found = {"shape": config.shape, "device": config.device, "microseconds": best, "milliseconds_whole": whole}
    write_json(out / "results.json", found)
    for file, table in (("table.md", rows), ("whole_calls.md", whole_rows(whole))):
        write_whole(out / file, markdown(table))
        print(markdown(table))


if __name__ == "__main__":
    run_with_settings(BenchConfig, bench, "bench/overhead.py", __doc__)
