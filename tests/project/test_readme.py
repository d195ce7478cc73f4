"""The README's code runs as it is written."""

import re
from importlib.metadata import distribution
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parents[1]
README = (HERE.parent / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.mark.pages
def test_python_blocks_run_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "readme"}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    x, nats = names["x"], names["nats"]
    assert isinstance(x, torch.Tensor) and x.shape == (16, 1, 8, 8)
    assert isinstance(nats, torch.Tensor) and nats.shape == (64,) and nats.isfinite().all()


def test_plugin_is_the_one_that_is_tested() -> None:
    source = (HERE / "plugin" / "sdescore_example_plugin.py").read_text("utf-8")
    code = source[source.index("from torch") :].strip()
    assert any(block.startswith(code) for block in blocks("python"))
    (registration,) = blocks("toml")
    assert registration in (HERE / "plugin" / "pyproject.toml").read_text("utf-8")


def test_table_of_solvers_is_complete() -> None:
    section = README[README.index("## Solvers") : README.index("## Your own solver")]
    cells = re.findall(r"^\| (`.+?`) \|", section, re.MULTILINE)
    registered = {entry.name for entry in distribution("sdescore").entry_points if entry.group == "sdescore.solvers"}
    assert {name.strip("`") for cell in cells for name in cell.split(", ")} == registered
