#!/usr/bin/env python
"""One step of bench/gpu.py, in a process of its own: what it measures goes into the table figure by figure."""

import gc
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parents[1]))  # for what scripts share
from bench import gpu_likelihood, gpu_recipe
from bench.gpu_data import Images
from bench.gpu_sizes import SIZES, Sizes
from bench.gpu_table import Table
from bench.nets import builders, cost
from bench.train import Setting, matrix_rate, peak_memory, stepper, whole_step
from shared.clock import clock

from sdescore import VPSDE, Denoiser, sample
from sdescore.common.files import read_json

ROOT = Path(__file__).parents[2]
Figures = dict[str, Any]
Report = Callable[[Figures], None]  # keeps figures that are not final yet
Unit = tuple[str, Callable[[Report], Figures]]  # what is measured under one name


@dataclass(frozen=True)
class Work:
    """What a step is given."""

    step: str
    kind: str
    seconds: float
    parent: int
    out: str
    work: str
    pack: str

    @cached_property
    def end(self) -> float:
        """When its time is over; asked for at the start."""
        return time.monotonic() + self.seconds

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    @property
    def sizes(self) -> Sizes:
        return SIZES[self.kind]

    @property
    def device(self) -> torch.device:
        return torch.device(self.kind)

    @cached_property
    def images(self) -> Images:
        return Images.of(Path(self.pack), small=self.kind == "cpu")


def tests(work: Work) -> Iterator[Unit]:
    """pytest -m gpu."""

    def run(report: Report) -> Figures:
        import pytest

        counts: Figures = {"passed": 0, "failed": 0, "skipped": 0}

        class Counting:
            def pytest_runtest_logreport(self, report: Any) -> None:
                if report.when == "call" or report.outcome != "passed":
                    counts[report.outcome] += 1
                if report.outcome == "failed":
                    counts["first failed"] = counts.get("first failed", report.nodeid.rpartition("/")[2])
                if report.when == "call":
                    tell(counts)

        tell = report
        os.environ.update(work.sizes.environment)
        status = pytest.main([str(ROOT / "tests/gpu"), "-q", "-p", "no:cacheprovider", *work.sizes.tests], [Counting()])
        if int(status) not in (0, 1):
            raise RuntimeError(f"pytest ended with {status!r}")
        return counts

    yield "pytest tests/gpu", run


def train(work: Work) -> Iterator[Unit]:
    """Steps of training beside diffusers', and what one of ours consists of."""
    sizes, device = work.sizes, work.device
    torch.backends.cudnn.benchmark = True  # for all
    ours = sizes.settings["sdescore"][0]
    rates: dict[torch.dtype, float] = {}

    def rate(report: Report) -> Figures:
        rates[ours.precision] = matrix_rate(device, ours.precision)
        return {"TFLOP/s": rates[ours.precision] / 1000}

    def timed(name: str, step: Callable[[], None], batch: int) -> Figures:
        times = []
        for _ in range(sizes.rounds + 2):
            since = clock(device)
            step()
            times.append(clock(device) - since)
        seconds = statistics.median(times[2:])
        parameters, operations = cost(builders(sizes.net)[name])
        if ours.precision not in rates:
            rate(lambda figures: None)
        found: Figures = {"images/s": batch / seconds, "ms a step": 1000 * seconds, "parameters, M": parameters}
        found |= {"GFLOP/image": operations, "peak, GB": peak_memory(step, device)}
        return found | {"of the matrix rate": batch * operations / seconds / rates[ours.precision]}

    @lru_cache(maxsize=1)  # compiling takes long, and memory is wanted for the next
    def made(name: str, setting: Setting, batch: int) -> Callable[[], None]:
        torch._dynamo.reset()  # or the second batch size would be compiled for any
        return stepper(builders(sizes.net)[name], setting, device, batch)

    def bare(name: str, setting: Setting, batch: int, report: Report) -> Figures:
        return timed(name, made(name, setting, batch), batch)

    def parts(batch: int, report: Report) -> Figures:
        return kernels(made("sdescore", ours, batch), device)

    def whole(batch: int, report: Report) -> Figures:
        from bench.nets import SIZES as NETS

        made.cache_clear()
        torch._dynamo.reset()
        _, base, multipliers = NETS[sizes.net]
        arguments = {"base_width": base, "multipliers": list(multipliers), "blocks": 2, "attention": [16]}
        return timed("sdescore", whole_step(arguments, batch, ours), batch)

    yield "matrix rate", rate
    for batch in sizes.batches:
        for name, settings in sizes.settings.items():
            for setting in settings:
                yield f"{name}, {setting}, batch {batch}", partial(bare, name, setting, batch)
                if (name, setting, batch) == ("sdescore", ours, sizes.batches[0]):
                    yield f"kernels of a step, {setting}, batch {batch}", partial(parts, batch)
        yield f"train(), {ours}, batch {batch}", partial(whole, batch)


