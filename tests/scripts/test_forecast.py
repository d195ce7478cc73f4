"""The forecast script's measures against closed forms, its windows, and what it refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from scripting import NEEDS_SCRIPTS

pytestmark = NEEDS_SCRIPTS


@pytest.fixture
def forecast(script: Callable[[str], Any]) -> Any:
    return script("experiments.forecast")


def test_crps_of_a_normal_is_that_of_its_samples(forecast: Any) -> None:
    draw = torch.Generator().manual_seed(0)
    mean, y = torch.tensor([[0.3, -1.0]]), torch.tensor([[0.9, 0.4]])
    samples = mean + 0.7 * torch.randn(200_000, 1, 2, generator=draw)
    exact = forecast.crps_normal(mean, torch.tensor([0.7]), y)
    assert forecast.crps_samples(samples, y) == pytest.approx(exact, abs=5e-3)


def test_crps_of_few_samples_is_unbiased(forecast: Any) -> None:
    """Of two samples: E|x - y| - E|x - x'| / 2, written out."""
    x, y = torch.tensor([[[1.0]], [[4.0]]]), torch.tensor([[2.0]])
    assert forecast.crps_samples(x, y) == pytest.approx((1 + 2) / 2 - 3 / 2)


def test_futures_of_the_splits_do_not_overlap(forecast: Any) -> None:
    series = torch.arange(1000, dtype=torch.float64)
    _, train = forecast.windows(series, 0, 600, 1)
    past, test = forecast.windows(series, 600, 1000, 8)
    assert train.max() == 599 and test.min() == 600
    assert torch.equal(past[:, -1] + 1, test[:, 0])


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--csv", "short.csv"], "go together"),
        (["--seeds", "0"], "--seeds=0"),
        (["--csv", "short.csv", "--column", "b"], "short.csv has a"),
        (["--csv", "short.csv", "--column", "a"], "could not convert"),
        (["--csv", "none.csv", "--column", "a"], "none.csv"),
        (["--csv", "packed.csv", "--column", "a"], "packed.csv, column 'a': 'utf-8' codec"),
        (["--csv", "gap.csv", "--column", "b"], "all finite"),
    ],
)
def test_bad_input_ends_in_one_line(
    arguments: list[str],
    word: str,
    forecast: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short.csv").write_text("a\n1\nx\n", encoding="utf-8")
    Path("packed.csv").write_bytes(b"\x1f\x8b\x08")
    Path("gap.csv").write_text("a,b\n" + "1,2\n" * 3000 + "1\n", encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["forecast.py", *arguments])
    with pytest.raises(SystemExit) as caught:
        forecast.start(forecast.main)
    said = capsys.readouterr().err
    assert caught.value.code == 2 and word in said.splitlines()[-1] and "Traceback" not in said
