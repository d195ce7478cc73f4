"""The device of the tests marked gpu, what would wait for it, and noise that is the same on every device.

GPU_TESTS_ON=cpu runs them on the CPU: a rehearsal of their code, which compares the CPU with itself.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from sdescore.sampling.noise import WhiteNoise

# Read once, at the first product on a GPU; deterministic algorithms refuse another value.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
DEVICE = torch.device(os.environ.get("GPU_TESTS_ON", "cuda"))
ON_DEVICE = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE.type == "cuda" and not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@contextmanager
def no_waits() -> Iterator[None]:
    """Whatever waits for the device raises RuntimeError; the CPU waits for nothing."""
    if DEVICE.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Copies(TorchDispatchMode):
    """Keeps the name of every operation that copies between devices, apart by whether it waits.

    With a state on the meta device, whose values cannot be read, this tells without a GPU what waits on one: torch
    raises for every value that is read, and what is copied to it is found here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[str] = []
        self.not_waiting: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        devices = {x.device for x in [*given, *(x for x in tree_leaves(found) if isinstance(x, Tensor))]}
        copies = str(func).startswith(("aten._to_copy", "aten.copy_"))
        # A number on the CPU is an argument of a kernel; a longer tensor would have to be brought over.
        if len(devices) > 1 and (copies or any(x.device.type == "cpu" and x.ndim for x in given)):
            (self.not_waiting if (kwargs or {}).get("non_blocking") else self.waiting).append(str(func))
        return found


class HostNoise(WhiteNoise):
    """White noise that is drawn on the CPU, wherever the state is: a GPU's own numbers are others for a seed."""

    def __init__(self, seed: int, indices: Any, device: Any = "cpu", use: str = "path") -> None:
        super().__init__(seed, indices, "cpu", use)

    def randn(self, x: Tensor, std: float = 1.0) -> Tensor:
        return super().randn(x.cpu(), std).to(x.device)
