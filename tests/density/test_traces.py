"""The estimators of the trace: unbiased, and with the variance that theory gives them."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from rotated_mixtures import Rotated, rotation, wide
from torch import Tensor, nn

from sdescore import VPSDE, Denoiser, GaussianMixture, likelihood
from sdescore.density import GaussianFit, orthogonal
from sdescore.density.traces import CHUNK, DERIVATIVES, TRACES, Trace, hutch_plus_plus, quadratic
from sdescore.nets import UNet

RANDOM = ["hutchinson", "gaussian", "orthogonal"]


@pytest.mark.parametrize("name", RANDOM)
def test_estimates_have_the_mean_and_the_variance_of_theory(name: str) -> None:
    """For symmetric J: 2 |off-diagonal|^2 for signs, 2 |J|^2 for normals (Avron & Toledo 2011).

    For m orthogonal directions of n: 2 n (n - m) / (m (n - 1) (n + 2)) |J - tr J / n|^2, from the moments of the Haar
    measure (Collins & Sniady 2006).
    """
    size, count, members = 6, 4000, 3
    trace, probes = (orthogonal(1), members) if name == "orthogonal" else (TRACES[name], 1)
    matrix = rotation(size) @ torch.diag(torch.arange(1.0, 7, dtype=torch.float64)) @ rotation(size).T
    vectors = trace.vectors(0, 0, torch.empty(count, size, dtype=torch.float64), probes)
    estimates = ((vectors @ matrix) * vectors).sum(3).sum(1)[0]
    square = float(matrix.square().sum())
    variance = {
        "hutchinson": 2 * (square - float(matrix.diagonal().square().sum())),
        "gaussian": 2 * square,
        "orthogonal": 2 * size * (size - members) / (members * (size - 1) * (size + 2)) * (square - 21**2 / size),
    }[name]
    assert abs(float(estimates.mean()) - 21) < 4 * math.sqrt(variance / count)
    assert float(estimates.var()) == pytest.approx(variance, rel=0.15)


def test_a_whole_frame_of_orthogonal_vectors_is_exact() -> None:
    matrix = torch.arange(25.0, dtype=torch.float64).reshape(5, 5)
    vectors = orthogonal(2).vectors(0, 0, torch.empty(3, 5, dtype=torch.float64), 10)
    estimates = ((vectors @ matrix) * vectors).sum(3).sum(1)
    torch.testing.assert_close(estimates, matrix.trace().expand(2, 3), rtol=1e-12, atol=0)


def products_with(matrix: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """What reverse mode makes of z -> matrix z."""
    return lambda vectors: (torch.zeros(0), vectors @ matrix)


def test_hutch_plus_plus_is_unbiased_and_exact_where_few_directions_matter() -> None:
    """A matrix that is a multiple of the identity but for rank 3, as denoisers of data near surfaces are."""
    size, count = 24, 500
    basis = rotation(size)
    small = (
        2.5 * torch.eye(size, dtype=torch.float64)
        + basis[:, :3] @ torch.diag(torch.tensor([9.0, -7, 5], dtype=torch.float64)) @ basis[:, 5:8].T
    )  # not symmetric
    decaying = basis @ torch.diag(30.0 / torch.arange(1, size + 1, dtype=torch.float64) ** 2) @ basis.T
    like = torch.empty(count, size, dtype=torch.float64)
    estimates = {}
    for name, trace, probes in (("hutchinson", TRACES["hutchinson"], 12), ("hutch++", hutch_plus_plus(1), 12)):
        vectors = trace.vectors(0, 0, like, probes)
        for label, matrix in (("small", small), ("decaying", decaying)):
            found = trace.estimate(products_with(matrix), vectors)[1].mean(1)
            assert abs(float(found.mean() - matrix.trace())) < 4 * float(found.std()) / math.sqrt(count) + 1e-9
            estimates[name, label] = float(found.std())
    assert estimates["hutch++", "small"] < 1e-9
    assert estimates["hutch++", "decaying"] < 0.3 * estimates["hutchinson", "decaying"]


def test_hutch_plus_plus_on_the_whole_space_is_exact() -> None:
    matrix = torch.randn(9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    trace = hutch_plus_plus(2)
    vectors = trace.vectors(0, 0, torch.empty(3, 9, dtype=torch.float64), 18)
    found = trace.estimate(products_with(matrix), vectors)[1]
    torch.testing.assert_close(found, matrix.trace().expand(3, 2), rtol=1e-12, atol=1e-12)


def near_a_space() -> Rotated:
    """Two modes of 32 dimensions, of which 3 are wide."""
    stds = torch.cat([torch.full((3,), 0.8), torch.linspace(0.03, 0.06, 29)]).to(torch.float64)
    return Rotated(GaussianMixture(torch.stack([0.2 * stds, -0.2 * stds]), stds.expand(2, 32)), VPSDE())


def test_hutch_plus_plus_has_less_noise_on_data_near_a_space_of_few_dimensions() -> None:
    """Than signs of the same number of products, and an honest error bar."""
    sde, net, count = VPSDE(), near_a_space(), 60
    x = net.sample(1)
    options: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}
    exact = likelihood(sde, net, x, trace="exact", **options).log_prob
    plain, found = (
        likelihood(sde, net, x.expand(count, -1), trace=name, probes=48, **options)
        for name in ("hutchinson", "hutch++")
    )
    error = found.log_prob - exact
    assert abs(float(error.mean())) < 4 * float(error.std()) / math.sqrt(count)
    assert float(error.std()) < 0.6 * float((plain.log_prob - exact).std())
    assert float(found.stderr.square().mean().sqrt()) == pytest.approx(float(error.std()), rel=0.5)


def test_hutch_plus_plus_with_forward_mode_is_that_with_reverse_mode() -> None:
    """The Jacobian of a score is symmetric."""
    net = near_a_space()
    options: dict[str, Any] = {"trace": "hutch++", "probes": 12, "rtol": 1e-2, "atol": 1e-2}
    both = [likelihood(VPSDE(), net, net.sample(2), derivative=mode, **options) for mode in ("reverse", "forward")]
    torch.testing.assert_close(both[0].log_prob, both[1].log_prob, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", [*RANDOM, "hutch++", "exact"])
def test_vectors_depend_on_seed_and_number_alone(name: str) -> None:
    like = torch.empty(6, 3, 3)
    whole = TRACES[name].vectors(1, 0, like, 12)
    assert torch.equal(whole[:, :, 4:], TRACES[name].vectors(1, 4, like[:2], 12))
    assert torch.equal(whole, TRACES[name].vectors(2, 0, like, 12)) == (name == "exact")
    assert whole.shape[2:] == like.shape


@pytest.mark.parametrize("derivative", ["reverse", "forward"])
def test_both_derivatives_give_the_quadratic_form(derivative: str) -> None:
    """Against the Jacobian of torch.func, with more vectors than are taken at a time."""
    own = torch.Generator().manual_seed(0)
    weights = torch.randn(4, 4, generator=own, dtype=torch.float64)
    vectors = torch.randn(CHUNK + 3, 5, 4, generator=own, dtype=torch.float64)
    z = torch.randn(3, 4, generator=own, dtype=torch.float64)
    rows = torch.tensor([4, 0, 2])

    def function(z: Tensor) -> Tensor:
        return torch.tanh(z @ weights)

    value, forms = quadratic(DERIVATIVES[derivative](function, z), vectors[:, None, rows])
    jacobians = torch.func.vmap(torch.func.jacrev(function))(z)
    torch.testing.assert_close(value, function(z))
    torch.testing.assert_close(
        forms, torch.einsum("pbi,bij,pbj->bp", vectors[:, rows], jacobians, vectors[:, rows]), rtol=1e-12, atol=1e-12
    )


def test_forward_mode_passes_through_attention() -> None:
    torch.manual_seed(0)
    net = UNet(1, 4, base_width=8, multipliers=(1,), blocks=1, attention=(4,), heads=2)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    denoiser, x = Denoiser(net.double(), VPSDE()), torch.randn(2, 1, 4, 4, dtype=torch.float64)
    results = [
        likelihood(VPSDE(), denoiser, x, probes=2, derivative=mode, rtol=1e-2, atol=1e-2)
        for mode in ("reverse", "forward")
    ]
    torch.testing.assert_close(results[0].log_prob, results[1].log_prob, rtol=1e-9, atol=0)


class Backward(torch.autograd.Function):
    """An operation that says how it is differentiated backwards, but not forwards."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: object, inputs: tuple[Tensor], output: Tensor) -> None: ...

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


