"""Latents: data and noise as each other's image under the probability-flow ODE (Song et al. 2021, section 4.3)."""

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sdescore.flow import Input, transport
from sdescore.sampling import evaluating
from sdescore.sde import LinearSDE

__all__ = ["decode", "encode", "slerp", "temper"]


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
    Raises ValueError for shapes that differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"a has shape {tuple(a.shape)}, b {tuple(b.shape)}; valid are equal shapes")
    column = torch.as_tensor(weight, dtype=a.dtype, device=a.device).reshape(-1, *(1,) * (a.ndim - 1))
    norms = [each.flatten(1).norm(dim=1).reshape(-1, *(1,) * (a.ndim - 1)) for each in (a, b)]
    p, q = a / norms[0], b / norms[1]
    # From half the chord, which keeps its digits at small angles where the cosine loses them.
    angle = 2 * torch.atan2((p - q).flatten(1).norm(dim=1), (p + q).flatten(1).norm(dim=1)).reshape(norms[0].shape)
    # sin(w angle) / sin(angle), and its limit w at angle 0.
    share = [w * torch.sinc(w * angle / math.pi) / torch.sinc(angle / math.pi) for w in (1 - column, column)]
    return norms[0] ** (1 - column) * norms[1] ** column * (share[0] * p + share[1] * q)


def temper(z: Tensor, temperature: float) -> Tensor:
    """Latents of the prior at another temperature: N(0, s^2 I)^(1/temperature) is N(0, temperature s^2 I).

    Raises ValueError for a temperature that is negative.
    """
    if not temperature >= 0:
        raise ValueError(f"temperature={temperature}; valid are numbers from 0 on")
    return z * math.sqrt(temperature)
