"""The site: built without a warning, whole, without dead links, and read without the network."""

import os
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from page_code import ROOT

from sdescore.solvers import table

if not (ROOT / "mkdocs.yml").exists():
    pytest.skip("no site beside these tests", allow_module_level=True)
pytestmark = pytest.mark.pages

ROOMS = sorted(path.parent.name for path in (ROOT / "sdescore").glob("*/__init__.py"))
ROOMS += [path.stem for path in (ROOT / "sdescore").glob("[a-z]*.py")] + ["solvers", "nets"]


class Reader(HTMLParser):
    """What a page links to, what it loads, and what in it can be linked to."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value for name, value in attrs if value is not None}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag in ("a", "link") and "href" in found:
            (self.links if tag == "a" else self.loads).append(found["href"])
        if tag in ("img", "script", "source", "iframe") and "src" in found:
            self.loads.append(found["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    own = {"NO_MKDOCS_2_WARNING": "1", "SDESCORE_API": str(tmp_path_factory.mktemp("api"))}
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **own}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Reader]:
    found = {}
    for path in site.rglob("*.html"):
        found[path] = Reader()
        found[path].feed(path.read_text("utf-8"))
    return found


def targets(page: Path, links: list[str]) -> Iterator[tuple[Path, str]]:
    """The file and the anchor of each link that stays in the site."""
    for link in links:
        parts = urlsplit(link)
        if not parts.scheme and not parts.netloc:
            file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            yield file / "index.html" if file.is_dir() else file, unquote(parts.fragment)


def test_no_link_is_dead(pages: dict[Path, Reader]) -> None:
    dead = []
    for page, reader in pages.items():
        if page.name == "404.html":  # its links start at the root of where it is served
            continue
        for file, anchor in targets(page, reader.links + reader.loads):
            there = pages[file].anchors if file in pages else set()
            if not file.is_file() or (anchor and file in pages and anchor not in there):
                dead.append((page.name, file.name, anchor))
    assert dead == []


def test_nothing_is_fetched_to_read_a_page(site: Path, pages: dict[Path, Reader]) -> None:
    outside = {load for reader in pages.values() for load in reader.loads if urlsplit(load).netloc}
    assert outside == set()
    styles = "".join(path.read_text("utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"(?:url\(|@import )[\"']?https?:[^)]*", styles) == []


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    inventory = (site / "objects.inv").read_bytes()
    lines = zlib.decompress(inventory[inventory.index(b"zlib.\n") + 6 :]).decode().splitlines()
    known = {line.split()[0] for line in lines}
    missing = [
        f"{package}.{name}"
        for package in ("sdescore", *(f"sdescore.{room}" for room in ROOMS))
        for name in import_module(package).__all__
        if f"{package}.{name}" not in known
    ]
    assert missing == []


def test_every_solver_is_in_the_table_with_its_paper(site: Path) -> None:
    page = (site / "solvers.html").read_text("utf-8")
    rows = re.findall(r"<td><code>([^<]+)</code></td>.*?</tr>", page, re.DOTALL)
    assert set(rows) >= {row.name for row in table()}
    assert all(f'href="{row.link}"' in page for row in table())


def test_tutorial_has_its_pictures(pages: dict[Path, Reader], site: Path) -> None:
    pictures = {load for load in pages[site / "tutorial.html"].loads if load.startswith("pictures/")}
    assert len(pictures) >= 8
