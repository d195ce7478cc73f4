"""Running averages of the weights: how fast each forgets, and the update after a step."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from sdescore.common.checks import check_number
from sdescore.denoisers.denoiser import Denoiser
from sdescore.training.sharding import is_split, local, parts, whole

__all__ = ["Average", "Averages", "HalfLife", "PowerFunction"]


class Average(Protocol):
    """A running average a <- decay a + (1 - decay) weights after each step; the decay of the first step is 0."""

    @property
    def name(self) -> str:
        """Its name in files."""
        ...

    def decay(self, steps: np.ndarray, batch: int) -> np.ndarray:
        """The decay, float64, at steps (counted from 1) of `batch` images each; of the shape of steps."""
        ...


@dataclass(frozen=True)
class HalfLife:
    """An exponential average: the influence of a step halves every `images` images.

    The half-life is at most `warmup` times the images seen so far, so that the first weights are forgotten (Karras et
    al. 2022, in their code); 0 for no such limit. Raises ValueError for values out of range.
    """

    images: float
    warmup: float = 0.05

    def __post_init__(self) -> None:
        check_number("halflife", self.images, above=0)
        check_number("ema_warmup", self.warmup, least=0)

    @property
    def name(self) -> str:
        return f"halflife-{self.images:.10g}"

    def decay(self, steps: np.ndarray, batch: int) -> np.ndarray:
        seen = (np.asarray(steps, dtype=np.float64) - 1) * batch
        longest = self.warmup * np.maximum(seen, batch) if self.warmup else np.inf
        return np.where(seen > 0, np.exp2(-batch / np.minimum(self.images, longest)), 0.0)


@dataclass(frozen=True)
class PowerFunction:
    """An average in which step k has a weight proportional to k^gamma (Karras et al. 2024, section 3.1).

    width is the standard deviation of this profile as a share of the training so far (their sigma_rel). They keep 0.05
    and 0.10, from which any other width can be made afterwards. Raises ValueError for a width that no gamma gives.
    """

    width: float

    def __post_init__(self) -> None:
        if not 0 < check_number("width", self.width) < 12**-0.5:  # the width of the plain mean, gamma = 0
            raise ValueError(f"width={self.width}; expected a number above 0, below {12**-0.5:.4f} of the plain mean")

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
    """Copies of a denoiser whose weights are averages of its weights, one for each rule."""

    def __init__(self, denoiser: Denoiser, rules: Sequence[Average], batch: int) -> None:
        self.rules = tuple(rules)
        self.batch = batch
        self.models = [deepcopy(denoiser) for _ in rules]

    def split_like(self, denoiser: Denoiser) -> None:
        """Keep only this process's part of each weight, where the denoiser's weights are split."""
        state = denoiser.state_dict()
        if any(map(is_split, state.values())):
            for model in self.models:
                model.load_state_dict(parts(model.state_dict(), state), assign=True)

    def whole(self, index: int = 0) -> Denoiser:
        """The model of a rule with all of its weights; every process must call it, since each may hold a part."""
        model = self.models[index]
        if not any(map(is_split, model.parameters())):
            return model
        full = deepcopy(model)
        full.load_state_dict(whole(model.state_dict()), assign=True)
        return full

    @torch.no_grad()
    def update(self, denoiser: Denoiser, step: int) -> None:
        """Update the averages by the weights after a step (counted from 1), without waiting for the device."""
        current = [local(parameter) for parameter in denoiser.parameters()]
        for rule, model in zip(self.rules, self.models, strict=True):
            decay = float(rule.decay(np.asarray(step), self.batch))
            get_ema_multi_avg_fn(decay)([local(own) for own in model.parameters()], current, step)
            # Buffers are copied, not averaged, so that constants stay exact.
            for own, other in zip(model.buffers(), denoiser.buffers(), strict=True):
                own.copy_(other)

    def state_dicts(self) -> dict[str, dict[str, Tensor]]:
        """The state of each average, by the name of its rule."""
        return {rule.name: model.state_dict() for rule, model in zip(self.rules, self.models, strict=True)}

    def load_state_dicts(self, states: dict[str, dict[str, Tensor]]) -> None:
        """The inverse of state_dicts. Raises ValueError if one is missing."""
        for rule, model in zip(self.rules, self.models, strict=True):
            if rule.name not in states:
                raise ValueError(f"there is no average {rule.name!r}; there are {', '.join(states)}")
            model.load_state_dict(parts(states[rule.name], model.state_dict()))
