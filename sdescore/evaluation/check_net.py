"""Evidence that a net is called as it was in its training: its error on real data beside that of a linear denoiser."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from itertools import product
from statistics import median

import torch
from torch import Tensor

from sdescore.common.checks import check_states
from sdescore.common.evaluation_mode import evaluating
from sdescore.common.linear_combinations import combine, expand
from sdescore.common.random import generator
from sdescore.denoisers.conversions import PREDICTIONS, change
from sdescore.denoisers.denoiser import Denoiser, state_like
from sdescore.denoisers.terms import FACTORS
from sdescore.processes.discrete import DiscreteSDE
from sdescore.sampling.run import check_condition

__all__ = ["NetReport", "check_net"]

LEVELS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # of rho, over the data's standard deviation
ALLOWED = 1.3  # times the linear denoiser's error, in the geometric mean of the levels
BETTER = 0.75  # what another convention must reach, of the error of the stated one
MOST = 3  # pieces of advice
TRIED = 16  # samples for conventions other than the stated ones
GOOD = 0.9  # below which other inputs are not tried: a net that takes all for noise is as good as a linear one
# What a net may be given for the time: the kind, its factor, and what is added.
INPUTS = (
    ("c_noise", 1.0, 0.0),
    ("index", 1.0, 0.0),
    ("t", 1.0, 0.0),
    ("t", -1.0, 1.0),
    ("t", 999.0, 0.0),
    ("t", 1000.0, 0.0),
    ("t", 0.001, 0.0),
    ("sigma", 1.0, 0.0),
    ("rho", 1.0, 0.0),
    ("log_rho", 1.0, 0.0),
)
RANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "2 x": lambda x: 2 * x,
    "x / 2": lambda x: x / 2,
    "2 x - 1": lambda x: 2 * x - 1,
    "(x + 1) / 2": lambda x: (x + 1) / 2,
    "x - 0.5": lambda x: x - 0.5,
    "x / 127.5 - 1": lambda x: x / 127.5 - 1,
    "x / 255": lambda x: x / 255,
}


@dataclass(frozen=True)
class NetReport:
    """What check_net() found; str() of it is for reading.

    Args:
        rho: The noise-to-signal ratios at which the net was tried, increasing.
        error: The mean squared error of the predicted noise at each.
        linear: That of the best linear denoiser of each element alone.
        low: The least value of the data.
        high: Its greatest value.
        mean: Its mean.
        std: Its standard deviation.
        advice: What would fit better than what is stated, best first; empty if nothing does.
    """

    rho: tuple[float, ...]
    error: tuple[float, ...]
    linear: tuple[float, ...]
    low: float
    high: float
    mean: float
    std: float
    advice: tuple[str, ...]

    @property
    def ratio(self) -> float:
        """The error over the linear denoiser's, in the geometric mean of the levels."""
        return _ratio(_logs(self.error, self.linear))

    @property
    def fits(self) -> bool:
        """Whether the net is as good as a linear denoiser, and nothing that was tried fits better.

        A right net may fail at one end, of the data at low noise or of the noise at high: then half of the levels do.
        """
        return not self.advice and _good(_logs(self.error, self.linear))

    def __str__(self) -> str:
        rows = list(zip(self.rho, self.error, self.linear, strict=True))
        levels = ", ".join(f"{rho:.2g}: {error:.2g}/{linear:.2g}" for rho, error, linear in rows)
        worse = ", ".join(f"{rho:.2g}" for rho, error, linear in rows if error > ALLOWED * linear)
        data = f"data in [{self.low:.3g}, {self.high:.3g}], mean {self.mean:.3g}, std {self.std:.3g}"
        if self.advice:
            verdict = f"DOES NOT FIT (better: {'; '.join(self.advice)})"
        elif not self.fits:
            verdict = "DOES NOT FIT (nor does anything else that was tried: is the net trained, and on such data?)"
        else:
            verdict = f"fits (but is worse than linear at rho {worse})" if worse else "fits"
        return f"{verdict}: noise error {self.ratio:.2g} of a linear denoiser's; by rho, {levels}; {data}"


