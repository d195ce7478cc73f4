"""The likelihood in bench/gpu.py, beside torchdiffeq's dopri5."""

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

import torch
from bench.likelihood import METHODS, Problem
from bench.nets import builders
from shared.clock import clock
from torch import Tensor

from sdescore import VPSDE, Denoiser, denoising_score_matching
from sdescore.common.evaluation_mode import evaluating, frozen
from sdescore.density.likelihood import Prior

__all__ = ["units"]


def units(work: Any) -> Iterator[tuple[str, Callable[[Any], dict[str, Any]]]]:
    """The time of a likelihood beside torchdiffeq's dopri5, of a net that has learnt a little."""
    sizes, device = work.sizes, work.device
    # Rounding to TF32 would be above the tolerance, and the steps without end.
    torch.backends.cudnn.allow_tf32 = False

    @cache
    @torch.enable_grad()
    def learnt() -> Denoiser:
        torch.manual_seed(0)
        denoiser = Denoiser(builders(sizes.net)["sdescore"]().to(device), VPSDE(), "noise")
        optimizer = torch.optim.Adam(denoiser.parameters(), 1e-3)
        x = work.images.train
        steps, count = sizes.learning
        for k in range(steps):
            rows = torch.arange(count * k, count * (k + 1)) % len(x)
            with torch.autocast(device.type, torch.bfloat16):
                losses = denoising_score_matching(denoiser, x[rows].to(device), time_distribution="importance")
            losses.mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return denoiser

    def one(method: str, tolerance: float, report: Any) -> dict[str, Any]:
        denoiser = learnt()
        x = work.images.test[: sizes.likelihoods].to(device, torch.float64)
        problem = Problem(VPSDE(), denoiser, x, "hutchinson", Prior(VPSDE()), torch.zeros(len(x)))
        with evaluating(denoiser), frozen(denoiser):
            since = clock(device)
            found: Tensor = METHODS[method][0](problem, tolerance)
            seconds = clock(device) - since
        nats = float(found.mean()) / x[0].numel()
        return {"images/s": len(x) / seconds, "seconds": seconds, "net calls": problem.nfe, "nats/dim": nats}

    for tolerance in sizes.tolerances:
        for method in ("ours", "torchdiffeq, t"):
            yield f"{method}, {tolerance:g}", partial(one, method, tolerance)
