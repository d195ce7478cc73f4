"""Packages of plug-ins, as an installer leaves them: a module, and metadata with entry points."""

from configparser import ConfigParser
from functools import cache
from pathlib import Path

import pytest

from sdescore.common import plugins

EXAMPLE = Path(__file__).parent / "plugin"


def install(patch: pytest.MonkeyPatch, folder: Path, name: str, group: str, entry: str, code: str = "") -> None:
    """Install a package until the test ends, into a folder of its own; `entry` is "name = module:object"."""
    write_metadata(folder / name, name, f"[{group}]\n{entry}\n")
    (folder / name / f"{name}.py").write_text(code)
    show(patch, folder / name)


def install_example(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Install the package in tests/plugin, as its pyproject.toml describes it, until the test ends."""
    project = ConfigParser(delimiters="=")
    project.read(EXAMPLE / "pyproject.toml")
    lines = []
    for section in project.sections():
        if section.startswith("project.entry-points."):
            lines.append(f"[{section.split('.', 2)[2]}]")
            lines += [f"{name} = {value}" for name, value in project[section].items()]
    write_metadata(folder, "sdescore_example_plugin", "\n".join(lines).replace('"', ""))
    show(patch, folder)
    show(patch, EXAMPLE)


def write_metadata(folder: Path, name: str, entry_points: str) -> None:
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)


def show(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Put a folder on the path, and use a fresh cache of entry points, until the test ends."""
    patch.syspath_prepend(folder)
    patch.setattr(plugins, "registered", cache(plugins.registered.__wrapped__))
