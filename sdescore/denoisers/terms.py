"""What a net is given and what it returns, as data: a net from elsewhere is called as it was in its training."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sdescore.common.checks import choose, described, require
from sdescore.common.linear_combinations import Coefficient
from sdescore.denoisers.conversions import check_prediction
from sdescore.processes.base import LinearSDE
from sdescore.processes.discrete import DiscreteSDE

__all__ = ["FACTORS", "PRESETS", "TIMES", "NetTerms", "find_terms"]

# What x_t is multiplied by, from the process, the time and the data's standard deviation.
FACTORS: dict[str, Callable[[LinearSDE, Tensor, float], Coefficient]] = {
    "unit": lambda sde, t, data_std: (sde.alpha(t) ** 2 * data_std**2 + sde.sigma(t) ** 2).rsqrt(),
    "state": lambda sde, t, data_std: 1.0,
    "vp": lambda sde, t, data_std: (sde.alpha(t) ** 2 + sde.sigma(t) ** 2).rsqrt(),
    "ve": lambda sde, t, data_std: 1 / sde.alpha(t),
}

TIMES: dict[str, Callable[[LinearSDE, Tensor], Tensor]] = {
    "c_noise": lambda sde, t: -sde.lam(t) / 4,
    "t": lambda sde, t: t,
    "index": lambda sde, t: t,
    "sigma": lambda sde, t: sde.sigma(t),
    "rho": lambda sde, t: sde.rho(t),
    "log_rho": lambda sde, t: -sde.lam(t),
}


@dataclass(frozen=True)
class NetTerms:
    """The terms on which a net is called: net(factor x_t, time, **condition).

    Args:
        x: What the net is given for x_t: "unit", of about unit variance, x_t / sqrt(alpha^2 data_std^2 + sigma^2);
            "state", x_t as it is; "vp", x_t / sqrt(alpha^2 + sigma^2); "ve", x_t / alpha. With alpha = 1, "vp" is
            x_t / sqrt(1 + sigma^2).
        time: What it is given for t, of shape (batch,): "c_noise", ln(rho) / 4; "t"; "index", into the table of a
            DiscreteSDE; "sigma"; "rho", which is the sigma of nets that know no alpha; "log_rho".
        time_scale: A factor of the time, such as 1000.
        time_shift: What is added to the time after that; scale -1 and shift 1 are the time of nets whose data is at 1.
        rounded: The time is rounded to the nearest integer, and an integer for torch: what nn.Embedding takes.
        predicts: What the net returns: "data", "noise", "score", "v", "velocity" or "edm".
        learned_variance: The net returns twice the channels, along axis 1, of which the first half is its prediction.
        output_scale: What the net returns, over its prediction: -1 where it returns, say, minus the noise.

    Raises ValueError for other values.
    """

    x: str = "unit"
    time: str = "c_noise"
    time_scale: float = 1.0
    rounded: bool = False
    predicts: str = "noise"
    learned_variance: bool = False
    time_shift: float = 0.0
    output_scale: float = 1.0

    def __post_init__(self) -> None:
        choose(FACTORS, self.x, "x")
        choose(TIMES, self.time, "time")
        check_prediction(self.predicts)
        for name in ("time_scale", "output_scale"):
            number = getattr(self, name)
            require(math.isfinite(number) and number != 0, f"{name}={number}; expected a finite number that is not 0")
        require(math.isfinite(self.time_shift), f"time_shift={self.time_shift}; expected a finite number")
        for name in ("rounded", "learned_variance"):
            require(isinstance(getattr(self, name), bool), f"{name}={getattr(self, name)!r}; expected True or False")

    def inputs(self, sde: LinearSDE, t: Tensor, data_std: float) -> tuple[Coefficient, Coefficient]:
        """The factor of x_t, and the time that the net is given, at times t, of their shape."""
        time = TIMES[self.time](sde, t)
        if self.time_scale != 1:
            time = self.time_scale * time
        if self.time_shift != 0:
            time = time + self.time_shift
        return FACTORS[self.x](sde, t, data_std), time.round() if self.rounded else time

    def time_dtype(self, state: torch.dtype) -> torch.dtype:
        """Of the time beside a net of the given dtype: never below float32, in which an index of 999 would be 1000."""
        return torch.long if self.rounded else torch.promote_types(state, torch.float32)

    def prediction(self, output: Any, y: Tensor) -> Tensor:
        """The prediction in what the net returned for y: a tensor, an object with `sample`, or a tuple's first.

        Raises ValueError unless it has the shape of y, after half of the channels where a variance is learned.
        """
        found = output if isinstance(output, Tensor) else getattr(output, "sample", output)
        if isinstance(found, tuple | list) and found:
            found = found[0]
        doubled = y.shape[:1] + tuple(2 * n for n in y.shape[1:2]) + y.shape[2:]
        expected = doubled if self.learned_variance else y.shape
        if not isinstance(found, Tensor) or found.shape != expected:
            given = f"{described(found)} for x of shape {tuple(y.shape)}"
            hint = ": half of it may be a learned variance, see NetTerms" if described(found) == tuple(doubled) else ""
            raise ValueError(f"net returned {given}; it must return {tuple(expected)}{hint}")
        found = found[:, : y.shape[1]] if self.learned_variance else found
        return found if self.output_scale == 1 else found / self.output_scale


def _score_sde(sde: LinearSDE) -> NetTerms:
    ends = sde.alpha(torch.tensor([sde.t_min, sde.T], dtype=torch.float64))
    if bool((ends == 1).all()):
        return NetTerms("state", "sigma", predicts="score")
    return NetTerms("state", "t", 999.0)


# The conventions of the literature by name, on a process.
PRESETS: dict[str, Callable[[LinearSDE], NetTerms]] = {
    # Karras et al. 2022, section 5: what the nets of sdescore.nets are given.
    "edm": lambda sde: NetTerms(),
    # Ho et al. 2020, algorithm 1.
    "ddpm": lambda sde: NetTerms("state", "index"),
    # Song et al. 2021: the code of the paper gives a net 999 t, or sigma where alpha is 1.
    "score-sde": _score_sde,
    # The k-diffusion library's model(x, sigma), on a process whose alpha is 1.
    "k-diffusion": lambda sde: NetTerms("ve", "rho", predicts="data"),
    # Lipman et al. 2023, with data at t = 0.
    "flow": lambda sde: NetTerms("state", "t", predicts="velocity"),
}


def find_terms(terms: str | NetTerms, sde: LinearSDE, predicts: str | None = None) -> NetTerms:
    """The terms by the name of a preset, or as they are, on a process; with what is predicted, if that is said.

    Raises ValueError for an unknown name, and for an index on a process that has no table; TypeError for other types.
    """
    found = choose(PRESETS, terms, "terms")
    if isinstance(terms, str):
        found = found(sde)  # type: ignore[operator]
    if not isinstance(found, NetTerms):
        raise TypeError(f"terms is a {type(terms).__name__}; expected NetTerms or one of {', '.join(PRESETS)}")
    if found.time == "index" and not isinstance(sde, DiscreteSDE):
        raise ValueError(
            f"terms give the net an index into a table, and a {type(sde).__name__} has none; expected a DiscreteSDE, "
            "such as DiscreteSDE.from_betas(VPSDE().betas(1000)), on which a net can be used for any other process"
        )
    return found if predicts is None else replace(found, predicts=check_prediction(predicts))
