"""Averages of the weights over training: how fast each forgets, and the update after a step."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from sdescore.denoisers.denoiser import Denoiser
from sdescore.training.sharding import is_split, local, parts, whole

__all__ = ["Average", "Averages", "HalfLife", "PowerFunction"]


class Average(Protocol):
    """A running average a <- decay a + (1 - decay) weights after each step; the first step's decay is 0."""

    @property
    def name(self) -> str:
        """What it is called in files."""
        ...

    def decay(self, steps: np.ndarray, batch: int) -> np.ndarray:
        """Decay at steps counted from 1, each of a batch of images; float64."""
        ...


@dataclass(frozen=True)
class HalfLife:
    """Exponential: the influence of a step halves every `images` images.

    Early in training it halves every `warmup` (a share) of the images seen so far, if these are fewer, so that the
    first weights are forgotten (Karras et al. 2022, in their code); 0 for no warm-up.

    Raises ValueError for values that are not valid.
    """

    images: float
    warmup: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.images < np.inf:
            raise ValueError(f"halflife={self.images}; expected positive numbers of images")
        if not 0 <= self.warmup < np.inf:
            raise ValueError(f"ema_warmup={self.warmup}; expected numbers of at least 0")

    @property
    def name(self) -> str:
        return f"halflife-{self.images:.10g}"

    def decay(self, steps: np.ndarray, batch: int) -> np.ndarray:
        seen = (np.asarray(steps, dtype=np.float64) - 1) * batch
        longest = self.warmup * np.maximum(seen, batch) if self.warmup else np.inf
        return np.where(seen > 0, np.exp2(-batch / np.minimum(self.images, longest)), 0.0)


@dataclass(frozen=True)
class PowerFunction:
    """Step k of n weighs in as k^gamma (Karras et al. 2024, sec. 3.1): it scales with the length of training.

    width is the standard deviation of the profile as a share of the training so far (their sigma_rel): 0.05 and 0.10
    are what they keep, and any other length is made from afterwards.

    Raises ValueError for a width that no exponent has.
    """

    width: float

    def __post_init__(self) -> None:
        if not 0 < self.width < 12**-0.5:  # that of the plain mean, gamma = 0
            raise ValueError(f"width={self.width}; expected numbers above 0 and below {12**-0.5:.4f}, the plain mean's")

    @property
    def name(self) -> str:
        return f"width-{self.width:.10g}"

    @property
    def gamma(self) -> float:
        """The exponent: width^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3)) (their appendix C)."""
        inverse = self.width**-2
        roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
        return float(roots.real.max())

    def decay(self, steps: np.ndarray, batch: int) -> np.ndarray:
        return (1 - 1 / np.asarray(steps, dtype=np.float64)) ** (self.gamma + 1)


class Averages:
    """Copies of a denoiser whose weights are averages of its own."""

    def __init__(self, denoiser: Denoiser, rules: Sequence[Average], batch: int) -> None:
        self.rules, self.batch = tuple(rules), batch
        self.models = [deepcopy(denoiser) for _ in rules]

    def split_like(self, denoiser: Denoiser) -> None:
        """Keep of each weight only what this process has of the denoiser's, where that is a part."""
        state = denoiser.state_dict()
        if any(map(is_split, state.values())):
            for model in self.models:
                model.load_state_dict(parts(model.state_dict(), state), assign=True)

    def whole(self, index: int = 0) -> Denoiser:
        """The model of a rule with all of its weights; all processes must call it, since each may have a part."""
        model = self.models[index]
        if not any(map(is_split, model.parameters())):
            return model
        full = deepcopy(model)
        full.load_state_dict(whole(model.state_dict()), assign=True)
        return full

    @torch.no_grad()
    def update(self, denoiser: Denoiser, step: int) -> None:
        """Take in the weights after a step, counted from 1; without waiting for the device."""
        current = [local(parameter) for parameter in denoiser.parameters()]
        for rule, model in zip(self.rules, self.models, strict=True):
            decay = float(rule.decay(np.asarray(step), self.batch))
            get_ema_multi_avg_fn(decay)([local(own) for own in model.parameters()], current, step)
            # Buffers are copied, not averaged: constants stay exact.
            for own, other in zip(model.buffers(), denoiser.buffers(), strict=True):
                own.copy_(other)

    def state_dicts(self) -> dict[str, dict[str, Tensor]]:
        """The state of each, by the name of its rule."""
        return {rule.name: model.state_dict() for rule, model in zip(self.rules, self.models, strict=True)}

    def load_state_dicts(self, states: dict[str, dict[str, Tensor]]) -> None:
        """The inverse of state_dicts. Raises ValueError if one is missing."""
        for rule, model in zip(self.rules, self.models, strict=True):
            if rule.name not in states:
                raise ValueError(f"there is no average {rule.name!r}; there are {', '.join(states)}")
            model.load_state_dict(parts(states[rule.name], model.state_dict()))
