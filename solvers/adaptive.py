"""Adaptive Runge-Kutta on the probability-flow ODE, with steps of each sample's own; and presets, one line each."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from sdescore.density.flow import transport
from sdescore.density.runge_kutta import BOGACKI_SHAMPINE, DORMAND_PRINCE, TSITOURAS, EmbeddedPair
from sdescore.sampling import About, Noise, ReverseProcess, two_ends

__all__ = ["BOSH3", "DOPRI5", "TSIT5", "Adaptive", "CallRecord", "check_tolerance"]


@dataclass
class CallRecord:
    """A record for adaptive solvers to write in: the net calls of each sample, `nfe` (samples,).

    Every solve() appends a batch. The copies that fill the last batch of sample() come last; its last denoising, one
    call more, is not counted.
    """

    nfe: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))

    def add(self, nfe: Tensor) -> None:
        """Append a batch."""
        self.nfe = torch.cat([self.nfe, nfe.cpu()])


def check_tolerance(rtol: float, atol: float) -> None:
    """Raise ValueError for tolerances that no step, or every step, would keep."""
    if not (0 < rtol < math.inf and 0 < atol < math.inf):
        raise ValueError(f"rtol={rtol}, atol={atol}; expected positive, finite numbers")


@dataclass(frozen=True)
class Adaptive:
    """Every sample takes the steps that its own tolerance asks for, so that none depends on those beside it.

    Samples that have arrived leave the batch, and the net is never called outside of the times. A sample whose flow is
    not finite, or whose tolerance cannot be met, becomes NaN.

    Args:
        pair: An embedded pair whose last stage is the first of the next step.
        rtol, atol: Bound the root mean square of a step's error in x / sqrt(alpha^2 + sigma^2).
        record: Where the net calls of each sample are written, if anywhere.
    """

    pair: EmbeddedPair = field(default=TSITOURAS, repr=False)
    rtol: float = 1e-4
    atol: float = 1e-4
    record: CallRecord | None = field(default=None, repr=False, compare=False)
    about: About | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_tolerance(self.rtol, self.atol)
        if not self.pair.error:
            raise ValueError(f"pair={self.pair} has no error weights; expected embedded pairs, such as DORMAND_PRINCE")

    grid = two_ends()

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        nfe = torch.zeros(len(x), dtype=torch.long)
        for i, (start, stop) in enumerate(pairwise(times.tolist()), start=2):
            done = transport(reverse, x, start, stop, self.rtol, self.atol, pair=self.pair)
            x = done.y.masked_fill(done.failed.reshape(-1, *(1,) * (x.ndim - 1)), torch.nan)
            nfe += done.nfe.cpu()
            if i == len(times) and self.record is not None:
                self.record.add(nfe)
            yield x


BOSH3 = Adaptive(
    BOGACKI_SHAMPINE,
    about=About(
        "ODE",
        3,
        "Bogacki & Shampine 1989",
        "https://doi.org/10.1016/0893-9659(89)90079-7",
        "steps of each sample's own, for loose tolerances",
    ),
)
DOPRI5 = Adaptive(
    DORMAND_PRINCE,
    about=About(
        "ODE",
        5,
        "Dormand & Prince 1980",
        "https://doi.org/10.1016/0771-050X(80)90013-3",
        "exact to a tolerance, with steps of each sample's own",
    ),
)
TSIT5 = Adaptive(
    TSITOURAS,
    about=About(
        "ODE",
        5,
        "Tsitouras 2011",
        "https://doi.org/10.1016/j.camwa.2011.06.002",
        "the same with smaller errors",
    ),
)
