"""The tutorial's code runs as it is written, its pictures are there, and each is made by a script."""

import re
from pathlib import Path

import pytest
import torch

SCRIPTS = Path(__file__).parent.parent / "scripts"
pytestmark = pytest.mark.skipif(not SCRIPTS.exists(), reason="no scripts beside these tests")
TUTORIAL = (SCRIPTS / "TUTORIAL.md").read_text("utf-8") if SCRIPTS.exists() else ""


def test_python_blocks_run_one_after_another() -> None:
    names: dict[str, object] = {"__name__": "tutorial"}
    for block in re.findall(r"^```python\n(.*?)^```", TUTORIAL, re.MULTILINE | re.DOTALL):
        exec(compile(block, "TUTORIAL.md", "exec"), names)
    losses, back = names["losses"], names["back"]
    assert isinstance(losses, dict) and all(loss.shape == (256,) for loss in losses.values())
    assert isinstance(back, torch.Tensor) and back.shape == (8, 1)


def test_pictures_and_scripts_exist() -> None:
    pictures = re.findall(r"\]\((pictures/.+?)\)", TUTORIAL)
    scripts = re.findall(r"`python (scripts/\w+\.py)`", TUTORIAL)
    assert len(pictures) >= 8 and len(scripts) >= 8
    for name in pictures:
        assert (SCRIPTS / name).stat().st_size < 400_000
    for name in scripts:
        assert (SCRIPTS.parent / name).is_file()
