"""Modules in evaluation mode, or without gradients of their parameters, while something computes with them."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from torch import nn

__all__ = ["evaluating", "frozen"]

# How many hold each module that was in training mode: samplings interleave and run in threads, on nets that they share.
_held: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
_lock = threading.Lock()


@contextmanager
def evaluating(net: nn.Module | Sequence[nn.Module]) -> Iterator[None]:
    """Switch dropout and the like off for a while, in a net and all its modules, or in all of a list of modules.

    Those that were in training mode are in it again when the last one that holds them has ended.
    """
    modules = list(net.modules()) if isinstance(net, nn.Module) else net
    with _lock:
        mine = [module for module in modules if module.training or (_held and module in _held)]
        for module in mine:
            _held[module] = _held.get(module, 0) + 1
            module.training = False
    try:
        yield
    finally:
        with _lock:
            for module in mine:
                _held[module] -= 1
                if not _held[module]:
                    del _held[module]
                    module.training = True


@contextmanager
def frozen(net: nn.Module) -> Iterator[None]:
    """Leave the parameters out of the graph for a while: vector-Jacobian products with the state then cost less."""
    wanted = [parameter for parameter in net.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