def check_net(denoiser: Denoiser, data: Tensor, *, condition: Mapping[str, Tensor] | None = None) -> NetReport:
    """Compare a net's error on real data, by noise level, with what a linear denoiser of the data reaches.

    A trained net is better than the best linear map of each element alone, or equal to it where the data is Gaussian;
    one that is called in another way than in its training is worse by far. Then other predictions, inputs and ranges of
    the data are tried, and those that fit better are named. On other devices than the CPU inputs are not: a time beyond
    a net's table would end the process.

    Args:
        denoiser: The net with all that is stated of it.
        data: Real data as the process has it, (n, *shape), floating point; from 32 samples on.
        condition: Tensors, sample first, that are handed to the net by name.

    Raises:
        TypeError: For a net that is no Denoiser, and data that is not floating point.
        ValueError: For data of another shape, or whose every element is constant.
    """
    if not isinstance(denoiser, Denoiser):
        raise TypeError(
            f"denoiser is a {type(denoiser).__name__}; expected a Denoiser, such as "
            'Denoiser(net, sde, predicts="score", terms=NetTerms("state", "t")), which is how a function is read'
        )
    like = state_like(denoiser)
    x0 = check_states(data) if like is None else check_states(data).to(like.device, like.dtype)
    given = check_condition(condition, len(x0))
    with torch.no_grad(), evaluating(denoiser):
        stated = _Trial(denoiser, x0, given)
        advice = _advice(stated)
    return NetReport(
        rho=tuple(stated.rho),
        error=tuple(stated.errors()),
        linear=tuple(stated.linear),
        low=float(x0.min()),
        high=float(x0.max()),
        mean=float(x0.mean()),
        std=float(x0.std()),
        advice=tuple(advice),
    )


class _Trial:
    """A denoiser on noised data: its raw predictions by level, and the errors of reading them as any kind."""

    def __init__(self, denoiser: Denoiser, x0: Tensor, condition: Mapping[str, Tensor]) -> None:
        self.denoiser = denoiser
        self.x0 = x0
        self.condition = dict(condition)
        sde = denoiser.sde
        variance = x0.double().var(0)
        std = float(variance.mean().sqrt())
        if not std > 0:
            raise ValueError(f"data has {len(x0)} samples that are all the same; expected at least two different ones")
        ends = torch.tensor([sde.t_min, sde.T], dtype=torch.float64)
        low, high = sde.rho(ends).tolist()
        self.rho = [min(max(std * level, low), high) for level in LEVELS]
        # The error of the best linear map of x_t to the noise, element by element, is known.
        self.linear = [float((variance / (variance + r**2)).mean()) for r in self.rho]
        times = sde.time(-torch.tensor(self.rho, dtype=torch.float64).log()).clamp(*ends.tolist())
        self.times = list(times)
        self.noised = []
        for number, t in enumerate(times):
            noise = generator("check_net", 0, number)
            eps = torch.randn(x0.shape, generator=noise, dtype=torch.float64).to(x0)
            self.noised.append((eps, expand(sde.alpha(t), x0) * x0 + expand(sde.sigma(t), x0) * eps))
        # The factors of x and of the net's output in the noise, for every kind of output: slow for a table's times.
        alpha, sigma = sde.alpha(times), sde.sigma(times)
        self.factors = {}
        for kind, pair in PREDICTIONS.items():
            of_x, of_raw = change(pair(sde, times, denoiser.data_std), (0.0, 1.0), alpha, sigma)
            columns = (torch.as_tensor(value).expand(times.shape).tolist() for value in (of_x, of_raw))
            self.factors[kind] = list(zip(*columns, strict=True))
        self.raw = self._predictions()

    def _predictions(self) -> list[Tensor]:
        """What the net returns at each level."""
        denoiser, found = self.denoiser, []
        for t, (_, x) in zip(self.times, self.noised, strict=True):
            own = PREDICTIONS[denoiser.predicts](denoiser.sde, t, denoiser.data_std)
            found.append(denoiser.linear(x, t, *own, **self.condition))
        return found

    def errors(self, kind: str | None = None, sign: float = 1.0) -> list[float]:
        """The mean squared error of the noise at each level, where the net's output, or minus it, is read as a kind."""
        rows = zip(self.noised, self.raw, self.factors[kind or self.denoiser.predicts], strict=True)
        return [
            float((combine([(x, of_x), (raw, sign * of_raw)]) - eps).double().square().mean())
            for (eps, x), raw, (of_x, of_raw) in rows
        ]

    def logs(self) -> list[float]:
        """The logarithms of the errors over the linear denoiser's."""
        return _logs(self.errors(), self.linear)

    def readings(self) -> Iterator[tuple[list[float], str]]:
        """logs() for every reading of the net's output, and what to state for it."""
        scale = self.denoiser.terms.output_scale
        for kind, sign in product(PREDICTIONS, (1.0, -1.0)):
            turned = "" if sign * scale == 1 else f", output_scale={sign * scale:g}"
            yield _logs(self.errors(kind, sign), self.linear), f"predicts={kind!r}{turned}"

    def part(self, x0: Tensor | None = None) -> "_Trial":
        """The same of fewer samples, or of other data."""
        condition = {name: value[:TRIED] for name, value in self.condition.items()}
        return _Trial(self.denoiser, self.x0[:TRIED] if x0 is None else x0, condition)

    def of(self, denoiser: Denoiser) -> "_Trial":
        """The same of another denoiser on the same process."""
        other = copy(self)
        other.denoiser = denoiser
        other.raw = other._predictions()
        return other