def kernels(step: Callable[[], None], device: torch.device) -> Figures:
    """What a step consists of: on a CPU torch's operations."""
    from torch.profiler import ProfilerActivity, profile

    for _ in range(3):
        step()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    since = clock(device)
    step()
    seconds = clock(device) - since
    with profile(activities=activities) as seen:
        step()
        clock(device)
    on_device = [event for event in seen.key_averages() if event.device_type.name.lower() == device.type]
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    taken = sorted(((getattr(event, key) / 1e6, event.key, event.count) for event in on_device), reverse=True)
    total = sum(each for each, _, _ in taken)
    first = ", ".join(f"{name[:60]} {each / total:.0%} in {count}" for each, name, count in taken[:5])
    return {"kernels": sum(count for _, _, count in taken), "busy": total / seconds, "most": first}


def sampling(work: Work) -> Iterator[Unit]:
    """Images of the size of CIFAR-10's, by calls of a net in half precision, and by diffusers' pipeline."""
    sizes, device = work.sizes, work.device
    torch.backends.cudnn.benchmark = True
    shape = (sizes.images, 3, 32, 32)

    def figures(call: Callable[[], Any], net: Callable[[], Any]) -> Figures:
        """The time outside the net is that of the whole beyond that of as many calls of the net alone."""
        found = []
        for function in (call, net):
            with torch.no_grad():
                for _ in range(2):
                    function()
                times = []
                for _ in range(max(2, sizes.rounds // 5)):
                    since = clock(device)
                    function()
                    times.append(clock(device) - since)
            found.append(min(times))
        whole, alone = found
        return {"images/s": sizes.images / whole, "seconds": whole, "outside the net": 1 - alone / whole}

    def prepared(name: str, mode: Any) -> tuple[Any, Callable[[], Any]]:
        """The net, and as many calls of it as the sampler makes."""
        dtype = sizes.precisions[name]
        net: Any = builders(sizes.net)[name]().to(device, dtype).eval().requires_grad_(False)
        net = net.to(memory_format=torch.channels_last)
        inner = net if name == "sdescore" else net.net
        if mode is not None:
            inner.forward = torch.compile(inner.forward, **mode)
        x = torch.randn(shape, device=device, dtype=dtype)
        # As each sampler gives it: another shape or kind would be compiled apart.
        t = torch.zeros(sizes.images, device=device) if inner is net else torch.tensor(500)

        def alone() -> None:
            for _ in range(sizes.calls):
                inner(x, t)

        return inner, alone

    def ours(mode: Any, report: Report) -> Figures:
        net, alone = prepared("sdescore", mode)
        denoiser = Denoiser(net, VPSDE(), "noise")
        return figures(lambda: sample(VPSDE(), denoiser, shape, nfe=sizes.calls).cpu(), alone)

    def theirs(mode: Any, report: Report) -> Figures:
        from diffusers import DDIMPipeline, DDIMScheduler

        net, alone = prepared("diffusers", mode)
        pipeline: Any = DDIMPipeline(net, DDIMScheduler())
        pipeline.set_progress_bar_config(disable=True)
        return figures(
            lambda: pipeline(batch_size=sizes.images, num_inference_steps=sizes.calls, output_type="np"), alone
        )

    for mode, arguments in sizes.modes.items():
        yield f"sdescore, {mode}", partial(ours, arguments)
        yield f"diffusers, {mode}", partial(theirs, arguments)


STEPS: dict[str, Callable[[Work], Iterator[Unit]]] = {
    "tests": tests,
    "train": train,
    "sample": sampling,
    "likelihood": gpu_likelihood.units,
    "cifar10": gpu_recipe.units,
}


def run(work: Work) -> bool:
    """Measure what the table lacks; returns whether all went well."""
    out = Path(work.out)
    table = Table(out, read_json(out / "results.json")["machine"])
    done, well = table.done(work.step), True
    for name, unit in STEPS[work.step](work):
        if name in done:
            continue
        print(f"{work.step}: {name}, {work.left:.0f} s left", flush=True)
        try:
            table.add(work.step, name, unit(partial(table.add, work.step, name, done=False)))
        except Exception as error:  # the others are measured all the same
            well = False
            traceback.print_exc()
            table.add(work.step, name, {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}, False)
        gc.collect()
        if work.kind == "cuda":
            torch.cuda.empty_cache()
    return well


def main() -> None:
    work = Work(**json.loads(sys.argv[1]))
    if os.getppid() != work.parent:
        sys.exit("the process that started this has ended")
    if work.kind == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    print(f"{work.step}: {work.end - time.monotonic():.0f} s", flush=True)
    sys.exit(not run(work))


if __name__ == "__main__":
    main()
