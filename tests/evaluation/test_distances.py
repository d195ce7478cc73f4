"""Kernel distance, precision and recall, neighbours, sliced Wasserstein: against other libraries and closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from sdescore.evaluation import metrics
from sdescore.evaluation.metrics import kernel_distance, nearest, precision_recall, sliced_wasserstein


def normal(count: int, size: int, seed: int) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every set below is several blocks."""
    monkeypatch.setattr(metrics, "BLOCK", 47)


class TestKernel:
    def test_is_the_u_statistic_of_sklearns_kernel(self) -> None:
        x, y = normal(130, 5, 0), 0.8 * normal(101, 5, 1) + 0.3
        within = []
        for own in (x, y):
            k = polynomial_kernel(own.numpy(), degree=3, coef0=1)  # gamma is 1/d by default
            within.append((k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)))
        across = polynomial_kernel(x.numpy(), y.numpy(), degree=3, coef0=1).mean()
        assert kernel_distance(x, y)[0] == pytest.approx(sum(within) - 2 * across, rel=1e-12)

    @pytest.mark.parametrize("shift", [0.0, 0.5])
    def test_is_unbiased_with_an_error_bar_that_is_right(self, shift: float) -> None:
        """One dimension: E (xy + 1)^3 has a closed form in the moments of two normal distributions."""
        a, b = [(0.0, 1.0), (shift, 1.0 + shift)]

        def moments(mean: float, std: float) -> list[float]:
            return [1, mean, mean**2 + std**2, mean**3 + 3 * mean * std**2]

        def expected(one: tuple[float, float], two: tuple[float, float]) -> float:
            return sum(
                math.comb(3, k) * p * q for k, (p, q) in enumerate(zip(moments(*one), moments(*two), strict=True))
            )

        wanted = expected(a, a) + expected(b, b) - 2 * expected(a, b)
        found = [
            kernel_distance(normal(60, 1, 2 * i) * a[1] + a[0], normal(80, 1, 2 * i + 1) * b[1] + b[0])
            for i in range(300)
        ]
        values, errors = np.array(found).T
        assert values.mean() == pytest.approx(wanted, abs=4 * values.std() / 300**0.5)
        # The jackknife errs upwards where both sets are alike, as the statistic is degenerate there.
        assert 0.8 < np.sqrt((errors**2).mean()) / values.std() < 1.5

    def test_bad_input(self) -> None:
        with pytest.raises(ValueError, match=r"second has shape \(39, 2\); expected \(n, d\) with n of at least 40"):
            kernel_distance(normal(50, 2, 0), normal(39, 2, 1))
        with pytest.raises(ValueError, match="first has 3 columns and second 2"):
            kernel_distance(normal(50, 3, 0), normal(50, 2, 1))
        with pytest.raises(ValueError, match="groups=1; expected an integer of at least 2"):
            kernel_distance(normal(50, 2, 0), normal(50, 2, 1), groups=1)


class TestPrecisionRecall:
    @pytest.mark.parametrize("neighbours", [1, 3])
    def test_agree_with_sklearns_neighbours(self, neighbours: int) -> None:
        real, samples = normal(150, 4, 0), 0.7 * normal(110, 4, 1) + 0.4

        def share(points: Tensor, centres: Tensor) -> float:
            table = NearestNeighbors(n_neighbors=neighbours + 1).fit(centres.numpy())
            radii = table.kneighbors(centres.numpy())[0][:, -1]  # the first is the point itself
            gaps = np.linalg.norm(points.numpy()[:, None] - centres.numpy()[None], axis=2)
            return float((gaps <= radii).any(1).mean())

        wanted = share(samples, real), share(real, samples)
        assert 0.2 < wanted[1] < wanted[0] < 1
        assert precision_recall(real, samples, neighbours) == pytest.approx(wanted)

    def test_limits(self) -> None:
        real = normal(100, 3, 0)
        assert precision_recall(real, real.flip(0)) == (1, 1)
        assert precision_recall(real, real + 100) == (0, 0)
        # One real sample over and over, far from 0: precise, and covering next to nothing.
        far = real + 1e4
        precision, recall = precision_recall(far, far[:1].expand(100, 3))
        assert precision == 1 and recall == 0.01
        with pytest.raises(ValueError, match=r"samples has shape \(3, 3\); expected \(n, d\) with n of at least 4"):
            precision_recall(real, real[:3])
        with pytest.raises(ValueError, match="real has 3 columns and samples 2"):
            precision_recall(real, real[:, :2])


class TestNearest:
    def test_agrees_with_sklearn(self) -> None:
        data, samples = normal(200, 6, 0), normal(120, 6, 1)
        wanted = NearestNeighbors(n_neighbors=3).fit(data.numpy()).kneighbors(samples.numpy())
        distances, numbers = nearest(samples, data, 3)
        np.testing.assert_allclose(distances, wanted[0], rtol=1e-10)
        np.testing.assert_array_equal(numbers, wanted[1])

    def test_copies_are_found(self) -> None:
        data = normal(200, 6, 0)
        distances, numbers = nearest(data[[7, 150]], data)
        assert numbers[:, 0].tolist() == [7, 150] and distances.max() < 1e-6
        with pytest.raises(ValueError, match="samples has 2 columns and data 6"):
            nearest(normal(3, 2, 0), data)
        with pytest.raises(ValueError, match="count=0; expected a positive integer"):
            nearest(data, data, 0)


class TestSliced:
    @pytest.mark.parametrize("order", [1, 2])
    @pytest.mark.parametrize(("n", "m"), [(12, 12), (12, 8), (5, 7)])
    def test_on_a_line_is_the_best_assignment(self, n: int, m: int, order: int) -> None:
        """Each point as often as makes the sets equal; in one dimension every direction is the same."""
        x, y = normal(n, 1, 0), 2 * normal(m, 1, 1) - 1
        many = math.lcm(n, m)
        cost = (x.repeat_interleave(many // n, 0) - y.repeat_interleave(many // m, 0).T).abs().pow(order).numpy()
        wanted = cost[linear_sum_assignment(cost)].mean() ** (1 / order)
        assert sliced_wasserstein(x, y, projections=5, order=order) == pytest.approx((wanted, 0), rel=1e-12, abs=1e-12)

    def test_a_shift_has_a_closed_form(self) -> None:
        """Along a direction theta a shift by m is one by theta.m, whose mean square is |m|^2 / d."""
        x, shift = normal(50, 8, 0), torch.tensor([3.0, 0, 0, 0, 0, 0, 0, 4.0])
        first = 5 * math.gamma(4) / math.gamma(4.5) / math.pi**0.5  # the mean of |theta.m|
        for order, wanted in ((1, first), (2, 5 / 8**0.5)):
            value, error = sliced_wasserstein(x, x + shift, projections=4000, order=order)
            assert error < 0.05 and abs(value - wanted) < 4 * error
            again = [sliced_wasserstein(x, x + shift, projections=200, seed=seed, order=order) for seed in range(40)]
            values, errors = np.array(again).T
            assert values.std() == pytest.approx(errors.mean(), rel=0.4)

    def test_gaussians(self) -> None:
        """W2^2 of N(0, a^2) and N(0, b^2) is (a - b)^2 in every direction."""
        x, y = normal(20_000, 3, 0), 1.5 * normal(30_000, 3, 1)
        assert sliced_wasserstein(x, y, projections=50)[0] == pytest.approx(0.5, rel=0.03)
