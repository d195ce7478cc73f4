"""Solvers and processes of outside packages, found by their names."""

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from packages import install, install_example
from small_nets import small

from sdescore import VPSDE, Denoiser, find_solver, sample, trajectory
from sdescore.common import plugins
from sdescore.training.config import TrainConfig

HALVING = """
from sdescore import OneStep


class Halving(OneStep):
    def step(self, reverse, x, t, s, noise):
        return x / 2
"""


def install_solver(patch: pytest.MonkeyPatch, folder: Path, package: str, name: str) -> None:
    install(patch, folder, package, "sdescore.solvers", f"{name} = {package}:Halving", HALVING)


def test_a_plugin_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_solver(monkeypatch, tmp_path, "outside", "halving")
    states = list(trajectory(VPSDE(), lambda x, t: -x, (4, 2), solver="halving", steps=4))
    assert torch.equal(states[3], states[0] / 8)


def test_two_plugins_of_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package, name in (("first", "halving"), ("second", "halving"), ("third", "heun")):
        install_solver(monkeypatch, tmp_path, package, name)
    with pytest.raises(ValueError, match=r"'halving' is claimed more than once: by first:.*first, second:.*second"):
        find_solver("halving")
    with pytest.raises(
        ValueError, match=r"'heun' is claimed more than once: by sdescore\.solvers:HEUN of package sdescore"
    ):
        sample(VPSDE(), lambda x, t: -x, (4, 2), solver="heun")
    assert find_solver("euler") is not None


def test_entry_points_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Any] = []

    def counted(**group: str) -> Any:
        reads.append(group)
        return metadata.entry_points(**group)

    monkeypatch.setattr(plugins, "entry_points", counted)
    plugins.registered.cache_clear()
    for name in ("UNet", "MLP"):
        plugins.find_plugin("sdescore.nets", name, "net")
    assert reads == [{"group": "sdescore.nets"}]


@pytest.mark.parametrize(
    ("group", "name", "message"),
    [
        ("sdescore.nets", "unet", "it='unet' is not installed; expected UNet, [^`]*$"),
        ("sdescore.processes", "VP", r"it='VP' is not installed; expected VPSDE, [^`]*$"),
        ("sdescore.solvers", "huen", "it='huen' is not installed; expected heun, .* another name from `sdescore solv"),
        ("sdescore.nothing", "heun", "it='heun' is not installed; expected a package that registers names in sd"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(group: str, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plugins.find_plugin(group, name, "it")


@pytest.fixture
def ramp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The process of the package in tests/plugin."""
    install_example(monkeypatch, tmp_path / "site")
    from sdescore_example_process import RampSDE  # type: ignore[import-not-found]

    return RampSDE


def test_a_process_is_saved_and_loaded_by_its_name(ramp: Any, tmp_path: Path) -> None:
    sde = ramp(20.0)
    denoiser = small(sde)
    denoiser.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved/config.json").read_text())
    assert config["process"] == {"name": "ramp", "config": {"sigma_max": 20.0}}
    loaded = Denoiser.from_pretrained(tmp_path / "saved")
    assert loaded.sde == sde
    draws = [sample(sde, net, (3, 2), solver="example", steps=4) for net in (denoiser, loaded)]
    assert torch.equal(*draws)


def test_a_process_is_named_in_the_settings_of_training(ramp: Any) -> None:
    assert TrainConfig(sde="ramp", sde_args={"sigma_max": 9.0}).build_process() == ramp(9.0)
    with pytest.raises(ValueError, match="sde_args has beta; RampSDE takes sigma_max"):
        TrainConfig(sde="ramp", sde_args={"beta": 9.0}).build_process()
