"""CFG++: the guided data prediction, noised again by the null branch's noise (Chung et al. 2024, algorithm 2)."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sdescore.common.linear_combinations import combine
from sdescore.denoisers.guidance import Guided
from sdescore.sampling import LinearOneStep, PlannedOneStep, ReverseProcess, Step, drawn

from .exponential_euler import DDIM

__all__ = ["CFGPlusPlus"]


@dataclass(frozen=True)
class CFGPlusPlus(PlannedOneStep):
    """x_s = p x0 + q eps + std z with x0 of guided(net, scale) and eps of its null branch; scales from 0 to 1.

    It is ordinary guidance at a scale of each step's own, scale p rho / (p rho - q), which for DDIM is
    scale rho_t / (rho_t - rho_s): the finer the steps, the stronger. The last denoising is at the scale itself.
    https://arxiv.org/abs/2406.08070

    Args:
        method: A step that is linear in the net's predictions; DDIM in the paper.
    """

    method: LinearOneStep = DDIM

    def __post_init__(self) -> None:
        if not isinstance(self.method, LinearOneStep):
            raise TypeError(f"method is {self.method!r}; expected a LinearOneStep, such as DDIM")

    def plan(self, reverse: ReverseProcess, t: Tensor, s: Tensor) -> Step:
        net = reverse.denoiser
        if not isinstance(net, Guided) or net.rule is not None or net.rescale:
            raise TypeError(
                f"net is a {type(net).__name__}; CFGPlusPlus expects guided(net, scale) without other rules"
            )
        if t.ndim > 1:
            raise ValueError(f"t has shape {tuple(t.shape)}; expected times that all samples share")
        p, q, std = (torch.as_tensor(each).expand(t.shape) for each in self.method.coefficients(reverse.sde, t, s))
        reach = p * reverse.sde.rho(t)
        scales = (net.scale * reach / (reach - q)).tolist()
        means = [
            replace(reverse, denoiser=net.at_scale(scale)).summands(t[i : i + 1], p[i], q[i])
            for i, scale in enumerate(scales)
        ]
        stds = std.tolist()
        return lambda i, x, noise: combine(means[i](0, x), drawn(noise, x, t[i], s[i], stds[i]))

    def nfe(self, intervals: int) -> int:
        return self.method.nfe(intervals)
