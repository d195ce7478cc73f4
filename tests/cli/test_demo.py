"""`sdescore demo`: what it leaves, that it goes on after an interruption, and that it ends in time."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sdescore.cli.demo
from sdescore import Denoiser
from sdescore.cli import main
from sdescore.cli.demo import SOLVERS, DemoConfig, trained
from sdescore.cli.likelihood import measure
from sdescore.training.config import TrainConfig
from sdescore.training.loop import train

DEMO: Any = sdescore.cli.demo  # to replace names in


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A narrow net, and no pictures while it is trained."""
    whole = DemoConfig.training

    def training(self: DemoConfig) -> TrainConfig:
        config = whole(self)
        return replace(config, net_args={**config.net_args, "base_width": 4}, sample_every=0)

    monkeypatch.setattr(DemoConfig, "training", training)


def test_leaves_a_table_and_pictures_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {name: (kind, solver, 3) for name, (kind, solver, _) in SOLVERS.items()}
    monkeypatch.setattr(DEMO, "SOLVERS", few)
    monkeypatch.setattr(DEMO, "measure", lambda denoiser, x, **options: measure(denoiser, x[:3], **options))
    arguments = ["demo", "--out", str(tmp_path), "--steps", "4", "--count", "100"]
    resumed: list[bool] = []

    def stopping(settings: Any, resume: bool) -> Any:
        resumed.append(resume)
        if len(resumed) == 1:
            train(replace(settings, steps=2), resume=resume)
            raise KeyboardInterrupt
        return train(settings, resume=resume)

    monkeypatch.setattr(DEMO, "train", stopping)
    with pytest.raises(SystemExit, match="interrupted"):
        main(arguments)
    assert "Resuming" not in capsys.readouterr().out
    main(arguments)
    assert resumed == [False, True]
    said = capsys.readouterr().out
    assert "Resuming: training was at step 2 of 4" in said
    results = json.loads((tmp_path / "results.json").read_text())
    assert [row["solver"] for row in results["solvers"]] == list(few)
    assert [row["nfe"] for row in results["solvers"]] == [5, 3, 3, 5]
    assert results["real"][0]["recognised"] > 0.9 and results["bits_per_dim"]["mean"] > 0
    assert (tmp_path / "table.md").read_text() in said
    pictures = {path.name for path in tmp_path.glob("*.png")}
    drawn = {"real", "overview", "loss", "quality", "trajectory", *(f"samples-{name}" for name in few)}
    assert pictures == {f"{name}.png" for name in drawn}
    assert Denoiser.from_pretrained(tmp_path / "train/model").shape == (1, 8, 8)


def test_too_slow_a_machine_trains_less(tmp_path: Path) -> None:
    trained(DemoConfig(out=str(tmp_path), steps=10_000, training_minutes=0.01))
    lines = [json.loads(line)["step"] for line in (tmp_path / "train/log.jsonl").read_text().splitlines()]
    assert max(lines) < 1000 and Denoiser.from_pretrained(tmp_path / "train/model").shape == (1, 8, 8)
