"""A control variate for estimated traces, from the covariance of the data."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sdescore.common.checks import check_finite, check_states

__all__ = ["GaussianFit"]


@dataclass(frozen=True)
class GaussianFit:
    """The normal distribution with the mean and the covariance of data, for which the exact trace is known.

    The error that the vectors would make for it is a control variate: subtracting that keeps the mean of an estimate
    and removes the noise that the covariance explains, without a net call.

    Args:
        mean: (size,), with size the elements of a sample.
        basis: (size, size), with the principal directions as columns.
        variances: (size,), along these directions.
    """

    mean: Tensor
    basis: Tensor
    variances: Tensor

    @staticmethod
    def of(data: Tensor) -> "GaussianFit":
        """Fit to data (batch, *shape) in model scale. Raises TypeError or ValueError for other data."""
        check_finite("data", check_states(data, name="data"))
        if len(data) < 2:
            raise ValueError(f"data has shape {tuple(data.shape)}; expected (batch, *shape) with at least two samples")
        rows = data.flatten(1).to(torch.float64)
        variances, basis = torch.linalg.eigh(rows.T.cov().reshape(rows.shape[1], -1))
        # Too few samples leave directions without variance; a net never learns such a density.
        return GaussianFit(rows.mean(0), basis, variances.clamp(min=1e-4 * float(variances.mean())))

    def excess(self, vectors: Tensor, start: float, stop: float) -> Tensor:
        """What each group of vectors (groups, members, batch, *shape) overestimates the log-volume change by.

        start and stop are lam at both ends; the result is (groups, batch).
        """
        growth = (self._variance(stop) / self._variance(start)).log() / 2
        along = (vectors.flatten(3).to(self.basis) @ self.basis).square()
        return (along @ growth).sum(1) - growth.sum()

    def _variance(self, lam: float) -> Tensor:
        """Of z along the principal directions."""
        share = torch.sigmoid(torch.tensor(2 * lam, dtype=torch.float64))
        return share * self.variances + (1 - share)
