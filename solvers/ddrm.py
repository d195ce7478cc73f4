"""DDRM: each singular coordinate of the measurement with steps of its own (Kawar et al. 2022, eq. 7-8)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.denoisers.posterior import check_noise_std
from sdescore.operators import Operator, decomposed
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
        operator: Linear; one without a decomposition of its own is decomposed by its matrix in every batch, which suits
            samples of up to some thousand elements.
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
        svd = decomposed(self.operator, tuple(x.shape[1:]))
        mask = svd.mask.to(x)
        seen = mask > 1e-7 * mask.max()
        level = self.noise_std / mask.where(seen, 1.0)
        y = svd.U_adjoint(y) / mask.where(seen, 1.0)

        def replaced(free: Tensor, z: Tensor) -> Tensor:
            """x / alpha with z for the coordinates that are seen."""
            return free + svd.V(torch.where(seen, z - svd.V_adjoint(free), 0.0))

        alphas, rhos = [*prior.sde.alpha(times).tolist(), 1.0], [*prior.sde.rho(times).tolist(), 0.0]
        free = x / alphas[0]
        z = svd.V_adjoint(free)
        lacking = (1 - (level / rhos[0]).square()).clamp(min=0).sqrt()
        x = alphas[0] * replaced(free, torch.where(level < rhos[0], y + lacking * z, z))
        for i in range(len(times)):
            data, rho = prior.data(x, times[i]), rhos[i + 1]
            eps = (x / alphas[i] - data) / rhos[i]
            drawn = noise.randn(x) if rho else torch.zeros_like(x)
            kept = rho * (1 - self.eta**2) ** 0.5
            gap = y - svd.V_adjoint(data)
            spread = (rho**2 - (self.eta_b * level).square()).clamp(min=0).sqrt()
            moved = torch.where(
                level > rho,
                kept * gap / level.clamp(min=torch.finfo(x.dtype).tiny) + self.eta * rho * svd.V_adjoint(drawn),
                self.eta_b * gap + spread * svd.V_adjoint(drawn),
            )
            x = alphas[i + 1] * replaced(data + kept * eps + self.eta * rho * drawn, y - gap + moved)
            yield x

    def nfe(self, intervals: int) -> int:
        return intervals + 1
