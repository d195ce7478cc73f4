"""The reader of imports, and the rules of direction between rooms, for the tests that hold the walls."""

import ast
import importlib.util
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

OUTSIDE = ("solvers", "nets")  # inside the namespace, but no part of the core
# A room imports those of earlier ranks and itself; rooms of one rank do not import each other.
RANKS = (
    ("common",),
    ("processes",),
    ("operators",),
    ("denoisers",),
    ("sampling", "objectives"),
    ("density", "mcmc", "data", "evaluation", "interop"),
    ("testing", "training"),
    ("cli",),
)
RANK = {room: rank for rank, rooms in enumerate(RANKS) for room in rooms}
LOADERS = {"import_module", "__import__", "run_module", "resolve_name"}
COMPUTED = "a computed name"
MAY_COMPUTE = ("common.plugins", "cli")  # what users name, and the command that is asked for

Graph = dict[str, set[str]]  # what each module imports


class Import(NamedTuple):
    target: str  # absolute, with the imported name at its end; or COMPUTED
    relative: bool = False


def last_name(node: ast.AST) -> str | None:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None


def written_out(call: ast.Call) -> str:
    """The module that a loader is called with."""
    given = [argument.value if isinstance(argument, ast.Constant) else None for argument in call.args]
    name, package = [*given, None, None][:2]
    if not isinstance(name, str) or (name.startswith(".") and not isinstance(package, str)):
        return COMPUTED
    return importlib.util.resolve_name(name.partition(":")[0], str(package))


def read_imports(source: str, package: str = "") -> Iterator[Import]:
    """Each import anywhere in a module of a package: in functions, under TYPE_CHECKING, and through importlib."""
    nodes = list(ast.walk(ast.parse(source)))
    loaders, called = set(LOADERS), set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
            # Without `as`, `import sdescore.sampling` binds the root too.
            names |= {alias.name.split(".")[0] for alias in node.names if not alias.asname}
            yield from (Import(name) for name in names)
        elif isinstance(node, ast.ImportFrom):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            # `from sdescore import nets` and `from . import adams` name a module behind the word import.
            yield from (Import(f"{base}.{alias.name}", node.level > 0) for alias in node.names)
            loaders |= {alias.asname for alias in node.names if alias.name in LOADERS and alias.asname}
    for node in nodes:
        if isinstance(node, ast.Call) and last_name(node.func) in loaders:
            called.add(node.func)
            yield Import(written_out(node))
    # A loader that is handed on loads what cannot be read here.
    yield from (Import(COMPUTED) for node in nodes if last_name(node) in loaders and node not in called)


def read_graph(folder: Path, package: str = "sdescore") -> Graph:
    """The modules of the core below a folder, by their dotted names."""
    found: Graph = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        if parts[0] not in OUTSIDE:  # a wheel installs them inside
            inside = ".".join((package, *parts[:-1]))
            module = inside if parts[-1] == "__init__" else f"{inside}.{parts[-1]}"
            found[module] = {target for target, _ in read_imports(path.read_text("utf-8"), inside)}
    return found


def room(name: str) -> str | None:
    """The room of a dotted name, "root" for what the root itself offers; None outside of the namespace."""
    first, second, *_ = [*name.split("."), ""]
    if first != "sdescore":
        return None
    return second if second in RANK or second in OUTSIDE else "root"


def edges(graph: Graph) -> list[tuple[str, str]]:
    return [(module, target) for module, targets in graph.items() for target in sorted(targets)]


def backward(graph: Graph) -> list[tuple[str, str]]:
    """Imports of rooms of a later rank, or of others of the same."""
    between = [(edge, room(edge[0]), room(edge[1])) for edge in edges(graph)]
    return [
        edge
        for edge, own, other in between
        if own in RANK and other in RANK and own != other and RANK[own] <= RANK[other]
    ]


def outward(graph: Graph) -> list[tuple[str, str]]:
    """Imports of solvers and nets, which the core finds by their entry points."""
    return [(module, target) for module, target in edges(graph) if room(target) in OUTSIDE]


def from_root(graph: Graph) -> list[tuple[str, str]]:
    """Imports of the root from within: it gathers the rooms, and none leans on it."""
    return [edge for edge in edges(graph) if room(edge[0]) != "root" and room(edge[1]) == "root"]


def computed(graph: Graph) -> list[str]:
    """Modules that load what no reader can know, and may not."""
    free = tuple(f"sdescore.{name}." for name in MAY_COMPUTE)
    return [module for module, targets in graph.items() if COMPUTED in targets and not f"{module}.".startswith(free)]


def cycle(graph: Graph) -> list[str]:
    """The modules of a cycle, if there is one. What imports the root is refused elsewhere, and closes none here."""

    def imported(target: str) -> str:
        """The module itself: `from room import file` imports the file, `from room import name` the room's index."""
        while target and target not in graph:
            target = target.rpartition(".")[0]
        return target

    reached = {module: {imported(target) for target in graph[module]} - {"", "sdescore", module} for module in graph}
    try:
        TopologicalSorter(reached).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def unranked(names: list[str]) -> list[str]:
    """What stands in the root of the package and is no room."""
    return [name for name in names if name.removesuffix(".py") not in {*RANK, *OUTSIDE, "__init__", "py.typed"}]


def long_files(lines: dict[str, int]) -> list[str]:
    return [name for name, count in lines.items() if count > 300]


def foreign(source: str, package: str, siblings: set[str]) -> list[str]:
    """Imports that are neither of siblings, relatively, nor of the core, absolutely."""
    own = {f"{package}.{sibling}" for sibling in siblings}
    return [
        target
        for target, relative in read_imports(source, package)
        if (relative and ".".join(target.split(".")[:3]) not in own)
        or (not relative and (room(target) in OUTSIDE or target.split(".")[0] in OUTSIDE))
    ]
