"""What tells two nets' weights apart."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["digest", "fingerprint"]


def fingerprint(module: nn.Module) -> str:
    """A digest of the module's parameters and buffers."""
    return digest(module.state_dict())


def digest(state: Mapping[str, Tensor]) -> str:
    """The SHA-256 of tensors by name."""
    found = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
