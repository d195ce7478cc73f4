"""A process and a denoiser seen backwards: what a solver is given."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sdescore.common.linear_combinations import Coefficient, Summand, per_step, scale
from sdescore.denoisers.conversions import PREDICTIONS, Pair, check_prediction
from sdescore.denoisers.denoiser import Denoiser
from sdescore.processes.base import LinearSDE

__all__ = ["NetCalls", "ReverseProcess", "SummandsAlong", "drift_pair"]

# Of the number of a time of a grid, and the state there.
SummandsAlong = Callable[[int, Tensor], list[Summand]]


@dataclass
class NetCalls:
    """How often the net has been called."""

    count: int = 0


def drift_pair(sde: LinearSDE, t: Tensor) -> Pair:
    """(p, q) of p x0 + q eps = f x - g^2 score, the drift of the reverse-time SDE: x itself is alpha x0 + sigma eps.

    Anderson 1982; Song et al. 2021, eq. 6.
    """
    f = sde.f(t)
    return f * sde.alpha(t), f * sde.sigma(t) + sde.g(t) ** 2 / sde.sigma(t)


@dataclass(frozen=True)
class ReverseProcess:
    """The sampling process with a denoiser: every prediction at a state (x, t) of `sde`, one net call each.

    x is (batch, *shape), t is () or (batch,). The denoiser may have been trained on another linear process: a state is
    then rescaled and read at the time of equal lam, where x0 and eps are the same (Karras et al. 2022, appendix B).
    """

    sde: LinearSDE
    denoiser: Denoiser
    condition: Mapping[str, Tensor] = field(default_factory=dict)
    net_calls: NetCalls = field(default_factory=NetCalls)

    def _own(self, t: Tensor) -> tuple[Tensor, Coefficient]:
        """The denoiser's time for t, and the factor of x there."""
        own = self.denoiser.sde
        if own == self.sde:
            return t, 1.0
        own_t = own.time(self.sde.lam(t)).clamp(own.t_min, own.T)
        return own_t, own.alpha(own_t) / self.sde.alpha(t)

    def nfe(self, t: Tensor) -> Tensor:
        """How many net calls a prediction costs at times t, of their shape."""
        return self.denoiser.nfe(self._own(t)[0])

    def strength(self, t: Tensor) -> Tensor:
        """The scale of the denoiser's guidance at times t, of their shape."""
        return self.denoiser.strength(self._own(t)[0])

    def linear(self, x: Tensor, t: Tensor, p: Coefficient, q: Coefficient) -> Tensor:
        """p x0 + q eps, with p and q of shape () or (batch,)."""
        self.net_calls.count += 1
        own_t, factor = self._own(t)
        return self.denoiser.linear(scale(factor, x), own_t, p, q, **self.condition)

    def summands(self, times: Tensor, p: Coefficient, q: Coefficient) -> SummandsAlong:
        """linear() on a grid, as a function (i, x) to the summands, such as x and what the net returned.

        times is (n,), or (n, batch) for times of each sample; p and q are of its shape, or numbers. Every coefficient
        is computed here, in float64: a call costs the net and little else.
        """
        own_times, factor = self._own(times)
        rows = _rows((factor, self.denoiser.coefficients(own_times, p, q)), times)

        def at(i: int, x: Tensor) -> list[Summand]:
            self.net_calls.count += 1
            factor, coefficients = rows[i]
            return self.denoiser.summands(coefficients, scale(factor, x), **self.condition)

        return at

    def predict(self, kind: str, x: Tensor, t: Tensor) -> Tensor:
        """The prediction of the named kind."""
        pair = PREDICTIONS[check_prediction(kind, "kind")](self.sde, t, self.denoiser.data_std)
        return self.linear(x, t, *pair)

    def data(self, x: Tensor, t: Tensor) -> Tensor:
        """E[x0 | x_t = x]."""
        return self.linear(x, t, 1.0, 0.0)

    def noise(self, x: Tensor, t: Tensor) -> Tensor:
        """E[eps | x_t = x]."""
        return self.linear(x, t, 0.0, 1.0)

    def score(self, x: Tensor, t: Tensor) -> Tensor:
        """The gradient of log p_t at x."""
        return self.predict("score", x, t)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """dx/dt of the probability-flow ODE (Song et al. 2021, eq. 13)."""
        return self.predict("velocity", x, t)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """The drift of the reverse-time SDE, f x - g^2 score."""
        return self.linear(x, t, *drift_pair(self.sde, t))

    def select(self, index: Tensor) -> "ReverseProcess":
        """The same for a selection of the samples; net calls are counted together."""
        return replace(self, condition={name: value[index] for name, value in self.condition.items()})


def _rows(columns: tuple[Any, ...], times: Tensor) -> list[tuple[Any, ...]]:
    """The coefficients of each step; a column is a number, of the shape of times, or a tuple of columns itself."""
    each = (
        _rows(column, times)
        if isinstance(column, tuple)
        else per_step(torch.as_tensor(column, dtype=torch.float64).expand(times.shape))
        for column in columns
    )
    return list(zip(*each, strict=True))
