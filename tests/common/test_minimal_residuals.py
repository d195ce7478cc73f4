"""Linear systems by products, against torch's dense solutions."""

import pytest
import torch
from torch import Tensor

from sdescore.common.conjugate_gradients import conjugate_gradients
from sdescore.common.minimal_residuals import minimal_residuals

own = torch.Generator().manual_seed(5)
MATRICES = torch.randn(4, 6, 6, generator=own, dtype=torch.float64)
B = torch.randn(4, 2, 3, generator=own, dtype=torch.float64)


def times(matrices: Tensor, v: Tensor) -> Tensor:
    return (matrices @ v.flatten(1)[:, :, None]).reshape(v.shape)


def test_any_map_in_as_many_products_as_elements() -> None:
    exact = torch.linalg.solve(MATRICES, B.flatten(1))
    found = minimal_residuals(lambda v: times(MATRICES, v), B, 20)
    torch.testing.assert_close(found.flatten(1), exact, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("products", [1, 2, 4])
def test_fewer_products_reach_the_smallest_residual_of_their_krylov_space(products: int) -> None:
    powers = [B.flatten(1)]
    for _ in range(products - 1):
        powers.append((MATRICES @ powers[-1][:, :, None])[:, :, 0])
    space = torch.stack(powers, 2)
    exact = (space @ torch.linalg.lstsq(MATRICES @ space, B.flatten(1)[:, :, None]).solution)[:, :, 0]
    found = minimal_residuals(lambda v: times(MATRICES, v), B, products)
    torch.testing.assert_close(found.flatten(1), exact, rtol=1e-6, atol=1e-8)


def test_conjugate_gradients_of_positive_maps() -> None:
    positive = MATRICES @ MATRICES.mT + torch.eye(6)
    exact = torch.linalg.solve(positive, B.flatten(1))
    for solve in (conjugate_gradients, minimal_residuals):
        found = solve(lambda v: times(positive, v), B, 12)
        torch.testing.assert_close(found.flatten(1), exact, rtol=1e-7, atol=1e-7)


def test_multiples_of_the_identity_end_after_one_product() -> None:
    calls = 0

    def apply(v: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return 3 * v

    torch.testing.assert_close(minimal_residuals(apply, B, 10), B / 3)
    assert calls == 1


def test_rows_are_apart() -> None:
    """A zero right-hand side gives zero, and one that is not finite spoils no other."""
    b = B.clone()
    b[1], b[2, 0, 0] = 0.0, torch.nan
    found = minimal_residuals(lambda v: times(MATRICES, v), b, 6)
    whole = minimal_residuals(lambda v: times(MATRICES, v), B, 6)
    torch.testing.assert_close(found[[0, 3]], whole[[0, 3]])
    assert torch.equal(found[1], torch.zeros(2, 3, dtype=torch.float64)) and bool(found[2].isnan().all())
