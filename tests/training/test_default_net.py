"""The net of those who name none: that it exists for data of any shape, costs what the device affords, and is kept."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sdescore import Denoiser
from sdescore.data.source import Arrays
from sdescore.denoisers.folders import build_net
from sdescore.training.config import TrainConfig
from sdescore.training.default_net import BUDGET, WIDTHS, default_net
from sdescore.training.loop import train

CASES = [("cpu", (1, 8, 8)), ("cpu", (3, 20, 33)), ("cpu", (2, 96)), ("cpu", (1, 8, 8, 8)), ("cpu", (3, 1, 1))]
CASES += [("cuda", (3, 32, 32)), ("cuda", (1, 1000))]


def built(shape: tuple[int, ...], device: str, count: int = 50_000) -> Any:
    name, arguments = default_net(shape, count, device)
    known = {"channels": shape[0], "image_size": list(shape[1:]), "dims": len(shape) - 1, "features": shape[0]}
    with torch.device("meta"):
        return build_net(name, arguments, known)


@pytest.mark.parametrize(("device", "shape"), CASES, ids=str)
def test_costs_at_most_twice_what_is_affordable_or_is_the_narrowest(device: str, shape: tuple[int, ...]) -> None:
    net = built(shape, device)
    x, c_noise = torch.zeros(1, *shape, device="meta"), torch.zeros(1, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x, c_noise)
    narrowest = net.config["base_width"] == WIDTHS[device][0]
    assert 3 * counter.get_total_flops() <= 2 * BUDGET[device] or narrowest  # a backward pass costs twice as much


@pytest.mark.parametrize("shape", [(1, 28, 28), (13,)])
def test_more_is_spent_on_a_gpu_and_dropout_on_few_samples(shape: tuple[int, ...]) -> None:
    count = {device: sum(p.numel() for p in built(shape, device).parameters()) for device in ("cpu", "cuda")}
    assert count["cuda"] > 5 * count["cpu"]
    assert default_net(shape, 600, "cpu")[1]["dropout"] > 0 == default_net(shape, 60_000, "cpu")[1]["dropout"]


def test_vectors_get_a_perceptron_and_too_many_axes_an_error() -> None:
    assert default_net((5,), 100, "cpu")[0] == "MLP"
    with pytest.raises(ValueError, match=r"samples have shape \(1, 2, 3, 4, 5\); expected at most three axes"):
        default_net((1, 2, 3, 4, 5), 100, "cpu")


def test_is_written_down_and_kept_by_a_resumed_run(plain: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(plain, net=None, net_args={"width": 8}, data_std=1.0)
    source = Arrays(torch.randn(30, 3, generator=torch.Generator().manual_seed(0)))
    train(replace(config, steps=2), source=source)
    net: Any = Denoiser.from_pretrained(Path(config.out) / "model").net
    assert (net.config["width"], net.config["depth"]) == (8, 4)
    # As on another machine, or by another version: the run keeps the net that it has.
    monkeypatch.setattr("sdescore.training.config.default_net", lambda *_: ("UNet", {"base_width": 64}))
    train(replace(config, net_args={}), source=source, resume=True)
    with pytest.raises(ValueError, match=r"net_args \({.*'depth': 4.*'depth': 3"):
        train(replace(config, net_args={"depth": 3}), source=source, resume=True)
