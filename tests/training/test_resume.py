"""Training that is interrupted."""

import logging
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finished_runs import FinishedRuns
from training_runs import (
    assert_same_bits,
    make_trainer,
    next_batch,
    run,
)

from sdescore import Denoiser
from sdescore.data.source import Arrays
from sdescore.training import checkpoints
from sdescore.training.config import TrainConfig
from sdescore.training.loop import train
from sdescore.training.run_log import read_log
from sdescore.training.trainer import Trainer


class TestResume:
    def test_bit_for_bit_in_spite_of_kills(
        self, config: TrainConfig, finished: FinishedRuns, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        unbroken = finished(config)

        class Killed(BaseException):
            pass

        for step in (3, 5):  # after the checkpoints of 2 and 4, before those of 4 and 6
            update = Trainer.update

            def killed(self: Trainer, *batch: Any, last: int = step, update: Any = update) -> Any:
                if self.step == last:
                    raise Killed
                return update(self, *batch)

            with monkeypatch.context() as patch:
                patch.setattr(Trainer, "update", killed)
                with pytest.raises(Killed):
                    train(config, resume=step > 3)
            torch.manual_seed(step)  # no global generator has a say
        train(config, resume=True)
        assert_same_bits(unbroken, config.out)
        a, b = (Path(out) / "model/model.safetensors" for out in (unbroken, config.out))
        assert a.read_bytes() == b.read_bytes()
        timeless = [[{**line, "images_per_second": 0} for line in read_log(out)] for out in (unbroken, config.out)]
        assert timeless[0] == timeless[1]

    def test_stops_in_time_and_goes_on(self, config: TrainConfig, finished: FinishedRuns, caplog: Any) -> None:
        caplog.set_level(logging.INFO)
        short = replace(config, minutes=1e-9)
        train(short)
        assert "stopped at step 1 of 6: minutes=1e-09 are over" in caplog.text
        assert checkpoints.steps(Path(short.out) / "checkpoints") == [1]
        assert Denoiser.from_pretrained(Path(short.out) / "model").shape == (1, 8, 8)
        train(short, resume=True)
        assert f"nothing to do: {short.out} is finished, minutes=1e-09" in caplog.text
        train(replace(short, minutes=60.0), resume=True)
        assert_same_bits(finished(config), short.out)
        train(short, resume=True)
        assert f"nothing to do: {short.out} is finished, steps=6" in caplog.text

    @pytest.mark.parametrize("decay", ["cosine", "linear", "inverse-root"])
    def test_the_rate_goes_on_where_it_was(self, plain: TrainConfig, tmp_path: Path, decay: str) -> None:
        class Killed(BaseException):
            pass

        def killed(self: Trainer, *batch: Any) -> Any:
            if self.step == 5:
                raise Killed
            return update(self, *batch)

        config, update = replace(plain, decay=decay), Trainer.update
        unbroken = replace(config, out=str(tmp_path / "unbroken"))
        train(unbroken)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Trainer, "update", killed)
            train(config)
        train(config, resume=True)
        assert_same_bits(unbroken.out, config.out)
        rates = [line["lr"] for line in read_log(config.out)]
        assert rates == [line["lr"] for line in read_log(unbroken.out)] and rates[-1] < rates[-2]

    def test_leaves_the_global_generator_alone(self, config: TrainConfig) -> None:
        torch.manual_seed(5)
        before = torch.get_rng_state()
        train(replace(config, steps=2))
        assert torch.get_rng_state().equal(before)

    def test_corrupt_checkpoint_is_skipped(self, config: TrainConfig, finished: FinishedRuns, caplog: Any) -> None:
        finished.copy(config)
        (Path(config.out) / "checkpoints/step-000006/net.safetensors").write_bytes(b"torn")
        with caplog.at_level(logging.INFO):
            train(config, resume=True)
        assert "skipped a corrupt checkpoint" in caplog.text and "resumed from" in caplog.text
        assert "step-000004" in caplog.text
        assert_same_bits(config.out, finished(config))

    @pytest.mark.parametrize("channels_last", [False, True])
    def test_moments_lie_in_memory_as_their_weights(self, config: TrainConfig, channels_last: bool) -> None:
        """A fused optimiser assumes one layout for both, and loaded moments have another."""
        config = replace(config, channels_last=channels_last)
        own = make_trainer(config)
        own.update(*next_batch(own))
        own.save()
        other = make_trainer(config)
        other.load(checkpoints.newest(Path(config.out) / "checkpoints"))
        for each in (own, other):
            for parameter, moments in each.optimizer.state.items():
                assert moments["exp_avg"].stride() == parameter.stride()
        assert own.update(*next_batch(own))[0].equal(other.update(*next_batch(other))[0])
        assert all(a.equal(b) for a, b in zip(own.denoiser.parameters(), other.denoiser.parameters(), strict=True))

    def test_goes_further(self, config: TrainConfig, finished: FinishedRuns) -> None:
        train(replace(config, steps=4))
        train(replace(config, save_every=3, keep=1), resume=True)
        assert_same_bits(config.out, finished(config))

    def test_model_is_there_after_a_kill_before_it_was_written(
        self, config: TrainConfig, finished: FinishedRuns
    ) -> None:
        trained = Denoiser.from_pretrained(finished(config) / "model")
        finished.copy(config)
        (Path(config.out) / "model/config.json").unlink()
        (Path(config.out) / "model/.saving-half").mkdir()
        train(config, resume=True)
        assert not list((Path(config.out) / "model").glob(".*"))
        loaded = Denoiser.from_pretrained(Path(config.out) / "model")
        assert all(a.equal(b) for a, b in zip(trained.parameters(), loaded.parameters(), strict=True))

    @pytest.mark.parametrize("where", ["sdescore.training.trainer.Trainer.snapshot", "sdescore.training.loop.picture"])
    def test_snapshots_and_pictures_are_there_after_a_kill_before_them(
        self, plain: TrainConfig, finished: FinishedRuns, monkeypatch: pytest.MonkeyPatch, where: str
    ) -> None:
        class Killed(BaseException):
            pass

        def killed(*_: Any) -> None:
            raise Killed

        config = replace(plain, snapshot_every=2, sample_every=2, sample_count=2, sample_steps=1)
        unbroken = finished(config)
        with monkeypatch.context() as patch:
            patch.setattr(where, killed)
            with pytest.raises(Killed):  # after the checkpoint of step 2
                train(config)
        train(config, resume=True)
        for name in ("snapshots", "samples"):
            left, wanted = (
                {path.name: path.read_bytes() for path in Path(out, name).iterdir()} for out in (config.out, unbroken)
            )
            assert wanted and left == wanted

    def test_other_settings_are_named(self, config: TrainConfig, finished: FinishedRuns) -> None:
        finished.copy(config)
        with pytest.raises(
            ValueError, match=r"given\): net_args \({.*}\), lr \(0.001, 0.002\)\. The run's own are in .*config.json"
        ):
            train(replace(config, lr=2e-3, net_args={**config.net_args, "blocks": 2}), resume=True)

    def test_other_data_is_named(self, config: TrainConfig) -> None:
        config = replace(config, flips=False, conditional=False, net="MLP", net_args={})
        points = torch.randn(50, 2)
        train(replace(config, steps=2), source=Arrays(points))
        with pytest.raises(ValueError, match=r"made with data {'samples': 50.*now it is {'samples': 49"):
            train(config, source=Arrays(points[1:]), resume=True)

    def test_another_range_or_number_of_labels_is_named(self, config: TrainConfig) -> None:
        config = replace(config, flips=False, conditional=False, net="MLP", net_args={}, data_std=0.5)
        points, labels = torch.randn(50, 2), torch.arange(50) % 3
        train(replace(config, steps=2), source=Arrays(points, labels))
        for source, message in (
            (Arrays(9 * points, labels), "'low': "),
            (Arrays(points, labels % 2), "'classes': 2}$"),
        ):
            with pytest.raises(ValueError, match=rf"'classes': 3}}; now it is .*{message}"):
                train(config, source=source, resume=True)
        train(config, source=Arrays(points, labels), resume=True)

    def test_other_samples_are_named(self, config: TrainConfig, caplog: Any) -> None:
        """Only a warning: a data set of someone's own may give other samples each time."""
        config = replace(config, flips=False, conditional=False, net="MLP", net_args={}, data_std=0.5)
        points = torch.randint(0, 256, (50, 2), dtype=torch.uint8)
        train(replace(config, steps=2), source=Arrays(points))
        train(replace(config, steps=4), source=Arrays(points), resume=True)
        assert not caplog.messages
        train(config, source=Arrays(points.flip(0)), resume=True)
        assert "step-000004 was made with other samples" in caplog.text

    def test_moved_data(self, config: TrainConfig, caplog: Any, tmp_path: Path) -> None:
        config = replace(config, flips=False, conditional=False, net="MLP", net_args={}, data_std=0.5)
        here, there = tmp_path / "here.npz", tmp_path / "there.npz"
        np.savez(here, x=np.random.default_rng(0).integers(0, 256, (50, 2), np.uint8))
        train(replace(config, data=str(here), steps=2))
        here.rename(there)
        train(replace(config, data=str(there), steps=4), resume=True)
        assert not caplog.messages

    def test_nothing_to_resume(self, config: TrainConfig) -> None:
        with pytest.raises(FileNotFoundError, match="there are no checkpoints in"):
            train(config, resume=True)

    def test_a_new_run_over_an_old_one(self, config: TrainConfig, finished: FinishedRuns) -> None:
        finished.copy(config)
        with pytest.raises(FileExistsError, match="has checkpoints; resume that run"):
            train(config)

    def test_two_processes_killed_twice(self, config: TrainConfig, tmp_path: Path) -> None:
        """SIGKILL of the second process in a step, then of the first inside a save."""
        unbroken = replace(config, out=str(tmp_path / "unbroken"))
        assert run(2, unbroken).returncode == 0
        root = Path(config.out) / "checkpoints"
        assert run(2, config, fatal_update=4).returncode != 0
        assert checkpoints.steps(root) == [2]
        assert run(2, config, resume=True, fatal=6).returncode != 0
        assert checkpoints.steps(root) == [2] and list(root.glob(".step-*.writing"))
        last = run(2, config, resume=True)
        assert last.returncode == 0, last.stderr
        assert_same_bits(config.out, unbroken.out)

    @pytest.mark.slow
    def test_two_processes_killed_at_ten_instants(self, config: TrainConfig, tmp_path: Path) -> None:
        """Five times at a flush, most of which are inside a save, and five times in a step."""
        unbroken = replace(config, out=str(tmp_path / "unbroken"), steps=8)
        assert run(2, unbroken).returncode == 0
        choose = random.Random(0)
        for kill in range(10):
            own = replace(unbroken, out=str(tmp_path / f"run{kill}"))
            fatal: dict[str, Any] = (
                {"fatal": choose.randrange(3, 31)} if kill % 2 else {"fatal_update": choose.randrange(1, 9)}
            )
            assert run(2, own, **fatal).returncode != 0
            found = checkpoints.steps(Path(own.out) / "checkpoints")
            resumed = run(2, own, resume=bool(found))
            assert resumed.returncode == 0, resumed.stderr
            assert_same_bits(own.out, unbroken.out)

    @pytest.mark.slow
    def test_three_processes(self, plain: TrainConfig, tmp_path: Path) -> None:
        """Sums over three depend on their order, on which the first pass of a process must have no influence."""
        unbroken = replace(plain, out=str(tmp_path / "unbroken"), net_args={"base_width": 32})
        assert run(3, unbroken).returncode == 0
        own = replace(unbroken, out=str(tmp_path / "resumed"))
        assert run(3, replace(own, steps=4)).returncode == 0
        assert run(3, own, resume=True).returncode == 0
        assert_same_bits(own.out, unbroken.out)
