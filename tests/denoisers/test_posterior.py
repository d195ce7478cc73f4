"""Posterior denoisers against exact posteriors of Gaussian priors, where each method says what it is exact for."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sdescore import VPSDE, Denoiser, GaussianMixture, KarrasSDE, LinearSDE, guided, posterior, sample
from sdescore.operators import Downsample, Mask, Matrix
from sdescore.testing import two_sample

own = torch.Generator().manual_seed(11)
ROOTS = torch.randn(1, 5, 5, generator=own, dtype=torch.float64)
MEAN = torch.randn(1, 5, generator=own, dtype=torch.float64)
FULL = GaussianMixture.of_covariances(MEAN, ROOTS @ ROOTS.mT / 5 + 0.05 * torch.eye(5, dtype=torch.float64))
ISOTROPIC = GaussianMixture(MEAN, 0.6)
DIAGONAL = GaussianMixture(MEAN, torch.tensor([[0.3, 0.5, 0.8, 0.4, 0.6]]))
A = Matrix(torch.randn(3, 5, generator=own, dtype=torch.float64))
SEEN = Mask(torch.tensor([1, 0, 1, 1, 0]))
STD = 0.3


def errors(
    prior: GaussianMixture, operator: Any, method: str, sde: LinearSDE, noise_std: float = STD, **options: Any
) -> Tensor:
    """How far x0 and eps are from those of the exact posterior, at several noise levels, relative to their size."""
    y = operator.A(prior.sample(1, 3))[0] + STD * torch.randn(operator.A(MEAN).shape[1:], generator=own).double()
    exact = prior.posterior(operator, y, STD).denoiser(sde)
    net = posterior(prior.denoiser(sde), operator, noise_std, method, **options)
    found = []
    for share in (0.1, 0.5, 1.0):
        t = torch.tensor(sde.t_min + share * (sde.T - sde.t_min), dtype=torch.float64)
        x, measurement = prior.at(sde, t).sample(4), y.expand(4, -1)
        for kind in ("data", "noise"):
            wrong = net.predict(kind, x, t, measurement=measurement) - exact.predict(kind, x, t)
            found.append(wrong.abs().max() / exact.predict(kind, x, t).abs().max())
    return torch.stack(found)


@pytest.mark.parametrize(
    ("prior", "operator", "method"),
    [
        (FULL, A, "mmps"),
        (DIAGONAL, A, "mmps"),
        (DIAGONAL, A, "tmpd"),
        (ISOTROPIC, A, "tmpd"),
        (ISOTROPIC, A, "pigdm"),
        (FULL, SEEN, "mmps"),
    ],
    ids=["mmps", "mmps, diagonal", "tmpd, diagonal", "tmpd, isotropic", "pigdm, isotropic", "mmps, mask"],
)
def test_exact_where_it_is_said_to_be(prior: GaussianMixture, operator: Any, method: str, main_sde: LinearSDE) -> None:
    assert float(errors(prior, operator, method, main_sde).max()) < 1e-7
    # The noise of the measurement is no detail.
    assert float(errors(prior, operator, method, main_sde, noise_std=1e-3).max()) > 1e-2


@pytest.mark.parametrize(("prior", "method"), [(FULL, "tmpd"), (FULL, "pigdm"), (DIAGONAL, "pigdm")])
def test_approximate_elsewhere(prior: GaussianMixture, method: str) -> None:
    """Elements that depend on each other are no diagonal, and unequal ones no multiple of the identity."""
    bias = errors(prior, A, method, VPSDE())
    print(f"{method}: relative errors {bias.tolist()}")
    assert float(bias.max()) > 1e-2


def test_fewer_iterations_are_less_exact() -> None:
    wrong = [float(errors(FULL, A, "mmps", VPSDE(), iterations=n).max()) for n in (1, 2, 3)]
    assert wrong[0] > wrong[1] > 100 * wrong[2]


def test_ddnm_keeps_what_is_measured() -> None:
    sde, t = KarrasSDE(), torch.tensor(0.7, dtype=torch.float64)
    y, x = A.A(FULL.sample(4, 1)), FULL.at(sde, 0.7).sample(4)
    plain = FULL.denoiser(sde)
    found = posterior(plain, A, 0.0, "ddnm")(x, t, measurement=y)
    torch.testing.assert_close(A.A(found), y, rtol=1e-9, atol=1e-9)
    rest = torch.eye(5).double() - torch.linalg.pinv(A.matrix) @ A.matrix
    torch.testing.assert_close(found @ rest, plain(x, t) @ rest, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("solver", ["adams", "heun", "sde-dpm++"])
def test_it_samples_the_posterior(solver: str) -> None:
    sde, n = VPSDE(), 1500
    y = A.A(FULL.sample(1, 3))
    exact = FULL.posterior(A, y[0], STD)
    net = posterior(FULL.denoiser(sde), A, STD, "mmps")
    start = exact.at(sde, sde.T).sample(n)
    condition = {"measurement": y.expand(n, -1)}
    found = sample(sde, net, x=start, solver=solver, steps=60, condition=condition)
    assert two_sample(found, exact.sample(n, 1)) > 1e-3
    loud = posterior(FULL.denoiser(sde), A, 1e-2, "mmps")
    found = sample(sde, loud, x=start, solver=solver, steps=60, condition=condition)
    assert two_sample(found, exact.sample(n, 1)) < 1e-4  # without the noise of y it is another law


def test_each_sample_has_its_own_measurement() -> None:
    sde, t = VPSDE(), torch.tensor(0.4, dtype=torch.float64)
    net, x = posterior(FULL.denoiser(sde), A, STD), FULL.at(sde, 0.4).sample(3)
    y = A.A(FULL.sample(3, 5))
    whole = net(x, t, measurement=y)
    for i in range(3):
        torch.testing.assert_close(net(x[i : i + 1], t, measurement=y[i : i + 1])[0], whole[i])
    torch.testing.assert_close(net(x, t.expand(3), measurement=y), whole)


@pytest.mark.parametrize(
    ("arguments", "error", "word"),
    [
        ({"operator": 3}, TypeError, "operator is 3"),
        ({"noise_std": -0.1}, ValueError, "noise_std=-0.1"),
        ({"method": "dpsd"}, ValueError, "method='dpsd'; expected 'dps'"),
        ({"iterations": 0}, ValueError, "iterations=0"),
        ({"scale": float("nan")}, ValueError, "scale=nan"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], error: type[Exception], word: str) -> None:
    given: dict[str, Any] = {"denoiser": FULL.denoiser(VPSDE()), "operator": A, "noise_std": 0.1}
    with pytest.raises(error, match=word):
        posterior(**(given | arguments))


def test_bad_measurements_are_named() -> None:
    sde, x, t = VPSDE(), torch.zeros(2, 5, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    net = posterior(FULL.denoiser(sde), A, 0.1)
    with pytest.raises(ValueError, match='condition has no "measurement"'):
        net(x, t)
    with pytest.raises(ValueError, match=r"measurement is \(2, 4\); the operator measures \(2, 3\)"):
        net(x, t, measurement=torch.zeros(2, 4))
    with pytest.raises(ValueError, match="Downsample expects"):
        posterior(FULL.denoiser(sde), Downsample(2), 0.1)(x, t, measurement=torch.zeros(2, 2))

    class Detached(torch.nn.Module):
        def forward(self, y: Tensor, c_noise: Tensor) -> Tensor:
            return y.detach()

    with pytest.raises(ValueError, match="no derivative by x"):
        posterior(Denoiser(Detached(), sde), A, 0.1)(x, t, measurement=torch.zeros(2, 3))


def test_a_posterior_counts_the_calls_of_what_it_is_made_of() -> None:
    """Two branches of a guided prior are two calls, as many as the net is given."""
    sde, given = VPSDE(), []

    class Net(nn.Module):
        def forward(self, x: Tensor, level: Tensor, label: Tensor | None = None) -> Tensor:
            given.append(label)
            return x

    prior = Denoiser(Net(), sde)
    for denoiser, calls in ((prior, 1), (guided(prior, 2.0), 2)):
        net = posterior(denoiser, Mask(torch.tensor([1, 0])), 0.1, "pigdm")
        t = torch.tensor(0.5)
        given.clear()
        net(torch.ones(3, 2), t, measurement=torch.zeros(3, 2), label=torch.zeros(3))
        assert len(given) == int(net.nfe(t)) == calls
