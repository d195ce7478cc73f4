"""Scoring a set from the command line: interruptions, processes, failures."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from saved_models import STD, saved
from scripting import Refusal
from torch import Tensor, nn

import sdescore.cli.likelihood
from sdescore import Denoiser, KarrasSDE, Scaling
from sdescore.cli import main
from sdescore.cli.likelihood import measure
from sdescore.data.load import digits


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The exact denoiser of N(0, 0.75^2)."""
    return saved(tmp_path_factory.mktemp("models") / "model", active=False)


def seven(model: str, out: Path, *arguments: str) -> dict[str, Any]:
    """What is found for seven samples, with the bound."""
    settings = ["--model", model, "--count", "7", "--bound", "2", "--batch_size", "3", "--out", str(out)]
    main(["likelihood", *settings, *arguments])
    found: dict[str, Any] = json.loads(out.read_text())
    return found


@pytest.fixture(scope="module")
def whole(model: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same in one go."""
    return seven(model, tmp_path_factory.mktemp("whole") / "whole.json")


def test_an_interrupted_run_goes_on_and_ends_the_same(
    model: str, whole: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, firsts = tmp_path / "a.json", []

    def breaks(*arguments: Any, **options: Any) -> Any:
        firsts.append(options["first"])
        if len(firsts) == 3:
            raise KeyboardInterrupt
        return measure(*arguments, **options)

    monkeypatch.setattr(sdescore.cli.likelihood, "measure", breaks)
    with pytest.raises(SystemExit, match="interrupted"):
        seven(model, out)
    assert not out.exists()
    with pytest.raises(SystemExit, match="seed"):
        seven(model, out, "--seed", "1")
    found = seven(model, out)
    assert firsts == [0, 3, 6, 6]
    assert found["samples"] == whole["samples"] and len(found["samples"]["nats"]) == 7
    assert not Path(f"{out}.parts").exists()
    # The net is exact for its Gaussian: bound and ODE agree within the bound's noise.
    gap = found["gap_bits_per_dim"]
    assert abs(gap["mean"]) < 4 * gap["stderr"] + 0.01


def test_the_bound_goes_on_where_the_ode_ends(model: str, whole: dict[str, Any], tmp_path: Path) -> None:
    for count in (4, 0):
        found = seven(model, tmp_path / f"{count}.json", "--ode", str(count))["samples"]
        assert found["bound_nats"] == pytest.approx(whole["samples"]["bound_nats"], rel=1e-5)
        assert found.get("nats", []) == pytest.approx(whole["samples"]["nats"][:count], rel=1e-5)
    with pytest.raises(SystemExit):
        main(["likelihood", "--model", model, "--ode", "4"])


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]


@pytest.mark.slow
def test_processes_share_a_set_and_go_on_after_a_kill(model: str, tmp_path: Path) -> None:
    """One process, two, and one or two that go on where two were killed, all write the same numbers."""
    command = ["-m", "sdescore.cli", "likelihood", "--model", model, "--count", "9", "--batch_size", "1"]
    command += ["--bound", "2", "--probes", "2", "--rtol", "1e-5", "--out"]
    for name, start in (("one", [sys.executable]), ("two", TORCHRUN)):
        subprocess.run([*start, *command, str(tmp_path / name)], check=True, capture_output=True)
    for name, again in (("again two", TORCHRUN), ("again accelerate", ACCELERATE)):
        broken = subprocess.Popen([*TORCHRUN, *command, str(tmp_path / name)])
        parts, deadline = tmp_path / f"{name}.parts", time.monotonic() + 120
        while len(list(parts.glob("[0-9]*.json"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        workers = subprocess.run(["pgrep", "-P", str(broken.pid)], check=True, capture_output=True, text=True).stdout
        for process in [int(number) for number in workers.split()]:
            os.kill(process, signal.SIGKILL)
        assert broken.wait() != 0
        done = {path: path.stat().st_mtime_ns for path in parts.glob("[0-9]*.json")}
        assert 2 <= len(done) < 9 and not (tmp_path / name).exists()
        finished = subprocess.run([*again, *command, str(tmp_path / name)], check=True, capture_output=True, text=True)
        assert f"{len(done)} of 9 batches are there already" in finished.stdout
    expected = json.loads((tmp_path / "one").read_text())["samples"]
    assert len(expected["nats"]) == 9
    for name in ("two", "again two", "again accelerate"):
        found = json.loads((tmp_path / name).read_text())["samples"]
        for key, values in expected.items():
            assert found[key] == pytest.approx(values, rel=1e-9, abs=1e-9)


class FailsForDigit(nn.Module):
    """The noise of N(0, 1), but NaN for one digit once sigma is above the data's deviation, or for none at -1."""

    def __init__(self, digit: int) -> None:
        super().__init__()
        self.digit, self.scale = digit, nn.Parameter(torch.ones(()))

    def forward(self, y: Tensor, c_noise: Tensor, label: Tensor) -> Tensor:
        rho = torch.exp(4 * c_noise).reshape(-1, 1, 1, 1)
        noise = self.scale * rho / (1 + rho**2).sqrt() * y
        return noise.masked_fill(((label == self.digit) & (c_noise > 0)).reshape(-1, 1, 1, 1), math.nan)


def test_a_net_that_fails_for_some_keeps_the_others_and_says_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = digits("test")
    assert source.labels is not None
    labels = source.labels[:7].tolist()
    failing = [i for i, label in enumerate(labels) if label == labels[2]]
    results = []
    for digit in (-1, labels[2]):
        denoiser = Denoiser(
            FailsForDigit(digit), KarrasSDE(), data_std=1.0, shape=(1, 8, 8), scaling=Scaling(0, 16, 17)
        )
        monkeypatch.setattr(sdescore.cli.likelihood, "load_model", lambda *_, denoiser=denoiser: (denoiser, (1, 8, 8)))
        given = ["--model", "none", "--count", "7", "--conditional", "true", "--bound", "2", "--batch_size", "1"]
        main(["likelihood", *given, "--out", str(tmp_path / f"{digit}.json")])
        results.append(json.loads((tmp_path / f"{digit}.json").read_text()))
    good, found = results
    assert good["failed"] == good["warnings"] == []
    assert found["failed"] == failing
    for row in range(7):
        for name in ("nats", "bound_nats"):
            expected = None if row in failing else pytest.approx(good["samples"][name][row], rel=1e-12)
            assert found["samples"][name][row] == expected
    for row in failing:
        about = [message for message in found["warnings"] if f"sample {row} is NaN" in message]
        assert any("flow is not finite at t = " in message for message in about)
        assert any("bound" in message and "net is not finite at t = " in message for message in about)
    shown = capsys.readouterr().out
    assert f"left out of the means: samples {failing}" in shown and "is not finite at t = " in shown
    kept = [found["samples"]["nats"][i] for i in range(7) if i not in failing]
    assert found["nats"]["mean"] == pytest.approx(sum(kept) / len(kept))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rtol", "1e-20"], "rtol=1e-20.*expected a finite number of at least"),
        (["--probes", "0"], "probes=0"),
        (["--data", "OUTSIDE"], r"x: sample 1 spans \[40, 40\]; expected values in the given range \[0, 16\]"),
    ],
)
def test_what_cannot_be_computed_is_one_line(
    model: str, tmp_path: Path, arguments: list[str], message: str, refusal: Refusal
) -> None:
    np.savez(tmp_path / "data.npz", x=np.array([3.0, 40.0])[:, None, None, None] * np.ones((1, 1, 8, 8)))
    arguments = [str(tmp_path / "data.npz") if each == "OUTSIDE" else each for each in arguments]
    assert re.search(message, refusal("likelihood", "--model", model, "--count", "2", *arguments))


