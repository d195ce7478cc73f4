"""Sources larger than memory, and data sets of other libraries."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from damage import truncate
from PIL import Image

from sdescore import Scaling
from sdescore.data.batches import batches
from sdescore.data.load import load
from sdescore.data.map_style import MapStyle
from sdescore.data.memory_mapped import MemoryMapped
from sdescore.data.source import Arrays
from sdescore.training.config import TrainConfig


@pytest.mark.parametrize("dtype", ["u2", "u4", "u8", ">u2", ">i4", ">f4"])
def test_numbers_that_torch_has_no_arithmetic_for(tmp_path: Path, dtype: str) -> None:
    """In files and as items of a data set, and as labels."""
    x, y = np.arange(24).reshape(6, 4).astype(dtype), (np.arange(6) % 3).astype(">u2" if dtype[0] == ">" else "u2")
    np.savez(tmp_path / "x.npz", x=x, y=y)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "x.y.npy", y)
    scaling, wanted = Scaling(0, 24, 25), torch.arange(24.0).reshape(6, 4) / 12 - 1
    native = [torch.from_numpy(row.astype(row.dtype.newbyteorder("="))) for row in x]
    for source in (load(str(tmp_path / "x.npz"), scaling=scaling), load(str(tmp_path / "x.npy"), scaling=scaling)):
        raw, labels = source.__getitems__([5, 1])
        torch.testing.assert_close(source.scaling.to_model(raw), wanted[[5, 1]])
        assert labels is not None and labels.tolist() == [2, 1] and source.classes == 3
    for own in (MapStyle(native, scaling), Arrays(torch.stack(native), scaling=scaling)):
        torch.testing.assert_close(own.scaling.to_model(own.__getitems__([5, 1])[0]), wanted[[5, 1]])


class TestMapped:
    def test_rows_and_labels(self, tmp_path: Path) -> None:
        x = np.random.default_rng(0).integers(0, 256, (7, 5, 4, 3), dtype=np.uint8)
        np.save(tmp_path / "x.npy", x)
        np.save(tmp_path / "x.y.npy", np.array([0, 2, 1, 1, 0, 3, 3]))
        source = load(str(tmp_path / "x.npy"))
        assert isinstance(source, MemoryMapped) and source.lazy
        assert source.shape == (3, 5, 4) and source.classes == 4 and source.scaling == Scaling()
        raw, labels = source.__getitems__([5, 0])
        assert raw.dtype == torch.uint8 and raw.equal(torch.from_numpy(x[[5, 0]]).permute(0, 3, 1, 2))
        assert labels is not None and labels.tolist() == [3, 0]
        one, two = (list(batches(source, 0, 3, range(4), workers=workers)) for workers in (0, 2))
        assert all(a.equal(b) for (a, _), (b, _) in zip(one, two, strict=True))

    def test_is_never_in_memory_as_a_whole(self, tmp_path: Path) -> None:
        """A sparse file of a terabyte: a hole with one row at its end."""
        count = 1 << 30
        with open(tmp_path / "x.npy", "wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (count, 1, 32, 32)}
            np.lib.format.write_array_header_1_0(file, header)
            start = file.tell()
            file.truncate(start + count * 1024)
            file.seek(start + (count - 1) * 1024)
            file.write(bytes([7]) * 1024)
        source = load(str(tmp_path / "x.npy"))
        raw, _ = source.__getitems__([count - 1, 12_345])
        assert raw[0].eq(7).all() and raw[1].eq(0).all()
        assert len(pickle.dumps(source)) < 1000  # what a process that reads ahead is given

    def test_series_vectors_and_big_end_first(self, tmp_path: Path) -> None:
        for name, array, shape in (
            ("series", np.random.rand(6, 2, 9), (2, 9)),
            ("vectors", np.random.rand(6, 5).astype(">f4"), (5,)),
            ("numbers", np.random.rand(6), (1,)),
            ("grey", np.zeros((6, 8, 8), np.uint8), (1, 8, 8)),
        ):
            np.save(tmp_path / f"{name}.npy", array)
            source = load(str(tmp_path / f"{name}.npy"))
            assert source.shape == shape
            raw, _ = source.__getitems__([4, 1])
            assert raw.equal(torch.from_numpy(array[[4, 1]].astype(array.dtype.newbyteorder("="))).reshape(2, *shape))

    def test_range(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sdescore.data.memory_mapped.CHUNK", 64)  # several pieces
        x = np.random.default_rng(0).normal(size=(50, 3, 1))
        np.save(tmp_path / "x.npy", x)
        source = load(str(tmp_path / "x.npy"))
        assert source.scaling == Scaling(x.min(), x.max(), None)
        assert load(str(tmp_path / "x.npy"), scaling=Scaling(-9.0, 9.0, None)).scaling.high == 9
        with pytest.raises(
            ValueError, match=r"x\.npy: row 7 spans .*; expected values in the given range \[-0.1, 0.1\]"
        ):
            load(str(tmp_path / "x.npy"), scaling=Scaling(-0.1, 0.1, None)).__getitems__([7])

    def test_damage_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sdescore.data.memory_mapped.CHUNK", 64)
        x = np.random.default_rng(0).normal(size=(50, 3))
        x[33, 2] = np.nan
        np.save(tmp_path / "x.npy", x)
        with pytest.raises(ValueError, match=r"x\.npy: x\[33, 2\] is nan"):
            load(str(tmp_path / "x.npy"))
        source = load(str(tmp_path / "x.npy"), scaling=Scaling(-9.0, 9.0, None))
        with pytest.raises(ValueError, match=r"x\.npy: x\[33, 2\] is nan"):
            source.__getitems__([4, 33])
        np.save(tmp_path / "i.npy", np.arange(6).reshape(3, 2))
        with pytest.raises(ValueError, match=r"i\.npy has dtype int64 and no range"):
            load(str(tmp_path / "i.npy"))
        np.save(tmp_path / "o.npy", np.array([{}]))
        with pytest.raises(ValueError, match=r"o\.npy: .*Python objects"):
            load(str(tmp_path / "o.npy"))
        truncate(tmp_path / "x.npy")
        with pytest.raises(ValueError, match=r"x\.npy: "):
            load(str(tmp_path / "x.npy"))
        with pytest.raises(ValueError, match="there is no file"):
            load(str(tmp_path / "absent.npy"))


class Toy:
    """A data set like torchvision's: Pillow images and labels."""

    classes = ("cat", "dog", "eel")

    def __init__(self, count: int = 5, mode: str = "RGB") -> None:
        self.pixels = np.random.default_rng(0).integers(0, 256, (count, 5, 4, 3), dtype=np.uint8)
        self.mode = mode

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return Image.fromarray(self.pixels[index]).convert(self.mode), index % 3


