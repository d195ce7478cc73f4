"""Score matching: losses that make any callable x -> score(x) the gradient of the log-density of the data.

Every loss is called as loss(score, x, ...) with x (batch, *shape) and returns (batch,), summed over a sample's
elements. `score` may be an Energy, or `lambda x: net(x, t, ...)` for a net with a time or a condition; rows of a batch
must not depend on each other. The means of all losses differ from E ||score - grad log p||^2 / 2 by constants, so that
they have the same minimiser. They raise TypeError or ValueError for bad arguments, and what a score returns; those with
derivatives of the score also RuntimeError under torch.inference_mode(). With noise: denoising_score_matching().

Hyvarinen 2005: https://jmlr.org/papers/v6/hyvarinen05a.html. Song et al. 2019: https://arxiv.org/abs/1905.07088.
Pang et al. 2020: https://arxiv.org/abs/2007.03317.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sdescore.common.checks import (
    check_count,
    check_function,
    check_number,
    check_returned_numbers,
    check_states,
    check_tensor,
    unwritten,
)
from sdescore.denoisers.energy import differentiable_twice

__all__ = [
    "explicit_score_matching",
    "finite_difference_energy_matching",
    "finite_difference_score_matching",
    "implicit_score_matching",
    "sliced_score_matching",
    "variance_reduced_score_matching",
]

Score = Callable[[Tensor], Tensor]


def _half_square(x: Tensor) -> Tensor:
    return x.flatten(1).square().sum(1) / 2


def _dot(x: Tensor, y: Tensor) -> Tensor:
    """The inner product of each sample, (probes, batch), of two tensors that broadcast to (probes, batch, *shape)."""
    return (x * y).flatten(2).sum(2)


def same_shape(given: Tensor, x: Tensor, name: str) -> Tensor:
    check_tensor(name, given, f"of the shape of x, {tuple(x.shape)}")
    if given.shape != x.shape:
        raise ValueError(f"{name} has shape {tuple(given.shape)}, but x has {tuple(x.shape)}")
    return given


def _positive(step: float) -> float:
    return check_number("step", step, above=0)


@torch.no_grad()
def _check_constant(score: Score, x: Tensor, s: Tensor) -> None:
    """Raise ValueError where a score without a derivative by x, which would lose its divergence, depends on x."""
    if not torch.equal(score(x + 0.01 + 0.01 * x.abs()), s):
        raise ValueError("the score depends on x without a derivative by it; expected one that detaches nothing")


def _with_slope(score: Score, x: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
    """score(x), and v^T (d score / dx) v of each probe v (probes, batch, *shape) as (probes, batch)."""
    if torch.is_inference_mode_enabled():  # where the slope would silently be 0
        raise RuntimeError("the slope of a score is a gradient, and torch.inference_mode() has none; use no_grad()")
    training = torch.is_grad_enabled()
    with torch.enable_grad(), differentiable_twice(training):
        x = x.detach().requires_grad_()
        s = same_shape(check_function("score", score)(x.clone()), x, "the score")  # which may write over a copy
        if not s.requires_grad:
            _check_constant(score, x, s)
            return s, torch.zeros_like(_dot(probes, s))
        # One pass each: batched gradients are wrong or missing for some operators, such as those of attention.
        slopes = []
        for i, probe in enumerate(probes, 1):
            (product,) = torch.autograd.grad(
                s, x, probe.expand_as(s), create_graph=training, retain_graph=i < len(probes) or None, allow_unused=True
            )
            if product is None and i == 1:
                _check_constant(score, x, s)
            slopes.append(x.new_zeros(len(x)) if product is None else (product * probe).flatten(1).sum(1))
    slope = torch.stack(slopes)
    return (s, slope) if training else (s.detach(), slope.detach())


def _signs(x: Tensor, v: Tensor | None, projections: int, generator: torch.Generator | None) -> Tensor:
    """Probes (projections, batch, *shape): those given, or Rademacher signs."""
    if v is None:
        check_count("projections", projections)
        shape = (projections, *x.shape)
        return torch.randint(0, 2, shape, generator=generator, device=x.device).to(x) * 2 - 1
    check_tensor("v", v, "of the shape of x, or (projections, *that)")
    if v.shape[-x.ndim :] != x.shape or v.ndim not in (x.ndim, x.ndim + 1) or len(v) == 0:
        raise ValueError(f"v has shape {tuple(v.shape)}; expected {tuple(x.shape)} or (projections, *that)")
    return v if v.ndim > x.ndim else v.unsqueeze(0)


def explicit_score_matching(score: Score, x: Tensor, target: Tensor) -> Tensor:
    """||score(x) - target||^2 / 2, with target (batch, *shape) the known score at x (Hyvarinen 2005, eq. 2)."""
    s = same_shape(unwritten(score, check_states(x), "the score"), x, "the score")
    return _half_square(s - same_shape(target, x, "target"))


def implicit_score_matching(score: Score, x: Tensor) -> Tensor:
    """tr(d score/dx) + ||score||^2 / 2, with the exact trace: a backward pass per element (Hyvarinen 2005, eq. 4)."""
    size = check_states(x)[0].numel()
    unit = torch.eye(size, dtype=x.dtype, device=x.device).reshape(size, 1, *x.shape[1:])
    s, slope = _with_slope(score, x, unit)
    return slope.sum(0) + _half_square(s)


def sliced_score_matching(
    score: Score,
    x: Tensor,
    *,
    v: Tensor | None = None,
    projections: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The mean over projections v of v^T (d score/dx) v + (v^T score)^2 / 2 (Song et al. 2019, eq. 7).

    v is (batch, *shape) or (projections, batch, *shape), with E v v^T = 1; random signs from `generator` by default.
    """
    probes = _signs(check_states(x), v, projections, generator)
    s, slope = _with_slope(score, x, probes)
    return (slope + _dot(probes, s).square() / 2).mean(0)


