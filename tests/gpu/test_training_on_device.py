"""Training on a GPU: no step waits for it, and a resumed run gives the same bits."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from devices import DEVICE, ON_DEVICE, no_waits

from sdescore.data.source import read
from sdescore.training import checkpoints
from sdescore.training.accelerator import build_accelerator
from sdescore.training.config import TrainConfig
from sdescore.training.loop import train
from sdescore.training.trainer import Trainer

pytestmark = ON_DEVICE


@pytest.fixture(autouse=True)
def on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)


@pytest.fixture
def config(config: TrainConfig) -> TrainConfig:
    args = {"base_width": 32, "multipliers": [1, 2], "blocks": 1, "dropout": 0.2}
    slow: dict[str, Any] = {"lr": 2e-4, "warmup": 500}  # two kinds of arithmetic stay near
    return replace(config, dequantize=True, net_args=args, batch_size=32, accumulation=1, **slow)


def make_trainer(config: TrainConfig) -> Trainer:
    return Trainer(config, config.build_source(), build_accelerator(config.mixed_precision, "none", config.out))


def test_no_step_waits_for_the_device(config: TrainConfig) -> None:
    own = make_trainer(config)
    raw, labels = own.source.__getitems__(range(config.batch_size))
    assert labels is not None
    if DEVICE.type == "cuda":
        raw, labels = raw.pin_memory(), labels.pin_memory()
    own.update(raw, {"label": labels})  # kernels are chosen and loaded in the first
    with no_waits():
        for _ in range(3):
            own.update(raw, {"label": labels})


def test_automatic_settings(config: TrainConfig) -> None:
    own = make_trainer(config)
    weight = own.denoiser.net.get_parameter("encoder.0.conv1.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last) and weight.dtype == torch.float32
    rounds = DEVICE.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    wanted = "bf16" if rounds else "no"
    assert own.accelerator.mixed_precision == wanted


def test_resumed_bit_for_bit_with_deterministic_algorithms(config: TrainConfig, tmp_path: Path) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        unbroken = replace(config, out=str(tmp_path / "unbroken"))
        train(unbroken)
        train(replace(config, steps=4))
        train(config, resume=True)
    finally:
        torch.use_deterministic_algorithms(False)
    (one, _), (two, _) = (
        checkpoints.load(checkpoints.newest(Path(each.out) / "checkpoints")) for each in (unbroken, config)
    )
    assert one.keys() == two.keys()
    for group, tensors in one.items():
        assert all(tensor.equal(two[group][name]) for name, tensor in tensors.items()), group


@pytest.mark.slow
def test_compiled_learns_like_eager(config: TrainConfig) -> None:
    raw, known = read(config.build_source(), range(config.batch_size))
    losses = []
    for compile in (False, True):
        own = make_trainer(replace(config, compile=compile, net_args={**config.net_args, "dropout": 0.0}))
        losses.append(torch.stack([own.update(raw, known)[0] for _ in range(5)]))
    torch.testing.assert_close(losses[0], losses[1], rtol=0.02, atol=0)
