"""Which labels a denoiser knows."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sdescore.denoisers.denoiser import Denoiser

__all__ = ["check_labels"]


def _known(denoiser: Denoiser) -> list[int] | None:
    """The labels that a denoiser knows, its net's null label among them; None where that is not known."""
    inner = getattr(denoiser, "inner", None)
    if isinstance(inner, Denoiser):
        return _known(inner)
    own = getattr(denoiser, "labels", None)
    if isinstance(own, Tensor):
        return sorted(set(own.tolist()))
    config = getattr(denoiser.net, "config", None)
    classes = config.get("classes") if isinstance(config, Mapping) else None
    return list(range(classes + 1)) if isinstance(classes, int) else None


def check_labels(denoiser: Denoiser, label: Any, argument: str) -> None:
    """Raise ValueError for labels that the denoiser does not know: on a GPU a net would end by an assertion."""
    known = _known(denoiser)
    if known is None or label is None:
        return
    given = torch.as_tensor(label).flatten()
    wrong = [int(value) for value in given.unique().tolist() if value not in known]
    if wrong:
        expected = f"{known[0]} to {known[-1]}" if known == list(range(known[0], known[-1] + 1)) else f"{known}"
        raise ValueError(f"{argument} holds {', '.join(map(str, wrong[:8]))}; expected {expected}")
