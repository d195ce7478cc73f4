"""Denoising score matching: the loss of a sample, its weight, and how times are drawn."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from sdescore.denoiser import Denoiser
from sdescore.sde import LinearSDE, expand

__all__ = ["TIMES", "WEIGHTINGS", "Times", "Weighting", "denoising_score_matching", "log_normal", "stratified"]

Weighting = Callable[[LinearSDE, Tensor, float], Tensor]

# The weight of the squared error of the noise, a function of the process, the time and the data's standard deviation.
WEIGHTINGS: dict[str, Weighting] = {
    # sigma^2 on the score: Ho et al. 2020, eq. 14
    "simple": lambda sde, t, data_std: torch.ones_like(t),
    # g^2 on the score: Song et al. 2021b, eq. 7
    "likelihood": lambda sde, t, data_std: (sde.g(t) / sde.sigma(t)) ** 2,
    # unit weight on EDM's network output: Karras et al. 2022, eq. 8
    "edm": lambda sde, t, data_std: 1 + (sde.rho(t) / data_std) ** 2,
    # min(SNR, 5) on the data: Hang et al. 2023, eq. 6
    "min-snr": lambda sde, t, data_std: (5 * sde.rho(t) ** 2).clamp(max=1),
}


def independent(count: int, generator: torch.Generator | None = None, device: torch.device | None = None) -> Tensor:
    """`count` independent quantiles in (0, 1)."""
    return torch.rand(count, generator=generator, device=device)


def stratified(count: int, generator: torch.Generator | None = None, device: torch.device | None = None) -> Tensor:
    """`count` quantiles, one in each of as many equal parts of (0, 1), all shifted alike (Kingma et al. 2021, I.1)."""
    shift = torch.rand(1, generator=generator, device=device)
    return (shift + torch.arange(count, device=device) / count) % 1


@dataclass(frozen=True)
class Times:
    """A distribution of times: `draw` makes quantiles, `place(sde, u)` their times and the factor for the loss.

    The factor makes the mean loss the same as with uniform times, where that is the intention.
    """

    place: Callable[[LinearSDE, Tensor], tuple[Tensor, Tensor]]
    draw: Callable[[int, torch.Generator | None, torch.device | None], Tensor] = independent


def _uniform(sde: LinearSDE, u: Tensor) -> tuple[Tensor, Tensor]:
    return (sde.t_min + (sde.T - sde.t_min) * u).clamp(sde.t_min, sde.T), torch.ones_like(u)


def _lam_ends(sde: LinearSDE) -> tuple[float, float]:
    first, last = sde.lam(torch.tensor([sde.t_min, sde.T], dtype=torch.float64)).tolist()
    return first, last


def _importance(sde: LinearSDE, u: Tensor) -> tuple[Tensor, Tensor]:
    # g^2 / sigma^2 = -2 dlam/dt on every linear process, so its distribution is uniform in lam.
    first, last = _lam_ends(sde)
    t = sde.time(first + (last - first) * u).clamp(sde.t_min, sde.T)
    return t, 2 * (first - last) / (sde.T - sde.t_min) * (sde.sigma(t) / sde.g(t)) ** 2


def log_normal(mean: float = -1.2, std: float = 1.2) -> Times:
    """ln(rho) ~ N(mean, std^2), cut to the process's range (Karras et al. 2022, table 1)."""

    def place(sde: LinearSDE, u: Tensor) -> tuple[Tensor, Tensor]:
        low, high = (0.5 * math.erfc((mean + lam) / (std * math.sqrt(2))) for lam in _lam_ends(sde))
        lam = -mean - std * torch.special.ndtri(low + (high - low) * u)
        return sde.time(lam).clamp(sde.t_min, sde.T), torch.ones_like(u)

    return Times(place)


TIMES: dict[str, Times] = {
    "uniform": Times(_uniform),
    "importance": Times(_importance),
    "log-normal": log_normal(),
    "low-discrepancy": Times(_uniform, stratified),
}

Choice = TypeVar("Choice")


def choose(table: Mapping[str, Choice], choice: str | Choice, argument: str) -> Choice:
    """The entry of a table by its name, or what is given if it is no name. Raises ValueError listing the names."""
    if not isinstance(choice, str):
        return choice
    if choice not in table:
        raise ValueError(f"{argument}={choice!r}; valid are {', '.join(map(repr, table))}")
    return table[choice]


def denoising_score_matching(
    denoiser: Denoiser,
    x0: Tensor,
    *,
    weighting: str | Weighting = "simple",
    times: str | Times = "uniform",
    u: Tensor | None = None,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    condition: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """The loss weight / 2 ||eps_hat - eps||^2 of each sample, (batch,), summed over its elements (Vincent 2011).

    That is lambda(t) / 2 ||score_hat - score of the kernel||^2 with lambda = weight sigma^2, computed on the noise
    because that loses no digits at small sigma.

    Args:
        denoiser: The net to train; times are those of its own process.
        x0: Data (batch, *shape), floating point.
        weighting: "simple", "likelihood", "edm", "min-snr", or a function (sde, t, data_std) -> weight.
        times: "uniform", "importance" (as g^2 / sigma^2; same mean loss), "log-normal", "low-discrepancy", or Times.
        u: Quantiles (batch,) in [0, 1] that fix the times; drawn by `times` otherwise.
        noise: eps, of the shape of x0; drawn otherwise.
        generator: Source of what is drawn.
        condition: Tensors, sample first, that are handed to the net by name.

    Raises:
        TypeError: For integer data. ValueError: For an unknown name, shapes that do not fit, data that is not finite.
    """
    if not x0.is_floating_point():
        raise TypeError(f"x0 has dtype {x0.dtype}; scale it to floating point first, to [-1, 1] for images")
    weigh, chosen = choose(WEIGHTINGS, weighting, "weighting"), choose(TIMES, times, "times")
    if u is None:
        u = chosen.draw(len(x0), generator, x0.device)
    if u.shape != (len(x0),):
        raise ValueError(f"u has shape {tuple(u.shape)}; valid is ({len(x0)},)")
    if x0.device.type == "cpu":  # on a GPU the checks would wait for the device at every step
        if not bool(x0.isfinite().all()):
            raise ValueError("x0 is not finite")
        if not bool(((u >= 0) & (u <= 1)).all()):
            raise ValueError(f"u spans [{u.min():g}, {u.max():g}]; valid are quantiles in [0, 1]")
    if noise is None:
        noise = torch.randn(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype)
    elif noise.shape != x0.shape:
        raise ValueError(f"noise has shape {tuple(noise.shape)}, but x0 has {tuple(x0.shape)}")
    sde = denoiser.sde
    t, factor = chosen.place(sde, u.to(x0))
    x = expand(sde.alpha(t), x0) * x0 + expand(sde.sigma(t), x0) * noise
    error = denoiser.noise(x, t, **(condition or {})) - noise
    return factor * weigh(sde, t, denoiser.data_std) / 2 * error.square().flatten(1).sum(1)
