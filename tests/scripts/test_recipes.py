"""The recipes: each parses, builds what its header says, and trains a few steps on data of its shape."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from scripting import SCRIPTS

from sdescore.cli.train import parse
from sdescore.data.source import Arrays
from sdescore.training.config import TrainConfig
from sdescore.training.loop import train
from sdescore.training.run_log import read_log

SHAPES = {"cifar10": (3, 32, 32), "fashion": (1, 28, 28), "digits": (1, 8, 8)}
RECIPES = sorted((SCRIPTS / "recipes").glob("*.yaml"))


def parsed(path: Path) -> tuple[TrainConfig, tuple[int, ...]]:
    config, _ = parse(["--config", str(path)])
    return config, SHAPES[path.name.partition("-")[0].removesuffix(".yaml")]


def test_there_are_recipes() -> None:
    names = [path.stem for path in RECIPES]
    assert names == ["cifar10-edm", "cifar10-ve", "cifar10-vp", "digits", "fashion-mnist"]


def test_those_for_gpus_are_compiled() -> None:
    """Those for many of them may be split over them besides: test_sharding.py trains by what launch/fsdp2.yaml says."""
    assert [path.stem for path in RECIPES if parsed(path)[0].compile] == ["cifar10-edm", "cifar10-ve", "cifar10-vp"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_builds_what_its_header_says(path: Path) -> None:
    config, shape = parsed(path)
    with torch.device("meta"):
        net = config.build_net(shape, None)
    said = re.search(r"U-Net: ([\d.]+) M parameters", path.read_text())
    assert said is not None
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(float(said[1]), rel=0.01)
    config.build_process()
    images = re.search(r"([\d,]+) steps of (\d+)", path.read_text().replace("1.3 M", "1,300,000"))
    assert images is not None
    assert (int(images[1].replace(",", "")), int(images[2])) == (config.steps, config.batch_size)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_trains_a_few_steps_of_a_narrow_net(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    config, shape = parsed(path)
    narrow: dict[str, Any] = {**config.net_args, "base_width": 8, "blocks": 1}
    small: dict[str, Any] = {"steps": 3, "batch_size": 4, "save_every": 3, "log_every": 3, "warmup": 1}
    small |= {"tracker": "none", "progress": False, "sample_every": 0, "snapshot_every": 0, "compile": False}
    config = replace(config, net_args=narrow, out=str(tmp_path / "run"), mixed_precision="no", **small)
    raw = torch.randint(0, 256, (16, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    try:
        train(config, source=Arrays(raw))
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert read_log(config.out)[-1]["step"] == 3