def test_a_net_without_forward_derivative_is_an_error_that_says_so() -> None:
    with pytest.raises(ValueError, match=r"derivative='forward', but the net cannot.*expected 'reverse'"):
        likelihood(VPSDE(), lambda x, t: -Backward.apply(x), torch.zeros(1, 2), derivative="forward")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trace": "orthogonal", "probes": 6}, "probes=6; orthogonal vectors come in 4 groups"),
        ({"trace": "orthogonal", "probes": 12}, "multiples of 4 up to 8"),
        ({"trace": "hutch++", "probes": 12}, r"probes=12; Hutch.* multiples of 12 up to 0"),
        ({"trace": "hutch++", "probes": 12, "control": GaussianFit.of(torch.eye(2))}, "control is given with trace"),
        ({"derivative": "backward"}, "derivative='backward'; expected 'reverse', 'forward'"),
        ({"probes": 0}, "probes=0"),
    ],
)
def test_bad_arguments(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        likelihood(VPSDE(), wide(2).denoiser(VPSDE()), torch.zeros(1, 2), **options)  # type: ignore[arg-type]


def test_a_net_without_a_graph_is_an_error_and_no_wrong_density() -> None:
    oracle = wide(2).denoiser(VPSDE())
    with pytest.raises(ValueError, match="net returned what has no derivative by x"):
        likelihood(VPSDE(), torch.no_grad()(oracle.score), torch.zeros(1, 2))


def test_inference_mode_is_named() -> None:
    with torch.inference_mode(), pytest.raises(RuntimeError, match="no_grad"):
        likelihood(VPSDE(), wide(2).denoiser(VPSDE()), torch.zeros(1, 2))


def test_nfe_counts_what_the_net_is_called_for() -> None:
    """A call each time in reverse mode, one for each product in forward mode."""
    calls, oracle = [], wide(2).denoiser(VPSDE())

    def net(x: Tensor, t: Tensor) -> Tensor:
        calls.append(t)
        return oracle.score(x, t)

    for derivative, each in (("reverse", 1), ("forward", 3)):
        calls.clear()
        found = likelihood(VPSDE(), net, torch.zeros(1, 2), probes=3, derivative=derivative, rtol=1e-3, atol=1e-3)
        assert len(calls) == each * int(found.nfe) + 2  # to see whether the net is deterministic


@pytest.mark.parametrize("trace", [orthogonal, hutch_plus_plus])
def test_groups_are_positive_integers(trace: Callable[[int], Trace]) -> None:
    with pytest.raises(ValueError, match="groups=0; expected a positive integer"):
        trace(0)
