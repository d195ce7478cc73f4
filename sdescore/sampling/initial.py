"""The states that a run starts from: of the process's own prior, or of a given law."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from sdescore.common.random import generator
from sdescore.processes.base import LinearSDE
from sdescore.sampling.noise import WhiteNoise, group_size

__all__ = ["InitialLaw", "check_initial_law", "initial_states"]


class InitialLaw(Protocol):
    """A law of states at the first time, such as GaussianMixture.at(sde, t)."""

    def sample(self, n: int, seed: int) -> Tensor:
        """n independent draws (n, *sample_shape), which depend on n and the seed alone."""
        ...


def check_initial_law(prior: Any) -> None:
    """Raise TypeError for what has no sample(n, seed)."""
    if prior is not None and not callable(getattr(prior, "sample", None)):
        raise TypeError(f"prior is {prior!r}; expected anything with sample(n, seed), such as a GaussianMixture")


def initial_states(
    prior: InitialLaw | None, sde: LinearSDE, t: Tensor, seed: int, numbers: Sequence[int], like: Tensor
) -> Tensor:
    """States at t of the samples with these numbers, as `like` (batch, *shape) is; N(0, sigma(t)^2) by default.

    Neighbouring samples are drawn together, as WhiteNoise does it, so that each depends on (seed, its number) alone.
    Raises ValueError for a law of another shape.
    """
    if prior is None:
        return float(sde.sigma(t)) * WhiteNoise(seed, numbers, like.device, "start").randn(like)
    size = group_size(like[0].numel())
    groups = {k: prior.sample(size, _seed(seed, k)) for k in sorted({i // size for i in numbers})}
    for drawn in groups.values():
        if drawn.shape != (size, *like.shape[1:]):
            raise ValueError(f"prior drew {tuple(drawn.shape)}; expected {(size, *like.shape[1:])}")
    return torch.stack([groups[i // size][i % size] for i in numbers]).to(like)


def _seed(seed: int, group: int) -> int:
    """No two groups of a seed share one: the low bits of the generator's own are a one-to-one hash of the group."""
    return generator("initial", seed, group).initial_seed() & 0xFFFFFFFF
