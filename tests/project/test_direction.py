"""Who may import whom: the design's one direction, read from the source as it is installed."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import sdescore
import sdescore.nets
import sdescore.solvers

CORE, SOLVERS, NETS = (Path(str(package.__file__)).parent for package in (sdescore, sdescore.solvers, sdescore.nets))
OUTSIDE = ("solvers", "nets")  # inside the namespace, but no part of the core
# A module imports none of a later rank; modules without a rank are free, so long as they close no cycle.
RANKS = (
    ("sde",),
    ("processes",),
    ("denoiser",),
    ("reverse",),
    ("solver",),
    ("sampling", "likelihood", "training"),
)
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}


def imports(source: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """(level, parts of the dotted name) of each import anywhere in a source: in functions, under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((0, tuple(alias.name.split("."))) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            # `from sdescore import nets` and `from . import euler` name a module behind the word import.
            base = tuple(node.module.split(".")) if node.module else ()
            yield from ((node.level, (*base, alias.name)) for alias in node.names)


def core_imports(source: str) -> set[str]:
    """What a module directly in sdescore/ imports from sdescore, by first name."""
    found = set()
    for level, parts in imports(source):
        if level == 1:
            found.add(parts[0])
        elif parts[0] == "sdescore":
            found.update(parts[1:2])
    return found


def backward(graph: dict[str, set[str]]) -> list[str]:
    """The imports that go against the ranks."""
    return [
        f"{module} imports {other}"
        for module, others in graph.items()
        for other in sorted(others)
        if module in RANK and other in RANK and RANK[other] > RANK[module]
    ]


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """The modules of the core, a package among them counted as one, and what each imports from sdescore."""
    found: dict[str, set[str]] = {}
    for path in sorted(CORE.rglob("*.py")):
        name = path.relative_to(CORE).with_suffix("").parts[0]
        if name not in ("__init__", *OUTSIDE):
            found.setdefault(name, set()).update(core_imports(path.read_text("utf-8")) - {name})
    return found


def test_reader_sees_every_form_of_import() -> None:
    source = (
        "import sdescore.nets\n"
        "def late():\n    from sdescore import solvers\n"
        "from .adams import Adams\nfrom . import heun\nfrom sdescore.sde import SDE\nimport torch\n"
    )
    assert core_imports(source) == {"nets", "solvers", "adams", "heun", "sde"}
    assert backward({"sde": {"denoiser"}, "reverse": {"sde"}, "solver": {"sampling"}, "likelihood": {"sampling"}}) == [
        "sde imports denoiser",
        "solver imports sampling",
    ]


def test_ranks_name_modules_that_exist(graph: dict[str, set[str]]) -> None:
    assert set(RANK) <= set(graph)


def test_core_imports_neither_solvers_nor_nets(graph: dict[str, set[str]]) -> None:
    graph = {**graph, "__init__": core_imports((CORE / "__init__.py").read_text("utf-8"))}
    assert {module: others & set(OUTSIDE) for module, others in graph.items() if others & set(OUTSIDE)} == {}


def test_core_has_one_direction(graph: dict[str, set[str]]) -> None:
    assert backward(graph) == []
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the modules of a cycle


@pytest.mark.parametrize("folder", [SOLVERS, NETS], ids=OUTSIDE)
def test_siblings_are_imported_relatively_and_the_core_absolutely(folder: Path) -> None:
    siblings = {path.stem for path in folder.glob("*.py")}
    assert len(siblings) > 1
    for path in sorted(folder.glob("*.py")):
        for level, parts in imports(path.read_text("utf-8")):
            said = f"{path.name} imports {'.' * level}{'.'.join(parts)}"
            if level:
                assert level == 1 and parts[0] in siblings, said
            else:
                assert parts[0] not in OUTSIDE, said
                assert parts[0] != "sdescore" or not set(parts[1:2]) & set(OUTSIDE), said
