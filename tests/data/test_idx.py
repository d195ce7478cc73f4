"""Idx files, as MNIST and Fashion-MNIST have them."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from sdescore import Scaling
from sdescore.data.idx import read_idx
from sdescore.data.load import load


def write_idx(path: Path, array: np.ndarray, kind: int = 8) -> None:
    """An idx file by struct, after the format's description."""
    content = struct.pack(f">HBB{array.ndim}I", 0, kind, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 5, 4), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path, images: np.ndarray) -> Path:
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", images)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.array([3, 1, 2, 0, 1, 1], np.uint8))
    write_idx(tmp_path / "t10k-images-idx3-ubyte", images[:2])
    return tmp_path


def test_a_folder_and_its_parts(folder: Path, images: np.ndarray) -> None:
    source = load(str(folder))
    assert source.shape == (1, 5, 4) and source.classes == 4 and source.scaling == Scaling(0, 255, 256)
    raw, labels = source.__getitems__([4, 0])
    assert raw.dtype == torch.uint8 and raw[:, 0].equal(torch.from_numpy(images[[4, 0]]))
    assert labels is not None and labels.tolist() == [1, 3]
    test = load(f"{folder}:test")
    assert len(test) == 2 and test.classes is None
    assert len(load(str(folder / "train-images-idx3-ubyte.gz"))) == 6


@pytest.mark.parametrize(("kind", "dtype"), [(9, "i1"), (11, ">i2"), (12, ">i4"), (13, ">f4"), (14, ">f8")])
def test_every_kind_of_value(tmp_path: Path, kind: int, dtype: str) -> None:
    array = np.array([[-3, 2, 100], [0, 1, 7]]).astype(dtype)
    write_idx(tmp_path / "a", array, kind)
    assert (read_idx(tmp_path / "a") == array).all()
    assert read_idx(tmp_path / "a").dtype.isnative


def test_damage_is_named(folder: Path) -> None:
    packed, plain = folder / "train-images-idx3-ubyte.gz", folder / "t10k-images-idx3-ubyte"
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"train-images.*\.gz: "):
        load(str(folder))
    packed.write_bytes(b"no gzip at all")
    with pytest.raises(ValueError, match=r"train-images.*\.gz: "):
        load(str(folder))
    plain.write_bytes(plain.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"t10k.* has 39 bytes of values; its header says \(2, 5, 4\)"):
        load(f"{folder}:test")
    plain.write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match=r"t10k.* is no idx file: it begins with 89 50"):
        load(f"{folder}:test")
    plain.unlink()
    with pytest.raises(ValueError, match="has no t10k-images-idx3-ubyte"):
        load(f"{folder}:test")


def test_labels_that_do_not_fit(folder: Path, images: np.ndarray) -> None:
    write_idx(folder / "train-images-idx3-ubyte.gz", images[:5])
    with pytest.raises(ValueError, match=r"train-images.* expected 5 integers"):
        load(str(folder))
