"""The ways between images, from the command line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from saved_models import saved
from scripting import NEEDS_SCRIPTS

pytestmark = NEEDS_SCRIPTS


def test_interpolations_begin_and_end_with_the_data(
    script: Callable[[str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = saved(tmp_path / "model", active=False)
    raw = np.random.default_rng(0).integers(0, 17, (4, 1, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "data.npz", x=raw)
    given = ["--model", model, "--data", str(tmp_path / "data.npz"), "--pairs", "2", "--steps", "3"]
    script("interpolate").main([*given, "--out", str(tmp_path / "way.png")])
    picture = torch.from_numpy(np.array(Image.open(tmp_path / "way.png")))
    zoom = 6
    for row, column, image in ((0, 0, 0), (0, 2, 1), (1, 0, 2), (1, 2, 3)):
        top, left = (2 + index * (8 * zoom + 2) for index in (row, column))
        shown = picture[top : top + 8 * zoom : zoom, left : left + 8 * zoom : zoom].double()
        difference = (shown - torch.from_numpy(raw[image, 0]).double() * 255 / 16).abs()
        # Noise that ends at the edge of a level may be rounded to the next.
        assert float(difference.max()) <= 17 and float(difference.median()) <= 1
    assert "back within" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="need 6 images; data has 4"):
        script("interpolate").main([*given, "--pairs", "3", "--out", str(tmp_path / "more.png")])
