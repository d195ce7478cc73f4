"""Training by several processes: the same run as by one."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_runs import (
    WORKER,
    Finished,
    assert_close,
    outcome,
    run,
    torchrun,
)

from sdescore.training.config import TrainConfig
from sdescore.training.loop import train
from sdescore.training.run_log import read_log
from sdescore.training.trainer import Trainer


class TestProcesses:
    @pytest.mark.parametrize("start", [run, pytest.param(torchrun, marks=pytest.mark.slow)])
    def test_gradient_of_two_at_32_is_that_of_one_at_64(
        self, plain: TrainConfig, tmp_path: Path, float64: None, start: Callable[..., Finished]
    ) -> None:
        """The first moments after one step are a tenth of the gradient."""
        np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).integers(0, 256, (200, 1, 8, 8), np.uint8))
        config = replace(plain, data=str(tmp_path / "x.npz"), batch_size=64, steps=1, grad_clip=None, warmup=0)
        pair = replace(config, out=str(tmp_path / "pair"))
        train(config)
        two = start(2, pair)
        assert two.returncode == 0, two.stderr
        one, other = outcome(config.out), outcome(pair.out)
        names = [name for name in one if name.endswith("exp_avg")]
        assert names
        gradients = [torch.cat([each[name].flatten() for name in names]) for each in (one, other)]
        assert float(gradients[0].norm()) > 0
        assert float((gradients[0] - gradients[1]).norm() / gradients[0].norm()) <= 1e-10

    def test_two_are_one(self, plain: TrainConfig, tmp_path: Path, float64: None, caplog: Any) -> None:
        """Unequal shares of a batch give the same gradients and all else, and one process can resume the run."""
        config = replace(plain, batch_size=9, conditional=True, flips=True, steps=3, log_every=1)
        pair = replace(config, out=str(tmp_path / "pair"), accumulation=2)
        train(config)
        two = run(2, pair)
        assert two.returncode == 0, two.stderr
        assert_close(config.out, pair.out)
        train(replace(config, steps=5), resume=True)
        train(replace(pair, steps=5), resume=True)
        assert "written by 2 processes and goes on with 1" in caplog.text
        assert_close(config.out, pair.out)
        for one, other in zip(read_log(config.out), read_log(pair.out), strict=True):
            assert other["loss"] == pytest.approx(one["loss"], rel=1e-10)
            assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-9)
            assert other["lr"] == one["lr"]

    def test_more_processes_than_samples(self, plain: TrainConfig) -> None:
        class Two:
            num_processes = 2

        with pytest.raises(ValueError, match="batch_size=3 is less than 2 processes with accumulation=2"):
            Trainer(replace(plain, batch_size=3, accumulation=2), plain.build_source(), Two())

    @pytest.mark.slow
    def test_two_train_the_digits_like_one(self, config: TrainConfig, tmp_path: Path) -> None:
        """Means over the last 10 % of the steps, within two standard errors."""
        args = {"base_width": 16, "multipliers": [1, 2], "blocks": 1, "dropout": 0.1}
        config = replace(config, net_args=args, steps=400, batch_size=64, log_every=1, save_every=400, accumulation=1)
        pair = replace(config, out=str(tmp_path / "pair"))
        for processes, own in ((1, config), (2, pair)):
            done = run(processes, own)
            assert done.returncode == 0, done.stderr
        tails = [torch.tensor([line["loss"] for line in read_log(own.out)[-40:]]) for own in (config, pair)]
        means = [float(tail.mean()) for tail in tails]
        error = math.sqrt(sum(float(tail.var()) / len(tail) for tail in tails))
        print(f"one process {means[0]:.5f}, two {means[1]:.5f}, standard error {error:.5f}")
        assert abs(means[0] - means[1]) <= 2 * error
        assert means[0] < 0.5 * read_log(config.out)[0]["loss"]

    @pytest.mark.slow
    def test_accelerate_launch_that_starts_one(self, plain: TrainConfig) -> None:
        command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", str(WORKER)]
        command.append(json.dumps([replace(plain, steps=1).to_json(), False, 0, 0]))
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        assert "started ONE" in done.stderr and "torchrun" in done.stderr
