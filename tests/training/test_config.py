"""The settings of training: what is refused, and the command line."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finished_runs import FinishedRuns
from training_runs import outcome

from sdescore.cli.train import parse
from sdescore.data.source import Arrays
from sdescore.training.config import TrainConfig
from sdescore.training.loop import train
from sdescore.training.run_log import read_log
from sdescore.training.trainer import Trainer


class TestBadInput:
    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"sde": "VP"}, "sde='VP' is not installed; expected VPSDE, "),
            ({"predicts": "eps"}, "predicts='eps'; expected 'data'"),
            ({"time_distribution": "never"}, "time_distribution='never'; expected 'uniform'"),
            ({"weighting": "heavy"}, "weighting='heavy'; expected 'simple'"),
            ({"optimizer": "sgd"}, "optimizer='sgd'; expected 'adamw', 'adam'"),
            ({"mixed_precision": "fp8"}, "mixed_precision='fp8'; expected"),
            ({"sample_solver": "magic"}, "solver='magic' is not installed"),
            ({"lr": 0.0}, "lr=0.0; expected a positive"),
            ({"batch_size": 0}, "batch_size=0; expected an integer of at least 1"),
            ({"minutes": 0.0}, r"minutes=0.0; expected a positive number"),
            ({"data_std": 10**400}, "data_std=1.*0; expected a positive number"),
            ({"steps": -1}, "steps=-1; expected"),
            ({"ema_halflives": ()}, r"ema_halflives=\(\); expected a list of at least one"),
            ({"ema_halflives": (5, 5.0)}, r"expected a list without repetitions"),
            ({"ema_halflives": (0,)}, "halflife=0; expected a positive number"),
            ({"ema_halflives": (math.inf,)}, "ema_halflives=inf; expected a finite number"),
            ({"ema_warmup": -1.0}, "ema_warmup=-1.0; expected"),
            ({"ema_warmup": math.inf}, "ema_warmup=inf; expected"),
            ({"ema_widths": (0.3,)}, r"width=0.3; expected a number above 0, below 0.2887"),
            ({"accumulation": 11, "batch_size": 10}, "accumulation=11; expected at most batch_size=10"),
            ({"betas": (0.9,)}, r"betas=\(0.9,\); expected two numbers"),
        ],
    )
    def test_settings(self, fields: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            TrainConfig(**fields)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"net": "Unet"}, "net='Unet' is not installed; expected UNet, .*Distance, MLP$"),
            ({"net": "MLP", "net_args": {}}, "x has shape .*expected"),
            ({"net_args": {"width": 3}}, "net_args has width; UNet takes channels"),
            ({"sde_args": {"beta": 3}}, "sde_args has beta; VPSDE takes beta_min, beta_max"),
            ({"sde_args": {"beta_max": -3}}, "beta_max=-3"),
            ({"data_low": 0.0, "data_high": 16.0}, "data='digits' has a range of its own"),
            ({"data_levels": 16}, "data_levels=16, data_scale=None; expected low and high"),
            ({"data": "absent"}, "data='absent'; expected"),
        ],
    )
    def test_before_training(self, config: TrainConfig, fields: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            train(replace(config, **fields))
        assert not (Path(config.out) / "checkpoints").exists()

    def test_settings_that_do_not_fit_the_data(self, config: TrainConfig) -> None:
        vectors = replace(config, net="MLP", net_args={})
        with pytest.raises(ValueError, match="has no labels"):
            train(vectors, source=Arrays(torch.randn(9, 2)))
        with pytest.raises(ValueError, match=r"dequantize=True, but .* has no levels"):
            train(replace(vectors, conditional=False, flips=False, dequantize=True), source=Arrays(torch.randn(9, 2)))
        with pytest.raises(ValueError, match=r"flips=True, but samples have shape \(2,\)"):
            train(replace(vectors, conditional=False), source=Arrays(torch.randn(9, 2)))

    @pytest.mark.parametrize(
        "fields",
        [
            {"seed": 1},
            {"batch_size": 11},
            {"flips": False},
            {"dequantize": True},
            {"conditional": False},
            {"drop": 0.2},
            {"time_distribution": "uniform"},
            {"weighting": "edm"},
            {"sde": "VESDE"},
            {"predicts": "v"},
            {"optimizer": "adam"},
            {"lr": 1e-4},
            {"betas": (0.9, 0.99)},
            {"weight_decay": 0.0},
            {"warmup": 5},
            {"grad_clip": None},
            {"ema_halflives": (60,)},
            {"ema_warmup": 0.0},
            {"ema_widths": ()},
            {"data_std": 0.5},
            {"corrupt": "skip"},
        ],
        ids=lambda fields: next(iter(fields)),
    )
    def test_what_a_resumed_run_must_not_change(self, config: TrainConfig, fields: dict[str, Any]) -> None:
        (said,) = replace(config, **fields).conflicts(config.to_json())
        assert said.startswith(f"{next(iter(fields))} (")

    def test_a_loss_that_runs_away(self, plain: TrainConfig) -> None:
        with pytest.raises(FloatingPointError, match=r"in steps \d to \d the loss is .*last checkpoint is from before"):
            train(replace(plain, lr=1e30, warmup=0, steps=40, save_every=1, log_every=1))
        last = outcome(plain.out)
        assert all(bool(value.isfinite().all()) for name, value in last.items() if name.startswith("optimizer"))


class TestLog:
    @pytest.mark.parametrize("at", [0, 1])
    def test_ends_a_run_whose_loss_or_gradient_is_not_finite(
        self, plain: TrainConfig, monkeypatch: pytest.MonkeyPatch, at: int
    ) -> None:
        said = (torch.tensor([math.nan, 1.0]), torch.tensor([1.0, math.inf]))[at]
        monkeypatch.setattr(Trainer, "update", lambda *_: said.unbind())
        with pytest.raises(FloatingPointError, match=r"the loss is (nan|1\.0) and the gradient's norm (1\.0|inf)"):
            train(plain)

    def test_speed_is_that_of_all_images_since_the_last_line(
        self, plain: TrainConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On a clock that advances by 2 seconds in a step of 10 images, and otherwise stands still."""
        now, update = [0.0], Trainer.update

        def timed(self: Trainer, *batch: Any) -> Any:
            now[0] += 2
            return update(self, *batch)

        monkeypatch.setattr(Trainer, "update", timed)
        monkeypatch.setattr("sdescore.training.run_log.time.perf_counter", lambda: now[0])
        train(plain)
        assert [(line["step"], line["images_per_second"]) for line in read_log(plain.out)] == [
            (2, 5.0),
            (3, 5.0),
            (4, 5.0),
            (6, 5.0),
        ]


class TestCommandLine:
    def test_flags_over_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("steps: 7\nnet_args: {base_width: 16}\nbetas: [0.8, 0.9]\n")
        arguments = [
            "--config",
            str(tmp_path / "a.yaml"),
            "--steps",
            "9",
            "--net_args.blocks",
            "1",
            "--grad_clip",
            "null",
        ]
        config, resume = parse(arguments)
        wanted = TrainConfig(steps=9, net_args={"base_width": 16, "blocks": 1}, betas=(0.8, 0.9), grad_clip=None)
        assert config == wanted and not resume

    def test_a_runs_own_config_is_a_file(self, config: TrainConfig, finished: FinishedRuns) -> None:
        out = finished(config)
        again, resume = parse(["--config", str(out / "config.json"), "--resume"])
        assert again == replace(config, out=str(out)) and resume

    def test_help_and_errors(self, capsys: pytest.CaptureFixture[str]) -> None:
        for arguments, wanted in ((["--help"], "--batch_size"), (["--sde", "VP"], "expected VPSDE")):
            with pytest.raises(SystemExit):
                parse(arguments)
            said = capsys.readouterr()
            assert wanted in said.out + said.err
