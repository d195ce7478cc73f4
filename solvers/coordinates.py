"""The variables in which Adams methods interpolate their targets. To add one: a class, and the object it is used as."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.processes import LinearSDE

from .targets import DIFFERENCE

__all__ = ["CUBE_ROOT_RHO", "INDEX", "LAM", "NOISE_SHARE", "RHO", "TIME", "Coordinate"]


@dataclass(frozen=True)
class Coordinate(ABC):
    """A variable q of the times of a grid.

    Within a step q follows the time exactly; where it has no value between nodes, as an index, it is `linear`: it
    advances with the measure of the target.
    """

    @property
    def linear(self) -> bool:
        return False

    @abstractmethod
    def q(self, sde: LinearSDE, times: Tensor) -> Tensor:
        """q at times, of their shape."""


class LogSNR(Coordinate):
    def q(self, sde: LinearSDE, times: Tensor) -> Tensor:
        return sde.lam(times)


class NoiseToSignal(Coordinate):
    def q(self, sde: LinearSDE, times: Tensor) -> Tensor:
        return sde.rho(times)


class CubeRootNoiseToSignal(Coordinate):
    def q(self, sde: LinearSDE, times: Tensor) -> Tensor:
        return sde.rho(times) ** (1 / 3)


class NoiseShare(Coordinate):
    """sigma / (alpha + sigma)."""

    def q(self, sde: LinearSDE, times: Tensor) -> Tensor:
        return DIFFERENCE.mu(sde.lam(times))


class Time(Coordinate):
    def q(self, sde: LinearSDE, times: Tensor) -> Tensor:
        return times


class Index(Coordinate):
    """The number of the time in the grid."""

    @property
    def linear(self) -> bool:
        return True

    def q(self, sde: LinearSDE, times: Tensor) -> Tensor:
        return torch.arange(len(times), dtype=times.dtype)


LAM = LogSNR()
RHO = NoiseToSignal()
CUBE_ROOT_RHO = CubeRootNoiseToSignal()
NOISE_SHARE = NoiseShare()
TIME = Time()
INDEX = Index()
