"""One run of a solver: its checked arguments, and the states of any selection of its samples."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sdescore.common.checks import (
    check_device,
    check_dtype,
    check_finite,
    check_integer,
    check_seed,
    check_tensor,
    described,
)
from sdescore.common.evaluation_mode import evaluating
from sdescore.common.linear_combinations import combine
from sdescore.denoisers.denoiser import BareDenoiser, Denoiser, as_denoiser, state_dtype, state_like
from sdescore.denoisers.labels import check_labels
from sdescore.processes.base import LinearSDE, check_linear
from sdescore.sampling.fitted_solver import solver_of
from sdescore.sampling.grids import Grid
from sdescore.sampling.initial import InitialLaw, check_initial_law, initial_states
from sdescore.sampling.noise import Noise, WhiteNoise
from sdescore.sampling.reverse import ReverseProcess
from sdescore.sampling.solver import Solver, denoises, total_nfe
from sdescore.sampling.times import check_range, time_grid

__all__ = ["NoiseSource", "Run", "check_condition", "solver_states"]

# From the seed, the numbers of the samples and their device.
NoiseSource = Callable[[int, Sequence[int], torch.device], Noise]


TAKEN = ("x", "t", "p", "q", "kind", "coefficients")  # arguments of a denoiser that no condition can be called
# From here on, in units of data_std, Gaussian data lose a tenth of their spread, 1 - (1 + rho^2)^(-1/2), to the last
# denoising.
WIDE = 0.5


def check_condition(condition: Mapping[str, Tensor] | None, count: int) -> dict[str, Tensor]:
    """The condition as a dict, of tensors with `count` rows.

    Raises TypeError for what is no mapping, and ValueError for other tensors and names.
    """
    if condition is not None and not isinstance(condition, Mapping):
        raise TypeError(f"condition is a {type(condition).__name__}; expected a dict of tensors by name")
    for name, value in (condition or {}).items():
        if not isinstance(name, str) or name in TAKEN:
            raise ValueError(f"condition has {name!r}; expected names other than {', '.join(TAKEN)}")
        if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != count:
            given = described(value)
            raise ValueError(f"condition[{name!r}] is {given}; expected a tensor whose first axis has length {count}")
    return dict(condition or {})


def _warn_of_collapse(sde: LinearSDE, denoiser: Denoiser, times: Tensor) -> None:
    """Warn where a grid ends at noise that is not small against the data, whose spread the last denoising loses."""
    last = float(sde.rho(times[-1]))
    if not isinstance(denoiser, BareDenoiser) and last > WIDE * denoiser.data_std:
        warnings.warn(
            f"the times end at a noise-to-signal ratio of {last:.3g}, which is not small against data_std="
            f"{denoiser.data_std:.3g}: the last denoising narrows the samples. Scale the data, or give times that end "
            "lower, or more steps",
            RuntimeWarning,
            stacklevel=4,
        )


def solver_states(reverse: ReverseProcess, solver: Solver, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
    """Yield x, the solver's states, and the data: what it hands over, or the last state denoised."""
    yield x
    expected = len(times) - 1 + denoises(solver) if len(times) > 1 else 0
    count = 0
    for state in solver.solve(reverse, x, times, noise) if expected else ():
        x, count = state, count + 1
        yield x
    if count != expected:
        raise RuntimeError(f"{solver!r} yielded {count} states on {len(times)} times; it declares {expected}")
    if len(times) == 1 or not denoises(solver):
        yield combine(reverse.summands(times[-1:], 1.0, 0.0)(0, x))  # as data(), but by numbers: in fewer passes


def _warn_of_few_calls(name: str, solver: Solver, times: Tensor) -> None:
    about = getattr(solver, "about", None)
    if about is None or about.least == 1 or not hasattr(solver, "nfe"):
        return
    nfe = total_nfe(solver, len(times))
    if nfe < about.least:
        wanted = f"its default grid needs {about.least} to be nearer to the flow than the data's mean"
        warnings.warn(f"{name} has {nfe} net calls; {wanted}. Give more, or take adams", RuntimeWarning, stacklevel=4)


