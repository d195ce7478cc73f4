"""What packages register under a name: solvers and nets are found through the same entry points as anyone's."""

import importlib
import inspect
import os
import sys
from importlib.metadata import EntryPoint, entry_points
from typing import Any

__all__ = ["check_arguments", "find_plugin", "named_object", "plugin_name"]


def _claims(group: str, name: str) -> list[EntryPoint]:
    """The entry points of a name; one that is found twice, as an editable install may be, counts once."""
    found = {
        (entry.value, entry.dist.name if entry.dist else "?"): entry
        for entry in entry_points(group=group)
        if entry.name == name
    }
    return [found[claim] for claim in sorted(found)]


def find_plugin(group: str, name: str, argument: str) -> Any:
    """Load what is registered under a name in an entry-point group.

    Raises ValueError for an unknown name, listing what is installed, and for a name that two packages claim.
    """
    found = _claims(group, name)
    if not found:
        names = ", ".join(sorted({entry.name for entry in entry_points(group=group)}))
        raise ValueError(f"{argument}={name!r} is not installed; expected {names}")
    if len(found) > 1:
        claims = ", ".join(f"{entry.value} of package {entry.dist.name if entry.dist else '?'}" for entry in found)
        raise ValueError(f"{argument}={name!r} is claimed more than once: by {claims}; uninstall one of them")
    return found[0].load()


def plugin_name(group: str, cls: type, argument: str) -> str:
    """The name under which a class is registered: the inverse of find_plugin.

    Raises ValueError for a class that is not registered, and for a name that two packages claim.
    """
    installed = entry_points(group=group)
    for entry in installed:
        # Only what could be the class is loaded: the other plug-ins need not be imported.
        if entry.attr == cls.__qualname__ and entry.load() is cls:
            find_plugin(group, entry.name, argument)
            return entry.name
    names = ", ".join(sorted({entry.name for entry in installed}))
    raise ValueError(f"{argument} is a {cls.__name__}, which no package registers in {group}; registered are {names}")


def named_object(name: str, argument: str) -> Any:
    """The object "module:name" of a module that can be imported, from the current folder too.

    Raises ValueError saying what is missing.
    """
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise ValueError(f"{argument}={name!r}; expected module:name, such as digits:features")
    if os.getcwd() not in sys.path:
        sys.path.insert(1, os.getcwd())
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        raise ValueError(f"{argument}={name!r}: {error}; expected modules in this folder or installed") from error
    except AttributeError as error:
        raise ValueError(f"{argument}={name!r}: {error}") from error


def check_arguments(cls: Any, given: dict[str, Any], argument: str) -> None:
    """Raise ValueError for names that the constructor does not have, listing those that it has."""
    takes = inspect.signature(cls).parameters
    unknown = [name for name in given if name not in takes]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
        raise ValueError(f"{argument} has {', '.join(unknown)}; {cls.__name__} takes {', '.join(takes) or 'none'}")
