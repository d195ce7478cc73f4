"""Denoising score matching: the loss of a sample, its weight, and how times are drawn."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributions import Distribution

from sdescore.common.checks import choose
from sdescore.common.linear_combinations import expand
from sdescore.denoisers.denoiser import Denoiser
from sdescore.objectives.score_matching import explicit_score_matching, same_shape
from sdescore.processes.base import LinearSDE

__all__ = [
    "TIME_DISTRIBUTIONS",
    "WEIGHTINGS",
    "TimeDistribution",
    "Weighting",
    "denoising_score_matching",
    "log_normal",
    "stratified",
]

Weighting = Callable[[LinearSDE, Tensor, float], Tensor]
Kernel = Callable[[Tensor], Distribution]

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
class TimeDistribution:
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


def log_normal(mean: float = -1.2, std: float = 1.2) -> TimeDistribution:
    """ln(rho) ~ N(mean, std^2), cut to the process's range (Karras et al. 2022, table 1)."""

    def place(sde: LinearSDE, u: Tensor) -> tuple[Tensor, Tensor]:
        low, high = (0.5 * math.erfc((mean + lam) / (std * math.sqrt(2))) for lam in _lam_ends(sde))
        lam = -mean - std * torch.special.ndtri(low + (high - low) * u)
        return sde.time(lam).clamp(sde.t_min, sde.T), torch.ones_like(u)

    return TimeDistribution(place)


TIME_DISTRIBUTIONS: dict[str, TimeDistribution] = {
    "uniform": TimeDistribution(_uniform),
    "importance": TimeDistribution(_importance),
    "log-normal": log_normal(),
    "low-discrepancy": TimeDistribution(_uniform, stratified),
}


