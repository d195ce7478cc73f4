"""Weights of which each process holds a part (FSDP2): gathered for files and pictures, and split again."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

__all__ = ["full", "is_split", "local", "parts", "placed", "whole"]


def is_split(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor, told without importing its module, which takes a second."""
    return hasattr(tensor, "placements")


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, in the same memory."""
    part: Tensor = cast(Any, tensor).to_local() if is_split(tensor) else tensor
    return part


def full(tensor: Tensor) -> Tensor:
    """The whole of a tensor, on its device; every process must call it."""
    found: Tensor = cast(Any, tensor).full_tensor() if is_split(tensor) else tensor
    return found


def whole(tensors: Mapping[str, Tensor], keep: bool = True) -> dict[str, Tensor]:
    """The tensors, split ones gathered on the CPU; {} in processes that do not `keep` them.

    Every process must call it, since each holds a part.
    """
    found = {}
    for name, tensor in tensors.items():
        value = full(tensor)
        if keep:
            found[name] = value.cpu() if is_split(tensor) else value
    return found


def placed(value: Tensor, like: Tensor) -> Tensor:
    """A copy of a whole tensor, equal in all processes, with the devices and memory layout of another of its shape."""
    if not is_split(like):
        return torch.empty_like(like).copy_(value)
    from torch.distributed.tensor import distribute_tensor

    split: Any = like
    return distribute_tensor(value.to(like.dtype), split.device_mesh, split.placements).to(like.device)


def parts(values: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of whole(): this process's part of each value whose namesake in `like` is split.

    Other values stay as they are: load_state_dict() names those that do not belong.
    """
    split = {name for name, tensor in like.items() if is_split(tensor)}
    return {name: placed(value, like[name]) if name in split else value for name, value in values.items()}
