"""What training does by the clock and on signals."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from finished_runs import FinishedRuns
from training_runs import SOURCE, assert_same_bits

from sdescore import Denoiser
from sdescore.cli import main
from sdescore.data.batches import batches
from sdescore.training import checkpoints, clock
from sdescore.training.clock import Caught, Clock, catching
from sdescore.training.config import TrainConfig
from sdescore.training.loop import train
from sdescore.training.run_log import picture, read_log
from sdescore.training.trainer import Trainer


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still but in steps of training, which take 10 seconds."""
    now, update = [1000.0], Trainer.update

    def timed(self: Trainer, *batch: Any) -> Any:
        now[0] += 10
        return update(self, *batch)

    monkeypatch.setattr(Trainer, "update", timed)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def saved(config: TrainConfig) -> list[int]:
    return checkpoints.steps(Path(config.out) / "checkpoints")


def pictures(config: TrainConfig) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in (Path(config.out) / "samples").iterdir())


@pytest.mark.usefixtures("ticking")
class TestClock:
    def test_lines_saves_and_a_picture_come_early_however_slow_the_steps(self, small: TrainConfig) -> None:
        """20 s for the first picture, 30 for a line, 60 for the first checkpoint, then one in save_minutes."""
        train(replace(small, steps=20, save_minutes=2.0, keep=9), source=SOURCE)
        assert [line["step"] for line in read_log(small.out)] == [3, 6, 9, 12, 15, 18, 20]
        assert saved(small) == [6, 18, 20]
        assert pictures(small) == [2, 20]

    def test_minutes_are_those_of_the_whole_run_with_its_checkpoint_and_picture(
        self, small: TrainConfig, ticking: list[float], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A save takes 20 s and a picture 30: of 4 minutes 50 s are left at the last step, and none is exceeded."""
        save = Trainer.save

        def slow_save(self: Trainer) -> None:
            ticking[0] += 20
            save(self)

        def slow_picture(*given: Any) -> None:
            ticking[0] += 30
            picture(*given)

        monkeypatch.setattr(Trainer, "save", slow_save)
        monkeypatch.setattr("sdescore.training.loop.picture", slow_picture)
        train(replace(small, steps=1000, minutes=4.0), source=SOURCE)
        assert 1230 <= ticking[0] <= 1240
        assert pictures(small) == [2, saved(small)[-1]]

    def test_time_goes_on_where_a_run_is_resumed(self, small: TrainConfig, ticking: list[float]) -> None:
        config = replace(small, steps=1000, sample_every=0, decay="linear")
        train(replace(config, minutes=1.0), source=SOURCE)
        assert saved(config) == [6] and ticking[0] == 1060
        ticking[0] += 5000  # nobody trains
        train(replace(config, minutes=2.0), resume=True, source=SOURCE)
        assert saved(config)[-1] == 12 and ticking[0] == 6120
        state = json.loads((Path(config.out) / "checkpoints/step-000012/state.json").read_text())
        assert state["seconds"] == 120

    def test_the_rate_falls_to_the_end_of_minutes(self, small: TrainConfig) -> None:
        config = replace(small, steps=1000, minutes=1.0, sample_every=0, decay="linear", warmup=0, log_every=1)
        train(config, source=SOURCE)
        shares = [line["lr"] / config.lr for line in read_log(config.out)]
        assert shares == pytest.approx([1 - k / 6 for k in range(6)])


class TestProcesses:
    """What one process of two decides, of which the other's clock says something else."""

    class Two:
        num_processes = 2
        device = torch.device("cpu")

        def __init__(self, *others: float) -> None:
            self.others = torch.tensor([others])

        def gather(self, own: torch.Tensor) -> torch.Tensor:
            return torch.cat([own, self.others])

    def test_each_does_what_is_due_in_any(self, small: TrainConfig) -> None:
        now = time.monotonic()
        for others, wanted in (
            ([0.0, 15, 0, 0, 0, 0], (15, False, False, False, False)),
            ([0.0, 0, 1, 0, 0, 0], (0, True, False, False, False)),
            ([0.0, 0, 0, 1, 1, 1], (0, False, True, True, True)),
        ):
            own: Any = Clock(small, self.Two(*others), 0.0, now)
            assert own.due(clock.TOGETHER, False, Caught())[1:] == wanted
            assert own.due(3, True, Caught())[1:] == wanted  # the last step

    def test_they_ask_each_other_rarely_and_go_by_one_clock(self, small: TrainConfig) -> None:
        own: Any = Clock(small, self.Two(70.0, 0, 0, 0, 0, 0), 50.0, time.monotonic())
        assert own.due(clock.TOGETHER - 1, False, Caught(15)) == (50.0, 0, False, False, False, False)
        assert own.due(clock.TOGETHER, False, Caught())[0] == 70
        assert own.due(clock.TOGETHER + 1, False, Caught())[0] == 70


class TestSignals:
    @pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
    def test_a_checkpoint_is_written_and_said(
        self,
        small: TrainConfig,
        finished: FinishedRuns,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
        name: str,
        status: int,
    ) -> None:
        """By the command; resumed, the run ends in the same bits as one that was left alone."""
        caplog.set_level("INFO")
        update = Trainer.update

        def signalled(self: Trainer, *batch: Any) -> Any:
            if self.step == 2:
                os.kill(os.getpid(), getattr(signal, name))
            return update(self, *batch)

        data = Path(small.out).parent / "x.npz"
        import numpy as np

        np.savez(data, x=SOURCE.raw.numpy())
        config = replace(small, data=str(data))
        Path(config.out).parent.joinpath("c.json").write_text(json.dumps(config.to_json()))
        before = [signal.getsignal(getattr(signal, each)) for each in clock.SIGNALS]
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "update", signalled)
            with pytest.raises(SystemExit) as caught:
                main(["train", "--config", str(Path(config.out).parent / "c.json")])
        assert caught.value.code == status
        said = capsys.readouterr().err + caplog.text
        assert f"{name}: the checkpoint of step 3 of 8 is in {config.out}; resume goes on from it" in said
        assert saved(config) == [3] and not (Path(config.out) / "samples").exists()
        assert Denoiser.from_pretrained(Path(config.out) / "model").shape == (3,)
        assert [signal.getsignal(getattr(signal, each)) for each in clock.SIGNALS] == before
        train(config, resume=True)
        assert_same_bits(config.out, finished(config))

    def test_in_a_library_ctrl_c_stays_a_keyboard_interrupt(
        self, small: TrainConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        update = Trainer.update

        def signalled(self: Trainer, *batch: Any) -> Any:
            os.kill(os.getpid(), signal.SIGINT)
            return update(self, *batch)

        monkeypatch.setattr(Trainer, "update", signalled)
        with pytest.raises(KeyboardInterrupt, match="SIGINT: the checkpoint of step 1 of 8"):
            train(small, source=SOURCE)
        assert saved(small) == [1]

    def test_one_that_comes_again_is_not_held_back(self) -> None:
        with catching() as caught:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
            assert caught.signal == signal.SIGINT
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1)

    def test_one_that_is_ignored_stays_so(self) -> None:
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
        try:
            with catching() as caught:
                os.kill(os.getpid(), signal.SIGHUP)
                time.sleep(0.01)
                assert caught.signal == 0
        finally:
            signal.signal(signal.SIGHUP, before)

    def test_readers_that_died_of_it_do_not_hide_it(self, small: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
        def dying(*args: Any, **named: Any) -> Any:
            yield next(iter(batches(*args, **named)))
            if signals:
                os.kill(os.getpid(), signal.SIGTERM)
            raise RuntimeError("DataLoader worker exited unexpectedly")

        monkeypatch.setattr("sdescore.training.loop.batches", dying)
        signals = True
        with pytest.raises(SystemExit) as caught:
            train(small, source=SOURCE)
        assert caught.value.code == 143 and saved(small) == [1]
        signals = False
        with pytest.raises(RuntimeError, match="exited unexpectedly"):
            train(replace(small, out=small.out + "2"), source=SOURCE)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_and_its_readers_end_with_its_checkpoint(tmp_path: Path, number: int) -> None:
    """A real one, all of whose processes are signalled, as a terminal and a cluster do."""
    from PIL import Image

    draw = torch.Generator().manual_seed(0)
    (tmp_path / "images").mkdir()
    for i in range(40):
        pixels = torch.randint(0, 256, (8, 8, 3), generator=draw, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(tmp_path / f"images/{i}.png")
    tiny = ["--net_args.base_width", "8", "--batch_size", "4", "--log_every", "1", "--tracker", "none"]
    command = [sys.executable, "-m", "sdescore.cli", "train", "--data", "images", "--out", "run", *tiny]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while not read_log(tmp_path / "run") and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + number, said
    assert "the checkpoint of step" in said and checkpoints.steps(tmp_path / "run/checkpoints")
    assert math.isfinite(read_log(tmp_path / "run")[-1]["loss"])
