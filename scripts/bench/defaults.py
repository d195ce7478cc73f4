#!/usr/bin/env python
"""Measure the default settings of training on small real sets, beside other settings and other libraries' loops.

    python scripts/bench/defaults.py --data_root data                    for hours; the same command goes on
    python scripts/bench/defaults.py --data_root data --minutes 0.5 --sets '[moons, digits]' --settings '[VP and v]'
    python scripts/bench/defaults.py --table true                        the tables of what is there

Every run of a set sees as many images: those of the default in so many minutes of one core, as measured at the first
run. Its samples come by `adams` at 20 net calls, whatever trained the net, and are compared with held-out ones: Fréchet
and kernel distance, and held-out bits a dimension where data has levels, nats else (those of vectors by the flow, the
others' by the evidence bound). The best setting is that of the first seed, by distance, for vectors by nats; it is run
again on other seeds. --data_root has cifar10_train.npz, cifar10_test.npz (x, y) and ETTh1.csv; Fashion-MNIST is that of
the Debian package dataset-fashion-mnist. What is absent is left out, denoising-diffusion-pytorch too.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from sdescore import Denoiser, elbo, log_likelihood, sample
from sdescore.cli.command_line import run_with_settings
from sdescore.cli.outputs import make_folder, write_json
from sdescore.common.files import read_json
from sdescore.data.batches import batches
from sdescore.data.statistics import data_std
from sdescore.density import bits_per_dim, dequantize
from sdescore.evaluation.metrics import frechet_distance, kernel_distance
from sdescore.objectives import TIME_DISTRIBUTIONS, log_normal
from sdescore.training.accelerator import build_accelerator
from sdescore.training.config import TrainConfig
from sdescore.training.trainer import Trainer

sys.path.append(str(Path(__file__).parents[1]))  # for what scripts share
from bench import diffusers_loop
from shared import lucidrains
from shared.defaults_tables import FRESH, best_of, tables
from shared.small_sets import SETS, SmallSet

SEEDS = (0, 1, 2)
VP_AND_V = {"sde": "VPSDE", "predicts": "v", "weighting": "simple", "time_distribution": "uniform"}
BY_SPREAD = "levels by spread"  # ln(rho) as EDM has it for data of std 0.5, moved along with the data's std
AVERAGE = "long average"  # of the default's own run: a power function's, of width 0.2
LOOPS = ("diffusers", "lucidrains")


@dataclass(frozen=True)
class DefaultsConfig:
    """Settings of the benchmark.

    Args:
        out: Folder of results.json, and of files made from the data.
        data_root: Folder of data that is no package's.
        minutes: Of one core, for the training of each run.
        sets: Which; by default all.
        settings: Which, beside the default; by default all, and both loops.
        seeds: How many for the default and for the best setting; the latter on as many fresh ones, too.
        table: Print the tables of what is there, and run nothing.
    """

    out: str = "runs/defaults"
    data_root: str = "data"
    minutes: float = 3.0
    sets: tuple[str, ...] = tuple(SETS)
    settings: tuple[str, ...] | None = None
    seeds: int = 3
    table: bool = False

    def __post_init__(self) -> None:
        if not set(self.sets) <= set(SETS):
            raise ValueError(f"sets={self.sets}; expected {', '.join(SETS)}")
        if not self.minutes > 0 or not 1 <= self.seeds <= len(SEEDS):
            raise ValueError(f"minutes={self.minutes}, seeds={self.seeds}; expected above 0, and 1 to {len(SEEDS)}")


def settings_of(default: TrainConfig, shape: tuple[int, ...], std: float) -> dict[str, dict[str, Any]]:
    """At most eight settings beside the default of a set, the most promising first: what each changes."""
    args = default.net_args
    common: dict[str, dict[str, Any]] = {
        "constant rate": {"decay": "none"},
        "VP and v": dict(VP_AND_V),
        "batch of 64": {"batch_size": default.batch_size // 2},
    }
    if len(shape) == 1:
        shares = {0.0, 0.1, 0.3} - {args["dropout"]}
        dropout = {f"dropout of {share:g}": {"dropout": share} for share in sorted(shares)}
        smaller = {"half the width": {"width": args["width"] // 2}, "rate ÷ 3": {"lr": default.lr / 3}}
        return {**dropout, **smaller, **common}
    rates = {"rate × 3": {"lr": 3 * default.lr}, "rate ÷ 3": {"lr": default.lr / 3}}
    found: dict[str, dict[str, Any]] = {**rates, BY_SPREAD: {}, **common, "no dropout": {"dropout": 0.0}}
    idle = {BY_SPREAD: 0.4 < std < 0.6, "no dropout": not args["dropout"]}
    return {name: changes for name, changes in found.items() if not idle.get(name)}


class Bench:
    """What is run on one set, and the file of the results."""

    def __init__(self, config: DefaultsConfig, name: str) -> None:
        self.config, self.name, self.file = config, name, Path(config.out) / "results.json"
        self.small: SmallSet = SETS[name](Path(config.data_root), Path(config.out))
        self.vector = len(self.small.train.shape) == 1
        self.std = data_std(self.small.train)
        self.count = 1000 if self.vector else 256
        plain = TrainConfig(workers=0, tracker="none", progress=False, out=config.out)
        self.default = plain.resolved(self.small.train, "cpu")
        self.settings = settings_of(self.default, tuple(self.small.train.shape), self.std)
        test = self.small.test
        self.test = test.scaling.to_model(test.raw)
        self.real = self.small.features(self.test)

    def results(self) -> dict[str, Any]:
        """What is there: costs of a step by set, and rows."""
        return read_json(self.file) if self.file.exists() else {"costs": {}, "rows": []}

    def row(self, setting: str, seed: int) -> dict[str, Any] | None:
        wanted = (self.name, setting, seed, self.config.minutes)
        rows = self.results()["rows"]
        return next((r for r in rows if (r["set"], r["setting"], r["seed"], r["minutes"]) == wanted), None)

    def keep(self, setting: str, seed: int, measured: dict[str, Any]) -> None:
        found = self.results()
        row = {"set": self.name, "setting": setting, "seed": seed, "minutes": self.config.minutes, **measured}
        found["rows"].append(row)
        write_json(self.file, found)
        print(json.dumps(row, ensure_ascii=False), flush=True)

    def trainer(self, config: TrainConfig) -> Trainer:
        return Trainer(config, self.small.train, build_accelerator("no", "none", self.config.out), self.std)

    def steps(self) -> int:
        """Those of the default in the minutes."""
        found = self.results()
        if self.name not in found["costs"]:
            trainer, times = self.trainer(self.default), []
            for raw, known in batches(self.small.train, 0, self.default.batch_size, range(8)):
                began = time.process_time()
                trainer.update(raw, known)
                times.append(time.process_time() - began)
            found["costs"][self.name] = sorted(times)[len(times) // 2]
            write_json(self.file, found)
        return min(max(int(60 * self.config.minutes / found["costs"][self.name]), 20), self.default.steps)

    def run(self, setting: str, seed: int) -> None:
        """Train and measure, unless that is done."""
        if self.row(setting, seed) is not None:
            return
        if setting == AVERAGE:  # comes with the default
            return self.run("default", seed)
        changes = dict(self.settings.get(setting, {}))
        net_args: dict[str, Any] = {k: changes.pop(k) for k in ("dropout", "width") if k in changes}
        config = replace(self.default, seed=seed, net_args={**self.default.net_args, **net_args}, **changes)
        config = replace(config, steps=self.steps() * self.default.batch_size // config.batch_size)
        began = time.process_time()
        found = {setting: self.fitted(setting, config)} if setting in LOOPS else self.trained(setting, config)
        seconds = time.process_time() - began
        for name, denoiser in found.items():
            self.keep(name, seed, {"steps": config.steps, "seconds": seconds, **self.measure(denoiser.eval())})

    def fitted(self, loop: str, config: TrainConfig) -> Denoiser:
        """By another library's loop."""
        if loop == "diffusers":
            return diffusers_loop.fit(config, self.small.train, config.steps, lambda step, loss: None)
        return lucidrains.fit(config, self.small.train, config.steps)

    def trained(self, setting: str, config: TrainConfig) -> dict[str, Denoiser]:
        """By ours; with the default, its longer average too."""
        if setting == "default":
            config = replace(config, ema_widths=(0.2,))
        moved = {"log-normal": log_normal(-1.2 + float(torch.tensor(2 * self.std).log()))}
        with patch.dict(TIME_DISTRIBUTIONS, moved) if setting == BY_SPREAD else nullcontext():
            trainer = self.trainer(config)
            for raw, known in batches(self.small.train, config.seed, config.batch_size, range(config.steps)):
                trainer.update(raw, known)
        names = [setting, AVERAGE] if setting == "default" else [setting]
        return {name: trainer.averages.whole(index) for index, name in enumerate(names)}

    def distances(self, x: Tensor) -> dict[str, float]:
        features = self.small.features(x)
        kernel, error = kernel_distance(features, self.real)
        return {"frechet": frechet_distance(features, self.real), "kernel": kernel, "kernel_error": error}

    def measure(self, denoiser: Denoiser) -> dict[str, float]:
        """Distances of samples, and the held-out bits or nats."""
        sde, scaling, shape = denoiser.sde, self.small.train.scaling, tuple(self.small.train.shape)
        x = sample(sde, denoiser, (self.count, *shape), solver="adams", nfe=20, seed=0)
        found = self.distances(scaling.to_model(scaling.to_data(x)))
        test = self.test[: 500 if self.vector else 128]
        if self.vector:
            log_prob = log_likelihood(sde, denoiser, test, rtol=1e-3, atol=1e-3, probes=4) + self.small.unit
        elif scaling.levels is None:
            log_prob = elbo(sde, denoiser, test, groups=1).log_prob + self.small.unit
        else:
            bound = elbo(sde, denoiser, dequantize(test, scaling), groups=1)
            log_prob = -bits_per_dim(bound.log_prob, shape, scaling)
        error = float(log_prob.std()) / len(log_prob) ** 0.5
        return found | {"log_prob": float(log_prob.mean()), "log_prob_error": error}

    def floor(self) -> None:
        """The row of as many training samples."""
        if self.row("training data", 0) is None:
            draw = torch.Generator().manual_seed(0)
            source = self.small.train
            chosen = torch.randperm(len(source), generator=draw)[: self.count].tolist()
            self.keep("training data", 0, self.distances(source.scaling.to_model(source.__getitems__(chosen)[0])))


