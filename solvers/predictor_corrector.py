"""Predictor-corrector sampling (Song et al. 2021, section 4.2 and algorithm 1)."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from sdescore.sampling import About, Noise, OneStep, PlannedOneStep, ReverseProcess, Step, check_one_step

from .langevin import Langevin
from .reverse_diffusion import ReverseDiffusion

__all__ = ["Corrector", "PredictorCorrector"]


class Corrector(Protocol):
    """Moves a state towards the distribution at its own time, with `nfe` net calls."""

    @property
    def nfe(self) -> int: ...

    def correct(self, reverse: ReverseProcess, x: Tensor, t: Tensor, noise: Noise) -> Tensor: ...


@dataclass(frozen=True)
class PredictorCorrector(PlannedOneStep):
    """A step of any one-step predictor to the next time, then the corrector there."""

    predictor: OneStep = ReverseDiffusion()
    corrector: Corrector = Langevin()
    about = About(
        "SDE",
        1,
        "Song et al. 2021, section 4.2 and algorithm 1",
        "https://arxiv.org/abs/2011.13456",
        "score_sde's sampler: a predictor's steps, and Langevin steps at each level",
        least=12,
    )

    def __post_init__(self) -> None:
        check_one_step(self.predictor, "predictor")

    def plan(self, reverse: ReverseProcess, t: Tensor, s: Tensor) -> Step:
        predict = self.predictor.plan(reverse, t, s)
        return lambda i, x, noise: self.corrector.correct(reverse, predict(i, x, noise), s[i], noise)

    def nfe(self, intervals: int) -> int:
        return self.predictor.nfe(intervals) + intervals * self.corrector.nfe
