"""Predictor-corrector sampling (Song et al. 2021, section 4.2 and algorithm 1)."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from sdescore.sampling import Noise, OneStep, ReverseProcess
from sdescore.sampling.solver import Step

from .langevin import Langevin
from .reverse_diffusion import ReverseDiffusion

__all__ = ["Corrector", "PredictorCorrector"]


class Corrector(Protocol):
    """Moves a state towards the distribution at its own time, with `calls` net calls."""

    @property
    def calls(self) -> int: ...

    def correct(self, reverse: ReverseProcess, x: Tensor, t: Tensor, noise: Noise) -> Tensor: ...


@dataclass(frozen=True)
class PredictorCorrector(OneStep):
    """A step of any one-step predictor to the next time, then the corrector there."""

    predictor: OneStep = ReverseDiffusion()
    corrector: Corrector = Langevin()

    def step(self, reverse: ReverseProcess, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        x = self.predictor.step(reverse, x, t, s, noise)
        return self.corrector.correct(reverse, x, s, noise)

    def prepare(self, reverse: ReverseProcess, t: Tensor, s: Tensor) -> Step:
        predict = self.predictor.prepare(reverse, t, s)
        return lambda i, x, noise: self.corrector.correct(reverse, predict(i, x, noise), s[i], noise)

    def calls(self, steps: int) -> int:
        return self.predictor.calls(steps) + (steps - 1) * self.corrector.calls
