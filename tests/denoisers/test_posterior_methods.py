"""What approximate methods converge to and by how much they miss: exact posteriors, and likelihoods by quadrature."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from deepinv_manner import PhasePhysics, Physics
from torch import Tensor, nn

from sdescore import VPSDE, Denoiser, GaussianMixture, KarrasSDE, posterior, sample
from sdescore.denoisers import LGD
from sdescore.denoisers.denoiser import BareDenoiser
from sdescore.operators import Matrix, Nonlinear

own = torch.Generator().manual_seed(7)
ROOT = torch.randn(4, 4, generator=own, dtype=torch.float64)
COVARIANCE = ROOT @ ROOT.T / 4 + 0.05 * torch.eye(4, dtype=torch.float64)
MEAN = torch.randn(1, 4, generator=own, dtype=torch.float64)
FULL = GaussianMixture.of_covariances(MEAN, COVARIANCE[None])
ISOTROPIC = GaussianMixture(MEAN, 0.6)
A = torch.randn(2, 4, generator=own, dtype=torch.float64)
STD = 0.4
SDE = KarrasSDE()


def relative(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def score_of(prior: GaussianMixture, operator: Any, method: Any, x: Tensor, t: Tensor, y: Tensor, std: float) -> Tensor:
    """The method's likelihood score."""
    net = prior.denoiser(SDE)
    return posterior(net, operator, std, method).score(x, t, measurement=y) - net.score(x, t)


@pytest.mark.parametrize("rho", [0.05, 0.5, 5.0])
def test_dps_is_the_likelihood_at_the_mean(rho: float) -> None:
    """On a Gaussian J = C (C + sigma^2)^-1, and S = J^T A^T (y - A x0) / noise_std^2."""
    t = torch.tensor(rho, dtype=torch.float64)
    x, y = FULL.at(SDE, rho).sample(3), torch.randn(3, 2, generator=own, dtype=torch.float64)
    jacobian = COVARIANCE @ torch.linalg.inv(COVARIANCE + rho**2 * torch.eye(4))
    data = MEAN + (x - MEAN) @ jacobian.T
    closed = (y - data @ A.T) @ A @ jacobian / STD**2
    found = score_of(FULL, Matrix(A), "dps", x, t, y, STD)
    torch.testing.assert_close(found, closed, rtol=1e-7, atol=1e-9)


def test_dps_is_right_where_little_noise_is_left_and_too_strong_elsewhere() -> None:
    """It leaves out A C A^T beside noise_std^2: its pull is too strong by 1 + their ratio in each direction."""
    y = Matrix(A).A(FULL.sample(1, 3))
    exact = FULL.posterior(Matrix(A), y[0], STD)
    for rho in (0.02, 0.2, 2.0):
        x = exact.at(SDE, rho).sample(64)
        t, wanted = torch.tensor(rho, dtype=torch.float64), exact.at(SDE, rho).score(x) - FULL.at(SDE, rho).score(x)
        found = score_of(FULL, Matrix(A), "dps", x, t, y.expand(64, -1), STD)
        jacobian = COVARIANCE @ torch.linalg.inv(COVARIANCE + rho**2 * torch.eye(4))
        in_y = torch.linalg.pinv(A @ jacobian)  # from scores to measurements
        bias = relative(found @ in_y, wanted @ in_y)
        low, high = torch.linalg.eigvalsh(A @ (rho**2 * jacobian) @ A.T / STD**2)
        print(f"dps at rho = {rho}: relative error {bias:.4f}, between {low:.4f} and {high:.4f}")
        assert low < bias < high
        assert (high < 0.03) if rho == 0.02 else (high > 0.1)


def test_lgd_converges_to_the_exact_score_by_the_root_of_its_draws() -> None:
    """For one variance and a linear measurement the mean over draws is exact."""
    row = Matrix(A[:1])
    y = row.A(ISOTROPIC.sample(1, 3))
    exact = ISOTROPIC.posterior(row, y[0], STD)
    t, x = torch.tensor(0.5, dtype=torch.float64), exact.at(SDE, 0.5).sample(32)
    wanted = exact.at(SDE, 0.5).score(x) - ISOTROPIC.at(SDE, 0.5).score(x)

    def error(draws: int, std: float = STD) -> float:
        seeds = range(24)
        wrong = [score_of(ISOTROPIC, row, LGD(draws, k), x, t, y.expand(32, -1), std) - wanted for k in seeds]
        return float(torch.stack(wrong).square().mean().sqrt() / wanted.square().mean().sqrt())

    few, many = error(64), error(1024)
    print(f"lgd: relative error {few:.3f} by 64 draws, {many:.3f} by 1024")
    assert few / many == pytest.approx(4, rel=0.35) and 0.02 < many < 0.1
    assert error(1024, std=STD / 2) > 0.2  # the measurement's noise is no detail


