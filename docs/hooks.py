"""What the site takes from the rest of the repository when it is built, so that each thing is written once.

Links in every page are those of the repository, where they can be followed too; here they become the site's.
"""

import os
import re
import shutil
from importlib.metadata import distribution
from pathlib import Path, PurePosixPath
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from sdescore.sampling import table

ROOT = Path(__file__).parents[1]
API = ROOT / os.environ.get("SDESCORE_API", "build/api")
ELSEWHERE = {  # page of the site: file of the repository
    "tutorial.md": "scripts/TUTORIAL.md",
    "how-to/solver.md": "solvers/PLUGINS.md",
    "samplers.md": "solvers/PEERS.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    **{f"pictures/{path.name}": f"scripts/pictures/{path.name}" for path in (ROOT / "scripts/pictures").iterdir()},
}
ROOMS = (
    *("processes", "operators", "denoisers", "sampling", "solvers", "objectives", "density", "mcmc"),
    *("nets", "data", "training", "evaluation", "interop", "testing", "common", "cli"),
)
TABLE = "<!-- table of solvers -->"


def on_startup(command: str, dirty: bool) -> None:
    """Lay the package out as an installation has it, before the plug-in looks for it."""
    shutil.rmtree(API, ignore_errors=True)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "sdescore", API / "sdescore", ignore=ignore)
    for name in ("solvers", "nets"):
        shutil.copytree(ROOT / name, API / "sdescore" / name, ignore=ignore)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give every room its place in the navigation."""
    reference = [{"sdescore": "reference/index.md"}, *({room: f"reference/{room}.md"} for room in rooms())]
    assert isinstance(config.nav, list)
    config.nav.insert(-2, {"Reference": reference})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for page, source in ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    package: Any = griffe.load("sdescore", search_paths=[API], try_relative_path=False)
    files.append(File.generated(config, "reference/index.md", content=overview(package)))
    for room in rooms():
        files.append(File.generated(config, f"reference/{room}.md", content=reference_of(package[room])))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    if TABLE in markdown:
        markdown = markdown.replace(TABLE, table_of_solvers())
    source = page.file.src_uri
    folder = (ROOT / ELSEWHERE.get(source, f"docs/{source}")).parent
    pages = {ROOT / file: name for name, file in ELSEWHERE.items()}

    def on_the_site(link: re.Match[str]) -> str:
        text, target, anchor = link.groups(default="")
        path = Path(os.path.normpath(folder / target))
        if path in pages:
            return f"[{text}]({os.path.relpath(pages[path], PurePosixPath(source).parent)}{anchor})"
        return link.group() if path.is_relative_to(ROOT / "docs") else text

    return re.sub(r"\[([^\]\[]*)\]\((?!\w+:)([^)#\s]+)(#[^)\s]*)?\)", on_the_site, markdown)


def rooms() -> list[str]:
    """Those that are there."""
    return [room for room in ROOMS if any((API / "sdescore").glob(f"{room}*"))]


def first_line(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())


def meant(name: Any) -> Any:
    """What a name of an index is; a function, where its file has the same name."""
    target = name.final_target if name.is_alias else name
    return target[target.name] if target.is_module and target.name in target.members else target


def overview(package: Any) -> str:
    """The names of the package itself: a line each, and where they are written about."""
    lines = [f"# sdescore\n\n{package.docstring.value}\n\n| name | what it is |\n|---|---|"]
    for name in package.exports:
        target = meant(package[name])
        about = first_line(target.docstring.value).replace("|", r"\|") if target.docstring else ""
        lines.append(f"| [`{name}`][{target.path}] | {about} |")
    return "\n".join(lines) + "\n"


def reference_of(room: Any) -> str:
    """The public names of a room, under the files that define them, whose headers name their papers."""
    parts = [f"# sdescore.{room.name}\n"]
    files: dict[str, list[str]] = {}
    others = []
    for name in map(str, room.exports):
        target = meant(room[name])
        module = target.path if target.is_module else target.module.path
        if not f"{module}.".startswith(f"{room.path}."):
            others.append(f"- `{name}`: [`{target.path}`][{target.path}]")
        elif target.is_module:
            files[module] = list(map(str, target.exports))
        else:
            files.setdefault(module, []).append(target.name)
    if room.path not in files:
        parts.append(f"{room.docstring.value}\n")
    parts += others
    for module, names in files.items():
        parts.append(f"\n::: {module}\n    options:\n      members: [{', '.join(names)}]\n")
    return "\n".join(parts)


def table_of_solvers() -> str:
    """One row a name: what is imported under it, its kind, order, calls, use and paper."""
    group = distribution("sdescore").entry_points
    where = {entry.name: entry.attr for entry in group if entry.group == "sdescore.solvers"}
    heads = ("name", "in `sdescore.solvers`", "kind", "order", "net calls a step", "for", "paper")
    rows = [heads, ("---",) * len(heads)]
    for row in table():
        if row.name in where:
            calls = "as needed" if row.calls is None else str(row.calls)
            paper = f"[{row.paper}]({row.link})"
            rows.append((f"`{row.name}`", f"`{where[row.name]}`", row.kind, str(row.order), calls, row.use, paper))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
