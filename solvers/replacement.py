"""Replacement of what is measured at every step (Song et al. 2021, appendix I.2), along a path of each sample's own."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.denoisers.posterior import check_noise_std
from sdescore.operators import Operator
from sdescore.sampling import Noise, OneStep, ReverseProcess, Step, check_one_step, karras

from .exponential_euler import DDPM
from .measured import check_linear_operator, measured

__all__ = ["Replacement"]


@dataclass(frozen=True)
class Replacement:
    """Another method's steps; after each, the measured part is what the forward process makes of the measurement.

    condition["measurement"] is y = A x0 + noise_std z. The measured part of x_t is alpha (A_dagger y + u^(1/2) z) with
    u = rho^2 - v^2, where v is the noise of A_dagger y: this is its law given x0. Below rho = v it is left to the
    method. Exact, to the method's error, where the measured and the other coordinates are independent a priori (with
    noise, for a stochastic method that is exact in law); elsewhere the other part is not told what the measured part's
    path will be.

    Args:
        operator: Linear, with A_dagger; with noise, one whose A A_adjoint is a multiple of the identity where it
            measures, as all but Blur and Matrix are.
        noise_std: Standard deviation of the measurement's noise.
        method: Moves the rest.
        tau: How much of z is kept from u_t to u_s: (u_s / u_t)^(tau^2 / 2). 1 is the forward process's own path, seen
            backwards; 0 keeps one z throughout; infinity draws fresh noise at every step, as score_sde does.
    """

    operator: Operator
    noise_std: float = 0.0
    method: OneStep = DDPM
    tau: float = 1.0

    grid = karras()
    denoises = True

    def __post_init__(self) -> None:
        check_linear_operator(self.operator)
        check_noise_std(self.noise_std)
        check_one_step(self.method, "method")
        if not self.tau >= 0:
            raise ValueError(f"tau={self.tau}; expected numbers from 0 on")

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        prior, y = measured(reverse, self.operator, x)
        x = self.start(prior, y, x, times[0])
        step = self.plan(prior, y, x, times)
        for i in range(len(times) - 1):
            x = step(i, x, noise)
            yield x
        yield self.finish(prior, y, x, times[-1])

    def start(self, prior: ReverseProcess, y: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """x at the first time with its measured part shifted and narrowed to that of the forward process."""
        sde, u = prior.sde, self._spread(prior, x, t)
        known = float(sde.alpha(t)) * self.operator.A_dagger(y) + float(u.clamp(min=0).sqrt() / sde.rho(t)) * x
        return x + self._measured_part(known - x)

    def plan(self, prior: ReverseProcess, y: Tensor, x: Tensor, times: Tensor) -> Step:
        """The step from times[i] to times[i + 1], as a function (i, x, noise); x is any state."""
        t, s = times[:-1], times[1:]
        inner = self.method.plan(prior, t, s)
        target, u, alpha = self.operator.A_dagger(y), self._spread(prior, x, times), prior.sde.alpha(times)
        share = (u[1:] / u[:-1]).clamp(min=0)
        kept = torch.where(share > 0, share ** (self.tau**2 / 2), 0.0)
        path = (alpha[1:] * u[1:].clamp(min=0).sqrt() * kept / (alpha[:-1] * u[:-1].clamp(min=1e-300).sqrt())).tolist()
        fresh = (alpha[1:] * (u[1:].clamp(min=0) * (1 - kept**2)).sqrt()).tolist()
        above, factor = (u[1:] > 0).tolist(), alpha.tolist()

        def step(i: int, x: Tensor, noise: Noise) -> Tensor:
            after = inner(i, x, noise)
            if not above[i]:
                return after
            known = factor[i + 1] * target + path[i] * (x - factor[i] * target)
            if fresh[i]:
                known = known + noise(x, t[i], s[i], fresh[i])
            return after + self._measured_part(known - after)

        return step

    def finish(self, prior: ReverseProcess, y: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """The data, with what is known exactly put in."""
        data = prior.data(x, t)
        return data if self.noise_std else data + self.operator.A_dagger(y - self.operator.A(data))

    def _measured_part(self, x: Tensor) -> Tensor:
        return self.operator.A_dagger(self.operator.A(x))

    def _spread(self, prior: ReverseProcess, x: Tensor, t: Tensor) -> Tensor:
        """u at times t, of their shape."""
        return prior.sde.rho(t) ** 2 - self._level(x) ** 2

    def _level(self, x: Tensor) -> float:
        """v, from the singular value that all measurements share."""
        if self.noise_std == 0:
            return 0.0
        probe = self.operator.A(torch.randn(x[:1].shape, generator=torch.Generator().manual_seed(0)).to(x))
        image = self.operator.A(self.operator.A_adjoint(probe))
        square = float((image * probe).sum() / probe.square().sum())
        if not torch.allclose(image, square * probe, rtol=1e-3, atol=1e-3 * square):
            raise ValueError(
                f"noise_std={self.noise_std} with {self.operator!r}; expected an operator with A A_adjoint a multiple "
                "of the identity, or noise_std=0"
            )
        return self.noise_std / square**0.5

    def nfe(self, intervals: int) -> int:
        return self.method.nfe(intervals) + 1
