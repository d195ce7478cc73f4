"""The reverse-time SDE handed over to torchsde, for its Itô methods (Li et al. 2020; Rößler 2010)."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from sdescore.common.linear_combinations import expand
from sdescore.sampling import About, Noise, OneStep, ReverseProcess

__all__ = ["TorchSDE"]

# Distinct net calls a step.
METHODS = {"euler": (1, 1), "milstein": (1, 1), "srk": (2, 4)}


@dataclass
class _Interval:
    """The reverse SDE from t to s for torchsde: its time n runs from 0 to 1, its state is flat."""

    reverse: ReverseProcess
    shape: tuple[int, ...]
    t: Tensor
    s: Tensor
    known: dict[tuple[float, int], tuple[Tensor, Tensor]] = field(default_factory=dict)

    sde_type = "ito"

    def _time(self, n: Tensor) -> Tensor:
        return torch.lerp(self.t, self.s, float(n))

    def f(self, n: Tensor, y: Tensor) -> Tensor:
        # torchsde asks for the same drift several times: to check its shape, and again for later stages.
        key = float(n), id(y)
        if key not in self.known:
            x = y.reshape(self.shape)
            drift = expand(self.s - self.t, x) * self.reverse.drift(x, self._time(n))
            self.known[key] = y, drift.flatten(1)  # y is kept, so that no other tensor takes its id
        return self.known[key][1]

    def spread(self, n: Tensor, y: Tensor) -> Tensor:
        x = y.reshape(self.shape)
        return self.reverse.sde.diffusion(x, self._time(n)) * expand((self.t - self.s).sqrt(), x)


class _Additive(_Interval):
    noise_type = "additive"

    def g_prod(self, n: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return (self.spread(n, y) * v.reshape(self.shape)).flatten(1)


class _Diagonal(_Interval):
    noise_type = "diagonal"

    def g(self, n: Tensor, y: Tensor) -> Tensor:
        return self.spread(n, y).expand(self.shape).flatten(1)


NOISE_TYPES = {"additive": _Additive, "diagonal": _Diagonal}


@dataclass
class _Brownian:
    """The library's noise as the Brownian motion W of an interval of length 1, with U, its integral over time."""

    noise: Noise
    x: Tensor
    t: Tensor
    s: Tensor

    levy_area_approximation = "space-time"

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.x), self.x[0].numel()

    def __call__(
        self, ta: Tensor, tb: Tensor, return_U: bool = False, return_A: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        w = self.noise(self.x, self.t, self.s).flatten(1)
        if not return_U:
            return w
        # Given W, U is normal about W / 2 with variance 1 / 12.
        return w, w / 2 + self.noise.levy_area(self.x, self.t, self.s).flatten(1) / math.sqrt(12)


@dataclass(frozen=True)
class TorchSDE(OneStep):
    """One step of torchsde from t to s, by a change of time to the interval from 0 to 1: no step falls off the grid.

    Args:
        method: "euler", which is EulerMaruyama; "milstein", which is so too unless g depends on x; or "srk", of strong
            order 1.5.
        noise_type: The kind of noise for torchsde: "additive" where g depends on t alone, as for every LinearSDE, or
            "diagonal", which holds for every process here. "srk" makes 2 net calls a step as additive, 4 as diagonal.

    Raises:
        ValueError: For an unknown method or noise_type.
    """

    method: str = "euler"
    noise_type: str = "additive"
    about = About(
        "SDE",
        1,
        "Li et al. 2020",
        "https://arxiv.org/abs/2001.01328",
        "the reverse SDE handed over to torchsde's Itô methods",
    )

    def __post_init__(self) -> None:
        for name, value, valid in (("method", self.method, METHODS), ("noise_type", self.noise_type, NOISE_TYPES)):
            if value not in valid:
                raise ValueError(f"{name}={value!r}; expected {', '.join(map(repr, valid))}")

    def step(self, reverse: ReverseProcess, x: Tensor, t: Tensor, s: Tensor, noise: Noise) -> Tensor:
        from torchsde import sdeint  # imported where it runs: it takes a while to load

        problem = NOISE_TYPES[self.noise_type](reverse, tuple(x.shape), t, s)
        unit = torch.tensor([0.0, 1.0], dtype=torch.float64)
        path = sdeint(problem, x.flatten(1), unit, bm=_Brownian(noise, x, t, s), method=self.method, dt=1.0)
        return path[-1].reshape(x.shape).to(x.dtype)  # milstein widens it to that of the times

    def nfe(self, intervals: int) -> int:
        return METHODS[self.method][self.noise_type == "diagonal"] * intervals
