"""Weights of which each process holds a part (FSDP2): put together for files and pictures, and split again."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

__all__ = ["full", "is_split", "local", "parts", "placed", "whole"]


def is_split(tensor: Tensor) -> bool:
    """Whether it is a DTensor, whose own module, which takes a second to import, is then there already."""
    return hasattr(tensor, "placements")


def local(tensor: Tensor) -> Tensor:
    """What this process holds of it, in the same memory."""
    part: Tensor = cast(Any, tensor).to_local() if is_split(tensor) else tensor
    return part


def full(tensor: Tensor) -> Tensor:
    """All of it, where it lies; all processes must call it."""
    found: Tensor = cast(Any, tensor).full_tensor() if is_split(tensor) else tensor
    return found


def whole(tensors: Mapping[str, Tensor], keep: bool = True) -> dict[str, Tensor]:
    """Those that are split put together on the CPU, and the others as they are; {} unless they are to be kept.

    All processes must call it, since each has a part.
    """
    found = {}
    for name, tensor in tensors.items():
        value = full(tensor)
        if keep:
            found[name] = value.cpu() if is_split(tensor) else value
    return found


def placed(value: Tensor, like: Tensor) -> Tensor:
    """A copy of a whole tensor, equal in all processes, that lies on devices and in memory as another of its shape."""
    if not is_split(like):
        return torch.empty_like(like).copy_(value)
    from torch.distributed.tensor import distribute_tensor

    split: Any = like
    return distribute_tensor(value.to(like.dtype), split.device_mesh, split.placements).to(like.device)


def parts(values: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of whole(): of each value the part that this process holds of the tensor of its name, if it is split.

    Values of other names stay, for who loads them to name.
    """
    split = {name for name, tensor in like.items() if is_split(tensor)}
    return {name: placed(value, like[name]) if name in split else value for name, value in values.items()}
