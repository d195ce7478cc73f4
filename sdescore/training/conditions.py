"""What a net is told of the conditions that data has: kind, size and units."""

from collections.abc import Mapping
from typing import Any

from sdescore.data.conditions import condition_statistics
from sdescore.data.source import Source, read

__all__ = ["KINDS", "state_conditions"]

KINDS = {"vector": 1, "image": 1, "tokens": None}  # with the axis along which each number has its own units


def state_conditions(kinds: Mapping[str, str], source: Source) -> dict[str, dict[str, Any]]:
    """The conditions of a net, see nets/conditions.py, by the kind of each and the data.

    Raises ValueError for a condition that the data does not have, or has with another number of axes.
    """
    shapes = {name: tuple(rows.shape[1:]) for name, rows in read(source, [0])[1].items()} if kinds else {}
    stated = {}
    for name, kind in kinds.items():
        axes = {"vector": 1, "image": len(source.shape), "tokens": 2}[kind]
        found = shapes.get(name)
        if found is None or len(found) != axes:
            given = "the data does not have it" if found is None else f"in the data it is {found}"
            raise ValueError(f"conditions={{{name!r}: {kind!r}}}, but {given}; expected {axes} axes for each sample")
        mean, std = condition_statistics(source, name, KINDS[kind])
        stated[name] = {"kind": kind, "size": found[-1 if kind == "tokens" else 0], "mean": mean, "std": std}
    return stated
