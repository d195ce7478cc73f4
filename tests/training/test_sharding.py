"""Weights split over processes (FSDP2), on the CPU: the run is the one that keeps them whole, and so are its files."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training_runs import assert_close, assert_same_bits, make_trainer, outcome, start

from sdescore import Denoiser
from sdescore.training import checkpoints
from sdescore.training.accelerator import build_accelerator
from sdescore.training.config import TrainConfig
from sdescore.training.loop import train
from sdescore.training.posthoc_averages import snapshots
from sdescore.training.run_log import read_log

pytestmark = pytest.mark.usefixtures("afresh")
RECIPE = Path(__file__).parents[2] / "scripts/recipes/launch/fsdp2.yaml"

# accelerate splits weights on GPUs alone. What it decides there is decided here in its place; the splitting itself is
# torch's and accelerate's own. Every process says how much it holds of the weights, the averages and the moments.
WORKER = """
import json, sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

from sdescore.training.trainer import Trainer
from sdescore.nets import UNet
from sdescore.training.sharding import local
from sdescore.training import TrainConfig, train

start, save, forward = Accelerator.__init__, Trainer.save, UNet.forward

def split(self, *args, **named):
    start(self, *args, **named)
    self.state.distributed_type = DistributedType.FSDP
    self.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    if self.mixed_precision != "no":
        self.state.fsdp_plugin.set_mixed_precision(self.mixed_precision)

def weighed(self):
    save(self)
    moments = [moment["exp_avg"] for moment in self.optimizer.state.values()]
    held = [list(self.denoiser.parameters()), *(list(m.parameters()) for m in self.averages.models), moments]
    shares = [sum(local(t).numel() for t in each) / sum(t.numel() for t in each) for each in held]
    Path(f"shares-{self.accelerator.process_index}.json").write_text(json.dumps(shares))

def exact(self, x, c_noise, label=None):  # neither samples nor noise levels are rounded on their way into the net
    assert x.dtype == c_noise.dtype == torch.get_default_dtype()
    assert torch.is_autocast_enabled("cpu") == (Accelerator().mixed_precision == "bf16") or not self.training
    return forward(self, x, c_noise, label)

Accelerator.__init__, Trainer.save, UNet.forward = split, weighed, exact
torch.set_num_threads(1)
dtype, runs = json.loads(sys.argv[1])
torch.set_default_dtype(getattr(torch, dtype))
for fields, resume in runs:
    train(TrainConfig(**fields), resume=resume)
torch.distributed.destroy_process_group()
"""


def environment() -> dict[str, str]:
    """What `accelerate launch --config_file` of the recipe tells its processes."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    args = launch_command_parser().parse_args(["--config_file", str(RECIPE), "train.py"])
    args, _, _ = _validate_launch_command(args)
    found: dict[str, str] = prepare_multi_gpu_env(args)
    return {name: value for name, value in found.items() if name.startswith(("FSDP_", "ACCELERATE_"))}


def split(folder: Path, dtype: str, *runs: tuple[TrainConfig, bool]) -> None:
    """Train one after the other in two processes that split the weights."""
    content = [dtype, [(config.to_json(), resume) for config, resume in runs]]
    done = start(2, WORKER, folder, content, environment())
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not RECIPE.exists(), reason="no recipes beside these tests")
class TestTwoProcesses:
    def test_is_the_run_of_one_that_keeps_all(
        self, plain: TrainConfig, tmp_path: Path, float64: None, caplog: Any
    ) -> None:
        """Weights, averages and moments; pictures, snapshots and model; and it goes on with one process."""
        config = replace(plain, batch_size=9, accumulation=2, conditional=True, steps=3, log_every=1, snapshot_every=3)
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
        """With dropout, and in bf16, which is for the inner computations alone."""
        config = replace(config, mixed_precision="bf16", steps=4)
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
        """accelerate says nothing, and keeps the weights whole."""
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