def likelihood_score(function: Callable[[Tensor], Tensor], x: Tensor, rho: float, y: float, std: float) -> Tensor:
    """grad log p(y | x_t) in one dimension for x0 of N(0.2, 0.6^2), by quadrature over x0."""
    x = x.detach().requires_grad_()
    z = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    kept = 0.36 / (0.36 + rho**2)
    x0 = 0.2 + kept * (x - 0.2) + rho * kept**0.5 * z
    value = (-(z**2) / 2 - (y - function(x0)) ** 2 / (2 * std**2)).logsumexp(1).sum()
    return torch.autograd.grad(value, x)[0]


LINE = GaussianMixture([[0.2]], 0.6, dtype=torch.float64)
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "clipping": lambda x: (2 * x).clamp(-1, 1),
    "modulus": lambda x: x.abs(),
    "saturation": lambda x: torch.tanh(2 * x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_as_operators(name: str) -> None:
    """LGD converges to the exact likelihood; x0 for certain, or A for its derivative, are right near the data."""
    function, std = FUNCTIONS[name], 0.3
    x, y = torch.linspace(-0.9, 1.3, 32, dtype=torch.float64)[:, None], torch.full((32, 1), 0.5, dtype=torch.float64)
    bias: dict[str, list[float]] = {"dps": [], "mmps": [], "lgd": []}
    for rho in (0.02, 0.5):
        wanted = likelihood_score(function, x, rho, 0.5, std)
        for method, found in bias.items():
            chosen = LGD(8192) if method == "lgd" else method
            t = torch.tensor(rho, dtype=torch.float64)
            found.append(relative(score_of(LINE, function, chosen, x, t, y, std), wanted))
    print(f"{name}: relative errors of the likelihood score at rho = 0.02 and 0.5: {bias}")
    assert max(bias["lgd"]) < 0.04
    assert bias["dps"][1] > 0.3 and bias["mmps"][1] > 0.1 and bias["mmps"][1] < bias["dps"][1]
    if name == "saturation":  # the others have corners
        assert max(bias["dps"][0], bias["mmps"][0]) < 0.02


def test_an_operator_with_an_inverse_serves_ddnm() -> None:
    t, x = torch.tensor(0.5, dtype=torch.float64), torch.tensor([[0.3], [0.9]], dtype=torch.float64)
    cube = Nonlinear(lambda x: x**3, lambda y: y.sign() * y.abs() ** (1 / 3))
    y = torch.tensor([[0.125], [-1.0]], dtype=torch.float64)
    found = posterior(LINE.denoiser(SDE), cube, 0.0, "ddnm")(x, t, measurement=y)
    torch.testing.assert_close(found, torch.tensor([[0.5], [-1.0]], dtype=torch.float64))
    with pytest.raises(ValueError, match="without an inverse"):
        posterior(LINE.denoiser(SDE), lambda x: x**3, 0.0, "ddnm")(x, t, measurement=y)


@pytest.mark.parametrize("method", ["dps", "lgd", "pigdm", "tmpd", "mmps", "ddnm"])
def test_objects_of_deepinv_serve_as_they_are(method: str) -> None:
    t, x, y = torch.tensor(0.5).double(), FULL.at(SDE, 0.5).sample(3), torch.randn(3, 2, generator=own).double()
    square = Nonlinear(torch.square, lambda y: y.clamp(min=0).sqrt())
    cases: list[tuple[Tensor, list[Any]]] = [(y, [Physics(A), Matrix(A)]), (x.square(), [PhasePhysics(), square])]
    for measured, operators in cases:
        nets = [posterior(FULL.denoiser(SDE), each, STD, method) for each in operators]
        found, wanted = (net(x, t, measurement=measured) for net in nets)
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_methods_on_a_mixture() -> None:
    """How far each is from the exact posterior mean on three modes, as the posterior weighs them."""
    means = torch.tensor([[-1.5, 0.3], [1.2, 1.0], [0.6, -1.3]], dtype=torch.float64)
    prior = GaussianMixture(means, [[0.3, 0.5], [0.5, 0.25], [0.3, 0.3]], [0.5, 0.3, 0.2])
    row = Matrix(torch.tensor([[1.0, 0.5]]))
    y = torch.tensor([0.4], dtype=torch.float64)
    exact = prior.posterior(row, y, STD)
    error: dict[str, list[float]] = {}
    for method in ("dps", "lgd", "pigdm", "tmpd", "mmps"):
        chosen = LGD(1024) if method == "lgd" else method
        error[method] = []
        for rho in (0.1, 0.7, 3.0):
            t, x = torch.tensor(rho, dtype=torch.float64), exact.at(SDE, rho).sample(256)
            net = posterior(prior.denoiser(SDE), row, STD, chosen)
            wanted = exact.denoiser(SDE)(x, t)
            wrong = (net(x, t, measurement=y.expand(256, 1)) - wanted).square().mean().sqrt()
            error[method].append(float(wrong / wanted.std(0).mean()))
    print(f"RMS error of the posterior mean at rho = 0.1, 0.7, 3, in its own deviations: {error}")
    assert max(each[0] for each in error.values()) < 0.06
    assert error["mmps"][1] < error["pigdm"][1] < error["dps"][1]
    assert all(each[2] > 0.1 for each in error.values())  # a Gaussian for three modes is not exact


@pytest.mark.parametrize("method", ["dps", "lgd", "pigdm", "tmpd", "mmps", "ddnm"])
def test_derivatives_go_through(method: str) -> None:
    """Against finite differences, for a state that is a leaf and for one that is not: likelihoods need them."""
    prior = GaussianMixture(torch.stack([MEAN[0], -MEAN[0]]), [0.7, 0.4])
    saturated = Nonlinear(lambda x: torch.tanh(x @ A.T), lambda y: y @ A)
    net, t, y = posterior(prior.denoiser(SDE), saturated, STD, method), torch.tensor(0.8).double(), torch.zeros(1, 2)
    x, v = torch.randn(2, 1, 4, generator=own, dtype=torch.float64)
    h = 1e-5
    wanted = (net(x + h * v, t, measurement=y) - net(x - h * v, t, measurement=y)) / (2 * h)
    for made in (lambda x: x, lambda x: 1.0 * x):
        at, u = x.clone().requires_grad_(), torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
        (pulled,) = torch.autograd.grad(net(made(at), t, measurement=y), at, u, create_graph=True)
        (found,) = torch.autograd.grad(pulled, u, v)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


class Detached(nn.Module):
    def forward(self, y: Tensor, c_noise: Tensor) -> Tensor:
        return y.detach()


@pytest.mark.parametrize("method", ["dps", "lgd", "pigdm", "tmpd", "mmps"])
def test_a_net_without_derivative_is_named(method: str) -> None:
    sde, y = VPSDE(), torch.zeros(2, 2)
    for prior in (Denoiser(Detached(), sde), BareDenoiser(lambda x, t: -x.detach(), sde)):
        with pytest.raises(ValueError, match="no derivative by x"):
            sample(sde, posterior(prior, Matrix(A), 0.1, method), (2, 4), steps=3, condition={"measurement": y})


@pytest.mark.parametrize("method", ["dps", "lgd"])
def test_exact_measurements_are_refused_where_a_method_divides_by_their_noise(method: str) -> None:
    with pytest.raises(ValueError, match="noise_std=0; expected a positive number"):
        score_of(
            FULL, Matrix(A), method, torch.zeros(1, 4).double(), torch.tensor(0.5).double(), torch.zeros(1, 2), 0.0
        )


def test_a_measurement_of_another_batch_is_refused_before_any_call() -> None:
    net = posterior(FULL.denoiser(SDE), Matrix(A), 0.1)
    with pytest.raises(
        ValueError, match=r"condition\['measurement'\] is \(3, 2\); expected .* first axis has length 2"
    ):
        sample(SDE, net, (2, 4), condition={"measurement": torch.zeros(3, 2)})


@pytest.mark.parametrize("method", ["dps", "lgd", "pigdm", "tmpd", "mmps", "ddnm"])
def test_a_sample_that_fails_is_named_and_alone(method: str) -> None:
    y = Matrix(A).A(FULL.sample(4, 5))
    y[2, 0] = torch.nan
    net = posterior(FULL.denoiser(SDE), Matrix(A), STD, method)
    with pytest.raises(FloatingPointError, match=r"in sample 2$"):
        sample(SDE, net, (4, 4), solver="euler", steps=5, condition={"measurement": y})
