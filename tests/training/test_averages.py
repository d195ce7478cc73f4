"""Averages of the weights: their recursions, their snapshots, and the averages made from snapshots afterwards."""

import errno
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sdescore import Denoiser, KarrasSDE
from sdescore.cli import main
from sdescore.data.source import Arrays
from sdescore.nets import MLP
from sdescore.training.averages import Average, Averages, HalfLife, PowerFunction
from sdescore.training.config import TrainConfig
from sdescore.training.loop import train
from sdescore.training.posthoc_averages import fit, profile, reconstruct, snapshots, write_snapshots

RULES = [HalfLife(300), HalfLife(50, 0.0), HalfLife(1e9, 0.1), PowerFunction(0.05), PowerFunction(0.2)]


class Holder(nn.Module):
    """A net that is nothing but a vector of weights, with a buffer."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(values)
        self.register_buffer("count", torch.tensor(0))


def tracked(rules: Sequence[Average], path: Tensor, batch: int, folder: Path | None = None, every: int = 1) -> Averages:
    """The averages of weights that take the rows of a path, one per step, with snapshots every so many steps."""
    net = Holder(torch.zeros_like(path[0]))
    denoiser = Denoiser(net, KarrasSDE())
    averages = Averages(denoiser, rules, batch)
    for step, row in enumerate(path, 1):
        with torch.no_grad():
            net.weight.copy_(row)
            net.get_buffer("count").fill_(step)
        averages.update(denoiser, step)
        if folder is not None and step % every == 0:
            write_snapshots(folder, averages, step)
    return averages


def weights(model: Denoiser) -> Tensor:
    return next(model.parameters()).detach()


def walk(steps: int, size: int = 20) -> Tensor:
    """A random walk that drifts, in float64, far from 0."""
    draw = torch.Generator().manual_seed(0)
    return 3 + (torch.randn(steps, size, generator=draw, dtype=torch.float64) * 0.1 + 0.01).cumsum(0)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_profile_is_what_the_recursion_makes(rule: Average) -> None:
    """Weights that are e_k at step k: their average is the profile."""
    found = weights(tracked([rule], torch.eye(40, dtype=torch.float64), 10).models[0])
    wanted = profile(rule, 40, 10)
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-12, atol=1e-15)
    assert wanted.sum() == pytest.approx(1, abs=1e-12)


def test_half_of_a_jump_is_forgotten_after_a_half_life() -> None:
    jump = torch.zeros(41, 1, dtype=torch.float64)
    jump[21:] = 1
    for images in (200.0, 50.0):
        steps = int(images / 10)
        found = weights(tracked([HalfLife(images, 0.0)], jump[: 21 + steps], 10).models[0])
        assert float(found) == pytest.approx(0.5, abs=1e-12)


def test_half_lives_warm_up() -> None:
    """A tenth of the images seen is the half-life as long as it is the smaller of the two."""
    steps = np.array([1, 2, 11, 101, 1001, 5001])
    life = -10 / np.log2(HalfLife(3000, 0.1).decay(steps, 10)[1:])
    assert life == pytest.approx([1, 10, 100, 1000, 3000])
    assert HalfLife(3000, 0.1).decay(steps, 10)[0] == 0


@pytest.mark.parametrize("width", [0.03, 0.05, 0.1, 0.25])
def test_widths_are_standard_deviations(width: float) -> None:
    steps = np.arange(1, 20_001)
    weight = profile(PowerFunction(width), len(steps), 1)
    mean = (weight * steps).sum()
    assert np.sqrt((weight * (steps - mean) ** 2).sum()) / len(steps) == pytest.approx(width, rel=1e-3)


def test_powers_of_time_have_a_closed_form() -> None:
    """The average of k^p over n steps is n^p (gamma + 1) / (gamma + 1 + p), up to 1/n."""
    time = torch.arange(1, 2001, dtype=torch.float64)
    path = torch.stack([time / 2000, (time / 2000) ** 2], 1)
    for width, gamma in ((0.05, 16.97), (0.1, 6.94)):  # the paper's own pairs
        found = weights(tracked([PowerFunction(width)], path, 1).models[0])
        wanted = [(gamma + 1) / (gamma + 1 + p) for p in (1, 2)]
        assert found.tolist() == pytest.approx(wanted, rel=2e-3)


class TestReconstruction:
    def test_stored_ones_come_back(self, tmp_path: Path) -> None:
        rules: list[Average] = [HalfLife(40), PowerFunction(0.05), PowerFunction(0.1)]
        averages = tracked(rules, walk(60), 10, tmp_path, every=20)
        stored = snapshots(tmp_path)
        assert len(stored) == 9 and {each.step for each in stored} == {20, 40, 60}
        for rule, model in zip(rules, averages.models, strict=True):
            state, error = reconstruct(stored, rule)
            assert error == 0 and state["net.weight"].equal(weights(model)) and int(state["net.count"]) == 60
            earlier, _ = reconstruct(stored, rule, step=40)
            assert earlier["net.weight"].equal(weights(tracked([rule], walk(60)[:40], 10).models[0]))
            # The equations alone find them too.
            coefficients, error = fit([(each.average, each.step) for each in stored], (rule, 60), 10)
            assert error < 1e-9
            assert np.sort(coefficients)[-1] == pytest.approx(1, abs=1e-6)

    @pytest.mark.parametrize("target", [PowerFunction(0.07), PowerFunction(0.15), HalfLife(700)], ids=lambda r: r.name)
    def test_any_other_is_near_the_tracked_one(self, tmp_path: Path, target: Average) -> None:
        path, rules = walk(400), [PowerFunction(0.05), PowerFunction(0.1)]
        kept = tracked([*rules, target], path, 10)
        tracked(rules, path, 10, tmp_path, every=20)
        state, error = reconstruct(snapshots(tmp_path), target)
        wanted = weights(kept.models[2])
        gap = (state["net.weight"] - wanted).norm()
        assert 0 < error < 0.06
        # A profile that is off by e, of sum 0, is off by no more than |e| times the path's norm about any point.
        norm = np.linalg.norm(profile(target, 400, 10))
        assert gap <= 1.01 * error * norm * (path - wanted).norm()
        assert gap < 0.1 * min((weights(model) - wanted).norm() for model in kept.models[:2])
        assert int(state["net.count"]) == 400

    def test_more_snapshots_come_nearer(self, tmp_path: Path) -> None:
        errors = []
        for count in (4, 16, 64):
            stored = [(PowerFunction(w), 640 * k // count) for w in (0.05, 0.1) for k in range(1, count + 1)]
            errors.append(fit(stored, (PowerFunction(0.13), 640), 1)[1])
        assert errors[0] > 3 * errors[1] > 9 * errors[2]

    def test_chunks_of_steps_change_nothing(self) -> None:
        """9,000 steps are three chunks; numpy solves the whole system at once."""
        stored: list[tuple[Average, int]] = [(PowerFunction(w), s) for w in (0.05, 0.1) for s in (3000, 6000, 9000)]
        coefficients, error = fit(stored, (PowerFunction(0.12), 9000), 1)
        matrix = np.zeros((9000, 6))
        for column, (rule, step) in enumerate(stored):
            matrix[:step, column] = profile(rule, step, 1)
        target = profile(PowerFunction(0.12), 9000, 1)
        # With its sum held at 1 by a row that counts for much.
        wanted = np.linalg.lstsq(np.vstack([matrix, np.full(6, 1e3)]), np.append(target, 1e3), rcond=None)[0]
        assert coefficients == pytest.approx(wanted, abs=1e-4)
        assert error == pytest.approx(np.linalg.norm(matrix @ wanted - target) / np.linalg.norm(target), rel=1e-4)

    def test_refusals(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="there are no snapshots"):
            snapshots(tmp_path)
        tracked([PowerFunction(0.1)], walk(40), 10, tmp_path, every=20)
        for step in (10, 50):
            with pytest.raises(ValueError, match=rf"step={step}; expected a step from 20 to 40"):
                reconstruct(snapshots(tmp_path), PowerFunction(0.2), step)
        torn = tmp_path / "step-000040.width-0.1.safetensors"
        torn.write_bytes(torn.read_bytes()[:-3])
        with pytest.raises(ValueError, match=r"step-000040.* is not a snapshot"):
            snapshots(tmp_path)

    def test_a_full_disk_leaves_the_snapshots_before(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        averages = tracked([PowerFunction(0.1)], walk(40), 10, tmp_path, every=40)

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match=r"step-000041.* was not written: .*No space left.*nothing is left"):
                write_snapshots(tmp_path, averages, 41)
        assert [each.step for each in snapshots(tmp_path)] == [40] and len(list(tmp_path.iterdir())) == 1


def test_command_makes_models_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = TrainConfig(
        net="MLP",
        net_args={"width": 8},
        steps=60,
        batch_size=10,
        lr=1e-2,
        warmup=0,
        decay="none",  # which goes on where it was with more steps
        ema_warmup=0.3,
        ema_widths=(0.05, 0.1),
        snapshot_every=5,
        save_every=60,
        sample_every=0,
        tracker="none",
        progress=False,
        out=str(tmp_path / "run"),
    )
    source = Arrays(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)))
    train(replace(config, steps=30), source=source)
    train(config, resume=True, source=source)
    wanted = train(replace(config, out=str(tmp_path / "other"), ema_halflives=(120,)), source=source)
    first = Denoiser.from_pretrained(tmp_path / "run/model")
    for flag, value in (("--width", "0.07"), ("--halflife", "120"), ("--halflife", "100000")):
        main(["average", "--run", config.out, flag, value, "--out", str(tmp_path / value)])
    assert "from 36 snapshots; its profile is met to 0.00%" in capsys.readouterr().out
    made = [Denoiser.from_pretrained(tmp_path / value) for value in ("0.07", "120", "100000")]
    assert all(a.equal(b) for a, b in zip(made[2].parameters(), first.parameters(), strict=True))

    def distance(one: Denoiser, two: Denoiser) -> float:
        gaps = [(a - b).detach().flatten() for a, b in zip(one.parameters(), two.parameters(), strict=True)]
        return float(torch.cat(gaps).norm())

    assert distance(made[1], wanted) < 0.05 * distance(first, wanted)
    assert json.loads((tmp_path / "0.07/config.json").read_text())["net"]["name"] == "MLP"
    assert isinstance(made[0].net, MLP)
    for arguments, message in (
        (["--width", "0.01", "--out", str(tmp_path / "narrow")], "miss the profile of width-0.01"),
        (["--width", "0.1", "--halflife", "3", "--out", "x"], "expected one of them"),
        (["--width", "0.1", "--out", str(tmp_path / "120")], "exists; expected a new folder"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["average", "--run", config.out, *arguments])
        said = caught.value.code if isinstance(caught.value.code, str) else capsys.readouterr().err
        assert message in said