def _logs(errors: Sequence[float], linear: Sequence[float]) -> list[float]:
    return [math.log(max(e, 1e-12) / m) if math.isfinite(e) else math.inf for e, m in zip(errors, linear, strict=True)]


def _ratio(logs: Sequence[float]) -> float:
    return math.exp(sum(logs) / len(logs))


def _good(logs: Sequence[float]) -> bool:
    return _ratio(logs) <= ALLOWED or median(logs) <= 0


def _better(logs: Sequence[float], own: Sequence[float]) -> bool:
    """By far in the mean, and at more levels than it is worse: what takes all for noise is fair at low noise alone."""
    margin = -math.log(GOOD)
    votes = sum((b - a > margin) - (a - b > margin) for a, b in zip(logs, own, strict=True))
    return _ratio(logs) <= BETTER * _ratio(own) and votes > 0 and _good(logs)


def _advice(stated: _Trial) -> list[str]:
    """What else fits, best first: another prediction, another range of the data, or else other inputs of the net."""
    own, part = stated.logs(), stated.part()
    fewer = part.logs()
    tried = [(_ratio(logs), name) for logs, name in stated.readings() if _better(logs, own)]
    # A candidate is compared on the samples on which it was tried.
    scale = _ratio(own) / _ratio(fewer)
    others: Iterable[tuple[list[float], str]] = (
        (stated.part(x0=move(part.x0)).logs(), f"data {name} for x") for name, move in RANGES.items()
    )
    tried += [(_ratio(logs) * scale, name) for logs, name in others if _better(logs, fewer)]
    if min([_ratio(own), *(ratio for ratio, _ in tried)]) > GOOD:
        tried += [(_ratio(logs) * scale, name) for logs, name in _other_inputs(part) if _better(logs, fewer)]
    best = min(tried, default=(1.0, ""))[0]
    return [f"{name}, at {ratio:.2g}" for ratio, name in sorted(tried) if ratio <= best / BETTER][:MOST]


def _other_inputs(stated: _Trial) -> Iterator[tuple[list[float], str]]:
    """What else the net could be given, with every reading of its output."""
    denoiser, sde = stated.denoiser, stated.denoiser.sde
    if type(denoiser) is not Denoiser or denoiser.terms.rounded or stated.x0.device.type != "cpu":
        return
    times = torch.stack(stated.times)
    seen = set()
    for x, (time, scale, shift) in product(FACTORS, INPUTS):
        if time == "index" and not isinstance(sde, DiscreteSDE):
            continue
        terms = replace(denoiser.terms, x=x, time=time, time_scale=scale, time_shift=shift)
        inputs = (torch.as_tensor(value).expand(times.shape) for value in terms.inputs(sde, times, denoiser.data_std))
        key = tuple(f"{value:.6g}" for values in inputs for value in values.tolist())
        if key not in seen:
            seen.add(key)
            with suppress(IndexError, RuntimeError, ValueError):  # of a net that has no such time
                other = Denoiser(denoiser.net, sde, data_std=denoiser.data_std, terms=terms)
                shifted = f", time_shift={shift:g}" if shift else ""
                for logs, reading in stated.of(other).readings():
                    yield logs, f"terms=NetTerms({x!r}, {time!r}, {scale:g}{shifted}, {reading})"