class TestItems:
    def test_pillow_images(self) -> None:
        toy = Toy()
        source = MapStyle(toy)
        assert source.shape == (3, 5, 4) and source.classes == 3 and len(source) == 5
        raw, labels = source.__getitems__([4, 1])
        assert raw.dtype == torch.uint8 and raw.equal(torch.from_numpy(toy.pixels[[4, 1]]).permute(0, 3, 1, 2))
        assert labels is not None and labels.tolist() == [1, 1]
        assert MapStyle(Toy(mode="L")).shape == (1, 5, 4)

    def test_tensors_of_a_torch_data_set(self) -> None:
        x, y = torch.rand(6, 1, 4, 4), torch.arange(6)
        dataset = torch.utils.data.TensorDataset(x, y)
        source = MapStyle(torch.utils.data.Subset(dataset, [5, 2]), Scaling(0.0, 1.0, 256), classes=6)
        raw, labels = source.__getitems__([0, 1])
        assert raw.equal(x[[5, 2]]) and labels is not None and labels.tolist() == [5, 2]
        with pytest.raises(ValueError, match=r"float32 and no range; expected .* \(data_low=0"):
            MapStyle(dataset)
        x[1, 0, 2, 3], x[4, 0, 1, 1] = 1.5, torch.inf
        for index, message in (
            (1, r"it spans .* 1\.5\]; expected values in the given range \[0, 1\]"),
            (4, "it is not finite everywhere"),
        ):
            with pytest.raises(ValueError, match=f"item {index} cannot be read: {message}"):
                MapStyle(dataset, Scaling(0.0, 1.0, 256)).__getitems__([0, index])

    def test_named_in_a_config(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        Path("own_data.py").write_text(
            "import numpy as np\n"
            "class Faces:\n"
            "    def __init__(self, size, count=4):\n"
            "        self.x = np.zeros((count, size, size), np.uint8)\n"
            "    def __len__(self):\n"
            "        return len(self.x)\n"
            "    def __getitem__(self, i):\n"
            "        return self.x[i], 0\n"
            "fixed = Faces(6)\n"
        )
        source = TrainConfig(data="own_data:Faces", data_args={"size": 8}).build_source()
        assert len(source) == 4 and source.shape == (1, 8, 8) and source.classes is None
        assert load("own_data:fixed").shape == (1, 6, 6)
        for name, args, message in (
            ("own_data:Faces", {"width": 3}, "data_args has width; Faces takes size, count"),
            ("own_data:Houses", {}, "has no attribute 'Houses'"),
            ("no_data:Faces", {}, "No module named 'no_data'"),
            ("own_data:fixed", {"size": 3}, "is an object already"),
            ("own_data.py", {"size": 3}, "data_args=.* expected data='module:name'"),
        ):
            with pytest.raises(ValueError, match=message):
                load(name, args=args)

    def test_what_does_not_fit_is_named(self) -> None:
        class Mixed(Toy):
            def __getitem__(self, index: int) -> tuple[Any, int]:
                if index == 2:
                    raise OSError("broken stream")
                image, label = super().__getitem__(index)
                return image.convert("L") if index == 3 else image, 7 if index == 4 else label

        source = MapStyle(Mixed())
        for index, message in (
            (2, "item 2 cannot be read: broken stream"),
            (3, r"item 3 cannot be read: it has shape \(1, 5, 4\)"),
            (4, "item 4 cannot be read: its label is 7; expected 0 to 2"),
        ):
            with pytest.raises(ValueError, match=message):
                source.__getitems__([0, index])
        with pytest.raises(TypeError, match="items is a int"):
            MapStyle(3)

    def test_hugging_face_on_disk(self, tmp_path: Path) -> None:
        datasets = pytest.importorskip("datasets")
        toy = Toy()
        columns: dict[str, Any] = {
            "picture": [toy[i][0] for i in range(5)],
            "kind": [0, 1, 2, 0, 1],
            "series": np.random.rand(5, 2, 3),
        }
        features = datasets.Features(
            picture=datasets.Image(), kind=datasets.ClassLabel(3), series=datasets.Array2D((2, 3), "float32")
        )
        whole = datasets.Dataset.from_dict(columns, features=features)
        whole.save_to_disk(tmp_path / "one")
        datasets.DatasetDict(train=whole, validation=whole.select([3])).save_to_disk(tmp_path / "parts")
        source = load(str(tmp_path / "one"), key="picture", label_key="kind")
        raw, labels = source.__getitems__([4, 1])
        assert raw.equal(torch.from_numpy(toy.pixels[[4, 1]]).permute(0, 3, 1, 2)) and source.classes == 3
        assert labels is not None and labels.tolist() == [1, 1]
        assert len(load(f"{tmp_path / 'parts'}:validation", key="picture")) == 1
        series = load(str(tmp_path / "parts"), key="series", scaling=Scaling(0.0, 1.0, None))
        assert series.__getitems__([2])[0].equal(torch.from_numpy(columns["series"][[2]]).float())
        with pytest.raises(
            ValueError, match="no column 'x'; expected data_key to be one of 'picture', 'kind', 'series'"
        ):
            load(str(tmp_path / "one"))
        with pytest.raises(ValueError, match="has no split 'test'; expected 'train', 'validation'"):
            load(f"{tmp_path / 'parts'}:test", key="picture")
        with pytest.raises(ValueError, match="without splits"):
            load(f"{tmp_path / 'one'}:test", key="picture")
