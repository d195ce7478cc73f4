"""The benchmark of training: what it counts, and that it runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from scripting import NEEDS_SCRIPTS
from torch import Tensor, nn

pytestmark = NEEDS_SCRIPTS


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 3, 1)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x))
        return y


def test_cost_counts_every_product(script: Callable[[str], Any]) -> None:
    parameters, operations = script("bench.nets").cost(Convolution)
    forward = 2 * 32 * 32 * (9 * 3 * 5 + 5 * 3)
    backward = 2 * 32 * 32 * (9 * 3 * 5 + 2 * 5 * 3)  # no gradient by the images
    assert parameters * 1e6 == pytest.approx(9 * 15 + 5 + 15 + 3)
    assert operations * 1e9 == pytest.approx(forward + backward)


def test_sizes_are_those_of_the_issue(script: Callable[[str], Any]) -> None:
    nets = script("bench.nets")
    parameters, operations = nets.cost(nets.builders("full")["sdescore"])
    assert parameters == pytest.approx(35.7, rel=0.1) and operations == pytest.approx(37.5, rel=0.06)


def test_runs_and_says_who_is_faster(
    script: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setitem(script("bench.nets").SIZES, "small", ((32, 32), 16, (1, 1)))
    train, threads = script("bench.train"), torch.get_num_threads()
    try:
        train.bench(train.BenchConfig(batch_size=1, rounds=1, out=str(tmp_path / "table.json")))
    finally:
        torch.set_num_threads(threads)
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    ours = [row for row in rows if row["net"] == "sdescore"]
    assert {row["setting"] for row in ours} >= {"float32", "float32, channels-last", "train()"}
    assert all(row["images/s"] > 0 and row["GFLOP/s"] > 0 for row in rows)
    made = [
        {"net": n, "setting": "float32", "images/s": s, "GFLOP/s": 2 * s} for n, s in (("sdescore", 3.0), ("x", 2.0))
    ]
    assert "1.500 x per operation, 1.500 x images/s" in train.verdict(made)[0]
