"""The probability-flow ODE handed over to torchode, in which every sample has steps of its own (Lienen 2022)."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec

from torch import Tensor

from sdescore.common.checks import check_count
from sdescore.density.coordinates import ANGLE
from sdescore.density.flow import ProbabilityFlowODE, finite_slope
from sdescore.sampling import About, Noise, ReverseProcess, two_ends

from .adaptive import check_tolerance

__all__ = ["TorchODE"]

METHODS = {"dopri5": "Dopri5", "heun": "Heun", "tsit5": "Tsit5"}


@dataclass(frozen=True)
class TorchODE:
    """dz/dmu = v / w in the angle mu = atan(rho), as TorchDiffEq, with steps that suit each sample's own error.

    The net is called with the whole batch until its last sample has arrived. The states between the ends of `times` are
    interpolated.

    Args:
        method: "dopri5", "heun" or "tsit5".
        rtol: Relative tolerance of the root mean square error of a sample's step.
        atol: Absolute tolerance, in z = x / w, whose scale is that of data.
        max_steps: Steps that a sample may take, rejected ones included; torchode has no limit of its own.

    Raises:
        ImportError: Without the package torchode.
        ValueError: For an unknown method, bad tolerances or a bad limit.
        FloatingPointError: From solve(), if the net's output is not finite or the tolerance cannot be kept.
    """

    method: str = "tsit5"
    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = 10_000

    grid = two_ends()
    about = About(
        "ODE",
        5,
        "Lienen & Günnemann 2022",
        "https://arxiv.org/abs/2210.12375",
        "the probability-flow ODE handed over to torchode, with steps of each sample's own",
    )

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method={self.method!r}; expected {', '.join(map(repr, METHODS))}")
        check_tolerance(self.rtol, self.atol)
        check_count("max_steps", self.max_steps)
        if find_spec("torchode") is None:
            raise ImportError("TorchODE needs the package torchode: pip install 'sdescore[torchode]'")

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        import torchode  # imported where it runs: it takes a while to load

        ode = ProbabilityFlowODE(reverse, times, ANGLE)
        slope = finite_slope(ode, self)
        term = torchode.ODETerm(lambda mu, z: slope(mu, z.reshape(x.shape)).flatten(1), with_stats=False)
        solver = torchode.AutoDiffAdjoint(
            getattr(torchode, METHODS[self.method])(term=term),
            torchode.IntegralController(self.atol, self.rtol, term=term),
            max_steps=self.max_steps,
            backprop_through_step_size_control=False,
        )
        nodes = ode.nodes.to(x.device).expand(len(x), -1)
        done = solver.solve(torchode.InitialValueProblem(y0=(x / ode.scales[0]).flatten(1), t_eval=nodes))
        # One sample that gives up stops them all, and leaves states that were never written.
        stopped = done.status != torchode.Status.SUCCESS.value
        if bool(stopped.any()):
            why = torchode.Status(int(done.status[stopped][0])).name.lower().replace("_", " ")
            raise FloatingPointError(f"{self} gave up: {why}, in {int(stopped.sum())} of {len(x)} samples")
        for scale, z in zip(ode.scales[1:], done.ys.transpose(0, 1)[1:], strict=True):
            yield scale * z.reshape(x.shape)
