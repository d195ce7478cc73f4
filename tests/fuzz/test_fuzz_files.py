"""Damage to every kind of file that is read: a right answer, or an error that names the file."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import yaml
from fuzzing import answer, fuzz, same
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from sdescore import VPSDE, Denoiser, KarrasSDE
from sdescore.cli.command_line import load_yaml
from sdescore.cli.likelihood_parts import Batch
from sdescore.cli.models import training_of
from sdescore.common.files import read_json
from sdescore.data.load import load
from sdescore.data.statistics import measure, read_statistics
from sdescore.evaluation.features import load_weights
from sdescore.nets import MLP
from sdescore.training import checkpoints
from sdescore.training.averages import Averages, PowerFunction
from sdescore.training.config import TrainConfig
from sdescore.training.posthoc_averages import reconstruct, snapshots, write_snapshots
from sdescore.training.run_log import read_log

pytestmark = pytest.mark.fuzz

RAW = (np.arange(4 * 5 * 5) % 251).astype(np.uint8).reshape(4, 5, 5)


def saved_model(folder: Path) -> list[Path]:
    Denoiser(MLP(2, width=4, depth=1), VPSDE(), shape=(2,)).save_pretrained(folder)
    return [folder / "config.json", folder / "model.safetensors"]


def saved_checkpoint(folder: Path) -> list[Path]:
    tensors = {"net": {"a": torch.ones(3)}, "optimizer": {"0.step": torch.tensor(1.0)}}
    for step in (1, 2):
        made = checkpoints.save_checkpoint(folder, step, tensors, {"step": step})
    return sorted(made.iterdir())


def saved_snapshots(folder: Path) -> list[Path]:
    averages = Averages(Denoiser(nn.Linear(2, 2), KarrasSDE()), [PowerFunction(0.1)], 4)
    for step in (2, 4):
        write_snapshots(folder, averages, step)
    return sorted(folder.iterdir())


def saved_images(folder: Path) -> list[Path]:
    for name in ("a.png", "b.jpg", "c.bmp", "d.gif", "e.tif", "f.webp"):
        Image.fromarray(RAW[0]).convert("RGB").save(folder / name)
    return sorted(folder.iterdir())


def saved_idx(folder: Path) -> list[Path]:
    header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in RAW.shape)
    (folder / "train-images-idx3-ubyte").write_bytes(header + RAW.tobytes())
    (folder / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\x04\0\1\2\3")
    return sorted(folder.iterdir())


def saved_npz(folder: Path) -> list[Path]:
    np.savez_compressed(folder / "x.npz", x=RAW, y=np.arange(4))
    return [folder / "x.npz"]


def saved_npy(folder: Path) -> list[Path]:
    np.save(folder / "x.npy", RAW.astype(np.float32))
    np.save(folder / "x.y.npy", np.arange(4))
    return sorted(folder.iterdir())


def written(name: str, content: Any) -> Callable[[Path], list[Path]]:
    def write(folder: Path) -> list[Path]:
        (folder / name).write_text(json.dumps(content) + "\n")
        return [folder / name]

    return write


def saved_statistics(folder: Path) -> list[Path]:
    measure(load(str(saved_npz(folder)[0]))).write(folder / "statistics.json")
    return [folder / "statistics.json"]


def saved_weights(folder: Path) -> list[Path]:
    save_file({"a": torch.ones(3)}, folder / "a.safetensors")
    torch.save({"a": torch.ones(3)}, folder / "a.pt")
    return sorted(folder.iterdir())


def every(source: Any) -> Any:
    return source.__getitems__(range(len(source)))


def in_memory(tensors: Any, state: Any) -> Any:
    """What stays as it is when the file, of which tensors are a view, is damaged."""
    return {group: {name: each.clone() for name, each in named.items()} for group, named in tensors.items()}, state


# How the files are made, and how they are read.
KINDS: dict[str, tuple[Callable[[Path], list[Path]], Callable[[Path], Any]]] = {
    "model": (saved_model, lambda folder: Denoiser.from_pretrained(folder).state_dict()),
    "checkpoint": (saved_checkpoint, lambda folder: in_memory(*checkpoints.load(checkpoints.newest(folder)))),
    "snapshots": (saved_snapshots, lambda folder: reconstruct(snapshots(folder), PowerFunction(0.1))),
    "images": (saved_images, lambda folder: every(load(str(folder)))),
    "idx": (saved_idx, lambda folder: every(load(str(folder)))),
    "npz": (saved_npz, lambda folder: every(load(str(folder / "x.npz")))),
    "npy": (saved_npy, lambda folder: every(load(str(folder / "x.npy")))),
    "statistics": (saved_statistics, lambda folder: read_statistics(folder / "statistics.json")),
    "log": (written("log.jsonl", {"step": 1, "loss": 2.0}), read_log),
    "settings": (written("config.json", TrainConfig().to_json()), lambda folder: training_of(str(folder))),
    "part": (
        written("0.json", {"values": {"nats": [1.0, None]}, "warnings": ["a"]}),
        lambda folder: Batch.load(folder / "0.json"),
    ),
    "json": (written("a.json", {"a": 1}), lambda folder: read_json(folder / "a.json")),
    "weights": (saved_weights, lambda folder: [load_weights(path) for path in sorted(folder.iterdir())]),
}


# Whose files carry checksums: what is read from a damaged one is what was written, or that of the one before.
SEALED = {"model", "checkpoint", "snapshots", "npz"}


def damage(content: bytes, kind: str, at: float, size: int, byte: int) -> bytes:
    """Some damage to a file's content."""
    place = int(at * len(content))
    if kind == "truncate":
        return content[:place]
    if kind == "flip":
        return content[:place] + bytes(b ^ byte for b in content[place : place + 1]) + content[place + 1 :]
    if kind == "overwrite":
        return content[:place] + bytes([byte]) * size + content[place + size :]
    if kind == "insert":
        return content[:place] + bytes([byte]) * size + content[place:]
    if kind == "swap":
        return content[place:] + content[:place]
    if kind == "nest":
        return content[:place] + b"[" * 20_000 + content[place:]
    if kind == "number":  # a lie about a size
        return content[:place] + b"9" * size + content[place + 1 :]
    return bytes([byte]) * size