def jobs(config: DefaultsConfig, benches: Sequence[Bench]) -> Iterator[Callable[[], None]]:
    """What is to do, in an order that may end at any time: the default and the loops on all, settings, then seeds."""

    def wanted(name: str) -> bool:
        return config.settings is None or name in config.settings

    def some(name: str, seed: int, of: Sequence[Bench] = benches) -> Iterator[Callable[[], None]]:
        for bench in of:
            yield lambda bench=bench: bench.run(name, seed)  # type: ignore[misc]

    for bench in benches:
        yield bench.floor
        yield from some("default", 0, [bench])
        if wanted("diffusers"):
            yield from some("diffusers", 0, [bench])
    images = [bench for bench in benches if len(bench.small.train.shape) == 3]
    if wanted("lucidrains"):
        yield from some("lucidrains", 0, images)
    for name in dict.fromkeys(name for bench in benches for name in bench.settings):
        if wanted(name):
            yield from some(name, 0, [bench for bench in benches if name in bench.settings])
    for seed in SEEDS[1 : config.seeds]:
        yield from some("default", seed)
    for bench in benches:
        for seed in (*SEEDS[1 : config.seeds], *range(FRESH, FRESH + config.seeds)) if config.seeds > 1 else ():

            def again(bench: Bench = bench, seed: int = seed) -> None:
                rows = [row for row in bench.results()["rows"] if row["set"] == bench.name]
                bench.run(best_of(rows, config.minutes) or "default", seed)

            yield again


def bench(config: DefaultsConfig) -> None:
    """Run what is missing, and print the tables."""
    file = Path(config.out) / "results.json"
    if not config.table:
        make_folder(Path(config.out))
        found = []
        for name in config.sets:
            try:
                found.append(Bench(config, name))
            except (FileNotFoundError, ValueError) as error:
                print(f"{name} is left out: {error}")
        for job in jobs(config, found):
            try:
                job()
            except ImportError as error:
                print(f"a loop is left out: {error}")
    print(tables(read_json(file)["rows"]))


def main(arguments: Sequence[str] | None = None) -> None:
    run_with_settings(DefaultsConfig, bench, "bench/defaults.py", __doc__, arguments)


if __name__ == "__main__":
    main()
