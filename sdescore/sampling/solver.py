"""The plug-in interface of numerical methods: any solver, and the methods without memory, from which most are made."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from sdescore.common.linear_combinations import Coefficient, combine, expand, per_step
from sdescore.common.plugins import find_plugin, plugin_names
from sdescore.processes.base import LinearSDE
from sdescore.sampling.grids import Grid, karras
from sdescore.sampling.noise import Noise
from sdescore.sampling.reverse import ReverseProcess

__all__ = [
    "About",
    "LinearOneStep",
    "OneStep",
    "PlannedOneStep",
    "Solver",
    "Step",
    "check_one_step",
    "denoises",
    "drawn",
    "find_solver",
    "grid_of",
    "total_nfe",
]

GROUP = "sdescore.solvers"

# The state after step i from x, with a noise for it to draw from.
Step = Callable[[int, Tensor, Noise], Tensor]


@dataclass(frozen=True)
class About:
    """What a solver says of itself in the table of solvers.

    order is that of convergence, for "SDE" the weak one; `paper` is author, year and place in the paper, `link` its
    address; `use` says in a line what it is for; `also` are its names in other libraries, in lower case; `least` is the
    number of net calls below which its default grid was measured to end farther from the flow than the data's mean.
    """

    kind: str
    order: int
    paper: str
    link: str
    use: str
    also: tuple[str, ...] = ()
    least: int = 1


@runtime_checkable
class Solver(Protocol):
    """A numerical method that takes states from noise towards data.

    What it may declare besides:
        grid: Its default times (see sdescore.sampling.grids); karras() by default.
        nfe(intervals): Net calls of solve() on so many intervals between times, without which sample(nfe=...) raises.
        denoises: Whether the last tensor that solve() yields is data; by default it is the state at times[-1], which
            sample() denoises by one more net call.
        about: An About for the table of solvers.
    """

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        """Yield the states after x (batch, *shape), one at each later time; then the data, if the solver `denoises`.

        x is the state at times[0]; times is a decreasing float64 vector on the CPU, so that coefficients cost no device
        synchronisation. A yielded tensor is never written again.
        """
        ...


class OneStep(ABC):
    """A method without memory: solve() repeats step()."""

    grid: Grid = karras()
    denoises = False
    about: About | None = None

    @abstractmethod
    def step(self, reverse: ReverseProcess, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        """The state at s < t from x (batch, *shape) at t; t and s are () or (batch,)."""

    def plan(self, reverse: ReverseProcess, t: Tensor, s: Tensor) -> Step:
        """The steps from t[i] to s[i], as a function (i, x, noise); t and s are (n,), or (n, batch)."""
        return lambda i, x, noise: self.step(reverse, x, t[i], s[i], noise)

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        go = self.plan(reverse, times[:-1], times[1:])
        for i in range(len(times) - 1):
            x = go(i, x, noise)
            yield x

    def nfe(self, intervals: int) -> int:
        return intervals


class PlannedOneStep(OneStep):
    """A method that computes the coefficients of all steps at once: it writes plan(), and a step is a plan of one."""

    @abstractmethod
    def plan(self, reverse: ReverseProcess, t: Tensor, s: Tensor) -> Step: ...

    def step(self, reverse: ReverseProcess, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        return self.plan(reverse, t[None], s[None])(0, x, noise)


class LinearOneStep(PlannedOneStep):
    """A method that is stated by its coefficients alone: x_s = p x0 + q eps + std z, with the net's x0 and eps at t."""

    @abstractmethod
    def coefficients(self, sde: LinearSDE, t: Tensor, s: Tensor) -> tuple[Coefficient, Coefficient, Coefficient]:
        """p, q and std of steps from t to s, of their shape; a std that is the number 0 draws no noise."""

    def plan(self, reverse: ReverseProcess, t: Tensor, s: Tensor) -> Step:
        p, q, std = self.coefficients(reverse.sde, t, s)
        mean = reverse.summands(t, p, q)
        stds = per_step(std) if isinstance(std, Tensor) else [std] * len(t)
        return lambda i, x, noise: combine(mean(i, x), drawn(noise, x, t[i], s[i], stds[i]))


def drawn(noise: Noise, x: Tensor, t: Tensor, s: Tensor, std: Coefficient) -> Tensor | None:
    """std times the path's noise for the interval from t to s; nothing is drawn where std is the number 0."""
    if isinstance(std, Tensor):
        return noise(x, t, s).mul_(expand(std, x))
    return noise(x, t, s, std) if std else None


def check_one_step(method: Any, argument: str) -> None:
    """Raise TypeError for what is not a OneStep: its steps cannot be taken one by one."""
    if not isinstance(method, OneStep):
        raise TypeError(
            f"{argument} is {method!r}; expected a OneStep, such as HEUN: one without memory of earlier steps"
        )


def denoises(solver: Solver) -> bool:
    """Whether the solver hands over data, and not a state that sample() has to denoise."""
    return bool(getattr(solver, "denoises", False))


def grid_of(solver: Solver) -> Grid:
    """The solver's default times."""
    grid: Grid = getattr(solver, "grid", None) or karras()
    return grid


def total_nfe(solver: Solver, times: int) -> int:
    """Net calls of sample() on so many times, the last denoising included. Raises ValueError without nfe()."""
    if not hasattr(solver, "nfe"):
        raise ValueError(f"nfe is given, but {type(solver).__name__} defines no nfe(intervals); give steps or times")
    return 1 if times == 1 else int(solver.nfe(times - 1)) + (not denoises(solver))


def find_solver(solver: str | Solver) -> Solver:
    """What a name stands for, a solver or a callable that makes one; a solver as it is.

    A name is that of an entry point, or that of k-diffusion and diffusers for the same method, such as "dpmpp_2m".
    Raises ValueError for a name that is unknown, or claimed twice, and TypeError for what is no solver.
    """
    if isinstance(solver, str):
        solver = _made(find_plugin(GROUP, _registered(solver), "solver"))
    if isinstance(solver, type) or not isinstance(solver, Solver):
        raise TypeError(f"solver is {solver!r}; expected a name or an object with solve(reverse, x, times, noise)")
    return solver


def _made(found: Any) -> Any:
    return found if isinstance(found, Solver) and not isinstance(found, type) else found()


def _registered(name: str) -> str:
    """The registered name of a method; a name that nobody knows as it is."""
    names = plugin_names(GROUP)
    if name in names:
        return name
    wanted = name.lower().removeprefix("sample_").removesuffix("scheduler").replace("_", "-")
    for each in names:
        about = getattr(find_plugin(GROUP, each, "solver"), "about", None)
        if about is not None and wanted in (each, *about.also):
            return each
    return name
