"""Two commands in one folder: the second is refused, and no total is reported that is not what was asked for."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from saved_models import saved
from scripting import Refusal

import sdescore.cli.likelihood
import sdescore.cli.sample
from sdescore.cli import main
from sdescore.common.files import locked
from sdescore.training.config import TrainConfig
from sdescore.training.loop import train


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(tmp_path_factory.mktemp("models") / "model", active=False)


def commands(model: str, out: Path) -> dict[str, list[str]]:
    """Each command that writes a folder, and where."""
    return {
        "sample": ["--model", model, "--out", str(out), "--count", "3", "--steps", "2"],
        "likelihood": ["--model", model, "--out", str(out), "--count", "3", "--bound", "2", "--ode", "0"],
        "evaluate": ["--samples", "digits:test", "--metrics", "[frechet]", "--out", str(out)],
        "average": ["--run", "nowhere", "--width", "0.1", "--out", str(out)],
        "demo": ["--out", str(out)],
        "train": ["--out", str(out), "--steps", "1", "--tracker", "none"],
    }


@pytest.mark.parametrize("command", list(commands("", Path())))
def test_a_folder_in_use_is_refused(command: str, model: str, tmp_path: Path, refusal: Refusal) -> None:
    out = tmp_path / "out"
    with locked(tmp_path / ("out.parts" if command == "likelihood" else "out")):
        assert re.search(r"out(\.parts)? is in use: another process", refusal(command, *commands(model, out)[command]))


def test_a_run_is_not_trained_twice_at_once(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    run = replace(config, steps=2, net_args={"base_width": 8, "multipliers": [1], "blocks": 1})
    with locked(Path(run.out)), pytest.raises(BlockingIOError, match="run is in use"):
        train(run)
    with pytest.raises(FileNotFoundError):
        train(run, resume=True)
    assert not Path(run.out).exists()  # refused, without a trace


@contextmanager
def started(arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A command in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "sdescore.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        yield process
    finally:
        process.kill()


@pytest.mark.slow
def test_of_two_commands_started_together_one_makes_everything(model: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["sample", *commands(model, out)["sample"], "--count", "400", "--batch_size", "20"]
    with started(arguments) as one, started(arguments) as other:
        ends = [(*each.communicate(timeout=120), each.returncode) for each in (one, other)]
    winners = [said for said, _, code in ends if code == 0]
    assert winners and all("400 samples" in said for said in winners)
    assert all("is in use" in said for _, said, code in ends if code)
    with np.load(out / "samples.npz") as file:
        assert len(file["x"]) == 400
        assert len(np.unique(file["x"].reshape(400, -1), axis=0)) > 350


def losing(function: Callable[..., Any], lost: Callable[[], Path]) -> Callable[..., Any]:
    """The same, after which a file has gone."""

    def inner(*arguments: Any, **options: Any) -> Any:
        found = function(*arguments, **options)
        lost().unlink(missing_ok=True)
        return found

    return inner


def test_samples_that_have_gone_are_not_reported_as_there(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    out = tmp_path / "out"
    arguments = [*commands(model, out)["sample"], "--batch_size", "1"]
    with monkeypatch.context() as patch:
        gone = losing(sdescore.sample, lambda: out / "parts" / "000000000.npz")
        patch.setattr(sdescore.cli.sample, "sample", gone)
        assert "has the batches [1, 2]; expected [0, 1, 2]" in refusal("sample", *arguments)
    assert not (out / "samples.npz").exists()
    main(["sample", *arguments])  # makes what is missing
    with np.load(out / "samples.npz") as file:
        assert len(file["x"]) == 3


def test_likelihoods_that_have_gone_are_not_averaged_over(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    out = tmp_path / "out"
    arguments = [*commands(model, out)["likelihood"], "--batch_size", "1"]
    with monkeypatch.context() as patch:
        gone = losing(sdescore.cli.likelihood.measure, lambda: tmp_path / "out.parts" / "000000000.json")
        patch.setattr(sdescore.cli.likelihood, "measure", gone)
        assert "2 samples in the batches [1, 2]; expected 3 in [0, 1, 2]" in refusal("likelihood", *arguments)
    assert not out.exists()
    main(["likelihood", *arguments])
    assert out.exists() and not (tmp_path / "out.parts").exists()


def test_likelihoods_of_other_data_of_the_same_name_are_not_joined(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    data, out = tmp_path / "data.npz", tmp_path / "out"
    x = np.arange(3 * 64, dtype=np.uint8).reshape(3, 1, 8, 8) % 17
    scaled = (x / 8 - 1).astype(np.float32)
    np.savez(data, x=scaled)
    arguments = [*commands(model, out)["likelihood"], "--data", str(data), "--batch_size", "1"]
    monkeypatch.setattr("sdescore.cli.likelihood.load_model", lambda name, trust_code: unscaled(name))
    with monkeypatch.context() as patch:
        patch.setattr(sdescore.cli.likelihood, "report", interrupt)
        assert "interrupted" in refusal("likelihood", *arguments)
    scaled[2, 0, 0, 0] += 0.125
    np.savez(data, x=scaled)
    assert "other settings (saved, given): values" in refusal("likelihood", *arguments)


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def unscaled(name: str) -> tuple[Any, tuple[int, ...]]:
    """The model, of data that has no levels."""
    denoiser = sdescore.Denoiser.from_pretrained(name)
    denoiser.scaling = None
    return denoiser, (1, 8, 8)
