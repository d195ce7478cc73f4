"""DDRM: each singular coordinate of the measurement with steps of its own (Kawar et al. 2022, eq. 7-8)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.denoisers.posterior import check_noise_std
from sdescore.operators import Operator, matrix_of
from sdescore.sampling import Noise, ReverseProcess, karras

from .measured import check_linear_operator, measured

__all__ = ["DDRM"]


@dataclass(frozen=True)
class DDRM:
    """A coordinate that is measured with noise of level v is its measurement while rho > v, and data below.

    condition["measurement"] is y = A x0 + noise_std z. Exact, to the steps' error, only without measurement noise, with
    coordinates independent a priori between what is measured and what is not, and with eta = 0: what is measured never
    moves towards what the net says, and eta draws as if the net's x0 were certain, which narrows the law.
    https://arxiv.org/abs/2201.11793

    Args:
        operator: Linear; its matrix is decomposed, which suits samples of up to some thousand elements.
        noise_std: Standard deviation of the measurement's noise.
        eta: Share of fresh noise in coordinates that are not, or too badly, measured.
        eta_b: Share of the measurement in the others.
    """

    operator: Operator
    noise_std: float = 0.0
    eta: float = 0.85
    eta_b: float = 1.0

    grid = karras()
    denoises = True

    def __post_init__(self) -> None:
        check_linear_operator(self.operator)
        check_noise_std(self.noise_std)
        for name, value in (("eta", self.eta), ("eta_b", self.eta_b)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}={value}; expected numbers from 0 to 1")

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        prior, y = measured(reverse, self.operator, x)
        known = self._known(x, y)
        alphas, rhos = [*prior.sde.alpha(times).tolist(), 1.0], [*prior.sde.rho(times).tolist(), 0.0]
        z = known.start(known.turn(x) / alphas[0], rhos[0])
        x = alphas[0] * known.back(z)
        for i in range(len(times)):
            data = known.turn(prior.data(x, times[i]))
            rho = rhos[i + 1]
            eps = torch.where(known.level.isinf(), (z - data) / rhos[i], (known.y - data) / known.level)
            below = data + rho * (1 - self.eta**2) ** 0.5 * eps
            above = data + self.eta_b * (known.y - data)
            noisy = known.level > rho
            z = torch.where(noisy, below, above)
            if rho:
                spread = (rho**2 - (self.eta_b * known.level).square()).clamp(min=0).sqrt()
                z = z + torch.where(noisy, self.eta * rho, spread) * known.turn(noise.randn(x))
            x = alphas[i + 1] * known.back(z)
            yield x

    def _known(self, x: Tensor, y: Tensor) -> "_Known":
        left, values, right = torch.linalg.svd(matrix_of(self.operator, tuple(x.shape[1:])))
        count = int((values > 1e-7 * values.max()).sum())
        turned, level = y.new_zeros(len(y), len(right)), y.new_full((len(right),), torch.inf)
        turned[:, :count] = y.flatten(1) @ (left[:, :count] / values[:count]).to(y)
        level[:count] = self.noise_std / values[:count]
        return _Known(turned, level, right.to(x), x.shape[1:])

    def nfe(self, intervals: int) -> int:
        return intervals + 1


@dataclass(frozen=True)
class _Known:
    """The measurement y (batch, elements) in singular coordinates, with the level (elements,) of its noise there."""

    y: Tensor
    level: Tensor
    axes: Tensor
    shape: torch.Size

    def turn(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.axes.T

    def back(self, z: Tensor) -> Tensor:
        return (z @ self.axes).reshape(-1, *self.shape)

    def start(self, z: Tensor, rho: float) -> Tensor:
        """A measured coordinate is its measurement with the noise that it lacks, another is z, of deviation rho."""
        lacking = (1 - (self.level / rho).square()).clamp(min=0).sqrt()
        return torch.where(self.level < rho, self.y + lacking * z, z)