def denoising_score_matching(
    model: Callable[..., Tensor],
    x0: Tensor,
    kernel: Kernel | None = None,
    *,
    weighting: str | Weighting | float | Tensor = "simple",
    time_distribution: str | TimeDistribution = "uniform",
    u: Tensor | None = None,
    eps: Tensor | None = None,
    generator: torch.Generator | None = None,
    condition: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """The loss lambda / 2 ||score - grad_x log q(x | x0)||^2 of each sample at x ~ q(x | x0) (Vincent 2011), (batch,).

    Its minimiser is the score of the noised data. Without a kernel, q is that of the process of a Denoiser at times of
    its own, and the loss weight / 2 ||eps_hat - eps||^2 on the noise, which is the same for lambda = weight sigma^2 but
    loses no digits at small sigma. With a kernel the model is any score(x), an Energy for one, and the kernel's score
    comes by autograd: `lambda x0: Laplace(x0, 0.1)`, or at many levels `lambda x0: Normal(x0, sigma[:, None])`.

    Args:
        model: The Denoiser to train; or, with a kernel, a function score(x, **condition).
        x0: Data (batch, *shape), floating point.
        kernel: Maps x0 to the distribution of its noised values, with a density that has no jumps.
        weighting: "simple", "likelihood", "edm", "min-snr", or a function (sde, t, data_std) -> weight. With a kernel,
            lambda itself: "simple" for the variance of the kernel (sigma^2: Song & Ermon 2019, eq. 6), element by
            element; or a number or (batch,), 1 for E ||score - grad log p||^2 / 2 but for a constant.
        time_distribution: "uniform", "importance" (as g^2 / sigma^2; same mean loss), "log-normal", "low-discrepancy", or TimeDistribution.
        u: Quantiles (batch,) in [0, 1] that fix the times; drawn by the distribution otherwise. Like it, not with a kernel.
        eps: Noise, of the shape of x0; drawn otherwise. Not with a kernel, which draws by itself.
        generator: Source of what is drawn.
        condition: Tensors, sample first, that are handed to the model by name.

    Raises:
        TypeError: For integer data, and a model or a kernel of another kind. ValueError: For an unknown name, shapes
            that do not fit, data that is not finite, a kernel without a score.
    """
    if not isinstance(x0, Tensor):
        raise TypeError(f"x0 is a {type(x0).__name__}; expected a floating-point tensor (batch, *shape)")
    if not x0.is_floating_point():
        raise TypeError(f"x0 has dtype {x0.dtype}; scale it to floating point first, to [-1, 1] for images")
    if x0.ndim < 2 or len(x0) == 0:
        raise ValueError(f"x0 has shape {tuple(x0.shape)}; expected (batch, *shape) with at least one sample")
    if x0.device.type == "cpu" and not bool(x0.isfinite().all()):  # on a GPU the check would wait at every step
        raise ValueError("x0 is not finite")
    if kernel is None:
        if not isinstance(getattr(model, "sde", None), LinearSDE):  # torch.compile() wraps a Denoiser, and has its sde
            raise TypeError(
                f"model is a {type(model).__name__}; without a kernel a Denoiser is expected, for its process"
            )
        return _by_process(cast(Denoiser, model), x0, weighting, time_distribution, u, eps, generator, condition or {})
    if u is not None or eps is not None or time_distribution != "uniform":
        raise ValueError("time_distribution, u and eps are those of a Denoiser's process; none is valid with a kernel")
    return _by_kernel(partial(model, **(condition or {})), x0, kernel, weighting, generator)


def _by_process(
    denoiser: Denoiser,
    x0: Tensor,
    weighting: Any,
    time_distribution: str | TimeDistribution,
    u: Tensor | None,
    eps: Tensor | None,
    generator: torch.Generator | None,
    condition: Mapping[str, Tensor],
) -> Tensor:
    weigh, chosen = (
        choose(WEIGHTINGS, weighting, "weighting"),
        choose(TIME_DISTRIBUTIONS, time_distribution, "time_distribution"),
    )
    if not callable(weigh):
        raise TypeError(f"weighting={weigh!r}; for a process a name or a function (sde, t, data_std) is expected")
    if u is None:
        u = chosen.draw(len(x0), generator, x0.device)
    if u.shape != (len(x0),):
        raise ValueError(f"u has shape {tuple(u.shape)}; expected ({len(x0)},)")
    if u.device.type == "cpu" and not bool(((u >= 0) & (u <= 1)).all()):
        raise ValueError(f"u spans [{u.min():g}, {u.max():g}]; expected quantiles in [0, 1]")
    if eps is None:
        eps = torch.randn(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype)
    elif eps.shape != x0.shape:
        raise ValueError(f"eps has shape {tuple(eps.shape)}, but x0 has {tuple(x0.shape)}")
    sde = denoiser.sde
    t, factor = chosen.place(sde, u.to(x0))
    x = expand(sde.alpha(t), x0) * x0 + expand(sde.sigma(t), x0) * eps
    error = denoiser.noise(x, t, **condition) - eps
    return factor * weigh(sde, t, denoiser.data_std) / 2 * error.square().flatten(1).sum(1)


def _by_kernel(
    score: Callable[[Tensor], Tensor], x0: Tensor, kernel: Kernel, weighting: Any, generator: torch.Generator | None
) -> Tensor:
    if not callable(kernel):
        raise TypeError(f"kernel is a {type(kernel).__name__}; expected a function from x0 to a distribution")
    law = kernel(x0)
    if not isinstance(law, Distribution):
        raise TypeError(f"kernel returned a {type(law).__name__}; expected a torch.distributions.Distribution")
    if torch.is_inference_mode_enabled():
        raise RuntimeError("a kernel's score is a gradient, and torch.inference_mode() has none; use no_grad()")
    weight = _kernel_weight(law, x0, weighting)
    with _seeded(generator, x0.device):
        drawn = law.sample()
    if drawn.shape != x0.shape or not drawn.is_floating_point():
        raise ValueError(
            f"kernel draws {drawn.dtype} of shape {tuple(drawn.shape)}; expected floating point of shape "
            f"{tuple(x0.shape)}, that of x0"
        )
    with torch.enable_grad():
        x = drawn.requires_grad_()
        value = law.log_prob(x).sum()
        target = torch.autograd.grad(value, x, allow_unused=True)[0] if value.requires_grad else None
    if target is None or (law.support is not None and law.support.is_discrete):
        raise ValueError(f"kernel: {type(law).__name__} has no density that changes with x, so it has no score")
    root = weight.sqrt()  # before the square, which half precision may not hold
    return explicit_score_matching(lambda x: same_shape(score(x), x, "the score") * root, x.detach(), root * target)


def _kernel_weight(law: Distribution, x0: Tensor, weighting: Any) -> Tensor:
    """lambda, of a shape that broadcasts to that of x0."""
    if weighting == "simple":
        try:
            weight = law.variance.to(x0).expand_as(x0)
        except (NotImplementedError, RuntimeError) as error:
            raise ValueError(f"weighting='simple': kernel gives no variance of the shape of x0 ({error!r})") from error
    elif isinstance(weighting, int | float | Tensor):
        weight = torch.as_tensor(weighting).to(x0)
        if weight.shape not in ((), (len(x0),)):
            raise ValueError(f"weighting has shape {tuple(weight.shape)}; expected () and ({len(x0)},)")
        weight = weight.reshape(-1, *(1,) * (x0.ndim - 1))
    else:
        raise ValueError(f"weighting={weighting!r}; with a kernel expected 'simple', a number or ({len(x0)},)")
    if weight.device.type == "cpu" and not bool(((weight >= 0) & weight.isfinite()).all()):
        raise ValueError(f"weighting={weighting!r} of a {type(law).__name__} is not finite or negative; give a number")
    return weight


@contextmanager
def _seeded(generator: torch.Generator | None, device: torch.device) -> Iterator[None]:
    """Distributions draw from torch's own generator: here it is seeded by a draw of ours, and put back afterwards."""
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(seed)
        yield
