"""Pictures that a disk refuses: one line that names the file, and what was there before is whole."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from sdescore.evaluation.figures import save_figure
from sdescore.evaluation.pictures import write_picture


def full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def figure(path: Path, other: bool) -> None:
    save_figure(path, Figure((1, 1)), dpi=200 if other else 100)


def picture(path: Path, other: bool) -> None:
    write_picture(path, np.ones((4, 4, 3), np.uint8) if other else np.zeros((4, 4), np.uint8))


@pytest.mark.parametrize("write", [figure, picture])
def test_full_disk(write: Callable[[Path, bool], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pictures" / "one.png"
    write(path, False)
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"one\.png was not written: .*No space left.*what it was before"):
            write(path, True)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_name_that_says_no_format(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"one\.foo is not the name of a picture; expected names that end in \.png"):
        write_picture(tmp_path / "one.foo", np.zeros((4, 4), np.uint8))
