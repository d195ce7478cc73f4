"""The statistics of data: measured once, kept, and read."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from sdescore.cli import main
from sdescore.data.load import digits, load
from sdescore.data.source import Arrays
from sdescore.data.statistics import checksum, measure, read_statistics
from sdescore.training.config import TrainConfig
from sdescore.training.loop import train


class TestStatistics:
    def test_are_numpys_on_scaled_data(self, tmp_path: Path) -> None:
        source = digits()
        found, x = measure(source), source.raw.numpy() / 8 - 1
        assert (found.mean, found.std) == pytest.approx((x.mean(), x.std()), rel=1e-12)
        assert (found.samples, found.measured, found.shape, found.high, found.levels, found.classes) == (
            1500,
            1500,
            (1, 8, 8),
            16,
            17,
            10,
        )
        found.write(tmp_path / "a.json")
        assert read_statistics(tmp_path / "a.json", source) == found
        assert measure(source, 700).std == pytest.approx(x.std(), rel=0.02)
        ordered = Arrays(torch.arange(1000.0))  # a part of it is from all over
        assert measure(ordered, 100).std == pytest.approx(measure(ordered).std, rel=0.02)

    def test_of_other_data_or_no_file(self, tmp_path: Path) -> None:
        measure(digits()).write(tmp_path / "a.json")
        with pytest.raises(ValueError, match=r"other data \(file, now\): samples \(1500, 297\)"):
            read_statistics(tmp_path / "a.json", digits("test"))
        (tmp_path / "a.json").write_text("{}")
        with pytest.raises(ValueError, match=r"a\.json has no statistics"):
            read_statistics(tmp_path / "a.json")
        with pytest.raises(ValueError, match=r"there is no file .*sdescore measure` makes one"):
            read_statistics(tmp_path / "b.json")
        with pytest.raises(ValueError, match="the same value everywhere"):
            measure(Arrays(torch.zeros(5, 2, dtype=torch.uint8)))

    def test_a_run_measures_once_and_reads_what_it_is_given(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = TrainConfig(
            net="MLP", net_args={"width": 8}, steps=2, batch_size=4, sample_every=0, save_every=2, tracker="none",
            progress=False, out=str(tmp_path / "run"),
        )  # fmt: skip
        source = Arrays(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)))
        assert train(config, source=source).data_std == measure(source).std
        monkeypatch.setattr("sdescore.training.loop.measure", None)  # it would fail
        assert train(config, source=source, resume=True).data_std == measure(source).std
        content = json.loads((tmp_path / "run/statistics.json").read_text())
        (tmp_path / "own.json").write_text(json.dumps(content | {"std": 0.25}))
        given = TrainConfig(**config.to_json() | {"statistics": str(tmp_path / "own.json"), "out": str(tmp_path / "b")})
        assert train(given, source=source).data_std == 0.25
        with pytest.raises(ValueError, match="of other data"):
            train(given, source=Arrays(torch.randn(40, 3)), resume=True)

    def test_a_new_run_measures_even_where_another_left_its_own(self, tmp_path: Path) -> None:
        """The two sources have the same shape and range, and differ in their pixels alone."""
        config = TrainConfig(
            net="MLP", net_args={"width": 8}, steps=1, batch_size=4, sample_every=0, tracker="none", progress=False,
            out=str(tmp_path / "run"),
        )  # fmt: skip
        draw = torch.Generator().manual_seed(0)
        narrow, wide = (
            Arrays(torch.randint(128 - width, 128 + width, (50, 3), generator=draw, dtype=torch.uint8))
            for width in (8, 120)
        )
        train(config, source=narrow)
        shutil.rmtree(tmp_path / "run/checkpoints")
        assert train(config, source=wide).data_std == measure(wide).std

    def test_command(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        x = np.random.default_rng(0).random((30, 4))
        np.save(tmp_path / "x.npy", x)
        arguments = ["measure", "--data", str(tmp_path / "x.npy"), "--out", str(tmp_path / "a.json")]
        main([*arguments, "--data_low", "0", "--data_high", "1"])
        assert read_statistics(tmp_path / "a.json").std == pytest.approx((2 * x - 1).std(), rel=1e-12)
        assert "samples" in capsys.readouterr().out
        with pytest.raises(SystemExit):
            main(arguments)
        assert "exists; expected a new file" in capsys.readouterr().err


def test_a_full_disk_keeps_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = measure(digits())
    found.write(tmp_path / "a.json")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"a\.json was not written: .*No space left.*it is what it was before"):
            measure(digits(), 10).write(tmp_path / "a.json")
    assert read_statistics(tmp_path / "a.json") == found and len(list(tmp_path.iterdir())) == 1


class TestChecksum:
    def test_one_changed_value_or_label_of_many_is_noticed(self) -> None:
        raw = torch.arange(200 * 12, dtype=torch.uint8).reshape(200, 12)
        labels = torch.arange(200) % 3
        known = checksum(Arrays(raw, labels))
        assert checksum(Arrays(raw.clone(), labels.clone())) == known
        for row in (0, 1, 77, 199):
            changed, others = raw.clone(), labels.clone()
            changed[row, 5] ^= 1
            others[row] = (others[row] + 1) % 3
            assert checksum(Arrays(changed, labels)) != known and checksum(Arrays(raw, others)) != known
        assert checksum(Arrays(raw)) != known

    def test_files_that_are_read_as_needed_count_by_size_and_time(self, tmp_path: Path) -> None:
        path = tmp_path / "x.npy"
        x = np.random.default_rng(0).integers(0, 256, (2000, 3)).astype(np.uint8)
        np.save(path, x)
        os.utime(path, ns=(0, 10**18))
        known = checksum(load(str(path)), str(path))
        x[1] ^= 1  # which is not among the samples that are read
        np.save(path, x)
        os.utime(path, ns=(0, 10**18))
        assert checksum(load(str(path)), str(path)) == known
        os.utime(path, ns=(0, 2 * 10**18))
        assert checksum(load(str(path)), str(path)) != known
