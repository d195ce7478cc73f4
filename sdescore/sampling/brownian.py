"""One Brownian path per sample, the same under every grid of times: what strong orders are measured on."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sdescore.common.random import generator
from sdescore.processes.base import LinearSDE
from sdescore.sampling.noise import WhiteNoise

__all__ = ["Brownian", "BrownianPath", "rho_clock", "snr_clock", "time_clock"]

Clock = Callable[[LinearSDE, Tensor], Tensor]


def snr_clock(sde: LinearSDE, t: Tensor) -> Tensor:
    """1 / rho^2, the clock of y = alpha x / sigma^2: the reverse SDE is dy = x0 dsnr + dW(snr) with unit noise.

    Methods with tau = 1 on the data target take the increments of this W exactly.
    """
    return torch.exp(2 * sde.lam(t))


def rho_clock(sde: LinearSDE, t: Tensor) -> Tensor:
    """rho^2, the clock of y = x / alpha: the reverse SDE is dy = eps drho^2 / rho + dW(rho^2) with unit noise.

    Methods with tau = 1 on the noise target take the increments of this W exactly.
    """
    return sde.rho(t) ** 2


def time_clock(sde: LinearSDE, t: Tensor) -> Tensor:
    """t, the clock of the w in dx = (f x - g^2 score) dt + g dw, whose increments Euler-Maruyama takes."""
    return t


@dataclass(frozen=True)
class Brownian:
    """Makes the noise of sample(..., noise_source=Brownian(sde)): W(clock) of sample i depends on (seed, i) alone.

    Times are rounded to 2^depth places, equal in lam from T to t_min, so that grids agree on the path wherever they
    meet; closer times raise ValueError. Each new place costs up to `depth` draws: this is for measuring; WhiteNoise is
    for sampling.
    """

    sde: LinearSDE
    clock: Clock = field(default=snr_clock, repr=False)
    depth: int = 16

    def __call__(self, seed: int, indices: Sequence[int], device: torch.device | str = "cpu") -> "BrownianPath":
        return BrownianPath(self, seed, indices, device)


class BrownianPath:
    """The path and its integral by halving: the parts of an interval are normal given its increment and its area."""

    def __init__(self, source: Brownian, seed: int, indices: Sequence[int], device: torch.device | str) -> None:
        self._source, self._seed, self._indices, self._device = source, seed, list(indices), device
        self._white = WhiteNoise(seed, indices, device)
        self._splits: dict[int, tuple[int, Tensor, Tensor]] = {}  # the last of each level: its number, w and area
        self._places: dict[int, tuple[Tensor, Tensor]] = {}  # the last two: W and its integral from T on
        self._clocks: dict[int, float] = {}
        ends = torch.tensor([source.sde.T, source.sde.t_min], dtype=torch.float64)
        self._first, self._last = source.sde.lam(ends).tolist()

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, std: float = 1.0) -> Tensor:
        w, _, width = self._between(x, t, s)
        return (w * (std / math.sqrt(width))).to(x.dtype)

    def levy_area(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        w, area, width = self._between(x, t, s)
        return ((area / width - w / 2) * math.sqrt(12 / width)).to(x.dtype)

    def randn(self, x: Tensor, std: float = 1.0) -> Tensor:
        return self._white.randn(x, std)

    def select(self, index: Tensor) -> "BrownianPath":
        chosen = BrownianPath(self._source, self._seed, [self._indices[i] for i in index.tolist()], self._device)
        chosen._white = self._white.select(index)
        return chosen

    def _between(self, x: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, float]:
        """W(s) - W(t), the integral of W - W(t) over the clock's interval, and the interval's width."""
        lams = self._source.sde.lam(torch.stack([t, s]).cpu().double())
        share = (lams - self._first) / (self._last - self._first)
        i, j = (share * 2**self._source.depth).round().long().tolist()
        if not 0 <= i < j <= 2**self._source.depth:
            raise ValueError(f"t={float(t)}, s={float(s)}; expected t > s in [t_min, T] that `depth` tells apart")
        (w, area), (w_s, area_s) = self._place(x, i), self._place(x, j)
        self._places = {i: (w, area), j: (w_s, area_s)}
        width = abs(self._clock(j) - self._clock(i))
        return w_s - w, area_s - area - width * w, width

    def _clock(self, place: int) -> float:
        if place not in self._clocks:
            share, sde = place / 2**self._source.depth, self._source.sde
            lam = torch.tensor(self._first + share * (self._last - self._first), dtype=torch.float64)
            self._clocks[place] = float(self._source.clock(sde, sde.time(lam).clamp(sde.t_min, sde.T)))
        return self._clocks[place]

    def _place(self, x: Tensor, place: int) -> tuple[Tensor, Tensor]:
        """W, and its integral over the clock, from T to a place."""
        if place in self._places:
            return self._places[place]
        depth = self._source.depth
        w = area = torch.zeros(x.shape, dtype=torch.float64, device=self._device)  # up to where this part begins
        start, stop = self._clock(0), self._clock(2**depth)
        width, (z, y) = abs(stop - start), self._normals(x, 0, 0)
        part_w, part_area, number = math.sqrt(width) * z, width**1.5 * (z / 2 + y / math.sqrt(12)), 0
        for level in range(1, depth + 1):
            above, number = depth - level, 2 * number
            middle = self._clock((number + 1) << above)
            left, right = abs(middle - start), abs(stop - middle)
            if self._splits.get(level, (-1,))[0] != number:
                halves = _left(part_w, part_area, left, right, *self._normals(x, level, number))
                self._splits[level] = (number, *halves)
            _, left_w, left_area = self._splits[level]
            if place < (number + 1) << above:
                part_w, part_area, stop, width = left_w, left_area, middle, left
            else:
                area = area + left * w + left_area
                w, number = w + left_w, number + 1
                part_w, part_area = part_w - left_w, part_area - left_area - right * left_w
                start, width = middle, right
            if place == number << above:
                return w, area
        return w + part_w, area + width * w + part_area  # T's other end, where no part begins

    def _normals(self, x: Tensor, level: int, number: int) -> Tensor:
        """Two unit normals, (2, batch, *shape), of an interval."""
        z = torch.empty(len(x), 2, *x.shape[1:], dtype=torch.float64, device=self._device)
        for index, row in zip(self._indices, z, strict=True):
            row.normal_(generator=generator("path", self._seed, level, number, index, device=self._device))
        return z.transpose(0, 1)


def _left(w: Tensor, area: Tensor, left: float, right: float, z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Increment and area of the left part of an interval, given those of the whole and two unit normals.

    Drawn for the shorter part, in units where it has increments of variance 1: then nothing cancels.
    """
    width, short = left + right, min(left, right)
    r, own = short / width, torch.tensor([[1.0, 1 / 2], [1 / 2, 1 / 3]], dtype=torch.float64)
    cross = own @ torch.tensor([[1.0, 1 - r], [0.0, r]], dtype=torch.float64)
    if left > right:
        cross = own @ torch.tensor([[1.0, 0.0], [0.0, r]], dtype=torch.float64)
    cross = math.sqrt(r) * cross
    gain = torch.linalg.solve(own, cross.T).T
    root = torch.linalg.cholesky(own - gain @ cross.T).tolist()
    whole = w / math.sqrt(width), area / width**1.5
    part_w, part_area = (a * whole[0] + b * whole[1] for a, b in gain.tolist())
    part_w = math.sqrt(short) * (part_w + root[0][0] * z)
    part_area = short**1.5 * (part_area + root[1][0] * z + root[1][1] * y)
    if left <= right:
        return part_w, part_area
    left_w = w - part_w
    return left_w, area - right * left_w - part_area
