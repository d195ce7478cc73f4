"""Processes without a closed-form kernel: simulated forwards, learnt by sliced score matching, sampled backwards.

Train on states of simulate() at many times with sliced_score_matching(lambda x: net(x, t), x_t); then reverse_sample().
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from numbers import Integral

import torch
from torch import Tensor
from torchsde import sdeint
from tqdm.auto import tqdm

from sdescore.checks import check_returned
from sdescore.denoiser import per_sample
from sdescore.noise import Noise, White, generator
from sdescore.reverse import Step
from sdescore.sde import SDE, expand
from sdescore.solver import OneStep, Solver, find_solver

__all__ = ["CIRSDE", "FlowHeun", "GeneralReverse", "reverse_sample", "simulate"]


@dataclass(frozen=True)
class CIRSDE(SDE):
    """dx = kappa (theta - x) dt + nu sqrt(x) dw on x > 0, each element by itself (Cox, Ingersoll & Ross 1985, eq. 17).

    Its stationary law, the prior, is Gamma with shape 2 kappa theta / nu^2 and mean theta. `horizon` is T: the gap from
    x_T to the prior falls as exp(-kappa T).
    """

    kappa: float = 1.0
    theta: float = 1.0
    nu: float = 0.6
    horizon: float = 6.0

    def __post_init__(self) -> None:
        values = self.kappa, self.theta, self.nu, self.horizon
        if not all(0 < value < math.inf for value in values) or self.shape <= 1:
            raise ValueError(
                f"kappa, theta, nu, horizon = {values}; valid are positive numbers with nu^2 < 2 kappa theta, "
                "so that x stays above 0"
            )

    @property
    def T(self) -> float:
        return self.horizon

    @property
    def t_min(self) -> float:
        """0: the density of the data itself is used."""
        return 0.0

    @property
    def shape(self) -> float:
        """The shape parameter of the stationary Gamma law."""
        return 2 * self.kappa * self.theta / self.nu**2

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        return self.kappa * (self.theta - x)

    def diffusion(self, x: Tensor, t: Tensor) -> Tensor:
        # A step of a numerical method may fall to 0 and below, where the root's slope, for Milstein's method, is inf.
        return self.nu * x.clamp(min=torch.finfo(x.dtype).tiny).sqrt()

    def diffusion_divergence(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.full_like(x, self.nu**2)

    def prior_sample(
        self,
        shape: tuple[int, ...],
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        alpha = torch.full(shape, self.shape, device=device, dtype=dtype)
        return torch._standard_gamma(alpha, generator=generator) * (self.theta / self.shape)

    def prior_log_prob(self, x: Tensor) -> Tensor:
        rate = self.shape / self.theta
        value = self.shape * math.log(rate) - math.lgamma(self.shape) + (self.shape - 1) * x.log() - rate * x
        return torch.where(x > 0, value, -torch.inf).flatten(1).sum(1)


@dataclass
class _Forward:
    """A process for torchsde in a time n that counts the intervals of a grid, so that every step ends on the grid."""

    sde: SDE
    shape: tuple[int, ...]
    times: Tensor

    noise_type = "diagonal"
    sde_type = "ito"

    def _at(self, n: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Milstein's correction asks inside an interval's end too: the last interval holds n = its end.
        k = min(int(n), len(self.times) - 2)
        width = self.times[k + 1] - self.times[k]
        return y.reshape(self.shape), self.times[k] + (float(n) - k) * width, width

    def f(self, n: Tensor, y: Tensor) -> Tensor:
        x, t, width = self._at(n, y)
        return (float(width) * self.sde.drift(x, t)).flatten(1)

    def g(self, n: Tensor, y: Tensor) -> Tensor:
        x, t, width = self._at(n, y)
        return (math.sqrt(width) * self.sde.diffusion(x, t).expand_as(x)).flatten(1)


@dataclass
class _Steps:
    """A Brownian motion that is asked once for each unit interval."""

    like: Tensor
    noise: torch.Generator
    levy_area_approximation = "none"

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.like.shape)

    def __call__(self, ta: Tensor, tb: Tensor) -> Tensor:
        like = self.like
        return torch.randn(like.shape, generator=self.noise, device=like.device, dtype=like.dtype)


@torch.no_grad()
def simulate(sde: SDE, x0: Tensor, times: Tensor, *, method: str = "milstein", seed: int = 0) -> Tensor:
    """States (len(times), batch, *shape) of the forward process from x0 (batch, *shape) at times[0], by torchsde.

    One step an interval of `times`, an increasing vector within [t_min, T]; method is "milstein" (strong order 1 where
    each element's diffusion depends on that element alone) or "euler". Raises ValueError for other arguments and
    FloatingPointError for a path that is not finite.
    """
    for name, given in (("x0", x0), ("times", times)):
        if not isinstance(given, Tensor):
            raise TypeError(f"{name} is a {type(given).__name__}; valid is a tensor")
    if not x0.is_floating_point() or x0.ndim < 2 or len(x0) == 0:
        raise TypeError(f"x0 is {x0.dtype} of shape {tuple(x0.shape)}; valid is floating-point (batch, *shape)")
    if not bool(x0.isfinite().all()):
        raise ValueError("x0 is not finite")
    if method not in ("euler", "milstein"):
        raise ValueError(f"method={method!r}; valid are 'euler', 'milstein'")
    grid = times.detach().to("cpu", torch.float64)
    if grid.ndim != 1 or len(grid) < 2 or not bool((grid.diff() > 0).all()):
        raise ValueError(f"times has shape {tuple(times.shape)}; valid is a vector of at least two increasing times")
    sde.check_times(grid, "times")
    flat = x0.flatten(1)
    brownian = _Steps(flat, generator("simulate", seed, device=x0.device))
    counts = torch.arange(len(grid), dtype=torch.float64)
    with torch.enable_grad() if method == "milstein" else torch.no_grad():  # its correction differentiates g
        path = sdeint(_Forward(sde, tuple(x0.shape), grid), flat, counts, bm=brownian, method=method, dt=1.0)
    if not bool(path.isfinite().all()):
        raise FloatingPointError(f"simulate: a path of {type(sde).__name__} is not finite; more times keep it stable")
    return path.detach().reshape(len(grid), *x0.shape)


@dataclass(frozen=True)
class GeneralReverse:
    """Any process with a score seen backwards, for solvers that use its drift, diffusion and velocity alone.

    net(x, t, **condition) is the score, with t (batch,).
    """

    sde: SDE
    net: Callable[..., Tensor]
    condition: dict[str, Tensor] = field(default_factory=dict)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """The gradient of log p_t at x."""
        return check_returned(self.net(x, per_sample(t, x), **self.condition), x, "net")

    def _pull(self, x: Tensor, t: Tensor) -> Tensor:
        """div(g g^T) + g g^T score."""
        return self.sde.diffusion_divergence(x, t) + self.sde.diffusion(x, t).square() * self.score(x, t)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """The drift of the reverse-time SDE, f - div(g g^T) - g g^T score (Anderson 1982; Song et al. 2021, eq. 16)."""
        return self.sde.drift(x, t) - self._pull(x, t)

    def euler(self, t: Tensor, s: Tensor) -> Step:
        """Euler-Maruyama's steps from t[i] to s[i]: x - (t - s) drift + diffusion sqrt(t - s) z."""

        def go(i: int, x: Tensor, noise: Noise) -> Tensor:
            width = t[i] - s[i]
            spread = self.sde.diffusion(x, t[i]) * width.sqrt()
            return noise(x, t[i], s[i]).mul_(spread).add_(x - width * self.drift(x, t[i]))

        return go

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """dx/dt of the probability-flow ODE, f - (div(g g^T) + g g^T score) / 2 (Song et al. 2021, eq. 17)."""
        return self.sde.drift(x, t) - self._pull(x, t) / 2

    def take(self, index: Tensor) -> "GeneralReverse":
        """The same for a selection of the samples."""
        return GeneralReverse(self.sde, self.net, {name: value[index] for name, value in self.condition.items()})


@dataclass(frozen=True)
class FlowHeun(OneStep):
    """Heun's method on the probability-flow ODE in x and t, on any process: order 2, two calls a step."""

    def step(self, reverse: GeneralReverse, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:  # type: ignore[override]
        width, slope = expand(s - t, x), reverse.velocity(x, t)
        return x + width * (slope + reverse.velocity(x + width * slope, s)) / 2

    def calls(self, steps: int) -> int:
        return 2 * (steps - 1)


@torch.no_grad()
def reverse_sample(
    sde: SDE,
    score: Callable[..., Tensor],
    shape: tuple[int, ...],
    *,
    solver: str | Solver = "euler-maruyama",
    steps: int = 500,
    times: Tensor | None = None,
    seed: int = 0,
    first: int = 0,
    condition: dict[str, Tensor] | None = None,
    progress: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw samples (n, *sample_shape) at t_min of any process, from its prior at T.

    Sample i depends on (seed, first + i) alone.

    Args:
        sde: The process. A linear one is better served by sample(), which takes every solver and denoises at last.
        score: score(x, t, **condition), with t (batch,).
        shape: (n, *sample_shape).
        solver: One that needs no closed-form kernel: "euler-maruyama", or "milstein" where the diffusion depends on the
            state, for the reverse SDE, FlowHeun() for the ODE.
        steps: Number of times, even in t, from T to t_min; or `times`, a decreasing vector within that.
        condition: Tensors, sample first, that are handed to the score by name.

    Raises ValueError for bad arguments and FloatingPointError if the result is not finite.
    """
    if not all(isinstance(n, Integral) for n in (*shape, steps)) or len(shape) < 2 or min(shape) < 1 or steps < 2:
        raise ValueError(f"shape={shape}, steps={steps}; valid are (n, *sample_shape) and at least 2 steps")
    if times is not None and not isinstance(times, Tensor):
        raise TypeError(f"times is a {type(times).__name__}; valid is a tensor of decreasing times")
    grid = torch.linspace(sde.T, sde.t_min, steps, dtype=torch.float64) if times is None else times.cpu().double()
    if grid.ndim != 1 or len(grid) < 2 or not bool((grid.diff() < 0).all()):
        raise ValueError(f"times has shape {tuple(grid.shape)}; valid is a vector of at least two decreasing times")
    sde.check_times(grid, "times")
    numbers = range(first, first + shape[0])
    own = (generator("prior", seed, i, device=device) for i in numbers)
    x = torch.cat([sde.prior_sample((1, *shape[1:]), g, device, dtype) for g in own])
    method, reverse = find_solver(solver), GeneralReverse(sde, score, condition or {})
    states = method.solve(reverse, x, grid, White(seed, numbers, device))  # type: ignore[arg-type]
    try:
        for state in tqdm(states, total=len(grid) - 1, disable=not progress, desc=type(method).__name__):
            x = state
    except AttributeError as error:
        if isinstance(error.obj, SDE | GeneralReverse):  # it asks for alpha, sigma or what follows from them
            raise ValueError(
                f"solver={solver!r} needs a closed-form kernel ({error}); valid are those of the docstring"
            ) from error
        raise
    if not bool(x.isfinite().all()):
        raise FloatingPointError(f"{type(method).__name__}: the result is not finite; more steps may keep it stable")
    return x
