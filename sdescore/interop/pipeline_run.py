"""One run of a solver between a pipeline's net calls: the noise it draws, and what the pipeline may not change."""

import math

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from sdescore.interop.calls import Calls
from sdescore.interop.pushed import PushedRun
from sdescore.interop.schedules import Schedule
from sdescore.sampling import Noise, Solver

__all__ = ["Generators", "PipelineNoise", "PipelineRun"]

Generators = torch.Generator | list[torch.Generator] | None


class PipelineNoise:
    """Draws from the generator, or the generators of each sample, that the pipeline hands to the present step."""

    def __init__(self, generator: Generators = None) -> None:
        self.generator = generator

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, std: float = 1.0) -> Tensor:
        return self.randn(x, std)

    def levy_area(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return self.randn(x)

    def randn(self, x: Tensor, std: float = 1.0) -> Tensor:
        eps: Tensor = randn_tensor(x.shape, generator=self.generator, device=x.device, dtype=x.dtype)
        return eps.mul_(std)

    def select(self, index: Tensor) -> Noise:
        own = self.generator
        return PipelineNoise([own[i] for i in index.tolist()] if isinstance(own, list) else own)


def _version(x: Tensor) -> int:
    """How often x has been written to, where torch counts it."""
    return 0 if x.is_inference() else x._version


class PipelineRun:
    """A run that begins at a sample (batch, *shape) on a grid of times, with the calls that are planned for it.

    What it hands out has the sample's type.
    """

    def __init__(
        self, solver: Solver, schedule: Schedule, sample: Tensor, grid: Tensor, calls: Calls, noise: Noise
    ) -> None:
        self._noise, self._schedule = noise, schedule
        self._start = solver, sample.to(torch.promote_types(sample.dtype, torch.float32)), grid
        self._pushed: PushedRun | None = None
        self._idle, self._left = calls.idle, calls.times.tolist()
        self._given, self._written = sample, _version(sample)

    def step(self, output: Tensor, sample: Tensor, generator: Generators) -> Tensor:
        """Where the net is to be called next, or the data, after its output at `sample`.

        Raises ValueError for a sample that is not what the last step returned.
        """
        if not self._unchanged(sample):
            raise ValueError(
                "sample is not what the last step returned, and the solver goes on from there; expected prev_sample "
                "as it was: a pipeline that writes into samples needs one of diffusers' own schedulers"
            )
        if isinstance(self._noise, PipelineNoise):
            self._noise.generator = generator
        if self._pushed is None:
            solver, x, grid = self._start
            self._pushed = PushedRun(solver, self._schedule, x, grid, self._noise)
        if self._idle:
            self._idle = False
        else:
            predicted = output.to(self._pushed.state) / self._schedule.terms.output_scale
            self._pushed.push(predicted)
        self._check_level()
        found = self._pushed.state.to(sample.dtype)
        self._given, self._written = found, _version(found)
        return found

    def _check_level(self) -> None:
        """Raise RuntimeError unless the solver's next call is the one planned: the pipeline goes by the plan."""
        assert self._pushed is not None
        self._left.pop(0)
        level = self._pushed.level
        found = None if level is None else float(torch.as_tensor(level, dtype=torch.float64).flatten()[0])
        planned = self._left[0] if self._left else None
        if found is None or planned is None:
            same = found is planned
        else:
            same = math.isclose(found, planned, rel_tol=1e-5, abs_tol=1e-6 * self._schedule.process.T)
        if not same:
            raise RuntimeError(
                f"solver={self._start[0]!r} calls the net at t = {found} instead of {planned}, as planned; expected a "
                "solver whose calls do not depend on the samples"
            )

    def _unchanged(self, sample: Tensor) -> bool:
        if _version(self._given) != self._written:
            return False
        if sample is self._given:
            return True
        if sample.shape != self._given.shape:
            return False
        # DiTPipeline carries each sample twice, and repeats the first half before it calls the net.
        half = len(sample) // 2
        twice = len(sample) == 2 * half and torch.equal(sample[:half], sample[half:])
        rows = half if twice else len(sample)
        return torch.equal(sample[:rows], self._given[:rows])
