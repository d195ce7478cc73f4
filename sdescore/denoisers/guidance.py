"""Guidance as a denoiser: extrapolation from a second branch, and the gradient of a classifier."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor

from sdescore.common.checks import check_number, check_returned_numbers
from sdescore.common.linear_combinations import Coefficient, Summand, combine, materialise, nonzero, scale, weight
from sdescore.denoisers.conversions import PREDICTIONS, change
from sdescore.denoisers.denoiser import Denoiser, per_sample
from sdescore.denoisers.guidance_rules import Rule
from sdescore.denoisers.labels import check_labels

__all__ = ["ClassifierGuided", "Guided", "Wrapper", "classifier_guided", "guided"]


class Wrapper(Denoiser):
    """A denoiser made of another, on its process."""

    def __init__(self, denoiser: Denoiser, scale: float) -> None:
        if not isinstance(denoiser, Denoiser):
            raise TypeError(f"denoiser is a {type(denoiser).__name__}; expected a Denoiser")
        check_number("scale", scale)
        super().__init__(
            denoiser.net,
            denoiser.sde,
            denoiser.predicts,
            denoiser.data_std,
            shape=denoiser.shape,
            scaling=denoiser.scaling,
            codes=denoiser.codes,
        )
        self.inner = denoiser
        self.scale = float(scale)

    def nfe(self, t: Tensor) -> Tensor:
        return self.inner.nfe(t)

    def strength(self, t: Tensor) -> Tensor:
        return self.inner.strength(t)

    def save_pretrained(self, folder: Any) -> NoReturn:
        raise ValueError(f"a {type(self).__name__} denoiser is not saved; save the denoiser that it is made of")


class Guided(Wrapper):
    """See guided()."""

    def __init__(
        self,
        denoiser: Denoiser,
        scale: float,
        null: Mapping[str, Any] | None,
        weak: Denoiser | None,
        interval: tuple[float, float] | None,
        rescale: float,
        rule: Rule | None,
    ) -> None:
        super().__init__(denoiser, scale)
        if weak is not None and not isinstance(weak, Denoiser):
            raise TypeError(f"weak is a {type(weak).__name__}; expected a Denoiser")
        low, high = (0.0, math.inf) if interval is None else interval
        if not 0 <= low < high:
            raise ValueError(f"interval={interval}; expected (low, high), noise-to-signal ratios with 0 <= low < high")
        if not 0 <= rescale <= 1:
            raise ValueError(f"rescale={rescale}; expected numbers from 0 to 1")
        if rule is not None and not (callable(rule) and hasattr(rule, "pair")):
            raise TypeError(f"rule is {rule!r}; expected None, APG(), CFGZero() or another Rule")
        self.other = denoiser if weak is None else weak
        if null is not None:
            check_labels(self.other, null.get("label"), "null['label']")
        self.null = null
        self.interval = low, high
        self.rescale = rescale
        self.rule = rule

    def at_scale(self, scale: float) -> "Guided":
        """The same at another scale."""
        return guided(
            self.inner,
            scale,
            null=self.null,
            weak=None if self.other is self.inner else self.other,
            interval=self.interval,
            rescale=self.rescale,
            rule=self.rule,
        )

    def _scale_at(self, t: Tensor) -> Tensor:
        """The scale at times t, of their shape: 1 outside the interval."""
        low, high = self.interval
        rho = self.sde.rho(t)
        return torch.where((low <= rho) & (rho <= high), torch.full_like(t, self.scale), 1.0)

    def strength(self, t: Tensor) -> Tensor:
        return self.inner.strength(t) * self._scale_at(t).abs().clamp(min=1)

    def _other_time(self, t: Tensor) -> Tensor:
        """The other branch's time of equal lam."""
        other = self.other.sde
        return t if other == self.sde else other.time(self.sde.lam(t)).clamp(other.t_min, other.T)

    def nfe(self, t: Tensor) -> Tensor:
        second = self.other.nfe(self._other_time(t))
        return self.inner.nfe(t) + torch.where(self._scale_at(t) == 1, 0, second)

    def coefficients(self, t: Tensor, p: Coefficient, q: Coefficient) -> tuple[Any, ...]:
        alpha, sigma, there = self.sde.alpha(t), self.sde.sigma(t), self._other_time(t)
        # The branches are compared as predictions of the net's own kind, or as a rule asks for.
        own = PREDICTIONS[self.predicts](self.sde, t, self.data_std) if self.rule is None else self.rule.pair
        of_x, of_prediction = change(own, (p, q), alpha, sigma)
        branches = self.inner.coefficients(t, *own), self.other.coefficients(there, *own)
        factor = self.other.sde.alpha(there) / alpha
        return self._scale_at(t), sigma / alpha, of_x, of_prediction, factor, *branches

    def summands(self, coefficients: tuple[Any, ...], x: Tensor, **condition: Tensor) -> list[Summand]:
        strength, rho, of_x, of_prediction, factor, own, others = coefficients
        prediction = self.inner.summands(own, x, **condition)
        if isinstance(strength, Tensor) or strength != 1:
            given = [materialise(prediction)]  # the next call may write over the output of this one
            null = self.other.summands(others, scale(factor, x), **self.null_condition(condition, x))
            if self.rule is None:
                prediction = weight([strength, 1 - strength], [given, null])
            else:
                prediction = [(self.rule(combine(given), combine(null), strength, rho), 1.0)]
            if self.rescale:
                prediction = [(self._rescaled(combine(prediction), combine(given)), 1.0)]
        return nonzero([(x, of_x), *weight([of_prediction], [prediction])])

    def null_condition(self, condition: Mapping[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        """The condition of the other branch."""
        if self.null is None:
            return {} if self.other is self.inner else dict(condition)
        replaced: dict[str, Any] = {**condition, **self.null}
        return {name: _rows(value, x) for name, value in replaced.items() if value is not None}

    def _rescaled(self, prediction: Tensor, given: Tensor) -> Tensor:
        std, wanted = (each.flatten(1).std(1) for each in (prediction, given))
        return scale(self.rescale * wanted / std + 1 - self.rescale, prediction)


def _rows(value: Any, x: Tensor) -> Tensor:
    """A condition for every sample: numbers and tensors () are repeated."""
    value = torch.as_tensor(value, device=x.device)
    return value.expand(len(x)) if value.ndim == 0 else value


def guided(
    denoiser: Denoiser,
    scale: float,
    *,
    null: Mapping[str, Any] | None = None,
    weak: Denoiser | None = None,
    interval: tuple[float, float] | None = None,
    rescale: float = 0.0,
    rule: Rule | None = None,
) -> Guided:
    """A denoiser whose every prediction is null + scale (conditional - null) (Ho & Salimans 2022, eq. 6).

    Scale 1 is the conditional branch alone. The law that is sampled is not p(x)^(1-scale) p(x|c)^scale: it has its
    score at t = 0 alone.

    Args:
        denoiser: The conditional one. What it is given by sample(..., condition=...) is the conditional branch's.
        scale: How far to extrapolate.
        null: Conditions of the null branch by name, in place of those given: tensors, numbers for all samples, or None
            to leave one out. By default all are left out, which is the null of the nets here.
        weak: Another net as the null branch, with the same conditions by default (Karras et al. 2024, eq. 3).
        interval: The lowest and the highest rho at which to guide; the rest is conditional, at one net call
            (Kynkäänniemi et al. 2024, section 3).
        rescale: How much of the conditional branch's standard deviation to restore (Lin et al. 2024, eq. 14-16).
        rule: Another way from two predictions to one: APG(), CFGZero(), or a Rule of your own. CFG++ is a solver,
            sdescore.solvers.CFGPlusPlus.

    Two branches are two net calls, which nfe counts. Raises TypeError or ValueError for other arguments, and for labels
    in `null` that the net does not know.
    """
    return Guided(denoiser, scale, null, weak, interval, rescale, rule)


class ClassifierGuided(Wrapper):
    """See classifier_guided()."""

    def __init__(
        self, denoiser: Denoiser, log_prob: Callable[..., Tensor], scale: float, shared: tuple[str, ...]
    ) -> None:
        super().__init__(denoiser, scale)
        if not callable(log_prob):
            raise TypeError(f"log_prob is a {type(log_prob).__name__}; expected a function (x, t, **condition)")
        self.log_prob = log_prob
        self.shared = shared

    def strength(self, t: Tensor) -> Tensor:
        return self.inner.strength(t) * max(1.0, abs(self.scale))

    def coefficients(self, t: Tensor, p: Coefficient, q: Coefficient) -> tuple[Any, ...]:
        alpha, sigma = self.sde.alpha(t), self.sde.sigma(t)
        # The score gains scale * gradient, and with it x0 = (x + sigma^2 score) / alpha and eps = -sigma score.
        return self.inner.coefficients(t, p, q), self.scale * (p * sigma**2 / alpha - q * sigma), t

    def summands(self, coefficients: tuple[Any, ...], x: Tensor, **condition: Tensor) -> list[Summand]:
        own, of_gradient, t = coefficients
        wanted = x.requires_grad and torch.is_grad_enabled()
        with torch.enable_grad():
            at = x if wanted else x.detach().requires_grad_()
            value = check_returned_numbers(self.log_prob(at, per_sample(t, x), **condition), x, "log_prob")
            (gradient,) = torch.autograd.grad(value.sum(), at, create_graph=wanted)
        known = {name: condition[name] for name in self.shared if name in condition}
        return [*self.inner.summands(own, x, **known), (gradient, of_gradient)]


def classifier_guided(
    denoiser: Denoiser, log_prob: Callable[..., Tensor], scale: float = 1.0, *, shared: tuple[str, ...] = ()
) -> ClassifierGuided:
    """A denoiser whose score is that of another plus scale times the gradient of a classifier's log-probability.

    Song et al. 2021, eq. 14; Dhariwal & Nichol 2021, algorithm 1.

    Args:
        denoiser: The prior.
        log_prob: log p(c | x_t) up to a constant, (batch,), as a function (x, t, **condition) of x (batch, *shape) and
            t (batch,) of the denoiser's process.
        scale: The classifier's weight.
        shared: Names of conditions that the denoiser is given as well; by default the classifier's alone.

    Raises TypeError or ValueError for other arguments, and ValueError for a log_prob of another shape.
    """
    return ClassifierGuided(denoiser, log_prob, scale, shared)
