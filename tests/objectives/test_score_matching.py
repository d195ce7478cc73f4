"""Score matching against closed forms: expectations over mixtures are exact, by Gauss-Hermite quadrature."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from plane_quadrature import OVERLAPPING, Waves, quadrature
from torch import Tensor, nn

from sdescore.denoisers.energy import Energy
from sdescore.nets import UNet
from sdescore.objectives.score_matching import (
    explicit_score_matching,
    finite_difference_energy_matching,
    finite_difference_score_matching,
    implicit_score_matching,
    sliced_score_matching,
    variance_reduced_score_matching,
)

SLICED = [sliced_score_matching, variance_reduced_score_matching, finite_difference_score_matching]


class Bowl(nn.Module):
    """A scalar with known derivatives: x^T A x / 2 + sum cos x."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.tensor([[0.7, 0.2], [0.2, 0.9]], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return ((x @ self.matrix) * x).sum(1) / 2 + x.cos().sum(1)


MODELS = pytest.mark.parametrize("model", [Waves(), Energy(Bowl())], ids=["score net", "energy net"])


@MODELS
def test_explicit_implicit_and_sliced_differ_by_the_analytic_constant(model: nn.Module) -> None:
    x, w = quadrature(OVERLAPPING)
    truth = OVERLAPPING.score(x)
    constant = float(w @ truth.square().sum(1)) / 2
    explicit = float((w @ explicit_score_matching(model, x, truth)).detach())
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=2)), dtype=torch.float64)
    v = signs[:, None].expand(4, *x.shape)
    assert explicit > 0.05  # so that the agreement says something
    for loss in (
        implicit_score_matching(model, x),
        sliced_score_matching(model, x, v=v),
        variance_reduced_score_matching(model, x, v=v),
    ):
        assert float((w @ loss).detach()) == pytest.approx(explicit - constant, abs=1e-7)


@MODELS
def test_their_gradients_by_the_parameters_agree(model: nn.Module) -> None:
    x, w = quadrature(OVERLAPPING)
    v = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)[:, None].expand(2, *x.shape)
    parameters = list(model.parameters())
    wanted = torch.autograd.grad(w @ explicit_score_matching(model, x, OVERLAPPING.score(x)), parameters)
    for loss in (
        implicit_score_matching(model, x),
        sliced_score_matching(model, x, v=v),
        variance_reduced_score_matching(model, x, v=v),
    ):
        for ours, theirs in zip(torch.autograd.grad(w @ loss, parameters), wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


def test_exact_score_attains_zero_and_the_floor() -> None:
    x, w = quadrature(OVERLAPPING)
    truth = OVERLAPPING.score(x)
    assert torch.equal(explicit_score_matching(OVERLAPPING.score, x, truth), torch.zeros(len(x), dtype=x.dtype))
    floor = -float(w @ truth.square().sum(1)) / 2
    assert float((w @ implicit_score_matching(OVERLAPPING.score, x)).detach()) == pytest.approx(floor, abs=1e-7)


def test_trace_of_a_known_jacobian_on_any_shape() -> None:
    x = torch.randn(3, 2, 2, dtype=torch.float64)
    loss = implicit_score_matching(lambda x: x**3, x)
    torch.testing.assert_close(loss, (3 * x**2).flatten(1).sum(1) + (x**6).flatten(1).sum(1) / 2)


@pytest.mark.parametrize("loss", [implicit_score_matching, *SLICED])
def test_a_constant_score_has_no_slope(loss: Callable[..., Tensor]) -> None:
    level = nn.Parameter(torch.tensor([3.0, 0.0]))
    x = torch.randn(5, 2)
    torch.testing.assert_close(loss(lambda x: level.expand_as(x), x), torch.full((5,), 4.5))
    torch.testing.assert_close(loss(torch.zeros_like, x), torch.zeros(5))


def test_sliced_signs_are_rademacher_and_seeded() -> None:
    x = torch.zeros(4000, 3, dtype=torch.float64)
    matrix = torch.tensor([[1.0, 2, 0], [0, -1, 0], [0.5, 0, 3]], dtype=torch.float64)

    def loss(seed: int) -> Tensor:
        draw = torch.Generator().manual_seed(seed)
        return sliced_score_matching(lambda x: x @ matrix.T, x, projections=2, generator=draw)

    # v^T M v of signs is tr M + (off-diagonal sums of random sign): variance (2^2 + .5^2) over two projections.
    values = loss(0)
    assert torch.equal(values, loss(0)) and not torch.equal(values, loss(1))
    assert float(values.mean()) == pytest.approx(3, abs=4 * math.sqrt(4.25 / 8000))
    assert float(values.var()) == pytest.approx(4.25 / 2, rel=0.1)


def test_finite_differences_tend_to_the_sliced_loss_with_order_two() -> None:
    x = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    v, model = torch.ones_like(x), Waves()
    exact = sliced_score_matching(model, x, v=v)
    errors = [
        float((finite_difference_score_matching(model, x, v=v, step=step) - exact).square().mean().sqrt())
        for step in (0.2, 0.1, 0.05)
    ]
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(2, abs=0.05)


def test_images_and_attention() -> None:
    """The trace and a projection of a UNet's Jacobian, against differences of the UNet."""
    torch.manual_seed(0)
    net = UNet(1, 4, base_width=8, multipliers=(1,), blocks=1, heads=2).double()
    for parameter in net.parameters():
        nn.init.normal_(parameter, 0, 0.2)
    x, level = torch.randn(2, 1, 4, 4, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    unit = torch.eye(16, dtype=torch.float64).reshape(16, 1, 1, 4, 4).expand(16, *x.shape)

    def score(x: Tensor) -> Tensor:
        return net(x, level)

    with torch.no_grad():
        differences = finite_difference_score_matching(score, x, v=unit, step=1e-4)
        sliced = sliced_score_matching(score, x, v=unit)
        torch.testing.assert_close(sliced, differences, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(implicit_score_matching(score, x), 16 * sliced)


class Scalar(nn.Module):
    """A smooth scalar of the plane that is not quadratic."""

    def __init__(self) -> None:
        super().__init__()
        self.waves = Waves()

    def forward(self, x: Tensor) -> Tensor:
        return self.waves(x).square().sum(1)


def test_finite_differences_of_an_energy_tend_to_the_sliced_loss_with_order_two() -> None:
    """Value and gradient by the parameters, against autograd's second and third derivatives."""
    x = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    v, energy = torch.stack([torch.ones_like(x), torch.ones_like(x) * torch.tensor([1.0, -1.0])]), Energy(Scalar(), 0.7)
    parameters = list(energy.parameters())

    def all_of(loss: Tensor) -> Tensor:
        gradients = torch.autograd.grad(loss.mean(), parameters)
        return torch.cat([loss.detach(), *(gradient.flatten() for gradient in gradients)])

    exact = all_of(sliced_score_matching(energy, x, v=v))
    errors = [
        float((all_of(finite_difference_energy_matching(energy.log_density, x, v=v, step=step)) - exact).norm())
        for step in (0.1, 0.05, 0.025)
    ]
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(2, abs=0.05)
    assert errors[-1] < 0.01 * float(exact.norm())


def test_finite_differences_of_an_energy_take_values_alone_and_are_exact_for_a_parabola() -> None:
    """-a x^2 / 2 without a graph to x: the sliced loss of the score -a x, whatever the step."""
    a = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
    x = torch.randn(1, 3, 2, dtype=torch.float64, requires_grad=True)

    def values(x: Tensor) -> Tensor:
        return -a * x.detach().flatten(1).square().sum(1) / 2

    first, second = (torch.Generator().manual_seed(3) for _ in range(2))
    ours = finite_difference_energy_matching(values, x, step=0.7, projections=5, generator=first)
    theirs = sliced_score_matching(lambda x: -a * x, x, projections=5, generator=second)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss.sum(), a)[0] for loss in (ours, theirs)))


