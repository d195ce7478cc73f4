"""Denoising score matching, at the times of a process or through any kernel.

Vincent 2011: https://doi.org/10.1162/NECO_a_00142.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.distributions import Distribution

from sdescore.common.checks import check_tensor, choose
from sdescore.common.linear_combinations import expand
from sdescore.denoisers.denoiser import Denoiser
from sdescore.objectives.score_matching import explicit_score_matching, same_shape
from sdescore.objectives.time_distributions import TIME_DISTRIBUTIONS, TimeDistribution
from sdescore.objectives.weightings import WEIGHTINGS, Weighting
from sdescore.processes.base import LinearSDE

__all__ = ["denoising_score_matching"]

Kernel = Callable[[Tensor], Distribution]


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
    """lambda / 2 ||score - grad_x log q(x | x0)||^2 of each sample, (batch,), at one x drawn from q(x | x0).

    Its minimiser is the score of the noised data (Vincent 2011). Without a kernel, the model is a Denoiser, q its
    process's kernel at a random time of each sample, and the loss is computed from the noise, as
    weight / 2 ||eps_hat - eps||^2 with lambda = weight sigma^2, which keeps its digits where sigma is small; train()
    logs 2 / d of it, the weighted mean square of the d elements. With a kernel, the model is any score(x), such as an
    Energy, and the kernel's score comes by autograd: `lambda x0: Laplace(x0, 0.1)`, or
    `lambda x0: Normal(x0, sigma[:, None])` at many levels.

    Args:
        model: The Denoiser to train, or with a kernel a function score(x, **condition).
        x0: Data (batch, *shape), floating point.
        kernel: Maps x0 to the distribution of its noised values, with a continuous density.
        weighting: Without a kernel "simple", "likelihood", "edm", "min-snr", or a function (sde, t, data_std) -> weight
            of times (batch,). With a kernel lambda: a number, (batch,), or "simple" for the variance of the kernel,
            element by element (sigma^2: Song & Ermon 2019, eq. 6). 1 gives E ||score - grad log p||^2 / 2 plus a
            constant.
        time_distribution: "uniform", "importance" (in proportion to g^2 / sigma^2, with the mean loss of "uniform"),
            "log-normal", "low-discrepancy", or a TimeDistribution. Without a kernel only.
        u: Quantiles (batch,) in [0, 1] that fix the times; drawn by default. Without a kernel only.
        eps: Noise (batch, *shape); drawn by default. Without a kernel only.
        generator: Source of all draws; torch's own by default.
        condition: Tensors (batch, ...) that the model gets by name.

    Raises:
        TypeError: For data that is not floating point, and for a model, kernel or weighting of another kind.
        ValueError: For an unknown name, wrong shapes, data that is not finite, and a kernel without a score.
        RuntimeError: With a kernel under torch.inference_mode().
    """
    check_tensor("x0", x0, "(batch, *shape)", ": scale it first, to [-1, 1] for images")
    if x0.ndim < 2 or len(x0) == 0:
        raise ValueError(f"x0 has shape {tuple(x0.shape)}; expected (batch, *shape) with at least one sample")
    if x0.device.type == "cpu" and not bool(x0.isfinite().all()):  # on a GPU the check would wait at every step
        raise ValueError("x0 is not finite")
    given = {} if condition is None else condition
    if kernel is None:
        if not isinstance(getattr(model, "sde", None), LinearSDE):  # torch.compile() wraps a Denoiser, and has its sde
            raise TypeError(f"model is a {type(model).__name__}; expected a Denoiser, or a kernel besides a score")
        return _by_process(cast(Denoiser, model), x0, weighting, time_distribution, u, eps, generator, given)
    if u is not None or eps is not None or time_distribution != "uniform":
        raise ValueError("time_distribution, u and eps belong to a Denoiser's process; leave them out with a kernel")
    return _by_kernel(partial(model, **given), x0, kernel, weighting, generator)


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
    weigh = choose(WEIGHTINGS, weighting, "weighting")
    distribution = choose(TIME_DISTRIBUTIONS, time_distribution, "time_distribution")
    if not callable(getattr(distribution, "draw", None)):
        raise TypeError(f"time_distribution is {distribution!r}; expected a name or a TimeDistribution")
    if not isinstance(condition, Mapping):
        raise TypeError(f"condition is a {type(condition).__name__}; expected a dict of tensors by name")
    if not callable(weigh):
        raise TypeError(f"weighting={weigh!r}; expected a name or a function (sde, t, data_std) without a kernel")
    for name, given in (("u", u), ("eps", eps)):
        if given is not None:
            check_tensor(name, given, "as the docstring says")
    if u is None:
        u = distribution.draw(len(x0), generator, x0.device)
    if u.shape != (len(x0),):
        raise ValueError(f"u has shape {tuple(u.shape)}; expected ({len(x0)},)")
    if u.device.type == "cpu" and not bool(((u >= 0) & (u <= 1)).all()):
        raise ValueError(f"u spans [{u.min():g}, {u.max():g}]; expected quantiles in [0, 1]")
    if eps is None:
        eps = torch.randn(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype)
    elif eps.shape != x0.shape:
        raise ValueError(f"eps has shape {tuple(eps.shape)}, but x0 has {tuple(x0.shape)}")
    sde = denoiser.sde
    t, factor = distribution.place(sde, u.to(x0))
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
    root = weight.sqrt()  # before squaring, which may overflow in half precision
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
            raise ValueError(f"weighting has shape {tuple(weight.shape)}; expected () or ({len(x0)},)")
        weight = weight.reshape(-1, *(1,) * (x0.ndim - 1))
    else:
        raise ValueError(f"weighting={weighting!r}; expected 'simple', a number or ({len(x0)},) with a kernel")
    if weight.device.type == "cpu" and not bool(((weight >= 0) & weight.isfinite()).all()):
        raise ValueError(f"weighting={weighting!r} of a {type(law).__name__} is negative or not finite; give a number")
    return weight


@contextmanager
def _seeded(generator: torch.Generator | None, device: torch.device) -> Iterator[None]:
    """Seed torch's own generator, from which distributions draw, by a draw of ours, and restore it afterwards."""
    if generator is None:
        yield
        return
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(seed)
        yield