def test_a_gaussian_has_its_closed_form(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    main(["likelihood", "--model", model, "--count", "100", "--out", str(out)])
    result, source = json.loads(out.read_text()), digits("test")
    x, width = source.scaling.to_model(source.raw[:100]).double().flatten(1), 2 / 16
    # The mean over the noise, uniform over a level's width, of log(width * density).
    energy = (x.square() + width**2 / 12) / STD**2 + math.log(2 * math.pi * STD**2)
    bits = (energy.mean(1) / 2 - math.log(width)) / math.log(2)
    spread = width / 12**0.5 * x.norm(dim=1) / STD**2 / 64 / math.log(2)  # of one draw of the noise
    assert (torch.tensor(result["samples"]["bits_per_dim"]) - bits).abs().max() < 5 * spread.max()
    assert result["bits_per_dim"]["mean"] == pytest.approx(float(bits.mean()), abs=4 * float(spread.mean()) / 10)
    assert result["bits_per_dim"]["stderr"] == pytest.approx(float(bits.std()) / 10, rel=0.3)
    assert result["nats"]["mean"] == pytest.approx(-result["bits_per_dim"]["mean"] * 64 * math.log(2), rel=1e-6)
    assert f"{result['bits_per_dim']['mean']:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "digits:both"], "data='digits:both'; expected"),
        (["--data", "colour.npz"], "(3, 4, 4); the model's are (1, 8, 8)"),
        (["--data", "range.npz"], "spans [17, 17]"),
        (["--data", "missing.npz"], "there is no file 'missing.npz'"),
        (["--count", "0"], "count=0; expected"),
        (["--trace", "guess"], "trace='guess'; expected"),
        (["--out", "colour.npz"], "out='colour.npz' exists"),
        (["--data", "plain.npz", "--conditional", "true"], "has no labels"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("colour.npz", x=np.zeros((4, 3, 4, 4), np.uint8))
    np.savez("range.npz", x=np.full((4, 1, 8, 8), 17, np.uint8))
    np.savez("plain.npz", x=np.zeros((4, 1, 8, 8), np.uint8))
    assert message in refusal("likelihood", "--model", model, *arguments)
