"""The code of the README and of the site's pages runs as it is written."""

import re
from importlib import import_module
from pathlib import Path

import pytest
import torch
from page_code import ROOT, blocks, run_page

from sdescore import LinearSDE
from sdescore.sampling import table

DOCS = ROOT / "docs"
if not DOCS.exists():
    pytest.skip("no pages beside these tests", allow_module_level=True)
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
# Names of the rooms of methods that stand for no paper: interfaces, tables, and what is the library's own.
OWN = {
    *("SDE", "VariancePreserving", "check_linear", "TimeDistribution", "Weighting", "TIME_DISTRIBUTIONS"),
    *("WEIGHTINGS", "GaussianFit"),
}
ELSEWHERE = "interop.md"  # which test_interop_page.py runs, with what it needs
LANGUAGES = {"python", "sh", "yaml", "toml", "text"}


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.pages
@pytest.mark.parametrize("page", [page for page in PAGES if page.name != ELSEWHERE], ids=name_of)
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


@pytest.mark.parametrize("room", ["processes", "objectives", "density", "mcmc"])
def test_every_method_has_its_paper_in_the_reference(room: str) -> None:
    """It is named where the site shows it: with the name, or in the header of the file that it stands under."""
    index = import_module(f"sdescore.{room}")
    missing = []
    for name in set(index.__all__) - OWN:
        found = getattr(index, name)
        text = f"{found.__doc__} {import_module(found.__module__).__doc__}"
        if not re.search(r"https?://|et al\.|[A-Z]\w+ (19|20)\d\d", text):
            missing.append(name)
    assert missing == []


@pytest.mark.parametrize("heading", ["score_sde", "Nets"])
def test_names_for_those_of_other_libraries_are_here(heading: str) -> None:
    section = (DOCS / "names.md").read_text("utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rooms = ("", *(f".{room}" for room in ("solvers", "sampling", "operators", "interop")))
    known = {name for room in rooms for name in dir(import_module(f"sdescore{room}"))}
    solvers = {row.name for row in table()}
    cells = [row.split("|")[2] for row in section.splitlines() if row.startswith("|")][2:]
    assert len(cells) >= 6
    for code in (code for cell in cells for code in re.findall("`([^`]+)`", cell)):
        if code.startswith('"'):
            assert code.strip('"') in solvers
        elif code.startswith("sde."):
            assert hasattr(LinearSDE, code.removeprefix("sde."))
        elif not code.startswith("sdescore "):
            assert re.findall(r"[A-Za-z_]\w*(?=[(.]|$)", code)[0] in known, code