class Run:
    """What sample() and trajectory() share: checked arguments, and the states of any selection of the samples."""

    def __init__(
        self,
        sde: LinearSDE,
        net: Any,
        shape: tuple[int, ...] | None,
        *,
        solver: str | Solver,
        steps: int | None = None,
        nfe: int | None = None,
        times: Tensor | Grid | None = None,
        x: Tensor | None = None,
        prior: InitialLaw | None = None,
        seed: int = 0,
        index_offset: int = 0,
        condition: Mapping[str, Tensor] | None = None,
        predicts: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        noise_source: NoiseSource = WhiteNoise,
    ) -> None:
        check_linear(sde)
        check_initial_law(prior)
        if (x is None) == (shape is None):
            raise ValueError("give one of shape, (n, *sample_shape), and x, the state to start from")
        if x is not None and prior is not None:
            raise ValueError("x and prior are both given; expected the states to start from, or their law")
        if x is not None:
            check_tensor("x", x, "(n, *sample_shape), the states at times[0]")
        if dtype is not None:
            check_dtype("dtype", dtype)
        try:
            shape = None if shape is None else tuple(check_integer("shape", n) for n in shape)
        except TypeError:
            raise TypeError(f"shape={shape!r}; expected (n, *sample_shape), all integers") from None
        check_seed(seed, index_offset)
        self.sde = sde
        self.solver = solver_of(solver)
        self.seed = seed
        self.index_offset = index_offset
        self.noise_source = noise_source
        self.prior = prior
        self.name = solver if isinstance(solver, str) else repr(solver)
        self.denoiser = as_denoiser(net, sde, predicts)
        self.times = time_grid(sde, self.solver, steps, nfe, times, self.denoiser)
        check_range(sde, self.denoiser, self.times)
        if not isinstance(times, Tensor):
            _warn_of_collapse(sde, self.denoiser, self.times)
            _warn_of_few_calls(self.name, self.solver, self.times)
        self.shape = tuple(shape) if x is None else tuple(x.shape)  # type: ignore[arg-type]
        own_shape = self.denoiser.shape
        if len(self.shape) < 2 or min(self.shape) < 1:
            raise ValueError(f"shape={self.shape}; expected (n, *sample_shape) with positive numbers")
        if own_shape is not None and self.shape[1:] != own_shape:
            raise ValueError(f"shape={self.shape} asks for samples {self.shape[1:]}; the net makes {own_shape}")
        if x is not None:
            check_finite("x", x, first=index_offset)
        like = state_like(self.denoiser)
        like = x if like is None else like
        self.device = check_device("device", ("cpu" if like is None else like.device) if device is None else device)
        self.dtype = dtype or (torch.float32 if like is None else state_dtype(like.dtype))
        self.x = None if x is None else x.to(self.device, self.dtype)
        checked = check_condition(condition, len(self))
        check_labels(self.denoiser, checked.get("label"), "condition['label']")
        self.condition = {name: value.to(self.device) for name, value in checked.items()}

    def __len__(self) -> int:
        return self.shape[0]

    def states(self, start: int, stop: int) -> Iterator[Tensor]:
        """The states of samples start <= i < stop; beyond the last sample, copies of it with noise of their own."""
        numbers = range(self.index_offset + start, self.index_offset + stop)
        if self.x is None:
            like = torch.empty(stop - start, *self.shape[1:], device=self.device, dtype=self.dtype)
            x = initial_states(self.prior, self.sde, self.times[0], self.seed, numbers, like)
        else:
            x = self._rows(self.x, start, stop)
        condition = {name: self._rows(value, start, stop) for name, value in self.condition.items()}
        reverse = ReverseProcess(self.sde, self.denoiser, condition)
        noise = self.noise_source(self.seed, numbers, self.device)
        modules = list(self.denoiser.modules())
        states = solver_states(reverse, self.solver, x, self.times, noise)
        while True:
            with evaluating(modules):  # while it computes: the caller may train between two states
                state = next(states, None)
            if state is None:
                return
            yield state

    def _rows(self, x: Tensor, start: int, stop: int) -> Tensor:
        """A copy of those rows of x; beyond the last one, copies of it."""
        if stop <= len(self):
            return x[start:stop].clone()
        return x[torch.arange(start, stop, device=self.device).clamp(max=len(self) - 1)]

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
