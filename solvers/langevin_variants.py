"""Other Langevin correctors: score_sde's step from batch means, and one with a Metropolis test."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.common.linear_combinations import expand
from sdescore.sampling import Noise, ReverseProcess

from .langevin import check_langevin

__all__ = ["BatchMeanLangevin", "MetropolisLangevin"]


def _norm(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1)


@dataclass(frozen=True)
class BatchMeanLangevin:
    """score_sde's corrector, for parity: e = 2 a (snr mean|z| / mean|score|)^2 with means over the batch.

    From Song et al. 2021, algorithms 4 and 5. A sample depends on those beside it, and on the batch size. a is
    (alpha_t / alpha_before)^2 with the time before on a ladder of `levels` equal steps: 1 on VE, 1 - beta_i on a table.
    """

    snr: float = 0.16
    repeats: int = 1
    levels: int = 1000

    def __post_init__(self) -> None:
        check_langevin(self.snr, self.repeats)

    def correct(self, reverse: ReverseProcess, x: Tensor, t: Tensor, noise: Noise) -> Tensor:
        sde = reverse.sde
        before = t - sde.T / (self.levels - 1)
        a = (sde.alpha(t) / torch.where(before < 0, 1.0, sde.alpha(before.clamp(min=0)))) ** 2
        for _ in range(self.repeats):
            score, z = reverse.score(x, t), noise.randn(x)
            e = 2 * a.to(x) * (self.snr * _norm(z).mean() / _norm(score).mean()) ** 2
            x = x + expand(e, x) * score + expand((2 * e).sqrt(), x) * z
        return x

    @property
    def nfe(self) -> int:
        return self.repeats


@dataclass(frozen=True)
class MetropolisLangevin:
    """Langevin's step with the sigma rule as a proposal that each sample accepts or rejects (Roberts & Tweedie 1996).

    The ratio of densities is the score's integral along the line between the states, by Simpson's rule: for a score
    that is a gradient the test errs by the fifth power of the move, and the step no longer biases the law. Two net
    calls a step, and one before.
    """

    snr: float = 0.16
    repeats: int = 1

    def __post_init__(self) -> None:
        check_langevin(self.snr, self.repeats)

    def correct(self, reverse: ReverseProcess, x: Tensor, t: Tensor, noise: Noise) -> Tensor:
        step = 2 * (self.snr * reverse.sde.sigma(t)) ** 2
        e, root = expand(step, x), expand((2 * step).sqrt(), x)
        score = reverse.score(x, t) if self.repeats else x
        for _ in range(self.repeats):
            z = noise.randn(x)
            move = e * score + root * z
            new = x + move
            there, middle = reverse.score(new, t), reverse.score(x + move / 2, t)
            back = (move + e * there) / root  # the z that would lead back
            gain = move * (score + 4 * middle + there) / 6 + (z.square() - back.square()) / 2
            uniform = torch.special.log_ndtr(noise.randn(x).flatten(1)[:, 0])
            accepted = (uniform < gain.flatten(1).sum(1)).reshape(-1, *(1,) * (x.ndim - 1))
            x, score = torch.where(accepted, new, x), torch.where(accepted, there, score)
        return x

    @property
    def nfe(self) -> int:
        return 2 * self.repeats + (self.repeats > 0)
