"""Folders and pictures that a disk refuses: one line that names them, and what was there before is whole."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripting import NEEDS_SCRIPTS

from sdescore.evaluation.pictures import write_picture

EXPERIMENTS = ("animation", "cir", "low_density", "manifold", "objectives", "one_net", "weights")
# Where each is to write, and what else it must be told.
OTHERS: dict[str, tuple[str, list[str]]] = {
    "forecast": ("out", []),
    "evaluate": ("out", ["--samples", "digits:train"]),
    "measure": ("out/data.json", ["--data", "digits:train"]),
    "interpolate": ("out/rows.png", ["--model", "nowhere"]),
    "average": ("out/model", ["--run", "nowhere", "--width", "0.1"]),
}
PROGRAMS: dict[str, tuple[str, list[str]]] = {f"experiment_{each}": ("out", []) for each in EXPERIMENTS} | OTHERS


def full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@NEEDS_SCRIPTS
class TestScripts:
    @pytest.mark.parametrize("name", PROGRAMS)
    @pytest.mark.parametrize("what", ["a file", "read only"])
    def test_no_folder_to_write_to(
        self,
        script: Callable[[str], Any],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        name: str,
        what: str,
    ) -> None:
        """Said before the work, which takes minutes."""
        module, out = script(name), tmp_path / "out"
        written, arguments = PROGRAMS[name]
        if what == "a file":
            out.write_text("mine")
        else:

            def denied(dir: Path) -> None:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(dir / "tmp"))

            monkeypatch.setattr("shared.TemporaryFile", denied)
        monkeypatch.setattr("sys.argv", [f"{name}.py", "--out", str(tmp_path / written), *arguments])
        with pytest.raises(SystemExit) as caught:
            getattr(module, "start", lambda main: main())(module.main)
        message = str(caught.value.code)
        assert message.startswith(f"{name}.py: [Errno ") and str(out) in message and "\n" not in message
        if what == "a file":
            assert out.read_text() == "mine"
        else:
            assert "nothing can be written to" in message and "Permission denied" in message

    def test_figure(self, script: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shared, path = script("shared"), tmp_path / "figure.png"
        from matplotlib.figure import Figure

        shared.save_figure(path, Figure((1, 1)))
        before = path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match=r"figure\.png was not written: .*No space left.*what it was before"):
                shared.save_figure(path, Figure((1, 1)), dpi=200)
        assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


class TestPictures:
    def test_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "pictures" / "one.png"
        write_picture(path, np.zeros((4, 4), np.uint8))
        before = path.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match=r"one\.png was not written: .*No space left.*what it was before"):
                write_picture(path, np.ones((4, 4, 3), np.uint8))
        assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]

    def test_name_that_says_no_format(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"one\.foo is not the name of a picture; expected end in \.png"):
            write_picture(tmp_path / "one.foo", np.zeros((4, 4), np.uint8))
