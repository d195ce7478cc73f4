"""The built wheel, away from the source: what it installs, and an outside package's solver found by name."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import distribution
from pathlib import Path
from zipfile import ZipFile

import pytest
from packages import install

from sdescore import find_solver
from sdescore.common.plugins import find_plugin

HERE = Path(__file__).parents[1]
ROOT = HERE.parent
WHEEL = os.environ.get("SDESCORE_WHEEL")  # a wheel that is built already, where the sources are not at hand

PAGE = ROOT / "solvers" / "PLUGINS.md"

USE = """
import sys
import torch
import sdescore
from sdescore import GaussianMixture, VPSDE, sample

assert sdescore.__file__.startswith(sys.argv[1]), sdescore.__file__
sde = VPSDE()
oracle = GaussianMixture([[-1.0, 0.0], [1.0, 0.5]], 0.3, dtype=torch.float64).denoiser(sde)
outside, builtin = (sample(sde, oracle, shape=(4, 2), solver=name, steps=4) for name in ("example", "euler"))
torch.testing.assert_close(outside, builtin, rtol=1e-10, atol=1e-10)
print(outside.shape)
"""


def run(*command: str | Path, cwd: Path) -> str:
    """What a command prints; its errors if it fails. Python's own variables would let the source tree in."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(source: Path, into: Path) -> Path:
    """The wheel of a source folder, built with the setuptools at hand, without a registry."""
    pip = (sys.executable, "-m", "pip", "wheel", "--no-index", "--no-deps", "--no-build-isolation")
    run(*pip, "--wheel-dir", into, source, cwd=into)
    (wheel,) = into.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if WHEEL is not None:
        return Path(WHEEL)
    copy = tmp_path_factory.mktemp("source")  # setuptools leaves a build folder behind
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("sdescore", "solvers", "nets"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return build(copy, tmp_path_factory.mktemp("wheel"))


def test_wheel_holds_nothing_outside_the_namespace(wheel: Path) -> None:
    names = [name for name in ZipFile(wheel).namelist() if not name.endswith("/")]
    assert {name.split("/")[0].split("-")[0] for name in names} == {"sdescore"}
    assert [name for name in names if not name.endswith(".py") and ".dist-info/" not in name] == ["sdescore/py.typed"]


@pytest.mark.skipif(WHEEL is not None, reason="the sources are not at hand")
def test_wheel_holds_every_module(wheel: Path) -> None:
    held = set(ZipFile(wheel).namelist())
    modules = {f"sdescore/{path.relative_to(ROOT / 'sdescore').as_posix()}" for path in ROOT.glob("sdescore/**/*.py")}
    for folder in ("solvers", "nets"):
        modules |= {f"sdescore/{path.relative_to(ROOT).as_posix()}" for path in ROOT.glob(f"{folder}/**/*.py")}
    assert modules == {name for name in held if name.endswith(".py")}


@pytest.mark.slow  # `make wheel-test` runs it
def test_outside_solver_works_by_name_beside_folders_of_the_same_name(wheel: Path, tmp_path: Path) -> None:
    shutil.copytree(HERE / "plugin", tmp_path / "plugin", ignore=shutil.ignore_patterns("__pycache__"))
    plugin = build(tmp_path / "plugin", tmp_path)

    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    python = environment / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps")
    run(*pip, wheel, plugin, cwd=tmp_path)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    # The dependencies come from this environment. It stands behind the new one, and its own .pth files, an editable
    # install's among them, are not read.
    (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n{sysconfig.get_path('platlib')}\n")

    project = tmp_path / "project"
    for name in ("solvers", "nets"):
        (project / name).mkdir(parents=True)
        (project / name / "__init__.py").write_text("raise ImportError('this is the user’s own folder')\n", "utf-8")
    (project / "main.py").write_text(USE, "utf-8")
    assert run(python, "main.py", site, cwd=project) == "torch.Size([4, 2])\n"

    if PAGE.exists():  # what it tells authors of plug-ins runs with theirs installed
        (project / "page.py").write_text("\n\n".join(blocks("python")), "utf-8")
        run(python, "page.py", cwd=project)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.skipif(not PAGE.exists(), reason="the page is not at hand")
def test_page_for_authors_shows_the_plugin_that_is_tested() -> None:
    source = (HERE / "plugin" / "sdescore_example_plugin.py").read_text("utf-8")
    assert blocks("python")[0] == source[source.index("from torch") :]
    assert blocks("toml") == [(HERE / "plugin" / "pyproject.toml").read_text("utf-8")]
    assert source[source.index("from torch") :].count("\n") <= 15


def test_name_of_two_packages_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, "alice", "sdescore.solvers", "twin = fractions:Fraction")
    install(monkeypatch, tmp_path, "bob", "sdescore.solvers", "twin = decimal:Decimal")
    with pytest.raises(ValueError, match=r"solver='twin'(?=.*fractions:Fraction of package alice)(?=.*bob)"):
        find_solver("twin")


def test_name_of_a_builtin_solver_cannot_be_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, tmp_path, "mallory", "sdescore.solvers", "dpm++ = fractions:Fraction")
    with pytest.raises(ValueError, match=r"solver='dpm\+\+'(?=.*mallory)(?=.*package sdescore)"):
        find_solver("dpm++")


def test_unknown_name_is_answered_with_the_nearest_and_how_to_list_all() -> None:
    with pytest.raises(ValueError, match=r"solver='dpm\+'.*expected dpm\+\+, .*`sdescore solvers`"):
        find_solver("dpm+")


PROMISED = {
    *("euler", "heun", "rk4", "dpm++", "ddpm", "euler-maruyama", "reverse-diffusion", "predictor-corrector"),
    *("annealed-langevin", "torchdiffeq", "torchsde"),
}
NAMES = {entry.name for entry in distribution("sdescore").entry_points if entry.group == "sdescore.solvers"}


@pytest.mark.parametrize("name", sorted(PROMISED | NAMES))
def test_builtin_solver_is_found_by_name(name: str) -> None:
    assert type(find_solver(name)).__module__.startswith("sdescore.solvers.")


@pytest.mark.parametrize("name", ["UNet", "MLP"])
def test_builtin_net_is_found_by_name(name: str) -> None:
    assert find_plugin("sdescore.nets", name, "net").__name__ == name
