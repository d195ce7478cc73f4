"""The accelerator of each launcher, and what would otherwise go wrong silently."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import training_worker
from PIL import Image
from training_runs import fork

import sdescore.training.accelerator
from sdescore.training.accelerator import build_accelerator, chosen_precision, launcher_warnings
from sdescore.training.config import TrainConfig
from sdescore.training.loop import train


class TestLauncher:
    def test_warnings(self) -> None:
        asked = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1"}
        assert "started ONE" in launcher_warnings(asked, 1, "no")[0]
        assert launcher_warnings(asked, 2, "no") == []
        assert launcher_warnings({"ACCELERATE_MIXED_PRECISION": "no"}, 1, "bf16") == []
        assert "asked for mixed precision bf16" in launcher_warnings({"ACCELERATE_MIXED_PRECISION": "bf16"}, 1, "no")[0]

    def test_absent_tracker(self, config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sdescore.training.accelerator, "is_tensorboard_available", lambda: False)
        with pytest.raises(ValueError, match="tracker='tensorboard' is not installed"):
            train(replace(config, tracker="tensorboard"))

    def test_automatic_precision(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert [chosen_precision(each, {}) for each in ("no", "bf16", "fp16")] == ["no", "bf16", "fp16"]
        assert chosen_precision("auto", {"ACCELERATE_MIXED_PRECISION": "fp16"}) == "fp16"
        for has in (True, False):
            monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
            monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has: has)
            assert chosen_precision("auto", {"ACCELERATE_MIXED_PRECISION": "no"}) == ("bf16" if has else "no")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert chosen_precision("auto", {}) == "no"

    @pytest.mark.parametrize("by_launcher", [False, True])
    def test_half_precision_on_a_cpu(
        self, config: TrainConfig, monkeypatch: pytest.MonkeyPatch, by_launcher: bool
    ) -> None:
        """accelerate accepts it, reports it, and computes in full precision."""
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16" if by_launcher else "no")
        with pytest.raises(ValueError, match=r"mixed_precision='fp16'; expected no or bf16 here, .* on GPUs alone"):
            train(replace(config, mixed_precision="auto" if by_launcher else "fp16"))
        assert not Path(config.out).exists()

    def test_accumulation_by_the_launcher(self, config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
        with pytest.raises(ValueError, match="asks for 4 gradient accumulation steps"):
            train(config)

    def test_fewer_processes_than_started(self, config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        build_accelerator("no", "none", config.out)  # this process is alone for accelerate from now on
        monkeypatch.setenv("WORLD_SIZE", "2")
        with pytest.raises(RuntimeError, match="started 2 processes, but accelerate has 1"):
            build_accelerator("no", "none", config.out)


def test_every_process_names_what_it_skips(plain: TrainConfig, tmp_path: Path) -> None:
    """Other messages come from the main process alone, but a sample that cannot be read is in one process's share."""
    (tmp_path / "images").mkdir()
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{i}.png")
    cut = tmp_path / "images/2.png"
    cut.write_bytes(cut.read_bytes()[:-500])
    fields: dict[str, object] = {"data": str(tmp_path / "images"), "corrupt": "skip", "data_std": 0.5, "steps": 1}
    (tmp_path / "config.json").write_text(json.dumps({**plain.to_json(), **fields}))
    command = ["train", "--config", str(tmp_path / "config.json")]
    done = fork(1, training_worker.run_command, tmp_path, [command], {"RANK": "1"})
    assert done.returncode == 0, done.stderr
    assert "skipped: " in done.stderr and "2.png is not an image that can be read" in done.stderr
