"""DiffPIR: the data prediction moved towards the measurement, and noised again (Zhu et al. 2023, algorithm 1)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

from sdescore.common.conjugate_gradients import conjugate_gradients
from sdescore.denoisers.posterior import check_noise_std
from sdescore.operators import Nonlinear, Operator, as_operator, linearised
from sdescore.sampling import Noise, ReverseProcess, karras

from .measured import measured

__all__ = ["DiffPIR"]


@dataclass(frozen=True)
class DiffPIR:
    """x0 becomes the minimum of |y - A x|^2 / noise_std^2 + weight |x - x0|^2 / rho^2; no derivative of the net.

    condition["measurement"] is y = A(x0) + noise_std z. That minimum is the posterior mean of a Gaussian whose variance
    given x_t is rho^2 / weight: too wide where rho is not small against the data, so that the measurement is trusted
    too much there. https://arxiv.org/abs/2305.08995

    Args:
        operator: Linear, or a function, which is then replaced by its derivative at x0.
        noise_std: Standard deviation of the measurement's noise.
        weight: The paper's lambda.
        zeta: Share of the noise's variance that is drawn anew at each step.
        iterations: Most conjugate gradients for the minimum.
    """

    operator: Operator | Nonlinear | Callable[[Tensor], Tensor]
    noise_std: float
    weight: float = 1.0
    zeta: float = 0.3
    iterations: int = 20

    grid = karras()
    denoises = True

    def __post_init__(self) -> None:
        as_operator(self.operator)
        check_noise_std(self.noise_std)
        if not self.weight > 0 or not 0 <= self.zeta <= 1:
            raise ValueError(f"weight={self.weight}, zeta={self.zeta}; expected weight > 0 and zeta from 0 to 1")

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        prior, y = measured(reverse, as_operator(self.operator), x)
        alphas, sigmas = prior.sde.alpha(times).tolist(), prior.sde.sigma(times).tolist()
        for i, t in enumerate(times):
            data = self._nearer(prior.data(x, t), y, (sigmas[i] / alphas[i]) ** 2 / self.weight)
            if i + 1 < len(times):
                eps = (x - alphas[i] * data) / sigmas[i]
                x = alphas[i + 1] * data + (1 - self.zeta) ** 0.5 * sigmas[i + 1] * eps
                if self.zeta:
                    x = x + noise(x, t, times[i + 1], self.zeta**0.5 * sigmas[i + 1])
                yield x
        yield data

    def _nearer(self, data: Tensor, y: Tensor, variance: float) -> Tensor:
        operator = as_operator(self.operator)
        linear = linearised(operator, data)

        def apply(u: Tensor) -> Tensor:
            return self.noise_std**2 * u + variance * linear.A(linear.A_adjoint(u))

        return data + variance * linear.A_adjoint(conjugate_gradients(apply, y - operator.A(data), self.iterations))

    def nfe(self, intervals: int) -> int:
        return intervals + 1
