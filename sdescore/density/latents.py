"""Latents: data and noise as each other's image under the probability-flow ODE (Song et al. 2021, section 4.3)."""

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sdescore.density.flow import Input, transport
from sdescore.processes.base import LinearSDE
from sdescore.sampling.sample import evaluating

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
    given = Input.check(sde, net, x, rtol, atol, condition, predicts, batch_size)
    parts = []
    with evaluating(given.denoiser), torch.no_grad(), tqdm(total=len(x), disable=not progress, desc="flow") as bar:
        for first, state, reverse, advance in given.batches(bar):
            done = transport(reverse, state, *ends, rtol, atol, advance)
            for row in done.failed.nonzero().flatten().tolist():
                warnings.warn(
                    f"sample {first + row} is NaN: {done.reason(row)} at t = {float(done.time[row]):.6g}",
                    RuntimeWarning,
                    stacklevel=3,
                )
            flagged = done.failed.reshape(-1, *(1,) * (x.ndim - 1))
            parts.append(done.y.masked_fill(flagged, torch.nan))
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

    Each sample has its own adaptive steps; arguments and errors are those of likelihood(). A sample that cannot be
    carried all the way is NaN, and a RuntimeWarning says where it stopped.
    """
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

    It is sample(x=z, solver="dopri5") without the last denoising, which cannot be undone. Arguments, errors and
    flagged samples as for encode().
    """
    return _carry(sde, net, z, (sde.T, sde.t_min), rtol, atol, condition, predicts, batch_size, progress)


def slerp(a: Tensor, b: Tensor, weight: float | Tensor) -> Tensor:
    """Spherical interpolation of latents a, b (batch, *shape): a at weight 0, b at weight 1 (Shoemake 1985).

    Between independent normal latents the result is as long as they are, where the straight line would be too short.
    The lengths are interpolated geometrically; weight is a number or (batch,).
    Raises ValueError for shapes that differ, and for zero or opposite latents, between which there is no one way.
    """
    if a.shape != b.shape:
        raise ValueError(f"a has shape {tuple(a.shape)}, b {tuple(b.shape)}; expected equal shapes")
    p, q = a.flatten(1), b.flatten(1)
    w = torch.as_tensor(weight, dtype=a.dtype, device=a.device).reshape(-1, 1)
    sizes = p.norm(dim=1, keepdim=True), q.norm(dim=1, keepdim=True)
    p, q = p / sizes[0], q / sizes[1]
    # From half the chord, which keeps its digits at small angles where the cosine loses them.
    angle = 2 * torch.atan2((p - q).norm(dim=1, keepdim=True), (p + q).norm(dim=1, keepdim=True))
    bad = ~(angle < math.pi - 1e-5)
    if bool(bad.any()):
        raise ValueError(f"a and b are zero or opposite in sample {int(bad.flatten().nonzero()[0])}")
    # sin(w angle) / sin(angle), which is w at angle 0.
    near, far = (v * torch.sinc(v * angle / math.pi) / torch.sinc(angle / math.pi) for v in (1 - w, w))
    return (sizes[0] ** (1 - w) * sizes[1] ** w * (near * p + far * q)).reshape(a.shape)


def scale_temperature(z: Tensor, temperature: float) -> Tensor:
    """Latents of the prior at another temperature: N(0, s^2 I)^(1/temperature) is N(0, temperature s^2 I).

    Raises ValueError for a temperature that is negative.
    """
    if not temperature >= 0:
        raise ValueError(f"temperature={temperature}; expected numbers from 0 on")
    return z * math.sqrt(temperature)
