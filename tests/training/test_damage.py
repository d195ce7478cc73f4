"""Full disks, denied permissions, damaged data: one clear line, and what was saved before stays intact."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from finished_runs import FinishedRuns
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file
from training_runs import SOURCE, assert_same_bits

from sdescore import Denoiser
from sdescore.cli import main
from sdescore.data.source import Arrays
from sdescore.training import checkpoints
from sdescore.training.config import TrainConfig
from sdescore.training.loop import train
from sdescore.training.run_log import read_log


@pytest.fixture
def small(small: TrainConfig) -> TrainConfig:
    """A run that saves after steps 2 and 4 and draws after each."""
    return replace(small, steps=4, save_every=2, log_every=1, sample_every=2)


def refuse(number: int, after: int = 0, only: str = "") -> Callable[..., Any]:
    """A system call that fails after so many successful ones, for paths that contain a word."""
    calls = 0

    def around(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            nonlocal calls
            if only in str(args[0]):
                calls += 1
                if calls > after:
                    raise OSError(number, os.strerror(number))
            return original(*args, **named)

        return call

    return around


class TestWhileTraining:
    """A failure in the second half leaves the first half intact, and the run can be resumed afterwards."""

    @pytest.fixture(autouse=True)
    def keep(self, finished: FinishedRuns) -> None:
        self.finished = finished

    def check(self, config: TrainConfig, saved: list[int]) -> None:
        assert checkpoints.steps(Path(config.out) / "checkpoints") == saved
        hidden = [path for path in (Path(config.out) / "checkpoints").iterdir() if path.name.startswith(".")]
        assert hidden == []
        checkpoints.verify(checkpoints.newest(Path(config.out) / "checkpoints"))
        assert Denoiser.from_pretrained(Path(config.out) / "model").shape == (3,)
        train(config, resume=True, source=SOURCE)
        unbroken = self.finished(config, SOURCE)
        assert_same_bits(config.out, unbroken)
        models = [Path(out) / "model/model.safetensors" for out in (config.out, unbroken)]
        assert models[0].read_bytes() == models[1].read_bytes()
        assert [line["step"] for line in read_log(config.out)] == [1, 2, 3, 4]

    @pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
    @pytest.mark.parametrize("flushes", [0, 3])
    def test_in_a_checkpoint(
        self, small: TrainConfig, monkeypatch: pytest.MonkeyPatch, number: int, flushes: int
    ) -> None:
        save = checkpoints.save_checkpoint

        def failing(root: Path, step: int, *content: Any) -> Path:
            with monkeypatch.context() as patch:
                if step == 4:
                    patch.setattr(os, "fsync", refuse(number, flushes)(os.fsync))
                return save(root, step, *content)

        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, "save_checkpoint", failing)
            message = rf"the checkpoint of step 4 was not written to .*{os.strerror(number)}; earlier ones .*: 2$"
            with pytest.raises(OSError, match=message) as caught:
                train(small, source=SOURCE)
        assert caught.value.errno == number
        self.check(small, [2])

    def test_at_the_rename(self, small: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", refuse(errno.EACCES, 0, "step-000004.writing")(os.replace))
            with pytest.raises(OSError, match=r"step 4 was not written to .*Permission denied; earlier ones .*: 2$"):
                train(small, source=SOURCE)
        self.check(small, [2])

    def test_in_the_model(self, small: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        saves: list[Any] = []

        def failing(*args: Any, **named: Any) -> None:
            saves.append(args[1])
            if len(saves) == 2:
                raise SafetensorError("I/O error: No space left on device (os error 28)")
            save_file(*args, **named)

        with monkeypatch.context() as patch:
            patch.setattr("sdescore.denoisers.folders.save_file", failing)
            message = r"model was not written to .*No space left.*checkpoint of step 4 is whole"
            with pytest.raises(OSError, match=message):
                train(small, source=SOURCE)
        assert sorted(path.name for path in (Path(small.out) / "model").iterdir())[-1] == "model.safetensors"
        self.check(small, [2, 4])

    def test_in_the_log(self, small: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        import builtins

        with monkeypatch.context() as patch:
            patch.setattr(builtins, "open", refuse(errno.ENOSPC, 3, "log.jsonl")(open))
            message = r"log\.jsonl was not written: .*No space left.*checkpoints are untouched"
            with pytest.raises(OSError, match=message):
                train(small, source=SOURCE)
        self.check(small, [2])

    def test_in_a_picture(self, small: TrainConfig, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
        """It does not end the run."""
        with monkeypatch.context() as patch:
            patch.setattr(np, "savez", refuse(errno.ENOSPC)(np.savez))
            train(small, source=SOURCE)
        assert "no picture at step 4: [Errno 28] No space left" in caplog.text
        self.check(small, [2, 4])

    def test_in_the_folder_itself(self, small: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(os, "mkdir", refuse(errno.EACCES, 0, "run")(os.mkdir))
            with pytest.raises(OSError, match="Permission denied"):
                train(small, source=SOURCE)
        assert not Path(small.out).exists()


class TestSettings:
    def test_fewer_steps_than_are_done(self, small: TrainConfig, finished: FinishedRuns) -> None:
        finished.copy(small, SOURCE)
        before = (Path(small.out) / "config.json").read_bytes()
        with pytest.raises(ValueError, match=r"steps=3, but .*step-000004 has made 4; expected at least as many"):
            train(replace(small, steps=3), resume=True, source=SOURCE)
        assert (Path(small.out) / "config.json").read_bytes() == before
        assert train(small, resume=True, source=SOURCE).shape == (3,)  # as many is nothing to do

    def test_settings_that_fail_leave_the_runs_own(self, small: TrainConfig, finished: FinishedRuns) -> None:
        finished.copy(small, SOURCE)
        kept = [Path(small.out) / name for name in ("config.json", "statistics.json")]
        before = [path.read_bytes() for path in kept]
        with pytest.raises(ValueError, match="made with data"):
            train(replace(small, steps=9), resume=True, source=Arrays(SOURCE.raw[:20]))
        assert [path.read_bytes() for path in kept] == before


class TestOneLine:
    """Bad input to `sdescore train` is answered with one line that names it."""

    def said(self, *arguments: str) -> str:
        fixed = ["--tracker", "none", "--progress", "false", "--sample_every", "0", "--workers", "0", "--steps", "1"]
        tiny = json.dumps({"base_width": 8, "multipliers": [1], "blocks": 1, "attention": []})
        given = ["train", "--net_args", tiny, "--batch_size", "4", *fixed, *arguments]
        with pytest.raises(SystemExit) as caught:
            main(given)
        message = str(caught.value.code)
        assert message.startswith("sdescore train: ") and "\n" not in message
        return message

    def test_damaged_data(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        pixels = np.random.default_rng(0).integers(0, 256, (4, 40, 40, 3), dtype=np.uint8)
        for i, image in enumerate(pixels):
            Path("cut").mkdir(exist_ok=True)
            Image.fromarray(image).save(f"cut/{i}.png")
        shutil.copytree("cut", "mixed")
        Image.fromarray(pixels[0, :, :, 0]).save("mixed/2.png")
        content = Path("cut/2.png").read_bytes()
        Path("cut/2.png").write_bytes(content[: len(content) // 2])
        x = np.zeros((4, 1, 8, 8), np.float32)
        x[2, 0, 3, 1] = np.nan
        np.savez("nan.npz", x=x)
        np.savez("torn.npz", x=pixels)
        Path("torn.npz").write_bytes(Path("torn.npz").read_bytes()[:900])
        for data, message in (
            ("cut", "cut/2.png is not an image that can be read: image file is truncated"),
            ("mixed", "mixed/2.png is 40x40 L, but 3 of 4 are 40x40 RGB; expected images of one size and kind"),
            ("nan.npz", "nan.npz: x[2, 0, 3, 1] is nan; 1 of 256 values are not finite"),
            ("torn.npz", "torn.npz: "),
            ("absent", "data='absent'; expected"),
        ):
            assert message in self.said("--data", data, "--out", "run")
        assert not Path("run/checkpoints").exists()

    def test_a_net_with_other_channels(self, tmp_path: Path) -> None:
        message = self.said("--out", str(tmp_path / "run"), "--net_args.channels", "3")
        assert "x has shape (4, 1, 8, 8), 1 for channels; expected (batch, 3 channels," in message

    @pytest.mark.parametrize("folder", ["empty", "absent"])
    def test_nothing_to_resume(self, tmp_path: Path, folder: str) -> None:
        (tmp_path / "empty").mkdir()
        message = self.said("--resume", "--out", str(tmp_path / folder))
        assert "there are no checkpoints in" in message and "start a new run without resume" in message
        assert not [path for path in tmp_path.rglob("*.*") if path.name != ".lock"]
