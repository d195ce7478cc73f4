"""Noise that is not random: one value, replayed, or handed out; and a solver whose noise is too loud."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from sdescore import ReverseProcess, Solver
from sdescore.sampling.noise import Noise
from sdescore.sampling.solver import denoises


class Constant:
    """Every draw is one value."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, std: float = 1.0) -> Tensor:
        return torch.full_like(x, std * self.value)

    def levy_area(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return torch.full_like(x, self.value)

    def randn(self, x: Tensor, std: float = 1.0) -> Tensor:
        return torch.full_like(x, std * self.value)

    def select(self, index: Tensor) -> "Constant":
        return self


class Replay:
    """Draws that were made before, in their order."""

    def __init__(self, draws: Sequence[Tensor]) -> None:
        self.draws = iter(draws)

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, std: float = 1.0) -> Tensor:
        return std * next(self.draws)

    def levy_area(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return next(self.draws).clone()

    def randn(self, x: Tensor, std: float = 1.0) -> Tensor:
        return std * next(self.draws)

    def select(self, index: Tensor) -> "Replay":
        raise NotImplementedError


class Given:
    """Noise that is handed out: one for the path, another for its area, and fresh ones in their order."""

    def __init__(self, z: Tensor, area: Tensor, fresh: Iterable[Tensor] = ()) -> None:
        self.z, self.second, self.draws = z, area, iter(fresh)

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, std: float = 1.0) -> Tensor:
        return std * self.z

    def levy_area(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return self.second.clone()

    def randn(self, x: Tensor, std: float = 1.0) -> Tensor:
        return std * next(self.draws)

    def select(self, index: Tensor) -> "Given":
        raise NotImplementedError


class Louder:
    """The noise of another source, times a factor."""

    def __init__(self, noise: Noise, factor: float) -> None:
        self.noise, self.factor = noise, factor

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, std: float = 1.0) -> Tensor:
        return self.factor * self.noise(x, t, s, std)

    def levy_area(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return self.factor * self.noise.levy_area(x, t, s)

    def randn(self, x: Tensor, std: float = 1.0) -> Tensor:
        return self.factor * self.noise.randn(x, std)

    def select(self, index: Tensor) -> "Louder":
        return Louder(self.noise.select(index), self.factor)


class WithNoise:
    """A solver that is handed its noise, times a factor."""

    def __init__(self, solver: Solver, factor: float) -> None:
        self.solver, self.factor = solver, factor
        self.denoises = denoises(solver)

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        return iter(self.solver.solve(reverse, x, times, Louder(noise, self.factor)))
