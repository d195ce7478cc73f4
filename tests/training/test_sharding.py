"""Weights split over processes (FSDP2), on the CPU: the run and its files equal those with whole weights."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import training_worker
from training_runs import assert_close, assert_same_bits, fork, make_trainer, outcome

from sdescore import Denoiser
from sdescore.training import checkpoints
from sdescore.training.accelerator import build_accelerator
from sdescore.training.config import TrainConfig
from sdescore.training.loop import train
from sdescore.training.posthoc_averages import snapshots
from sdescore.training.run_log import read_log

RECIPE = Path(__file__).parents[2] / "scripts/recipes/launch/fsdp2.yaml"


def environment() -> dict[str, str]:
    """What `accelerate launch --config_file` of the recipe tells its processes."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    args = launch_command_parser().parse_args(["--config_file", str(RECIPE), "train.py"])
    args, _, _ = _validate_launch_command(args)
    found: dict[str, str] = prepare_multi_gpu_env(args)
    return {name: value for name, value in found.items() if name.startswith(("FSDP_", "ACCELERATE_"))}


def shallow(config: TrainConfig) -> TrainConfig:
    """The config with a net of fewer weights, since torch takes long to plan how it splits each."""
    return replace(config, net_args={**config.net_args, "multipliers": [1]})


def split(folder: Path, dtype: str, *runs: tuple[TrainConfig, bool]) -> None:
    """Run one config after the other in two processes that split the weights."""
    arguments = [dtype, [(config.to_json(), resume) for config, resume in runs]]
    done = fork(2, training_worker.train_split, folder, arguments, environment())
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not RECIPE.exists(), reason="no recipes beside these tests")
class TestTwoProcesses:
    def test_is_the_run_of_one_that_keeps_all(
        self, plain: TrainConfig, tmp_path: Path, float64: None, caplog: Any
    ) -> None:
        """Weights, averages, moments, pictures, snapshots and model; and one process can resume the run."""
        config = replace(shallow(plain), batch_size=9, accumulation=2, conditional=True)
        config = replace(config, steps=3, log_every=1, snapshot_every=3)
        pair = replace(config, out=str(tmp_path / "pair"), sample_every=3, sample_count=2, sample_steps=2)
        train(config)
        split(tmp_path, "float64", (pair, False))
        for rank in range(2):
            shares = json.loads((tmp_path / f"shares-{rank}.json").read_text())
            assert len(shares) == 5 and all(0.4 < share < 0.6 for share in shares)
        assert_close(config.out, pair.out)
        assert list((Path(pair.out) / "samples").glob("step-000003.png"))
        found, wanted = (snapshots(Path(each.out) / "snapshots") for each in (pair, config))
        assert [each.path.name for each in found] == [each.path.name for each in wanted]
        model = Denoiser.from_pretrained(Path(pair.out) / "model")
        saved = outcome(pair.out)
        for name, value in model.state_dict().items():
            assert value.equal(saved[f"halflife-60.{name}"])
        for one, other in zip(read_log(config.out), read_log(pair.out), strict=True):
            assert other["loss"] == pytest.approx(one["loss"], rel=1e-10)
            assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-9)
        train(replace(config, steps=5), resume=True)
        train(replace(pair, steps=5, sample_every=0), resume=True)
        assert "written by 2 processes and goes on with 1" in caplog.text
        assert_close(config.out, pair.out)

    def test_resumed_bit_for_bit(self, config: TrainConfig, tmp_path: Path) -> None:
        """With dropout, and with inner computations in bf16."""
        config = replace(shallow(config), mixed_precision="bf16", steps=4)
        unbroken = replace(config, out=str(tmp_path / "unbroken"))
        split(tmp_path, "float32", (unbroken, False), (replace(config, steps=2), False), (config, True))
        assert_same_bits(unbroken.out, config.out)
        state = json.loads((checkpoints.newest(Path(config.out) / "checkpoints") / checkpoints.STATE).read_text())
        assert state["mixed_precision"] == "bf16"


class TestRefusals:
    @pytest.mark.parametrize("engine", ["FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG"])
    def test_engines_that_split_in_another_way(
        self, config: TrainConfig, monkeypatch: pytest.MonkeyPatch, engine: str
    ) -> None:
        monkeypatch.setenv(f"ACCELERATE_USE_{engine}", "true")
        monkeypatch.setenv("FSDP_VERSION", "1")
        with pytest.raises(ValueError, match=f"asked for {engine}, which splits the weights.*expected FSDP version 2"):
            train(config)
        assert not Path(config.out).exists()

    def test_a_cpu(self, config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        """accelerate silently keeps the weights whole."""
        monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
        monkeypatch.setenv("FSDP_VERSION", "2")
        with pytest.raises(ValueError, match="asked for FSDP, but accelerate splits no weights on a CPU"):
            train(config)
        assert not Path(config.out).exists()

    def test_a_layout_and_a_precision(self, config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        from accelerate.state import AcceleratorState

        monkeypatch.setattr(AcceleratorState, "is_fsdp2", True)
        with pytest.raises(ValueError, match="mixed_precision='fp16'; expected no or bf16 with FSDP"):
            build_accelerator("fp16", "none", config.out)
        AcceleratorState._reset_state()
        monkeypatch.setattr(AcceleratorState, "fsdp_plugin", type("Plugin", (), {}), raising=False)
        with pytest.raises(ValueError, match="channels_last=True; expected False where FSDP splits the weights"):
            make_trainer(replace(config, channels_last=True))
