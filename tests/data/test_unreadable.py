"""Samples that cannot be read are named, and end a run or are skipped by choice."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import truncate
from PIL import Image

from sdescore import Scaling
from sdescore.data.batches import batches
from sdescore.data.load import load
from sdescore.training.config import TrainConfig
from sdescore.training.loop import train


def write_images(folder: Path, count: int, size: int = 40) -> np.ndarray:
    """Colour images 0.png, 1.png, ...; their pixels (count, 3, size, size)."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i}.png")
    return pixels.transpose(0, 3, 1, 2)


class TestSkipping:
    def test_a_truncated_image_is_named_and_replaced_by_the_next(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        pixels = write_images(tmp_path, 4)
        truncate(tmp_path / "1.png")
        source = load(str(tmp_path), skip=True)
        for _ in range(2):
            raw, _ = source.__getitems__([0, 1, 3])
            assert raw.equal(torch.from_numpy(pixels[[0, 2, 3]]))
        assert caplog.text.count("1.png is not an image that can be read") == 1

    def test_headers_that_do_not_fit_are_left_out(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        write_images(tmp_path, 4)
        Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "0.png")  # the first file sets no standard
        (tmp_path / "2.png").write_bytes(b"no image")
        source = load(str(tmp_path), skip=True)
        assert len(source) == 2 and source.shape == (3, 40, 40)
        assert "0.png is 40x40 L, but 2 of 4 are 40x40 RGB" in caplog.text and "2.png is not an image" in caplog.text
        with pytest.raises(ValueError, match=r"0\.png is 40x40 L, but 2 of 4 are 40x40 RGB"):
            load(str(tmp_path))

    def test_rows_that_are_not_finite(self, tmp_path: Path) -> None:
        x = np.random.default_rng(0).normal(size=(6, 3))
        x[[2, 3]] = np.nan
        np.save(tmp_path / "x.npy", x)
        source = load(str(tmp_path / "x.npy"), scaling=Scaling(-9.0, 9.0, None), skip=True)
        assert source.__getitems__([1, 2])[0].equal(torch.from_numpy(x[[1, 4]]))

    def test_nothing_that_can_be_read(self, tmp_path: Path) -> None:
        write_images(tmp_path, 3)
        for i in range(3):
            truncate(tmp_path / f"{i}.png")
        with pytest.raises(ValueError, match=r"3 samples in a row cannot be read; the last: .*png"):
            load(str(tmp_path), skip=True).__getitems__([1])
        (tmp_path / "0.png").write_bytes(b"")
        with pytest.raises(ValueError, match=r"0\.png is not an image"):
            load(str(tmp_path))

    def test_training_stops_or_goes_on_by_choice(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        write_images(tmp_path / "images", 8, size=8)
        truncate(tmp_path / "images/5.png")
        # One line from a process that reads ahead, as from this one.
        for workers in (0, 1):
            with pytest.raises(ValueError, match=r"^[^\n]*5\.png is not an image that can be read[^\n]*$"):
                list(batches(load(str(tmp_path / "images")), 0, 8, range(1), workers=workers))
        config = TrainConfig(
            data=str(tmp_path / "images"),
            net_args={"base_width": 8, "multipliers": [1], "blocks": 1, "attention": []},
            steps=1,
            batch_size=8,
            workers=0,
            sample_every=0,
            tracker="none",
            progress=False,
            data_std=0.5,
            out=str(tmp_path / "run"),
        )
        with pytest.raises(ValueError, match=r"5\.png is not an image that can be read"):
            train(config)
        train(replace(config, corrupt="skip"))
        assert "skipped: " in caplog.text and (tmp_path / "run/model/model.safetensors").exists()
        with pytest.raises(ValueError, match="corrupt='ignore'; expected 'stop', 'skip'"):
            TrainConfig(corrupt="ignore")
