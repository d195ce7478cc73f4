"""The probability-flow ODE handed over to torchode, in which every sample has steps of its own (Lienen 2022)."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

from torch import Tensor

from sdescore.sampling import Noise, ReverseProcess
from sdescore.sampling.grids import two_ends

from .handover import Handover

__all__ = ["TorchODE"]

METHODS = {"dopri5": "Dopri5", "heun": "Heun", "tsit5": "Tsit5"}


def _library() -> ModuleType:
    try:
        import torchode
    except ImportError as error:
        raise ImportError("TorchODE needs the package torchode: pip install 'sdescore[torchode]'") from error
    return torchode


@dataclass(frozen=True)
class TorchODE:
    """dy/dmu = m of the v target in mu = atan(rho), with steps that suit each sample's own error.

    The net is called with the whole batch until its last sample has arrived. The states between the ends of `times` are
    interpolated.

    Args:
        method: "dopri5", "heun" or "tsit5".
        rtol: Relative tolerance of the root mean square error of a sample's step.
        atol: Absolute tolerance, of x / w, whose scale is that of data.
        max_steps: Steps that a sample may take, with those that are rejected: torchode itself would go on for ever.

    Raises:
        ImportError: Without the package torchode.
        ValueError: For an unknown method, and for what else cannot work.
        FloatingPointError: From solve(), if the net's output is not finite or the tolerance cannot be kept.
    """

    method: str = "tsit5"
    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = 10_000

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method={self.method!r}; expected {', '.join(map(repr, METHODS))}")
        if not (self.rtol > 0 and self.atol > 0 and self.max_steps > 0):
            given = f"rtol={self.rtol}, atol={self.atol}, max_steps={self.max_steps}"
            raise ValueError(f"{given}; expected positive numbers")
        _library()

    grid = staticmethod(two_ends)

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        library, problem = _library(), Handover(self, reverse, times)
        term = library.ODETerm(lambda mu, y: problem.slope(mu, y.reshape(x.shape)).flatten(1), with_stats=False)
        solver = library.AutoDiffAdjoint(
            getattr(library, METHODS[self.method])(term=term),
            library.IntegralController(self.atol, self.rtol, term=term),
            max_steps=self.max_steps,
            backprop_through_step_size_control=False,
        )
        nodes = problem.nodes.to(x.device).expand(len(x), -1)
        done = solver.solve(library.InitialValueProblem(y0=problem.start(x).flatten(1), t_eval=nodes))
        # One sample that gives up stops them all, and leaves states that were never written.
        stopped = done.status != library.Status.SUCCESS.value
        if bool(stopped.any()):
            why = library.Status(int(done.status[stopped][0])).name.lower().replace("_", " ")
            raise FloatingPointError(f"{self} gave up: {why}, in {int(stopped.sum())} of {len(x)} samples")
        yield from problem.states(done.ys.transpose(0, 1).reshape(len(times), *x.shape))
