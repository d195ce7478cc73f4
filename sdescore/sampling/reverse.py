"""A process and a denoiser seen backwards: what a solver is given."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sdescore.common.linear_combinations import Coefficient, Summand, scaled, total
from sdescore.denoisers.conversions import PREDICTIONS, Pair, check_prediction
from sdescore.denoisers.denoiser import Denoiser
from sdescore.processes.base import LinearSDE
from sdescore.sampling.noise import Noise

__all__ = ["Along", "Calls", "ReverseProcess", "Step", "SummandsAlong"]

# Of the number of a time of a grid, and the state there.
Along = Callable[[int, Tensor], Tensor]
SummandsAlong = Callable[[int, Tensor], list[Summand]]
# The state after step i from x, with a noise for it to draw from.
Step = Callable[[int, Tensor, Noise], Tensor]


@dataclass
class Calls:
    """How often the net has been called."""

    count: int = 0


@dataclass(frozen=True)
class ReverseProcess:
    """The sampling process with a denoiser: every prediction at a state (x, t) of `sde`, one net call each.

    x is (batch, *shape), t is () or (batch,). The denoiser may have been trained on another linear process: a state is
    then rescaled and read at the time of equal lam, where x0 and eps are the same (Karras et al. 2022, appendix B).
    """

    sde: LinearSDE
    denoiser: Denoiser
    condition: Mapping[str, Tensor] = field(default_factory=dict)
    calls: Calls = field(default_factory=Calls)

    def _own(self, t: Tensor) -> tuple[Tensor, Coefficient]:
        """The denoiser's time for t, and the factor of x there."""
        own = self.denoiser.sde
        if own == self.sde:
            return t, 1.0
        own_t = own.time(self.sde.lam(t)).clamp(own.t_min, own.T)
        return own_t, own.alpha(own_t) / self.sde.alpha(t)

    def linear(self, x: Tensor, t: Tensor, p: Coefficient, q: Coefficient) -> Tensor:
        """p x0 + q eps, with p and q of shape () or (batch,)."""
        self.calls.count += 1
        own_t, factor = self._own(t)
        return self.denoiser.linear(scaled(factor, x), own_t, p, q, **self.condition)

    def along(self, times: Tensor, p: Coefficient, q: Coefficient) -> Along:
        """linear() on a grid of times, with p and q of its shape or numbers, as a function (i, x)."""
        terms = self.summands(times, p, q)
        return lambda i, x: total(terms(i, x))

    def summands(self, times: Tensor, p: Coefficient, q: Coefficient) -> SummandsAlong:
        """along() as what there is to add up, such as x and what the net returned: to be added to more of the kind.

        Every coefficient is computed here, in float64 on the CPU: a call costs the net and little else.
        """
        own_times, factor = self._own(times)
        factors = _rows((factor,), len(times))
        rows = _rows(self.denoiser.coefficients(own_times, p, q), len(times))

        def at(i: int, x: Tensor) -> list[Summand]:
            self.calls.count += 1
            return self.denoiser.summands(rows[i], scaled(factors[i][0], x), **self.condition)

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

    def _drift(self, t: Tensor) -> Pair:
        """f x - g^2 score as a combination: x itself is alpha x0 + sigma eps."""
        sde, f = self.sde, self.sde.f(t)
        return f * sde.alpha(t), f * sde.sigma(t) + sde.g(t) ** 2 / sde.sigma(t)

    def drift(self, x: Tensor, t: Tensor) -> Tensor:
        """The drift of the reverse-time SDE, f x - g^2 score (Anderson 1982; Song et al. 2021, eq. 6)."""
        return self.linear(x, t, *self._drift(t))

    def affine(self, t: Tensor, s: Tensor, p: Coefficient, q: Coefficient, spread: Tensor) -> Step:
        """Steps from t[i] to s[i]: p x0 + q eps + spread z, with coefficients as of summands()."""
        mean, stds = self.summands(t, p, q), spread.tolist()
        return lambda i, x, noise: total(mean(i, x), noise(x, t[i], s[i], stds[i]))

    def euler(self, t: Tensor, s: Tensor) -> Step:
        """Euler-Maruyama's steps from t[i] to s[i]: x - (t - s) drift + g sqrt(t - s) z."""
        (p, q), width = self._drift(t), t - s
        spread = self.sde.g(t) * width.sqrt()
        return self.affine(t, s, self.sde.alpha(t) - width * p, self.sde.sigma(t) - width * q, spread)

    def select(self, index: Tensor) -> "ReverseProcess":
        """The same for a selection of the samples; net calls are counted together."""
        return replace(self, condition={name: value[index] for name, value in self.condition.items()})


def _rows(columns: tuple[Coefficient, ...], count: int) -> list[tuple[float, ...]]:
    return list(zip(*(torch.as_tensor(c, dtype=torch.float64).expand(count).tolist() for c in columns), strict=True))
