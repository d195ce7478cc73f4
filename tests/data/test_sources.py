"""Data: sources, what they refuse, and which samples each step takes."""

import struct
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from sdescore import Scaling
from sdescore.data.batches import batches, order, share
from sdescore.data.images import Images
from sdescore.data.load import digits, load, npz
from sdescore.data.source import Arrays
from sdescore.data.statistics import data_std
from sdescore.evaluation.pictures import save_grid, to_pixels


def pixels(seed: int, height: int = 5, width: int = 4, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def write_images(folder: Path, count: int, first: int = 0, **shape: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(first, first + count):
        Image.fromarray(pixels(i, **shape).squeeze()).save(folder / f"{i}.png")


class TestOrder:
    def test_epochs_are_joined_permutations(self) -> None:
        taken = torch.cat([order(3, 10, step, 7) for step in range(10)])
        epochs = taken.split(10)
        assert all(epoch.sort().values.equal(torch.arange(10)) for epoch in epochs)
        assert not any(a.equal(b) for a, b in pairwise(epochs))

    def test_batch_larger_than_an_epoch(self) -> None:
        taken = torch.cat([order(0, 3, step, 8) for step in range(3)])
        assert all(epoch.sort().values.equal(torch.arange(3)) for epoch in taken.split(3))

    def test_seed_decides(self) -> None:
        assert order(0, 100, 4, 20).equal(order(0, 100, 4, 20))
        assert not order(0, 100, 4, 20).equal(order(1, 100, 4, 20))

    @pytest.mark.parametrize(("batch", "processes"), [(8, 2), (7, 2), (11, 4)])
    def test_shares_are_a_partition(self, batch: int, processes: int) -> None:
        parts = [share(batch, rank, processes) for rank in range(processes)]
        assert [i for part in parts for i in range(batch)[part]] == list(range(batch))
        sizes = [part.stop - part.start for part in parts]
        assert max(sizes) - min(sizes) <= 1

    def test_batches_are_the_order_shared_out(self) -> None:
        source = Arrays(torch.arange(20, dtype=torch.uint8).reshape(20, 1), torch.arange(20))
        shares = [batches(source, 5, 7, range(2, 5), rank=rank, processes=2) for rank in (0, 1)]
        for step, two in enumerate(zip(*shares, strict=True)):
            wanted = order(5, 20, step + 2, 7)
            assert torch.cat([raw for raw, _ in two]).flatten().equal(wanted.to(torch.uint8))
            assert torch.cat([known["label"] for _, known in two]).equal(wanted)


class TestDigits:
    def test_split(self) -> None:
        train, test = digits("train"), digits("test")
        assert (len(train), len(test)) == (1500, 297)
        both = torch.cat([train.raw, test.raw]).flatten(1).double()
        given = torch.from_numpy(load_digits().data)
        assert both[np.lexsort(both.numpy().T)].equal(given[np.lexsort(given.numpy().T)])
        assert train.raw.dtype == torch.uint8 and train.shape == (1, 8, 8) and train.classes == 10
        assert train.scaling == Scaling(0, 16, 17)

    def test_stratified_and_shuffled(self) -> None:
        train, test = digits("train"), digits("test")
        assert train.labels is not None and test.labels is not None
        shares = torch.stack([train.labels.bincount() / 1500, test.labels.bincount() / 297])
        assert (shares[0] - shares[1]).abs().max() < 0.004
        assert len(train.labels[:100].unique()) == 10

    def test_unknown_split(self) -> None:
        with pytest.raises(ValueError, match="'train', 'test'"):
            digits("validation")


class TestNpz:
    def save(self, path: Path, **arrays: np.ndarray) -> Path:
        np.savez(path / "data.npz", **arrays)  # type: ignore[arg-type]
        return path / "data.npz"

    def test_channels_last(self, tmp_path: Path) -> None:
        x = np.stack([pixels(i) for i in range(6)])
        source = npz(self.save(tmp_path, x=x, y=np.arange(6)))
        assert source.shape == (3, 5, 4) and source.classes == 6
        raw, labels = source.__getitems__([4, 1])
        assert raw.dtype == torch.uint8 and raw[0, 2, 3, 1] == x[4, 3, 1, 2]
        assert labels is not None and labels.tolist() == [4, 1]

    def test_channels_first_stays(self, tmp_path: Path) -> None:
        x = np.zeros((6, 3, 4, 4), np.uint8)
        assert npz(self.save(tmp_path, x=x)).shape == (3, 4, 4)

    def test_grey_series_and_vectors(self, tmp_path: Path) -> None:
        assert npz(self.save(tmp_path, x=np.zeros((6, 5, 4), np.uint8))).shape == (1, 5, 4)
        assert npz(self.save(tmp_path, x=np.random.rand(6, 2, 9))).shape == (2, 9)
        assert npz(self.save(tmp_path, x=np.random.rand(6))).shape == (1,)

    def test_range_of_floats(self, tmp_path: Path) -> None:
        source = npz(self.save(tmp_path, a=np.array([[1.0], [3.0], [7.0]])), key="a", scaling="whole")
        assert source.scaling == Scaling(1.0, 7.0, None)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_not_finite(self, tmp_path: Path, bad: float) -> None:
        x = np.zeros((4, 3, 2))
        x[2, 1, 0] = x[3, 0, 0] = bad
        with pytest.raises(ValueError, match=r"data.npz: x\[2, 1, 0\] is (nan|inf); 2 of 24"):
            npz(self.save(tmp_path, x=x))

    def test_integers_without_a_range(self, tmp_path: Path) -> None:
        path = self.save(tmp_path, x=np.arange(256).reshape(4, 1, 8, 8))
        with pytest.raises(ValueError, match="int64 and no range"):
            npz(path)
        assert npz(path, scaling=Scaling()).shape == (1, 8, 8)
        with pytest.raises(ValueError, match=r"x: sample 0 spans \[0, 63\]; expected .* range \[0, 16\]"):
            npz(path, scaling=Scaling(0, 16, 17))

    def test_missing_key_lists_those_there(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no array 'x'; it holds 'images', 'labels'"):
            npz(self.save(tmp_path, images=np.zeros(3), labels=np.zeros(3)))

    def test_labels(self, tmp_path: Path) -> None:
        x = np.zeros((4, 1, 8, 8), np.uint8)
        for y in (np.zeros(3, int), np.zeros(4), np.zeros((4, 1), int)):
            with pytest.raises(ValueError, match=r"labels have shape .* expected 4 integers"):
                npz(self.save(tmp_path, x=x, y=y))
        with pytest.raises(ValueError, match="labels have -1"):
            npz(self.save(tmp_path, x=x, y=np.array([0, 1, -1, 0])))

    def test_torn_pickled_empty_and_absent(self, tmp_path: Path) -> None:
        path = self.save(tmp_path, x=np.random.rand(50, 8))
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(ValueError, match=r"data.npz"):
            npz(path)
        with pytest.raises(ValueError, match=r"data.npz: .*pickle"):
            npz(self.save(tmp_path, x=np.array([{}], dtype=object)))
        with pytest.raises(ValueError, match=r"at least one sample"):
            npz(self.save(tmp_path, x=np.zeros((0, 3))))
        with pytest.raises(ValueError, match="there is no file"):
            npz(tmp_path / "other.npz")


class TestImages:
    def test_pixels_and_order(self, tmp_path: Path) -> None:
        write_images(tmp_path, 3)
        (tmp_path / "notes.txt").write_text("no image")
        source = Images(tmp_path)
        assert len(source) == 3 and source.shape == (3, 5, 4) and source.classes is None
        raw, labels = source.__getitems__([2, 0])
        assert labels is None
        assert raw.equal(torch.from_numpy(np.stack([pixels(2), pixels(0)])).permute(0, 3, 1, 2))

    def test_class_folders(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        write_images(tmp_path / "cats", 2)
        write_images(tmp_path / "dogs", 3, first=2)
        write_images(tmp_path / "deep/down", 1)
        (tmp_path / ".cache").mkdir()
        source = Images(tmp_path)
        assert source.classes == 2 and source.labels is not None and source.labels.tolist() == [0, 0, 1, 1, 1]
        (said,) = caplog.messages
        assert said == f"left out: {tmp_path / 'deep'} has no images itself, and is no class"

    def test_grey_and_palette(self, tmp_path: Path) -> None:
        write_images(tmp_path / "grey", 2, channels=1)
        raw, _ = Images(tmp_path / "grey").__getitems__([1])
        assert raw[0, 0].equal(torch.from_numpy(pixels(1, channels=1)[..., 0]))
        write_images(tmp_path / "colour", 1)
        with Image.open(tmp_path / "colour/0.png") as image:
            image.convert("P").save(tmp_path / "colour/1.png")
        assert Images(tmp_path / "colour").__getitems__([0, 1])[0].shape == (2, 3, 5, 4)

    def test_workers_read_the_same(self, tmp_path: Path) -> None:
        write_images(tmp_path, 5)
        source = Images(tmp_path)
        one, two = (list(batches(source, 0, 3, range(4), workers=workers)) for workers in (0, 2))
        assert all(a.equal(b) for (a, _), (b, _) in zip(one, two, strict=True))

    def test_empty(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="has no images"):
            Images(tmp_path)
        with pytest.raises(ValueError, match="there is no folder"):
            Images(tmp_path / "absent")

    def test_corrupt(self, tmp_path: Path) -> None:
        write_images(tmp_path, 2)
        (tmp_path / "5.png").write_bytes(b"no image at all")
        with pytest.raises(ValueError, match=r"5\.png is not an image"):
            Images(tmp_path)

    @pytest.mark.parametrize("workers", [0, 1])
    def test_truncated_is_named_when_read(self, tmp_path: Path, workers: int) -> None:
        write_images(tmp_path, 2, height=40, width=40)
        whole = (tmp_path / "1.png").read_bytes()
        (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])
        source = Images(tmp_path)
        with pytest.raises(ValueError, match=r"1\.png is not an image"):
            data_std(source)
        with pytest.raises(ValueError, match=r"1\.png is not an image"):
            list(batches(source, 0, 2, range(1), workers=workers))

    def test_mixed_sizes_and_kinds(self, tmp_path: Path) -> None:
        write_images(tmp_path, 2)
        write_images(tmp_path / "a", 1, first=0)
        with pytest.raises(ValueError, match="beside sub-folders"):
            Images(tmp_path)
        write_images(tmp_path / "a", 1, first=1, width=9)
        with pytest.raises(ValueError, match=r"1\.png is 9x5 RGB, but 1 of 2 are 4x5 RGB"):
            Images(tmp_path / "a")
        write_images(tmp_path / "a", 1, first=1, channels=1)
        with pytest.raises(ValueError, match=r"1\.png is 4x5 L, but 1 of 2 are 4x5 RGB"):
            Images(tmp_path / "a")

    def test_sixteen_bits(self, tmp_path: Path) -> None:
        Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(tmp_path / "deep.png")
        with pytest.raises(ValueError, match=r"deep\.png .* more than 8 bits"):
            Images(tmp_path)

    def test_sixteen_bits_of_each_colour(self, tmp_path: Path) -> None:
        """A PNG of 2 x 1 pixels, written by hand: Pillow cannot write 16 bits, and reads the upper 8."""

        def chunk(kind: bytes, content: bytes) -> bytes:
            return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

        header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
        pixels = zlib.compress(b"\0" + np.arange(6, dtype=">u2").tobytes())
        content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
        (tmp_path / "deep.png").write_bytes(content)
        with pytest.raises(ValueError, match=r"deep\.png .*RGB;16B.* more than 8 bits"):
            Images(tmp_path)


def test_load_by_name(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 1)
    np.savez(tmp_path / "data.npz", x=np.random.rand(4, 2))
    assert len(load("digits:test")) == 297
    assert load(str(tmp_path / "images")).shape == (3, 5, 4)
    assert load(str(tmp_path / "data.npz")).shape == (2,)
    with pytest.raises(ValueError, match=r"data='digit'; expected"):
        load("digit")


def test_constant_and_complex_arrays() -> None:
    with pytest.raises(ValueError, match="column 0 is 3 everywhere"):
        Arrays(torch.full((5, 2), 3.0))
    with pytest.raises(ValueError, match="complex64"):
        Arrays(torch.zeros(5, 2, dtype=torch.complex64))


def test_std_is_numpys_on_scaled_data() -> None:
    source = digits()
    wanted = (source.raw.numpy() / 8 - 1).std()
    assert data_std(source) == pytest.approx(wanted, rel=1e-12)
    assert data_std(source, most=700) == pytest.approx(wanted, rel=0.02)


def test_pixels_span_the_range_and_grids_keep_places(tmp_path: Path) -> None:
    raw = torch.tensor([0.0, 8.0, 16.0, -3.0, 20.0])
    assert to_pixels(raw, Scaling(0, 16, 17)).tolist() == [0, 128, 255, 0, 255]
    images = torch.zeros(5, 3, 50, 60)
    images[4, 1, 10, 20] = 255
    save_grid(tmp_path / "grid.png", images, columns=2)
    with Image.open(tmp_path / "grid.png") as picture:
        array = np.asarray(picture)
    assert array.shape == (3 * 52 + 2, 2 * 62 + 2, 3)
    assert array[2 * 52 + 2 + 10, 2 + 20].tolist() == [0, 255, 0]
    with pytest.raises(ValueError, match="1 or 3"):
        save_grid(tmp_path / "grid.png", torch.zeros(2, 2, 4, 4))
