"""The table of solvers: what is installed, under which names, and what each is for."""

from dataclasses import dataclass
from typing import Any

from sdescore.common.plugins import find_plugin, plugin_names
from sdescore.sampling.solver import GROUP, About, find_solver

__all__ = ["SolverRecord", "table"]


@dataclass(frozen=True)
class SolverRecord:
    """One installed solver.

    kind is "ODE" or "SDE"; order that of convergence, the weak one for SDEs; calls the net calls of a step, None where
    the method decides itself; paper and link its source; use a line on what it is for. An outside package's solver that
    says nothing of itself has "", 0 and None there.
    """

    name: str
    kind: str
    order: int
    calls: int | None
    paper: str
    link: str
    use: str


def table() -> list[SolverRecord]:
    """Every installed solver, those of outside packages included, by name."""
    return [_record(name) for name in plugin_names(GROUP)]


def _record(name: str) -> SolverRecord:
    try:
        solver: Any = find_solver(name)
        nfe = getattr(solver, "nfe", None)
    except ImportError:  # the package that it hands over to is not installed
        solver, nfe = find_plugin(GROUP, name, "solver"), None
    about = getattr(solver, "about", None) or About("", 0, "", "", "")
    try:
        calls = None if nfe is None else nfe(11) - nfe(10)  # one more step among many, after special first or last ones
    except ValueError:  # such a method of several is adaptive
        calls = None
    return SolverRecord(name, about.kind, about.order, calls, about.paper, about.link, about.use)
