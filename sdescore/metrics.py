"""How far a set of samples is from a set of data."""

import torch
from torch import Tensor

__all__ = ["frechet_distance"]


def _moments(features: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """The mean (d,) and a factor r (min(n, d), d) of the covariance r' r, both float64."""
    if features.ndim != 2 or len(features) < 2:
        raise ValueError(f"{name} has shape {tuple(features.shape)}; valid is (n, d) with n of at least 2")
    x = features.to(torch.float64)
    bad = int((~x.isfinite()).any(1).sum())
    if bad:
        raise ValueError(f"{name} is not finite in {bad} of its {len(x)} rows")
    mean = x.mean(0)
    return mean, torch.linalg.qr((x - mean) / (len(x) - 1) ** 0.5, mode="r").R


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """The squared Fréchet distance of the Gaussians with the means and covariances of two sets of features.

    |m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^(1/2)) (Dowson & Landau 1982; Heusel et al. 2017, eq. 6). With C = r' r
    the last trace is the sum of the singular values of r1 r2': real, and exact for singular covariances too.

    Small sets have covariances of their own and are far from everything: compare distances between sets of equal size,
    each much larger than d.

    Args:
        first, second: Features (n, d), with n of at least 2; n may differ between the sets.

    Raises ValueError for other shapes and for features that are not finite.
    """
    (mean1, root1), (mean2, root2) = _moments(first, "first"), _moments(second, "second")
    if mean1.shape != mean2.shape:
        raise ValueError(f"first has {len(mean1)} features and second {len(mean2)}; valid are equal numbers")
    shared = torch.linalg.svdvals(root1 @ root2.to(root1.device).T).sum()
    separate = (mean1 - mean2.to(mean1.device)).square().sum() + root1.square().sum() + root2.square().sum()
    return max(float(separate - 2 * shared), 0.0)
