"""Processes without a closed-form kernel, sampled backwards.

Train on states of simulate() at many times with sliced_score_matching(lambda x: net(x, t), x_t); then reverse_sample().
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sdescore.common.checks import (
    check_count,
    check_dtype,
    check_integer,
    check_returned,
    check_seed,
    check_tensor,
    unwritten,
)
from sdescore.common.linear_combinations import expand
from sdescore.common.random import generator
from sdescore.denoisers.denoiser import per_sample
from sdescore.processes.base import SDE
from sdescore.sampling.noise import Noise, WhiteNoise
from sdescore.sampling.run import check_condition
from sdescore.sampling.solver import OneStep, Solver, find_solver

__all__ = ["FlowHeun", "ItoEuler", "NonlinearReverse", "reverse_sample"]


@dataclass(frozen=True)
class NonlinearReverse:
    """Any process with a score seen backwards, for solvers that use its drift, diffusion and velocity alone.

    net(x, t, **condition) is the score, with t (batch,).
    """

    sde: SDE
    net: Callable[..., Tensor]
    condition: dict[str, Tensor] = field(default_factory=dict)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """The gradient of log p_t at x."""
        t = per_sample(t, x)
        return check_returned(unwritten(lambda x: self.net(x, t, **self.condition), x, "net"), x, "net")

    def _pull(self, x: Tensor, t: Tensor) -> Tensor:
        """div(g g^T) + g g^T score."""
        return self.sde.diffusion_divergence(x, t) + self.sde.diffusion(x, t).square() * self.score(x, t)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """The drift of the reverse-time SDE, f - div(g g^T) - g g^T score (Anderson 1982; Song et al. 2021, eq. 16)."""
        return self.sde.drift(x, t) - self._pull(x, t)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """dx/dt of the probability-flow ODE, f - (div(g g^T) + g g^T score) / 2 (Song et al. 2021, eq. 17)."""
        return self.sde.drift(x, t) - self._pull(x, t) / 2

    def select(self, index: Tensor) -> "NonlinearReverse":
        """The same for a selection of the samples."""
        return NonlinearReverse(self.sde, self.net, {name: value[index] for name, value in self.condition.items()})


@dataclass(frozen=True)
class ItoEuler(OneStep):
    """Euler-Maruyama's method on the reverse SDE of any process: x - (t - s) drift + diffusion sqrt(t - s) z.

    Weak order 1, one call a step. For a LinearSDE, whose steps are linear in the net's prediction: EulerMaruyama.
    """

    def step(self, reverse: NonlinearReverse, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:  # type: ignore[override]
        width = expand(t - s, x)
        spread = reverse.sde.diffusion(x, t) * width**0.5
        return noise(x, t, s).mul_(spread).add_(x - width * reverse.drift(x, t))


@dataclass(frozen=True)
class FlowHeun(OneStep):
    """Heun's method on the probability-flow ODE in x and t, on any process: order 2, two calls a step."""

    def step(self, reverse: NonlinearReverse, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:  # type: ignore[override]
        width, slope = expand(s - t, x), reverse.velocity(x, t)
        return x + width * (slope + reverse.velocity(x + width * slope, s)) / 2

    def nfe(self, intervals: int) -> int:
        return 2 * intervals


@torch.no_grad()
def reverse_sample(
    sde: SDE,
    score: Callable[..., Tensor],
    shape: tuple[int, ...],
    *,
    solver: str | Solver = ItoEuler(),
    steps: int = 500,
    times: Tensor | None = None,
    seed: int = 0,
    index_offset: int = 0,
    condition: dict[str, Tensor] | None = None,
    progress: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw samples (n, *sample_shape) at t_min of any process, from its prior at T.

    Sample i depends on (seed, index_offset + i) alone.

    Args:
        sde: The process. A linear one is better served by sample(), which takes every solver and denoises the end.
        score: score(x, t, **condition), with t (batch,).
        shape: (n, *sample_shape).
        solver: One that needs no closed-form kernel: ItoEuler() or, where the diffusion depends on the state,
            "milstein" for the reverse SDE; FlowHeun() for the ODE.
        steps: Number of times, even in t, from T to t_min; or `times`, a decreasing vector within that.
        seed, index_offset: Seed of the set, and number of its first sample.
        condition: Tensors, sample first, that are handed to the score by name.
        progress, dtype, device: As of sample().

    Raises ValueError for bad arguments and FloatingPointError if the result is not finite.
    """
    if not isinstance(sde, SDE):
        raise TypeError(f"sde is {sde!r}; expected an SDE")
    if isinstance(shape, int) or len([check_count("shape", n) for n in shape]) < 2:
        raise ValueError(f"shape={shape}; expected (n, *sample_shape)")
    check_integer("steps", steps, 2)
    check_seed(seed, index_offset)
    check_dtype("dtype", dtype)
    if times is not None:
        check_tensor("times", times, "of decreasing times")
    condition = check_condition(condition, shape[0])
    grid = torch.linspace(sde.T, sde.t_min, steps, dtype=torch.float64) if times is None else times.cpu().double()
    if grid.ndim != 1 or len(grid) < 2 or not bool((grid.diff() < 0).all()):
        raise ValueError(f"times has shape {tuple(grid.shape)}; expected a vector of at least two decreasing times")
    sde.check_times(grid, "times")
    numbers = range(index_offset, index_offset + shape[0])
    own = (generator("prior", seed, i, device=device) for i in numbers)
    x = torch.cat([sde.prior_sample((1, *shape[1:]), g, device, dtype) for g in own])
    method = find_solver(solver)
    reverse: Any = NonlinearReverse(sde, score, condition)
    try:
        states = method.solve(reverse, x, grid, WhiteNoise(seed, numbers, device))
        for state in tqdm(states, total=len(grid) - 1, disable=not progress, desc=type(method).__name__):
            x = state
    except AttributeError as error:
        if isinstance(error.obj, SDE | NonlinearReverse):  # it asks for alpha, sigma or what follows from them
            raise ValueError(
                f"solver={solver!r} needs a closed-form kernel ({error}); expected those of the docstring"
            ) from error
        raise
    if not bool(x.isfinite().all()):
        raise FloatingPointError(f"{type(method).__name__}: the result is not finite; more steps may keep it stable")
    return x
