"""The code of the README and of the site's pages runs as it is written."""

from pathlib import Path

import pytest
import torch
from page_code import ROOT, blocks, run_page

DOCS = ROOT / "docs"
if not DOCS.exists():
    pytest.skip("no pages beside these tests", allow_module_level=True)
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
LANGUAGES = {"python", "sh", "yaml", "toml", "text"}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.pages
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    names = run_page(page.read_text("utf-8"), name_of(page))
    for name, value in names.items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            assert value.isfinite().all(), name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_block_of_a_page_is_left_out(page: Path) -> None:
    text = page.read_text("utf-8")
    found = blocks(text)
    assert text.count("```") == 2 * len(found)
    assert {block.language for block in found} <= LANGUAGES
    assert all(block.title for block in found if block.language == "yaml")
