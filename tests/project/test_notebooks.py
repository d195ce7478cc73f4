"""The tutorial's notebooks: every section is in one of them, and each runs from its top within three minutes."""

import sys
import time
from pathlib import Path

import pytest
from scripting import NEEDS_SCRIPTS, SCRIPTS

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("jupytext")
nbclient = pytest.importorskip("nbclient")
pytestmark = NEEDS_SCRIPTS


@pytest.fixture
def notebooks(monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.delitem(sys.modules, "notebooks", raising=False)
    import notebooks

    return notebooks


def test_every_section_is_in_one_notebook(notebooks: object) -> None:
    text = (SCRIPTS / "TUTORIAL.md").read_text("utf-8")
    numbers = [number for part in notebooks.PARTS.values() for number in part]  # type: ignore[attr-defined]
    assert numbers == list(range(1, len(notebooks.sections(text))))  # type: ignore[attr-defined]


def test_links_lead_to_files(notebooks: object, tmp_path: Path) -> None:
    text = (SCRIPTS / "TUTORIAL.md").read_text("utf-8")
    made = notebooks.notebook(text, (1, 2, 3), tmp_path)  # type: ignore[attr-defined]
    page = "\n".join(cell.source for cell in made.cells if cell.cell_type == "markdown")
    pictures = [part.split(")")[0] for part in page.split("](")[1:] if "pictures/" in part.split(")")[0]]
    assert len(pictures) >= 2 and all((tmp_path / each).is_file() for each in pictures)


@pytest.mark.slow
def test_notebooks_run_from_their_tops(notebooks: object, tmp_path: Path) -> None:
    parts = notebooks.PARTS  # type: ignore[attr-defined]
    began = time.monotonic()
    notebooks.main(["--out", str(tmp_path)])  # type: ignore[attr-defined]
    assert time.monotonic() - began < 180 * len(parts)
    for name in parts:
        made = nbformat.read(tmp_path / f"{name}.ipynb", as_version=4)
        cells = [cell for cell in made.cells if cell.cell_type == "code"]
        assert len(cells) >= 2 and all(cell.execution_count for cell in cells)
        assert any(cell.outputs for cell in cells)
