"""The tutorial's code runs as it is written, its pictures are there, and each is made by a script."""

import re

import pytest
import torch
from scripting import NEEDS_SCRIPTS, SCRIPTS

pytestmark = NEEDS_SCRIPTS
TUTORIAL = (SCRIPTS / "TUTORIAL.md").read_text("utf-8") if SCRIPTS.exists() else ""


@pytest.mark.pages
def test_python_blocks_run_one_after_another() -> None:
    names: dict[str, object] = {"__name__": "tutorial"}
    for block in re.findall(r"^```python\n(.*?)^```", TUTORIAL, re.MULTILINE | re.DOTALL):
        exec(compile(block, "TUTORIAL.md", "exec"), names)
    back = names["back"]
    assert isinstance(back, torch.Tensor) and back.shape == (8, 1)
    # What the tables name as the line of an equation.
    lines = re.findall(r"^\|.*\| `(\w+\(.*\))` \|$", TUTORIAL, re.MULTILINE)
    values = {line: eval(line, names) for line in lines}
    losses = {line: value for line, value in values.items() if "_matching(" in line}
    assert len(losses) == 9 and all(loss.shape == (256,) and loss.requires_grad for loss in losses.values())
    steered = {line: value for line, value in values.items() if line.startswith("draw(")}
    assert len(steered) == 19 and all(value.shape == (8, 2) for value in steered.values())
    chains = [value for line, value in values.items() if line not in {**losses, **steered}]
    assert len(chains) == 4 and all(chain.x.shape == (256, 2) for chain in chains)


def test_tables_are_whole() -> None:
    """Every row has as many cells as its heading, so that no bar of a formula ends a cell."""
    tables = re.findall(r"(?:^\|.*\|\n)+", TUTORIAL, re.MULTILINE)
    assert len(tables) >= 7
    for table in tables:
        cells = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(cells) == 1, table
    assert TUTORIAL.count("```") % 2 == 0


def test_pictures_and_scripts_exist() -> None:
    pictures = re.findall(r"\]\((pictures/.+?)\)", TUTORIAL)
    scripts = re.findall(r"`python (scripts/[\w/]+\.py)`", TUTORIAL)
    assert len(pictures) >= 8 and len(scripts) >= 8
    for name in pictures:
        assert (SCRIPTS / name).stat().st_size < 400_000
    for name in scripts:
        assert (SCRIPTS.parent / name).is_file()
    make = (SCRIPTS.parent / "Makefile").read_text("utf-8")
    assert "experiment-%:" in make and "make experiment-manifold" in TUTORIAL
