"""The reverse SDE with steps of each sample's own (Jolicoeur-Martineau et al. 2021, algorithm 1)."""

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from sdescore.common.linear_combinations import expand
from sdescore.sampling import About, Noise, ReverseProcess, two_ends

from .adaptive import CallRecord, check_tolerance
from .runge_kutta import RungeKutta
from .tableaux import HEUN
from .targets import DATA, IN_LAM

__all__ = ["AdaptiveSDE"]

PAIR = RungeKutta(HEUN, DATA, IN_LAM, tau=1.0)


@dataclass(frozen=True)
class AdaptiveSDE:
    """Euler's step and the improved one with the same noise: their difference chooses the step, the latter is taken.

    Both are in lam with exact weights, where the paper's are in t. The noise of a step that is rejected is kept, and
    bridged by the shorter steps after it: drawn anew, it would favour small noise. Two net calls a step; samples that
    have arrived leave the batch; one that is not finite, or does not arrive within `limit` calls, becomes NaN.

    Args:
        rtol, atol: Bound the root mean square of the difference by rtol |x| + atol sqrt(alpha^2 + sigma^2).
        record: Where the net calls of each sample are written, if anywhere.
        limit: Net calls that a sample may take.
    """

    rtol: float = 0.02
    atol: float = 0.02
    record: CallRecord | None = field(default=None, repr=False, compare=False)
    limit: int = 10_000
    about = About(
        "SDE",
        1,
        "Jolicoeur-Martineau et al. 2021, algorithm 1",
        "https://arxiv.org/abs/2105.14080",
        "the reverse SDE to a tolerance, with steps of each sample's own",
    )

    def __post_init__(self) -> None:
        check_tolerance(self.rtol, self.atol)

    grid = two_ends()

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        nfe = torch.zeros(len(x), dtype=torch.long)
        steps = torch.full((len(x),), 0.1, dtype=torch.float64)
        for i, (start, stop) in enumerate(pairwise(reverse.sde.lam(times).tolist()), start=2):
            x = self._carry(reverse, x, start, stop, noise, steps, nfe)
            if i == len(times) and self.record is not None:
                self.record.add(nfe)
            yield x

    def _carry(
        self, reverse: ReverseProcess, x: Tensor, start: float, stop: float, noise: Noise, steps: Tensor, nfe: Tensor
    ) -> Tensor:
        """From lam = start to stop; `steps` in lam and `nfe`, each (batch,), are kept up to date."""
        sde = reverse.sde
        done, rows = torch.full_like(x, torch.nan), torch.arange(len(x))
        rejected = RejectedNoise(x)
        # The clock is the snr, in which the noise is a Brownian motion, in units of that at stop.
        clock = torch.full((len(x),), 2 * (start - stop), dtype=torch.float64).exp()
        while len(rows):
            width, w = rejected.draw((clock * (2 * steps[rows]).exp()).clamp(max=1) - clock, noise.randn(x))
            later = torch.where(clock + width > 1 - 1e-12, 1.0, clock + width)
            t, s = (sde.time(stop + at.log() / 2).clamp(sde.t_min, sde.T) for at in (clock, later))
            euler, improved = _pair(reverse, x, t, s, w / expand(width.sqrt(), w))
            nfe[rows] += 2
            bound = self.rtol * torch.maximum(euler.abs(), x.abs()) + self.atol * expand(
                torch.hypot(sde.alpha(s), sde.sigma(s)), x
            )
            # The lengths of steps are no function that is differentiated: their bounds have no finite slope.
            error = ((improved - euler) / bound).detach().flatten(1).double().square().mean(1).sqrt().cpu()
            error, good = error.nan_to_num(torch.inf), error <= 1
            steps[rows] = (later / clock).log() / 2 * (0.8 * error.clamp(min=1e-10) ** -0.5).clamp(0.2, 2.0)
            rejected.put(~good, width, w)
            x, clock = torch.where(_like(good, x), improved, x), torch.where(good, later, clock)
            arrived = clock == 1
            done[rows[arrived]] = x[arrived]
            going = ~arrived & (nfe[rows] < self.limit) & (steps[rows] > 1e-9)
            if not bool(going.all()):
                index = going.nonzero().flatten()
                reverse, noise, rejected = reverse.select(index), noise.select(index), rejected.select(index)
                rows, x, clock = rows[index], x[index], clock[index]
        return done


def _like(mask: Tensor, x: Tensor) -> Tensor:
    return mask.to(x.device).reshape(-1, *(1,) * (x.ndim - 1))


def _pair(reverse: ReverseProcess, x: Tensor, t: Tensor, s: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """The states at s by Euler's step and by the improved one."""
    predict, correct = PAIR.rows(reverse.sde, PAIR.nodes(reverse.sde, t, s)).unbind(1)
    base = expand(predict[:, 0], x) * x + expand(predict[:, 3], x) * z
    first = reverse.data(x, t)
    euler = base + expand(predict[:, 1], x) * first
    return euler, base + expand(correct[:, 1], x) * first + expand(correct[:, 2], x) * reverse.data(euler, s)


class RejectedNoise:
    """The known future of each sample's path: a stack of the widths and increments of steps that were rejected.

    Rackauckas & Nie 2017, rejection sampling with memory (https://doi.org/10.3934/dcdsb.2017133).
    """

    def __init__(self, x: Tensor) -> None:
        self.depth = torch.zeros(len(x), dtype=torch.long)
        self.widths, self.w = torch.zeros(0, len(x), dtype=torch.float64), x.new_zeros(0, *x.shape)

    def draw(self, width: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """Width and increment of the next step, at most `width`: of the stack's top where there is one, by a bridge."""
        w, width = expand(width.sqrt(), z) * z, width.clone()
        rows = self.depth.nonzero().flatten()
        top = self.depth[rows] - 1, rows
        whole, whole_w = self.widths[top], self.w[top]
        part = torch.minimum(width[rows], whole)
        share = part / whole
        part_w = expand(share, z) * whole_w + expand((part * (1 - share)).sqrt(), z) * z[rows]
        width[rows], w[rows] = part, part_w
        self.widths[top], self.w[top] = whole - part, whole_w - part_w
        self.depth[rows] -= (share == 1).long()
        return width, w

    def put(self, mask: Tensor, width: Tensor, w: Tensor) -> None:
        """Lay the steps of the masked samples on their stacks."""
        rows = mask.nonzero().flatten()
        if len(rows) and int(self.depth[rows].max()) == len(self.widths):
            self.widths = torch.cat([self.widths, torch.zeros_like(width)[None]])
            self.w = torch.cat([self.w, torch.zeros_like(w)[None]])
        top = self.depth[rows], rows
        self.widths[top], self.w[top] = width[rows], w[rows]
        self.depth[rows] += 1

    def select(self, index: Tensor) -> "RejectedNoise":
        chosen = copy(self)
        chosen.depth, chosen.widths, chosen.w = self.depth[index], self.widths[:, index], self.w[:, index]
        return chosen
