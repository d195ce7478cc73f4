"""Objects by name: solvers, nets and processes are found through entry points, as those of other packages are."""

import importlib
import inspect
import operator
import os
import sys
from difflib import get_close_matches
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

__all__ = ["check_arguments", "find_plugin", "named_object", "plugin_name", "plugin_names"]

LISTED_BY = {"sdescore.solvers": "`sdescore solvers`"}  # the command that lists a group


@cache
def registered(group: str) -> dict[str, list[EntryPoint]]:
    """The entry points of a group by their names, read once per process."""
    # Found twice, as in an editable install, an entry point counts once.
    distinct = {(entry.name, entry.value, _package(entry)): entry for entry in entry_points(group=group)}
    found: dict[str, list[EntryPoint]] = {}
    for name, value, package in sorted(distinct):
        found.setdefault(name, []).append(distinct[name, value, package])
    return found


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "?"


def plugin_names(group: str) -> list[str]:
    """The names in an entry-point group, sorted."""
    return list(registered(group))


def find_plugin(group: str, name: str, argument: str) -> Any:
    """Load the object registered under a name in an entry-point group.

    Raises ValueError for an unknown name, with those nearest to it first, and for a name that two packages claim.
    """
    found = registered(group).get(name, [])
    if not found:
        raise ValueError(f"{argument}={name!r} is not installed; expected {_nearest(group, name)}")
    if len(found) > 1:
        claims = ", ".join(f"{entry.value} of package {_package(entry)}" for entry in found)
        raise ValueError(f"{argument}={name!r} is claimed more than once: by {claims}; uninstall one of them")
    return found[0].load()


def _nearest(group: str, name: str, most: int = 8) -> str:
    """The names of a group that are nearest to a given one, and how to list the others."""
    names = {each.lower(): each for each in plugin_names(group)}
    nearest = [names[each] for each in get_close_matches(str(name).lower(), names, n=most, cutoff=0.0)]
    others = f", or another name from {LISTED_BY.get(group, f'plugin_names({group!r})')}"
    return (", ".join(nearest) or f"a package that registers names in {group}") + others * (len(names) > most)


def plugin_name(group: str, cls: type, argument: str) -> str:
    """The name under which a class is registered, the inverse of find_plugin; or its module:name.

    Raises ValueError for a name that two packages claim.
    """
    for name, entries in registered(group).items():
        # Only a candidate is loaded: other plug-ins need not be importable.
        if any(entry.attr == cls.__qualname__ and entry.load() is cls for entry in entries):
            find_plugin(group, name, argument)
            return name
    return f"{cls.__module__}:{cls.__qualname__}"


def named_object(name: str, argument: str) -> Any:
    """The object that "module:name" stands for; the module may also lie in the current folder.

    Raises ValueError saying what is missing.
    """
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise ValueError(f"{argument}={name!r}; expected 'module:name', such as 'digits:features'")
    if os.getcwd() not in sys.path:
        sys.path.insert(1, os.getcwd())
    try:
        return operator.attrgetter(attribute)(importlib.import_module(module_name))
    except ModuleNotFoundError as error:
        raise ValueError(f"{argument}={name!r}: {error}; expected an installed module or one in this folder") from error
    except AttributeError as error:
        raise ValueError(f"{argument}={name!r}: {error}") from error


def check_arguments(cls: Any, given: dict[str, Any], argument: str) -> None:
    """Raise ValueError for names that a constructor does not take, listing those it takes."""
    takes = inspect.signature(cls).parameters
    unknown = [name for name in given if name not in takes]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
        raise ValueError(f"{argument} has {', '.join(unknown)}; {cls.__name__} takes {', '.join(takes) or 'none'}")