def variance_reduced_score_matching(
    score: Score,
    x: Tensor,
    *,
    v: Tensor | None = None,
    projections: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The mean over projections v of v^T (d score/dx) v, plus ||score||^2 / 2 (Song et al. 2019, eq. 8).

    Sliced score matching with the second term's expectation over v; arguments as of sliced_score_matching().
    """
    s, slope = _with_slope(score, x, _signs(check_states(x), v, projections, generator))
    return slope.mean(0) + _half_square(s)


def finite_difference_score_matching(
    score: Score,
    x: Tensor,
    *,
    step: float = 0.05,
    v: Tensor | None = None,
    projections: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sliced score matching with both terms from score(x + step v) and score(x - step v) (Pang et al. 2020, section 4).

    It takes two forward passes a projection and no derivative by x; the error is of order step^2. step is a positive
    length, small beside the width of the data; v, projections and generator as of sliced_score_matching().
    """
    probes, step = _signs(check_states(x), v, projections, generator), _positive(step)
    ends = torch.cat([x + step * probes, x - step * probes]).flatten(0, 1)
    # One call for each side of each projection: a condition in the callable has as many rows as x.
    check_function("score", score)
    s = torch.stack([same_shape(score(part), x, "the score") for part in ends.split(len(x))])
    ahead, behind = _dot(s, torch.cat([probes, probes])).chunk(2)
    return ((ahead - behind) / (2 * step) + (ahead + behind).square() / 8).mean(0)


def finite_difference_energy_matching(
    log_density: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    step: float = 0.05,
    v: Tensor | None = None,
    projections: int = 1,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Sliced score matching of an energy from its values L(x) and L(x +- step v) (Pang et al. 2020).

    (L+ + L- - 2 L) / step^2 + (L+ - L-)^2 / (8 step^2), with an error of order step^2. No derivative by x is taken, so
    that training needs one backward pass, by the parameters. The second difference amplifies rounding by 1 / step^2.

    Args:
        log_density: Maps x to unnormalised natural-log densities (batch,), such as Energy.log_density.
        x: Data (batch, *shape).
        step: Length of the differences, positive and small beside the width of the data.
        v, projections, generator: As of sliced_score_matching().
    """
    probes = _signs(check_states(x), v, projections, generator) * _positive(step)

    def value(at: Tensor) -> Tensor:
        return check_returned_numbers(unwritten(log_density, at, "log_density"), x, "log_density")

    ahead, behind = (torch.stack([value(x + sign * probe) for probe in probes]) for sign in (1, -1))
    return ((ahead + behind - 2 * value(x) + (ahead - behind).square() / 8) / step**2).mean(0)
