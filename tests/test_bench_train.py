"""The benchmark of training: what it counts, and that it runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn

SCRIPTS = Path(__file__).parent.parent / "scripts"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Any:
    if not SCRIPTS.exists():
        pytest.skip("no scripts beside these tests")
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 3, 1)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x))
        return y


def test_cost_counts_every_product(scripts: Any) -> None:
    from bench_nets import cost  # type: ignore[import-not-found,unused-ignore]

    parameters, operations = cost(Convolution)
    forward = 2 * 32 * 32 * (9 * 3 * 5 + 5 * 3)
    backward = 2 * 32 * 32 * (9 * 3 * 5 + 2 * 5 * 3)  # no gradient by the images
    assert parameters * 1e6 == pytest.approx(9 * 15 + 5 + 15 + 3)
    assert operations * 1e9 == pytest.approx(forward + backward)


def test_sizes_are_those_of_the_issue(scripts: Any) -> None:
    from bench_nets import builders, cost

    parameters, operations = cost(builders("full")["sdescore"])
    assert parameters == pytest.approx(35.7, rel=0.1) and operations == pytest.approx(37.5, rel=0.06)


def test_runs_and_says_who_is_faster(scripts: Any, tmp_path: Path) -> None:
    from bench_train import BenchConfig, bench, verdict  # type: ignore[import-not-found,unused-ignore]

    threads = torch.get_num_threads()
    try:
        bench(BenchConfig(batch_size=1, rounds=1, out=str(tmp_path / "table.json")))
    finally:
        torch.set_num_threads(threads)
    rows = json.loads((tmp_path / "table.json").read_text())["rows"]
    ours = [row for row in rows if row["net"] == "sdescore"]
    assert {row["setting"] for row in ours} >= {"float32", "float32, channels-last", "train()"}
    assert all(row["images/s"] > 0 and row["GFLOP/s"] > 0 for row in rows)
    made = [
        {"net": n, "setting": "float32", "images/s": s, "GFLOP/s": 2 * s} for n, s in (("sdescore", 3.0), ("x", 2.0))
    ]
    assert "1.500 x per operation, 1.500 x images/s" in verdict(made)[0]