DAMAGES = st.tuples(
    st.sampled_from(["truncate", "flip", "overwrite", "insert", "swap", "nest", "number", "replace"]),
    st.floats(0, 1),
    st.integers(0, 20),
    st.integers(0, 255),
)


@pytest.mark.parametrize("name", KINDS)
def test_files(name: str, tmp_path: Path) -> None:
    make, read = KINDS[name]
    paths = make(tmp_path)
    whole = {path: path.read_bytes() for path in paths}
    right = [answer(lambda: read(tmp_path))]
    assert not isinstance(right[0], Exception)
    if name == "checkpoint":
        right.append(in_memory(*checkpoints.load(tmp_path / "step-000001")))

    def check(case: tuple[int, tuple[str, float, int, int]]) -> None:
        which, how = case
        path = paths[which % len(paths)]
        path.write_bytes(damage(whole[path], *how))
        try:
            found = answer(lambda: read(tmp_path), (str(tmp_path),))
            sound = isinstance(found, Exception) or any(same(found, each) for each in right)
            assert sound or name not in SEALED, "it read what was never written"
        finally:
            for each, content in whole.items():
                each.write_bytes(content)

    fuzz(check, st.tuples(st.integers(0, 9), DAMAGES), 0.35 / len(KINDS), f"file: {name}")


@pytest.mark.filterwarnings("ignore")
def test_settings() -> None:
    def check(text: str) -> None:
        with suppress(yaml.YAMLError):
            answer(lambda: load_yaml(text))

    words = st.sampled_from(
        ["a: ", "- ", "&b ", "*b ", "[", "]", "{", "}", "\n", ",", "1", "!!python/object:os.system ", "  "]
    )
    fuzz(check, st.lists(words, max_size=60).map("".join), 0.05, "settings as text")
