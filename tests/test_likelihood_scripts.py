"""Scoring a set and showing interpolations from the command line."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sdescore import Denoiser, KarrasSDE, Scaling
from sdescore.nets import UNet

SCRIPTS = Path(__file__).parent.parent / "scripts"
pytestmark = pytest.mark.skipif(not SCRIPTS.exists(), reason="no scripts beside these tests")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A script as a module, by its name."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module


@pytest.fixture
def model(tmp_path: Path) -> str:
    """The exact denoiser of N(0, 0.75^2)."""
    net = UNet(1, 8, base_width=8, multipliers=(1,), blocks=1, attention=(), heads=1)
    denoiser = Denoiser(net, KarrasSDE(), "edm", 0.75, shape=(1, 8, 8), scaling=Scaling(0, 16, 17))
    denoiser.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_an_interrupted_run_goes_on_and_ends_the_same(
    script: Callable[[str], Any], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    likelihood, out, whole = script("likelihood"), tmp_path / "a.json", tmp_path / "b.json"
    given = ["--model", model, "--count", "7", "--bound", "2", "--batch_size", "3"]
    likelihood.main([*given, "--out", str(whole)])
    measure, calls = likelihood.measure, []

    def breaks(*arguments: Any, **options: Any) -> Any:
        calls.append(options["first"])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(*arguments, **options)

    monkeypatch.setattr(likelihood, "measure", breaks)
    with pytest.raises(SystemExit, match="interrupted"):
        likelihood.main([*given, "--out", str(out)])
    assert not out.exists()
    with pytest.raises(SystemExit, match="seed"):
        likelihood.main([*given, "--out", str(out), "--seed", "1"])
    likelihood.main([*given, "--out", str(out)])
    assert calls == [0, 3, 6, 6]
    results = [json.loads(path.read_text()) for path in (out, whole)]
    assert results[0]["samples"] == results[1]["samples"] and len(results[0]["samples"]["nats"]) == 7
    assert not Path(f"{out}.parts").exists()
    # The net is exact for its Gaussian: bound and ODE agree within the bound's noise.
    gap = results[0]["gap_bits_per_dim"]
    assert abs(gap["mean"]) < 4 * gap["stderr"] + 0.01


@pytest.mark.slow
def test_two_processes_score_what_one_does(model: str, tmp_path: Path) -> None:
    command = [str(SCRIPTS / "likelihood.py"), "--model", model, "--count", "7", "--batch_size", "2", "--out"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for name, start in (("one", [sys.executable]), ("two", launcher)):
        subprocess.run([*start, *command, str(tmp_path / name)], check=True, capture_output=True)
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("one", "two"))
    assert one["samples"] == two["samples"] and len(one["samples"]["nats"]) == 7


def test_interpolations_begin_and_end_with_the_data(
    script: Callable[[str], Any], model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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
