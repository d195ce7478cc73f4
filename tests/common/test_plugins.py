"""Solvers of outside packages, found by their names."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from sdescore import VPSDE, find_solver, sample, trajectory


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs, as far as Python's metadata goes, a package that registers a solver."""

    def install(package: str, name: str) -> None:
        folder = tmp_path / package
        (folder / f"{package}-1.0.dist-info").mkdir(parents=True)
        (folder / f"{package}-1.0.dist-info" / "METADATA").write_text(f"Name: {package}\nVersion: 1.0\n")
        entry = f"[sdescore.solvers]\n{name} = {package}_module:Halving\n"
        (folder / f"{package}-1.0.dist-info" / "entry_points.txt").write_text(entry)
        (folder / f"{package}_module.py").write_text(
            "from sdescore import OneStep\n\n\n"
            "class Halving(OneStep):\n"
            "    def step(self, reverse, x, t, s, noise):\n"
            "        return x / 2\n"
        )
        monkeypatch.syspath_prepend(folder)

    return install


def test_a_plugin_is_found_by_its_name(plugins: Callable[..., None]) -> None:
    plugins("outside", "halving")
    states = list(trajectory(VPSDE(), lambda x, t: -x, (4, 2), solver="halving", steps=4))
    assert torch.equal(states[3], states[0] / 8)


def test_two_plugins_of_one_name(plugins: Callable[..., None]) -> None:
    plugins("first", "halving")
    plugins("second", "halving")
    plugins("third", "heun")
    with pytest.raises(ValueError, match=r"'halving' is claimed more than once: by first_mod.*first, second_.*second"):
        find_solver("halving")
    with pytest.raises(
        ValueError, match=r"'heun' is claimed more than once: by sdescore\.solvers:HEUN of package sdescore"
    ):
        sample(VPSDE(), lambda x, t: -x, (4, 2), solver="heun")
    assert find_solver("euler") is not None
