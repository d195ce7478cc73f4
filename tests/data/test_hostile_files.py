"""Files that lie: about their size, their kind, which way is up. Each is refused by its name, at little cost."""

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sdescore import Scaling
from sdescore.data import Images, MapStyle, MemoryMapped
from sdescore.data.idx import idx, read_idx
from sdescore.data.load import load
from sdescore.data.source import Arrays


def header(*shape: int, kind: int = 8) -> bytes:
    return bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)


def test_a_small_file_that_expands_without_end_is_read_no_further_than_its_header_says(tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header(2, 2, 2))
        for _ in range(64):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"ubyte\.gz has more bytes of values; its header says \(2, 2, 2\)"):
        read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_a_header_that_says_more_than_there_is_costs_what_there_is(tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(header(2**31, 2**10, 2**10) + bytes(100))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"has 100 bytes of values; its header says \(2147483648, 1024, 1024\)"):
        read_idx(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 << 20


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (header(*[1] * 65) + b"\1", "of 65 axes"),
        (header(3, 3)[:9], "ends within its header, of 2 axes"),
        (b"", "is no idx file"),
        (b"\0\0\7\1" + bytes(8), "is no idx file"),
        (header(2) + bytes(1), r"has 1 bytes of values; its header says \(2,\)"),
    ],
)
@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx_files_that_are_none_are_named(content: bytes, said: str, end: str, tmp_path: Path) -> None:
    path = tmp_path / f"train-images-idx3-ubyte{end}"
    path.write_bytes(gzip.compress(content) if end else content)
    with pytest.raises(ValueError, match=f"train-images-idx3-ubyte{end}.*{said}"):
        idx(path)


def test_a_gz_whose_stream_is_damaged_is_named(tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    whole = gzip.compress(header(40, 40) + np.random.default_rng(0).bytes(1600))
    for at in range(10, len(whole), 97):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        with pytest.raises(ValueError, match=r"ubyte\.gz"):
            read_idx(path)


def test_numbers_that_no_tensor_holds_are_named(tmp_path: Path) -> None:
    raw = np.full((3, 2), 2**63 + 5, dtype=np.uint64)
    np.save(tmp_path / "x.npy", raw)
    np.savez(tmp_path / "x.npz", x=raw)
    for name in ("x.npy", "x.npz"):
        with pytest.raises(ValueError, match=rf"{name}: values from 2\^63 on"):
            load(str(tmp_path / name), scaling=Scaling(0, 2.0**65, None))
    np.save(tmp_path / "y.npy", np.full((3, 2), 2**63 - 1024, dtype=np.uint64))
    source = MemoryMapped(tmp_path / "y.npy", None, Scaling(0, 2.0**63, None))
    assert int(source.__getitems__([1])[0].max()) == 2**63 - 1024


def test_a_label_that_no_net_has_weights_for_is_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 3), np.uint8), y=np.array([0, 10**12]))
    with pytest.raises(ValueError, match=r"x\.npz: labels have 1000000000000; expected integers from 0 to 1048575"):
        load(str(tmp_path / "x.npz"))
    assert Arrays(torch.zeros(1, 3), torch.tensor([2**20 - 1]), Scaling(0, 1, None)).classes == 2**20


def oriented(folder: Path, name: str, orientation: int) -> np.ndarray:
    """An image whose camera was held another way; returns it upright."""
    folder.mkdir(parents=True, exist_ok=True)
    upright = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    # As the EXIF standard says what the first row and the first column of the file show.
    stored = {1: upright, 3: upright[::-1, ::-1], 6: np.rot90(upright), 8: np.rot90(upright, -1), 2: upright[:, ::-1]}
    image = Image.fromarray(np.ascontiguousarray(stored[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(folder / name, exif=exif)
    return upright


@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8])
def test_images_are_turned_upright(orientation: int, tmp_path: Path) -> None:
    upright = oriented(tmp_path / "one", "a.png", orientation)
    source = Images(tmp_path / "one")
    assert source.shape == (3, 4, 6)
    assert np.array_equal(source.__getitems__([0])[0][0].movedim(0, 2).numpy(), upright)
    with Image.open(tmp_path / "one" / "a.png") as image:
        found = MapStyle([image]).__getitems__([0])[0][0]
    assert np.array_equal(found.movedim(0, 2).numpy(), upright)


def test_what_a_file_says_behind_its_pixels_turns_nothing(tmp_path: Path) -> None:
    """A header is read without the pixels: the shape that it gives is that of the samples."""
    oriented(tmp_path, "a.png", 6)
    content = (tmp_path / "a.png").read_bytes()
    begin = content.index(b"eXIf") - 4
    end = begin + 12 + int.from_bytes(content[begin : begin + 4], "big")
    last = content.index(b"IEND") - 4
    moved = content[:begin] + content[end:last] + content[begin:end] + content[last:]
    (tmp_path / "a.png").write_bytes(moved)
    source = Images(tmp_path)
    assert source.__getitems__([0])[0].shape[1:] == source.shape == (3, 6, 4)


def test_images_of_both_ways_up_are_of_one_size(tmp_path: Path) -> None:
    for orientation in (1, 6, 8):
        oriented(tmp_path, f"{orientation}.png", orientation)
    raw, _ = Images(tmp_path).__getitems__([0, 1, 2])
    assert torch.equal(raw[0], raw[1]) and torch.equal(raw[0], raw[2])


def test_an_animation_is_refused(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), value) for value in (0, 100, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ValueError, match=r"a\.gif is not an image that can be read: it has 3 frames; expected one"):
        Images(tmp_path)
    frames[0].save(tmp_path / "a.gif")
    assert Images(tmp_path).shape[1:] == (4, 4)


def test_postscript_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a program was started")

    Image.new("RGB", (4, 4)).save(tmp_path / "a.eps")
    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setattr(subprocess, "check_call", refuse)
    with pytest.raises(ValueError, match=r"a\.eps is not an image that can be read; expected PNG, JPEG"):
        Images(tmp_path)
