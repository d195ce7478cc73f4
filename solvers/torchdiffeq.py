"""The probability-flow ODE handed over to torchdiffeq, for any of its methods (Chen et al. 2018)."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from sdescore.density.coordinates import ANGLE
from sdescore.density.flow import ProbabilityFlowODE, finite_slope
from sdescore.sampling import About, Noise, ReverseProcess, uniform_angle

from .adaptive import check_tolerance

__all__ = ["TorchDiffEq"]

# Net calls on so many intervals.
FIXED: dict[str, Callable[[int], int]] = {
    "euler": lambda n: n,
    "midpoint": lambda n: 2 * n,
    "heun2": lambda n: 2 * n,
    "heun3": lambda n: 3 * n,
    "rk4": lambda n: 4 * n,
    "explicit_adams": lambda n: n + 3 * min(n, 2),  # two steps of rk4 fill the history
}
ADAPTIVE = ("adaptive_heun", "fehlberg2", "bosh3", "dopri5", "dopri8")
METHODS = (*FIXED, *ADAPTIVE, "implicit_adams", "fixed_adams", "scipy_solver")
# Adams-Bashforth of order 4: torchdiffeq's own default, order 11, is unstable.
DEFAULTS: dict[str, dict[str, Any]] = {"explicit_adams": {"max_order": 5}}
GIVING_UP = ("underflow in dt", "max_num_steps", "non-finite values")  # how its assertions begin
OWN_OPTIONS = ("grid_constructor", "interp", "jump_t", "step_size", "step_t")


def _largest(error: Tensor) -> Tensor:
    """The largest root mean square among the samples, so that each of them keeps the tolerance, not only their mean."""
    return error.flatten(1).square().mean(1).max().sqrt()


@dataclass(frozen=True)
class TorchDiffEq:
    """dz/dmu = v / w in the angle mu = atan(rho), for z = x / w at unit scale, w = sqrt(alpha^2 + sigma^2).

    Fixed-step methods step on `times`. Adaptive methods and scipy_solver choose their own steps between the ends of
    `times`, one size for the whole batch, so that a sample depends on its batch within the tolerance; the states at
    `times` are then interpolated. All of them are in memory at once: give few `times` if it is short.

    Args:
        method: "dopri5" or another of METHODS. The Adams methods need equal steps in mu, as in the default grid;
            scipy_solver runs in NumPy, without gradients.
        rtol: Relative tolerance of a step, of adaptive and implicit methods.
        atol: Absolute tolerance of a step, in z, whose scale is that of data.
        options: The method's own, such as {"max_num_steps": 100}, {"max_order": 4}, or {"solver": "Radau"} of SciPy.

    Raises:
        ValueError: For an unknown method, bad tolerances, and options that `times` decides.
        FloatingPointError: From solve(), if the net's output is not finite or the tolerance cannot be kept.
    """

    method: str = "dopri5"
    rtol: float = 1e-5
    atol: float = 1e-5
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    grid = uniform_angle()
    about = About(
        "ODE",
        5,
        "Chen et al. 2018",
        "https://arxiv.org/abs/1806.07366",
        "the probability-flow ODE handed over to torchdiffeq",
    )

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method={self.method!r}; expected {', '.join(map(repr, METHODS))}")
        check_tolerance(self.rtol, self.atol)
        if taken := [name for name in OWN_OPTIONS if name in self.options]:
            raise ValueError(f"options has {taken}, which `times` decides; leave {', '.join(OWN_OPTIONS)} out")
        if self.options.get("max_order", 4) < 4:
            raise ValueError(f"options has max_order={self.options['max_order']}; expected 4 to 12")

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        from torchdiffeq import odeint  # imported where it runs: it takes a while to load

        ode = ProbabilityFlowODE(reverse, times, ANGLE)
        widths = ode.nodes.diff()
        if "adams" in self.method and bool((widths / widths[0] - 1).abs().max() > 1e-6):
            raise ValueError(f"times: {self.method} needs equal steps in atan(rho); leave times out for such a grid")
        options = {"norm": _largest, **DEFAULTS.get(self.method, {}), **self.options}
        nodes = ode.nodes.to(x.device)
        if self.method in ADAPTIVE:  # without a step that ends there they go beyond the end and interpolate
            options["step_t"] = nodes[-1:]
        try:
            path = odeint(
                finite_slope(ode, self),
                x / ode.scales[0],
                nodes,
                rtol=self.rtol,
                atol=self.atol,
                method=self.method,
                options=options,
            )
        except AssertionError as error:
            if not str(error).startswith(GIVING_UP):
                raise
            raise FloatingPointError(f"{self} gave up: {error}") from error
        if len(path) < len(times):
            raise FloatingPointError(f"{self} gave up before t = {float(times[-1]):.6g}")
        for scale, z in zip(ode.scales[1:], path[1:], strict=True):
            yield scale * z

    def nfe(self, intervals: int) -> int:
        """Net calls of a fixed-step method. Raises ValueError for the others."""
        if self.method not in FIXED:
            raise ValueError(
                f"nfe is given, but method={self.method!r} calls the net as often as its tolerance needs; "
                f"give rtol and atol, or one of the methods {', '.join(map(repr, FIXED))}"
            )
        return FIXED[self.method](intervals)
