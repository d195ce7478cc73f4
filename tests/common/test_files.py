"""Files written whole, folders that one process holds, and JSON from anywhere."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sdescore.common import files
from sdescore.common.files import is_empty, locked, read_json, replace_file

HOLD = """
import runpy, sys, time
from pathlib import Path
with runpy.run_path(sys.argv[2])["locked"](Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder: Path) -> subprocess.Popen[str]:
    """Another process that holds a folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), files.__file__], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_folder_is_held_by_one_process_until_it_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    process = holder(folder)
    try:
        with pytest.raises(BlockingIOError, match="out is in use"), locked(folder):
            pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (folder / ".lock").exists()  # the file is left, but nobody holds it
    with locked(folder), pytest.raises(BlockingIOError), locked(folder):
        pass  # nor does the same process hold it twice


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_what_a_killed_process_had_forked_does_not_hold_its_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    stop = context.Event()
    with locked(tmp_path):
        (tmp_path / "something").touch()
        child = context.Process(target=stop.wait, args=(30,))
        child.start()
    try:
        with locked(tmp_path):
            pass
    finally:
        stop.set()
        child.join()


def test_a_folder_to_which_nothing_was_written_is_left_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(ValueError), locked(tmp_path / "a" / "new"):
        raise ValueError
    assert not (tmp_path / "a" / "new").exists()
    (tmp_path / ".half.json.0123.writing").touch()
    assert is_empty(tmp_path / "a") and not is_empty(tmp_path)
    with locked(tmp_path):
        assert not list(tmp_path.glob("*.writing"))


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"nothing can be written to .*file"), locked(tmp_path / "file"):
        pass


def test_writers_of_one_file_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second writer begins while the first has half of its content on the disk."""
    path = tmp_path / "shared.json"
    through = files.write_through

    def interrupted(temporary: Path, content: bytes) -> dict[str, object]:
        monkeypatch.setattr(files, "write_through", through)
        through(temporary, content[: len(content) // 2])
        other = threading.Thread(target=replace_file, args=(path, "b" * 100))
        other.start()
        other.join()
        assert path.read_text() == "b" * 100
        return through(temporary, content)

    monkeypatch.setattr(files, "write_through", interrupted)
    replace_file(path, "a" * 100)
    assert path.read_text() == "a" * 100 and [each.name for each in tmp_path.iterdir()] == ["shared.json"]


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff{}", b"{", b"[1]", b"", b'{"a": 1}x', b"7"])
def test_what_is_no_json_object_is_refused_by_its_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"some\.json (is not JSON|holds a)"):
        read_json(path)
