"""Latents: data and noise as each other's image under the probability-flow ODE (Song et al. 2021, section 4.3).

Shoemake 1985: https://doi.org/10.1145/325165.325242.
"""

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sdescore.common.checks import as_tensor, check_finite, check_number, check_states
from sdescore.common.evaluation_mode import evaluating
from sdescore.density.batches import Batches, check_deterministic, check_tolerance
from sdescore.density.flow import transport
from sdescore.processes.base import LinearSDE, check_linear

__all__ = ["decode", "encode", "scale_temperature", "slerp"]


def _carry(
    sde: LinearSDE,
    net: Any,
    x: Tensor,
    ends: tuple[float, float],
    rtol: float,
    atol: float,
    condition: Mapping[str, Tensor] | None,
    predicts: str | None,
    batch_size: int | None,
    progress: bool,
) -> Tensor:
    check_tolerance(rtol, atol)
    given = Batches.of(sde, net, x, condition, predicts, batch_size)
    parts = []
    with evaluating(given.denoiser), torch.no_grad(), tqdm(total=len(x), disable=not progress, desc="flow") as bar:
        check_deterministic(given)
        for start, state, reverse, advance in given.through(bar):
            done = transport(reverse, state, *ends, rtol, atol, advance)
            for row in done.failed.nonzero().flatten().tolist():
                warnings.warn(
                    f"sample {start + row} is NaN: {done.reason(row)} at t = {float(done.time[row]):.6g}",
                    RuntimeWarning,
                    stacklevel=3,
                )
            parts.append(done.y.masked_fill(done.failed.reshape(-1, *(1,) * (x.ndim - 1)), torch.nan))
    return torch.cat(parts).to(x.dtype)


def encode(
    sde: LinearSDE,
    net: Any,
    x: Tensor,
    *,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    condition: Mapping[str, Tensor] | None = None,
    predicts: str | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Tensor:
    """The latents at T (batch, *shape) of data x (batch, *shape) at t_min: the inverse of decode().

    Each sample has its own adaptive steps; arguments and errors are those of likelihood(). A sample whose integration
    fails is NaN, and a RuntimeWarning says where it stopped.
    """
    check_linear(sde)
    return _carry(sde, net, x, (sde.t_min, sde.T), rtol, atol, condition, predicts, batch_size, progress)


def decode(
    sde: LinearSDE,
    net: Any,
    z: Tensor,
    *,
    rtol: float = 1e-6,
    atol: float = 1e-6,
    condition: Mapping[str, Tensor] | None = None,
    predicts: str | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> Tensor:
    """The data at t_min (batch, *shape) of latents z (batch, *shape) at T: the inverse of encode().

    It is sample(x=z, solver="dopri5") without the last denoising, which has no inverse. Arguments, errors and failed
    samples as for encode().
    """
    check_linear(sde)
    return _carry(sde, net, z, (sde.T, sde.t_min), rtol, atol, condition, predicts, batch_size, progress)


def slerp(a: Tensor, b: Tensor, weight: float | Tensor) -> Tensor:
    """Spherical interpolation of latents a, b (batch, *shape): a at weight 0, b at weight 1 (Shoemake 1985).

    weight is a number or (batch,); lengths are interpolated geometrically. Between independent normal latents the
    result is about as long as they are, where linear interpolation would be too short.
    Raises TypeError for what is no tensor, and ValueError for shapes that differ, for what is not finite, and for zero
    or opposite latents, between which no arc is the shortest.
    """
    for name, latent in (("a", a), ("b", b)):
        check_finite(name, check_states(latent, name=name))
    if a.shape != b.shape:
        raise ValueError(f"a has shape {tuple(a.shape)}, b {tuple(b.shape)}; expected equal shapes")
    p, q = a.flatten(1), b.flatten(1)
    w = as_tensor("weight", weight, a.dtype, a.device).reshape(-1, 1)
    if len(w) not in (1, len(a)) or not bool(w.isfinite().all()):
        raise ValueError(f"weight={weight}; expected a finite number, or ({len(a)},) of them")
    length_a, length_b = p.norm(dim=1, keepdim=True), q.norm(dim=1, keepdim=True)
    p, q = p / length_a, q / length_b
    # From half the chord, which keeps its digits at small angles where the cosine loses them.
    angle = 2 * torch.atan2((p - q).norm(dim=1, keepdim=True), (p + q).norm(dim=1, keepdim=True))
    bad = ~(angle < math.pi - 1e-5)
    if bool(bad.any()):
        raise ValueError(f"a and b are zero or opposite in sample {int(bad.flatten().nonzero()[0])}")
    # sin(w angle) / sin(angle), which is w at angle 0.
    near, far = (v * torch.sinc(v * angle / math.pi) / torch.sinc(angle / math.pi) for v in (1 - w, w))
    return (length_a ** (1 - w) * length_b**w * (near * p + far * q)).reshape(a.shape)


def scale_temperature(z: Tensor, temperature: float) -> Tensor:
    """Latents z of the prior at another temperature: N(0, s^2 I)^(1/temperature) is N(0, temperature s^2 I).

    Raises ValueError for a negative temperature, and for latents that are not finite.
    """
    check_finite("z", check_states(z, name="z"))
    return z * math.sqrt(check_number("temperature", temperature, least=0))
