"""Checkpoints are whole or absent, whatever happens at any time."""

import errno
import hashlib
import json
import logging
import os
from pathlib import Path

import pytest
import torch

from sdescore.training.checkpoints import CorruptCheckpoint, load, newest, prune, save_checkpoint, steps, verify

TENSORS = {"net": {"a": torch.arange(6.0).reshape(2, 3)}, "optimizer": {"0.step": torch.tensor(3.0)}}


class Killed(BaseException):
    """Stands for a kill: nothing in the code may catch it."""


def save(root: Path, step: int) -> Path:
    return save_checkpoint(root, step, TENSORS, {"step": step})


def test_bits_come_back(tmp_path: Path) -> None:
    x = torch.randn(4, 6)
    tensors = {"net": {"strided": x.T, "same": x, "half": x.bfloat16(), "count": torch.tensor(7), "none": x[:0]}}
    state = {"step": 3, "lr": 0.1 + 0.2, "groups": [{"betas": [0.9, 0.999], "foreach": None}]}
    folder = save_checkpoint(tmp_path, 3, tensors, state)
    loaded, found = load(folder)
    assert found == state
    assert loaded["net"].keys() == tensors["net"].keys()
    assert all(loaded["net"][k].equal(t) and loaded["net"][k].dtype == t.dtype for k, t in tensors["net"].items())


def test_newest_by_number(tmp_path: Path) -> None:
    for step in (999_999, 1_000_000, 5):
        save(tmp_path, step)
    assert steps(tmp_path) == [5, 999_999, 1_000_000]
    assert newest(tmp_path).name == "step-1000000"


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"format": 2, "files": {"net.safetensors": "a checksum"}}, "cannot be read"),
        ({"format": 2, "files": {"net.safetensors": {"bytes": 8}}}, "cannot be read"),
        ({"format": 2, "files": {}, "checksum": hashlib.sha256(b"{}").hexdigest()}, "names no state.json"),
        ({"format": 2, "files": {}}, "cannot be read"),
        ({"format": 2, "files": {}, "checksum": "other"}, "does not match its own checksum"),
        (["format", 2], "cannot be read"),
    ],
)
def test_a_false_manifest_is_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, manifest: object, message: str
) -> None:
    save(tmp_path, 1)
    (save(tmp_path, 2) / "manifest.json").write_text(json.dumps(manifest))
    assert newest(tmp_path).name == "step-000001" and message in caplog.text


def test_what_the_manifest_does_not_name_is_left_alone(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    (folder / "mine.safetensors").write_bytes(b"someone's")
    assert load(newest(tmp_path))[0].keys() == TENSORS.keys()


def test_a_lost_entry_of_a_manifest_is_noticed_and_the_checkpoint_before_is_taken(tmp_path: Path) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2) / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["files"]["net.safetensors"]
    path.write_text(json.dumps(manifest))
    assert newest(tmp_path).name == "step-000001"


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff", b'{"format":2,"files":' + b"[" * 100_000])
def test_a_manifest_that_is_no_json_is_skipped(tmp_path: Path, content: bytes) -> None:
    save(tmp_path, 1)
    (save(tmp_path, 2) / "manifest.json").write_bytes(content)
    assert newest(tmp_path).name == "step-000001"


def test_none(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(FileNotFoundError, match="there are no checkpoints in"):
            newest(folder)


@pytest.mark.parametrize("call", range(7))
def test_killed_while_saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """At each flush and rename: the newest checkpoint is the old or the new one, and intact."""
    save(tmp_path, 1)
    calls = 0

    def killed(original):  # type: ignore[no-untyped-def]
        def wrapper(*args):  # type: ignore[no-untyped-def]
            nonlocal calls
            calls += 1
            if calls > call:
                raise Killed
            return original(*args)

        return wrapper

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", killed(os.fsync))
        patch.setattr(os, "replace", killed(os.replace))
        with pytest.raises(Killed):
            save(tmp_path, 2)
    assert load(newest(tmp_path))[1] == {"step": 2 if call == 6 else 1}  # the seventh call flushes the renamed folder
    save(tmp_path, 2)
    assert load(newest(tmp_path))[1] == {"step": 2}
    prune(tmp_path, 2, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000001", "step-000002"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_disk_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    save(tmp_path, 10)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(OSError, match=rf"step 20 was not written.*{os.strerror(number)}.*untouched: 10") as caught:
            save(tmp_path, 20)
    assert caught.value.errno == number
    assert [path.name for path in tmp_path.iterdir()] == ["step-000010"]
    verify(newest(tmp_path))


@pytest.mark.parametrize("file", ["net.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["torn", "flipped", "empty", "missing"])
def test_corrupt_is_skipped(tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, damage: str) -> None:
    save(tmp_path, 1)
    target = save(tmp_path, 2) / file
    content = bytearray(target.read_bytes())
    middle = content.index(b"sha256") + 12 if file == "manifest.json" else len(content) - 2
    content[middle] ^= 1
    damaged = {"torn": content[: len(content) // 2], "flipped": content, "empty": b"", "missing": None}[damage]
    target.unlink() if damaged is None else target.write_bytes(damaged)
    with pytest.raises(CorruptCheckpoint, match="step-000002"):
        verify(target.parent)
    with caplog.at_level(logging.WARNING):
        assert newest(tmp_path).name == "step-000001"
    assert "skipped a corrupt checkpoint" in caplog.text and "step-000002" in caplog.text


def test_all_corrupt(tmp_path: Path) -> None:
    (save(tmp_path, 1) / "net.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="all 1 checkpoints are corrupt"):
        newest(tmp_path)


def test_a_corrupt_one_is_replaced(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (save(tmp_path, 2) / "net.safetensors").write_bytes(b"")
    save(tmp_path, 2)
    assert newest(tmp_path).name == "step-000002"


def test_prune(tmp_path: Path) -> None:
    for step in range(1, 6):
        save(tmp_path, step)
    prune(tmp_path, 4, keep=2)
    assert steps(tmp_path) == [3, 4, 5]


def test_a_later_corrupt_one_pushes_nothing_out(tmp_path: Path) -> None:
    save(tmp_path, 1)
    (save(tmp_path, 3) / "net.safetensors").write_bytes(b"")
    save(tmp_path, 2)  # the run resumed from 1
    prune(tmp_path, 2, keep=1)
    assert newest(tmp_path).name == "step-000002"


def test_one_of_a_later_version_is_not_passed_over(tmp_path: Path) -> None:
    """A run that resumed from an earlier one would overwrite it."""
    save(tmp_path, 1)
    (save(tmp_path, 2) / "manifest.json").write_text(json.dumps({"format": 1, "files": "in another way"}))
    with pytest.raises(ValueError, match="has format 1; this version of sdescore reads 2") as caught:
        newest(tmp_path)
    assert not isinstance(caught.value, CorruptCheckpoint)


@pytest.mark.parametrize("denied", ["manifest.json", "net.safetensors"])
def test_one_that_may_not_be_read_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, denied: str
) -> None:
    save(tmp_path, 1)
    path, read = save(tmp_path, 2) / denied, Path.read_bytes

    def refusing(self: Path) -> bytes:
        if self == path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", refusing)
    with pytest.raises(PermissionError, match=denied):
        newest(tmp_path)
