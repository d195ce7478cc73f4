"""Every "I have a …" of the page on other libraries is run, that of EDM's pickles with a pickle."""

import json
from pathlib import Path

import pytest
from page_code import ROOT, Block, blocks, run_page

PAGE = ROOT / "docs" / "interop.md"
if not PAGE.exists():
    pytest.skip("no pages beside these tests", allow_module_level=True)


@pytest.mark.pages
@pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")  # of NumPy 2, in its schedulers
def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for package in ("diffusers", "greenlet"):
        pytest.importorskip(package)
    from edm_originals import checkpoint

    cases = json.loads((Path(__file__).parent / "edm_numbers.json").read_text("utf-8"))["cases"]
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "network.pkl", cases["EDM2"])
    page = PAGE.read_text("utf-8").replace("```text\n", "```python\n")
    names = run_page(page, PAGE.name)
    assert (tmp_path / "ours" / "model_index.json").is_file()
    assert names["pipe"].scheduler.config["solver"] == "adams"  # type: ignore[attr-defined]
    assert names["images"].shape[0] == 2  # type: ignore[attr-defined]
    assert names["coded"].shape == (3, 8, 8)  # type: ignore[attr-defined]
    assert len(list((tmp_path / "runs" / "latent" / "samples" / "images").iterdir())) == 40
    assert capsys.readouterr().out


def test_each_way_is_a_few_lines() -> None:
    """An import, and at most three lines that do something."""
    _, *ways = [block for block in blocks(PAGE.read_text("utf-8")) if block.language in ("python", "text")]
    assert len(ways) == 9

    def lines(block: Block) -> list[str]:
        return [line for line in block.code.splitlines() if line and not line.startswith(("import ", "from "))]

    assert all(len(lines(way)) <= 3 for way in ways)