@pytest.mark.parametrize("loss", [implicit_score_matching, *SLICED])
def test_no_graph_is_kept_without_gradients(loss: Callable[..., Tensor]) -> None:
    x, model = torch.randn(6, 2, dtype=torch.float64), Waves()
    options = {} if loss is implicit_score_matching else {"v": torch.ones_like(x)}
    kept = loss(model, x, **options)
    with torch.no_grad():
        plain = loss(model, x, **options)
    assert kept.requires_grad and not plain.requires_grad
    torch.testing.assert_close(kept.detach(), plain)


@pytest.mark.parametrize(
    ("call", "error", "word"),
    [
        (lambda x: implicit_score_matching(Waves(), x.long()), TypeError, "x has dtype"),
        (lambda x: implicit_score_matching(lambda x: x[:, :1], x), ValueError, "the score has shape"),
        (lambda x: explicit_score_matching(Waves(), x, x[:1]), ValueError, "target has shape"),
        (lambda x: sliced_score_matching(Waves(), x, v=x[:, :1]), ValueError, "v has shape"),
        (lambda x: sliced_score_matching(Waves(), x, v=x.new_empty(0, 4, 2)), ValueError, r"v has shape \(0, 4, 2\)"),
        (lambda x: sliced_score_matching(Waves(), x, v=x.tolist()), TypeError, "v is a list"),
        (lambda x: sliced_score_matching(Waves(), x, projections=0), ValueError, "projections=0"),
        (lambda x: sliced_score_matching(Waves(), x, projections=1.5), TypeError, "projections=1.5"),  # type: ignore[arg-type]
        (lambda x: sliced_score_matching(Waves(), x.tolist()), TypeError, "x is a list"),
        (torch.inference_mode()(lambda x: sliced_score_matching(Waves(), x)), RuntimeError, "no_grad"),
        (lambda x: sliced_score_matching(Waves(), x[:, 0]), ValueError, "x has shape"),
        (lambda x: finite_difference_score_matching(Waves(), x, step=0), ValueError, "step=0"),
        (lambda x: finite_difference_energy_matching(Waves(), x), ValueError, r"returned \(4, 2\)"),
        (lambda x: finite_difference_energy_matching(Waves(), x, step=math.inf), ValueError, "step=inf"),
    ],
)
def test_bad_input_is_named(call: Callable[[Tensor], Tensor], error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        call(torch.zeros(4, 2, dtype=torch.float64))
