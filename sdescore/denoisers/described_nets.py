"""Whether a net that a file describes has the weights that lie beside it, found before the net takes memory."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.overrides import TorchFunctionMode

__all__ = ["OtherWeights", "check_described"]

# Constructors may replace what they have made, and most modules have no weights of their own.
PARAMETERS = 2
MODULES = 20
MORE = 1000
RANDOM = ("normal_", "uniform_", "random_", "bernoulli_")


class OtherWeights(ValueError):
    """A file of weights is damaged, or those of another net."""


def check_described(build: Callable[[], nn.Module], weights: Path) -> None:
    """Raise OtherWeights, without the memory of the net, unless it has the shapes in a file's header.

    A net that cannot be made without memory is only counted: it may not have many more parts than the file has tensors.
    Raises ValueError for a net that has, and for one that cannot be made.
    """
    found = _shapes(weights)
    with _at_most(len(found)):
        try:
            with torch.device("meta"), _Uninitialised():
                net = build()
        except RuntimeError as error:  # NotImplementedError is one
            if "meta" not in str(error):
                raise ValueError(str(error)) from error
            build()
            return
    described = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    differing = [
        f"{name} is {described.get(name, 'absent')} in the net, {found.get(name, 'absent')} in the file"
        for name in {**described, **found}
        if described.get(name) != found.get(name)
    ]
    if differing:
        more = f", and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise OtherWeights(", ".join(differing[:3]) + more)


class _Uninitialised(TorchFunctionMode):
    """Leaves weights as they are made: random numbers without memory would load torch's compiler, for seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init" or getattr(func, "__name__", None) in RANDOM:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes in the header of a file of weights. Raises OtherWeights if it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, RuntimeError) as error:
        raise OtherWeights(str(error)) from error


@contextmanager
def _at_most(tensors: int) -> Iterator[None]:
    """Raise ValueError as soon as this thread makes many more parts of nets than there are tensors."""
    thread = threading.get_ident()
    left = {"parameters": PARAMETERS * tensors + MORE, "modules": MODULES * tensors + MORE}

    def counting(what: str) -> Any:
        def count(*_: Any) -> None:
            if threading.get_ident() != thread:
                return
            left[what] -= 1
            if left[what] < 0:
                raise ValueError(f"the net has many more {what} than there are weights, {tensors}")

        return count

    with (
        register_module_parameter_registration_hook(counting("parameters")),
        register_module_module_registration_hook(counting("modules")),
    ):
        yield
