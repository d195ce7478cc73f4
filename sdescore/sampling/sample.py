"""Sampling: the loop, the batches, the noise and the last denoising step around any solver."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sdescore.common.checks import check_count, described
from sdescore.denoisers.denoiser import Denoiser, as_denoiser, state_dtype, state_like
from sdescore.processes.base import LinearSDE, check_linear
from sdescore.sampling.grids import Grid, karras
from sdescore.sampling.noise import Noise, WhiteNoise
from sdescore.sampling.reverse import ReverseProcess
from sdescore.sampling.solver import Solver, calls_of, find_solver

__all__ = ["sample", "trajectory"]

DEFAULT_STEPS = 50

# From the seed, the numbers of the samples and their device.
NoiseSource = Callable[[int, Sequence[int], torch.device], Noise]


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Switch dropout and the like off for a while."""
    modes = {module: module.training for module in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def time_grid(
    sde: LinearSDE,
    solver: Solver,
    steps: int | None = None,
    nfe: int | None = None,
    times: Tensor | Grid | None = None,
) -> Tensor:
    """The decreasing float64 times that a solver visits, on the CPU.

    At most one of steps and nfe is given; times is a tensor of times, which decides alone, or a grid.
    Raises ValueError if they contradict each other or leave [t_min, T].
    """
    for name, value in (("steps", steps), ("nfe", nfe)):
        if value is not None and not isinstance(value, int):
            raise TypeError(f"{name}={value!r}; expected positive integers")
    if times is not None and not isinstance(times, Tensor) and not callable(times):
        raise TypeError(
            f"times is a {type(times).__name__}; expected a tensor of times or a grid (sde, steps) -> times"
        )
    if isinstance(times, Tensor):
        if steps is not None or nfe is not None:
            raise ValueError("times is a tensor and fixes the steps; leave steps and nfe out")
        grid = times.detach().to("cpu", torch.float64)
    else:
        if steps is not None and nfe is not None:
            raise ValueError(f"steps={steps} and nfe={nfe} are both given; expected one of them")
        if steps is None:
            steps = DEFAULT_STEPS if nfe is None else _steps_within(nfe, calls_of(solver))
        if steps < 1:
            raise ValueError(f"steps={steps}; expected positive integers")
        make = times or getattr(solver, "grid", None) or karras()
        grid = make(sde, steps)
    if grid.ndim != 1 or len(grid) < 1 or not bool((grid.diff() < 0).all()):
        raise ValueError(f"times has shape {tuple(grid.shape)}; expected a vector of strictly decreasing times")
    sde.check_times(grid, "times")
    return grid


def _steps_within(nfe: int, calls: Callable[[int], int]) -> int:
    """The most steps whose net calls, with the last denoising, fit in nfe."""
    if calls(2) > nfe:
        raise ValueError(f"nfe={nfe} is too small: two steps of this solver make {calls(2)} net calls")
    far = 100 * (nfe + 1)  # a solver may reuse calls, but where steps are free the search would not end
    if calls(far) <= nfe:
        raise ValueError(f"nfe={nfe} sets no limit: {far} steps of this solver make {calls(far)} net calls")
    steps = 2
    while calls(steps + 1) <= nfe:
        steps += 1
    return steps


def check_range(sde: LinearSDE, denoiser: Denoiser, times: Tensor) -> None:
    """Raise ValueError where times on `sde` leave the noise levels that the denoiser's own process covers."""
    own = denoiser.sde
    if own == sde:
        return
    ends = torch.tensor([own.T, own.t_min], dtype=torch.float64)
    (low, high), (first, last) = own.lam(ends).tolist(), sde.lam(times[[0, -1]]).tolist()
    slack = 1e-6 * (high - low)
    if first < low - slack or last > high + slack:
        raise ValueError(
            f"times on {type(sde).__name__} span lam in [{first:.4g}, {last:.4g}], but the net was trained on "
            f"{type(own).__name__} with lam in [{low:.4g}, {high:.4g}]; give times inside that range"
        )


def check_condition(condition: Mapping[str, Tensor] | None, count: int) -> dict[str, Tensor]:
    for name, value in (condition or {}).items():
        if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != count:
            given = described(value)
            raise ValueError(f"condition[{name!r}] is {given}; expected a tensor whose first axis has length {count}")
    return dict(condition or {})


def _states(reverse: ReverseProcess, solver: Solver, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
    yield x
    steps = 0
    for state in solver.solve(reverse, x, times, noise) if len(times) > 1 else ():
        x, steps = state, steps + 1
        yield x
    if steps < len(times):  # else the solver has denoised the last state itself
        yield reverse.data(x, times[-1])


class _Run:
    """What sample() and trajectory() share: checked arguments, and the states of any selection of the samples."""

    def __init__(
        self,
        sde: LinearSDE,
        net: Any,
        shape: tuple[int, ...] | None,
        solver: str | Solver,
        steps: int | None,
        nfe: int | None,
        times: Tensor | Grid | None,
        x: Tensor | None,
        seed: int,
        condition: Mapping[str, Tensor] | None,
        predicts: str | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
        noise_source: NoiseSource,
        index_offset: int = 0,
    ) -> None:
        check_linear(sde)
        if (x is None) == (shape is None):
            raise ValueError("give one of shape, (n, *sample_shape), and x, the state to start from")
        if x is not None and not x.is_floating_point():
            raise TypeError(f"x has dtype {x.dtype}; expected floating-point states at times[0]")
        if dtype is not None and not dtype.is_floating_point:
            raise TypeError(f"dtype={dtype}; expected floating-point types")
        if shape is not None and not (isinstance(shape, Sequence) and all(isinstance(n, int) for n in shape)):
            raise TypeError(f"shape={shape!r}; expected (n, *sample_shape), all integers")
        self.sde, self.solver, self.seed, self.index_offset = sde, find_solver(solver), seed, index_offset
        self.noise_source = noise_source
        self.name = solver if isinstance(solver, str) else repr(solver)
        self.denoiser = as_denoiser(net, sde, predicts)
        self.times = time_grid(sde, self.solver, steps, nfe, times)
        check_range(sde, self.denoiser, self.times)
        self.shape = tuple(shape) if x is None else tuple(x.shape)  # type: ignore[arg-type]
        own_shape = self.denoiser.shape
        if len(self.shape) < 2 or min(self.shape) < 1:
            raise ValueError(f"shape={self.shape}; expected (n, *sample_shape) with positive numbers")
        if own_shape is not None and self.shape[1:] != own_shape:
            raise ValueError(f"shape={self.shape} asks for samples {self.shape[1:]}; the net makes {own_shape}")
        if x is not None and not bool(x.isfinite().all()):
            bad = index_offset + int((~x.isfinite()).flatten(1).any(1).nonzero()[0])
            raise ValueError(f"x is not finite in sample {bad}; expected finite states at times[0]")
        like = state_like(self.denoiser)
        like = x if like is None else like
        self.device = torch.device(device or ("cpu" if like is None else like.device))
        self.dtype = dtype or (torch.float32 if like is None else state_dtype(like.dtype))
        self.x = None if x is None else x.to(self.device, self.dtype)
        self.condition = {name: value.to(self.device) for name, value in check_condition(condition, len(self)).items()}

    def __len__(self) -> int:
        return self.shape[0]

    def states(self, start: int, stop: int) -> Iterator[Tensor]:
        """The states of samples start <= i < stop; beyond the last sample, copies of it with noise of their own."""
        index = torch.arange(start, stop, device=self.device).clamp(max=len(self) - 1)
        numbers = range(self.index_offset + start, self.index_offset + stop)
        if self.x is None:
            like = torch.empty(stop - start, *self.shape[1:], device=self.device, dtype=self.dtype)
            x = float(self.sde.sigma(self.times[0])) * WhiteNoise(self.seed, numbers, self.device, "start").randn(like)
        else:
            x = self.x[index]
        reverse = ReverseProcess(
            self.sde, self.denoiser, {name: value[index] for name, value in self.condition.items()}
        )
        noise = self.noise_source(self.seed, numbers, self.device)
        with evaluating(self.denoiser):
            yield from _states(reverse, self.solver, x, self.times, noise)

    def explain(self, start: int, stop: int) -> str:
        """Run a batch again to say where its values stopped being finite."""
        name = self.name
        for step, x in enumerate(self.states(start, stop)):
            wrong = ~x[: len(self) - start].isfinite().flatten(1).all(1)
            bad = wrong.nonzero().flatten() + self.index_offset + start
            if len(bad):
                rows = ", ".join(str(int(i)) for i in bad[:8]) + (", …" if len(bad) > 8 else "")
                at = f" (t = {self.times[step]:.6g})" if step < len(self.times) else " (the last denoising)"
                return f"{name}: values are not finite from step {step} of {len(self.times)}{at} on, in sample {rows}"
        return f"{name}: the result is not finite, but a second run of the same batch was: the net is not deterministic"


def trajectory(
    sde: LinearSDE,
    net: Any,
    shape: tuple[int, ...] | None = None,
    *,
    solver: str | Solver = "adams",
    steps: int | None = None,
    nfe: int | None = None,
    times: Tensor | Grid | None = None,
    x: Tensor | None = None,
    seed: int = 0,
    condition: Mapping[str, Tensor] | None = None,
    predicts: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    grad: bool = False,
    noise_source: NoiseSource = WhiteNoise,
) -> Iterator[Tensor]:
    """Yield the states (n, *sample_shape) of sample(): the initial one, one for each step, and the denoised last.

    Arguments are those of sample(), and so are the errors but one: states that are not finite are yielded as they are.
    All samples are in one batch.
    """
    run = _Run(sde, net, shape, solver, steps, nfe, times, x, seed, condition, predicts, device, dtype, noise_source)
    return torch.set_grad_enabled(grad)(run.states)(0, len(run))


def sample(
    sde: LinearSDE,
    net: Any,
    shape: tuple[int, ...] | None = None,
    *,
    solver: str | Solver = "adams",
    steps: int | None = None,
    nfe: int | None = None,
    times: Tensor | Grid | None = None,
    x: Tensor | None = None,
    seed: int = 0,
    index_offset: int = 0,
    condition: Mapping[str, Tensor] | None = None,
    predicts: str | None = None,
    batch_size: int | None = None,
    progress: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    grad: bool = False,
    noise_source: NoiseSource = WhiteNoise,
) -> Tensor:
    """Draw samples (n, *sample_shape) of a process run backwards from noise to data.

    Sample i depends on (seed, index_offset + i) alone: its initial state and noise are the same bits for every batch size.

    Args:
        sde: The process to sample on; the net may have been trained on another.
        net: A Denoiser, or any callable net(x, t, **condition) with t (batch,) in the time of `sde`.
        shape: (n, *sample_shape).
        solver: A name of the entry-point group sdescore.solvers, or a Solver.
        steps: Length of the time grid: steps - 1 intervals and the last denoising. 50 unless told.
        nfe: Net calls per sample, instead of steps.
        times: Decreasing times instead of steps, or a grid (sde, steps) -> times; the solver's own by default.
        x: State (n, *sample_shape) at times[0] to start from, instead of shape.
        seed: Seed of the set of samples.
        index_offset: Number of the first sample, so that several processes can share a set.
        condition: Tensors, sample first, that are handed to the net by name.
        predicts: What a plain callable outputs: its attribute `predicts`, or "score", unless told.
        batch_size: Samples at a time; the last batch is padded. All at once unless told.
        progress: Show a progress bar.
        device: Where to run; the net's unless told.
        dtype: Of the state; the net's but at least float32 unless told.
        grad: Keep the graph, so that gradients flow through a fixed-step solver.
        noise_source: Makes the noise from (seed, numbers of the samples, device); Brownian(sde) gives each sample one path.

    Raises:
        TypeError, ValueError: For arguments that are unknown, contradictory or out of range, before any net call.
        FloatingPointError: If the result is not finite; says which solver, and where it began.
    """
    run = _Run(
        sde,
        net,
        shape,
        solver,
        steps,
        nfe,
        times,
        x,
        seed,
        condition,
        predicts,
        device,
        dtype,
        noise_source,
        index_offset,
    )
    size = len(run) if batch_size is None else batch_size
    check_count("batch_size", size)
    starts = range(0, len(run), size)
    done = []
    bar = tqdm(
        total=len(starts) * len(run.times),
        disable=not progress,
        desc=run.name if isinstance(solver, str) else type(solver).__name__,
    )
    with bar, torch.set_grad_enabled(grad):
        for start in starts:
            for step, x in enumerate(run.states(start, start + size)):  # noqa: B007
                bar.update(step > 0)
            assert x is not None
            x = x[: len(run) - start]  # without the padding
            if not bool(x.isfinite().all()):
                raise FloatingPointError(run.explain(start, start + size))
            done.append(x)
    return torch.cat(done)
