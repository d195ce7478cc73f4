"""The README is short, and shows what the library is and its two commands before anything else."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "README.md"
if not PAGE.exists():
    pytest.skip("no README beside these tests", allow_module_level=True)
README = PAGE.read_text("utf-8")


def test_begins_with_what_it_is_a_picture_and_the_commands() -> None:
    start = README[: README.index("\n## ")]
    picture, demo, test = (start.index(part) for part in ("![", "\nmake demo ", "\nmake test "))
    assert len(start[:picture].split()) > 40
    assert picture < demo < test
    assert len(README.split()) < 1600


def test_what_it_links_to_is_there() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert len(targets) > 10
    assert [target for target in targets if not (PAGE.parent / target).is_file()] == []
