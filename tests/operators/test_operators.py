"""Measurements: adjoints, pseudo-inverses, compositions, and what does not fit."""

from collections.abc import Callable

import pytest
import torch
from deepinv_manner import Physics
from torch import Tensor

from sdescore.operators import Blur, Channels, Downsample, Fourier, LinearOperator, Mask, Matrix, decomposed, matrix_of

own = torch.Generator().manual_seed(0)
KEEP = torch.rand(6, 8, generator=own) < 0.5
IMAGE = (3, 6, 8)
OPERATORS: dict[str, tuple[LinearOperator, tuple[int, ...]]] = {
    "matrix": (Matrix(torch.randn(4, 7, generator=own, dtype=torch.float64)), (7,)),
    "singular matrix": (Matrix(torch.ones(3, 5, dtype=torch.float64)), (5,)),
    "mask": (Mask(KEEP), IMAGE),
    "downsample": (Downsample(2), IMAGE),
    "downsample volumes": (Downsample(2), (1, 4, 2, 6)),
    "blur": (Blur(torch.rand(3, 5, generator=own)), IMAGE),
    "blur of series": (Blur(torch.tensor([0.2, 0.5, 0.3])), (2, 9)),
    "channels": (Channels(), IMAGE),
    "fourier": (Fourier(KEEP), IMAGE),
    "grey, then small": (Downsample(2) @ Channels(), IMAGE),
    "blurred, then masked": (Mask(KEEP) @ Blur(torch.rand(3, 3, generator=own)), IMAGE),
}
every = pytest.mark.parametrize(("operator", "shape"), OPERATORS.values(), ids=OPERATORS)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@every
def test_adjoint(operator: LinearOperator, shape: tuple[int, ...]) -> None:
    x = drawn(3, *shape)
    measured = operator.A(x)
    y = torch.randn_like(measured)
    left, right = (measured * y).flatten(1).sum(1), (x * operator.A_adjoint(y)).flatten(1).sum(1)
    torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-10)


@every
def test_pseudo_inverse(operator: LinearOperator, shape: tuple[int, ...]) -> None:
    """Against torch's of the operator's matrix, for measurements outside its range, too."""
    matrix = matrix_of(operator, shape)
    y = torch.randn(2, len(matrix), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    exact = y @ torch.linalg.pinv(matrix, rtol=1e-9).T
    found = operator.A_dagger(y.reshape(2, *operator.A(drawn(1, *shape)).shape[1:]))
    torch.testing.assert_close(found.flatten(1), exact, rtol=1e-5, atol=1e-6)


@every
def test_singular_values(operator: LinearOperator, shape: tuple[int, ...]) -> None:
    """Against torch's of the operator's matrix; U and V turn without stretching, and U diag(s) V^T is the operator."""
    svd, matrix = decomposed(operator, shape), matrix_of(operator, shape)
    count, x = min(matrix.shape), drawn(3, *shape)
    z = svd.V_adjoint(x)
    values = svd.mask.expand_as(z)[0].flatten().double().sort(descending=True).values
    exact = torch.linalg.svdvals(matrix)
    torch.testing.assert_close(values[:count], exact[: len(values)], rtol=1e-6, atol=1e-7)
    assert not bool((values[count:] > 1e-7).any()) and not bool((exact[len(values) :] > 1e-7).any())
    torch.testing.assert_close(svd.U(svd.mask.to(z) * z), operator.A(x), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(svd.V_adjoint(svd.V(z)), z)
    seen = torch.where(svd.mask.expand_as(z) > 1e-6, torch.randn_like(z), 0.0)
    torch.testing.assert_close(svd.U_adjoint(svd.U(seen)), seen, rtol=1e-6, atol=1e-6)
    y = torch.randn_like(operator.A(x))
    left, right = (svd.U(seen) * y).flatten(1).sum(1), (seen * svd.U_adjoint(y)).flatten(1).sum(1)
    torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-6)
    left, right = (svd.V(z) * x).flatten(1).sum(1), z.square().flatten(1).sum(1)
    torch.testing.assert_close(left, right)


def test_closed_forms_need_no_matrix() -> None:
    """Of samples whose matrix would have 10^10 elements."""
    shape, masked = (1, 256, 400), torch.zeros(256, 400)
    for operator in (Mask(masked), Downsample(4), Blur(torch.ones(3, 3) / 9), Fourier(masked), Channels((1.0,))):
        assert decomposed(operator, shape).V_adjoint(torch.ones(1, *shape)).shape[0] == 1


def test_a_foreign_decomposition_is_taken_if_it_keeps_lengths() -> None:
    matrix = torch.diag(torch.tensor([2.0, 0.5, 0.0]))

    class Decomposable(Physics):
        """The manner of deepinv.physics.DecomposablePhysics."""

        length = 1.0
        mask = matrix.diagonal()

        def U(self, z: Tensor) -> Tensor:
            return z / self.length

        def U_adjoint(self, y: Tensor) -> Tensor:
            return y * self.length

        V, V_adjoint = U, U_adjoint

    class Longer(Decomposable):
        length = 2.0**0.5

    taken, refused = Decomposable(matrix), Longer(matrix)
    assert decomposed(taken, (3,)) is taken
    found = decomposed(refused, (3,))
    assert found is not refused
    torch.testing.assert_close(found.mask, matrix.diagonal().double())


def test_what_they_measure() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert Downsample(2).A(x).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    colour = torch.tensor([1.0, 0.5, 0.0]).reshape(1, 3, 1, 1)
    assert float(Channels().A(colour)) == pytest.approx(0.299 + 0.2935)
    series = torch.tensor([[[0.0, 1.0, 0.0, 0.0]]])
    assert Blur(torch.tensor([1.0, 2.0, 3.0])).A(series).flatten().tolist() == pytest.approx([1, 2, 3, 0], abs=1e-6)
    assert Mask(torch.tensor([True, False])).A(torch.ones(1, 2)).tolist() == [[1, 0]]
    whole = Fourier(torch.ones(4)).A(torch.ones(1, 1, 4))
    assert whole[0, 0].flatten().tolist() == pytest.approx([2, 0, 0, 0])  # unitary: 4 / sqrt(4)


def test_a_nonlinear_operator_has_no_matrix() -> None:
    class Clipped(Matrix):
        def A(self, x: Tensor) -> Tensor:
            return super().A(x).clamp(-0.1, 0.1)

    with pytest.raises(ValueError, match="which is not linear"):
        matrix_of(Clipped(torch.eye(3)), (3,))


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: Matrix(torch.ones(3)), "matrix has shape"),
        (lambda: Matrix(torch.eye(3)).A(torch.ones(2, 4)), r"samples of shape \(4,\); Matrix expects \(3,\)"),
        (lambda: Mask(torch.tensor([0.5])), "mask has other values"),
        (lambda: Mask(KEEP).A(torch.ones(2, 3, 5, 8)), "Mask expects"),
        (lambda: Downsample(0), "factor=0"),
        (lambda: Downsample(2).A(torch.ones(1, 1, 3, 4)), "multiples of 2"),
        (lambda: Blur(torch.ones(3, 3)).A(torch.ones(1, 1, 2, 8)), "at least"),
        (lambda: Channels().A(torch.ones(1, 1, 4, 4)), "3 channels first"),
        (lambda: Fourier(KEEP).A(torch.ones(1, 3, 4, 4)), "Fourier expects"),
    ],
)
def test_what_does_not_fit_is_named(call: Callable[[], object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        call()
