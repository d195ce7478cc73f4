"""Our solvers behind k-diffusion's signature, beside its own samplers, and its models as our denoisers."""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from peer_pairs import k_diffusion_sampling
from torch import Tensor, nn

from sdescore import GaussianMixture, KarrasSDE, sample
from sdescore.interop import from_k_diffusion, k_diffusion_sampler

MIXTURE = GaussianMixture(torch.randn(5, 3, generator=torch.Generator().manual_seed(11), dtype=torch.float64), 0.3)
SDE = KarrasSDE(0.02, 50.0)
NET = MIXTURE.denoiser(SDE)
START = MIXTURE.at(SDE, torch.tensor(40.0)).sample(6, seed=1)

# The names here, and there.
PEERS = {
    "euler": "euler",
    "heun": "heun",
    "dpm++": "dpmpp_2m",
    "lms": "lms",
    "dpm2": "dpm_2",
    "euler-ancestral": "euler_ancestral",
    "dpm2-ancestral": "dpm_2_ancestral",
}


def model(x: Tensor, sigma: Tensor, shift: float = 0.0) -> Tensor:
    return NET(x, sigma) + shift


@pytest.fixture(scope="module")
def k() -> Any:
    if find_spec("k_diffusion") is None:
        pytest.skip("k-diffusion is not installed")
    return k_diffusion_sampling()


@pytest.fixture
def sigmas(k: Any) -> Tensor:
    """k-diffusion's own, with a 0 at the end."""
    return k.get_sigmas_karras(9, 0.05, 40.0).double()


def told(into: list[dict[str, Any]]) -> Callable[[dict[str, Any]], None]:
    return lambda report: into.append(dict(report))


@pytest.mark.parametrize("ours", PEERS)
@pytest.mark.parametrize("ends", ["at 0", "above 0"])
def test_samples_and_reports_are_those_of_k_diffusion(k: Any, sigmas: Tensor, ours: str, ends: str) -> None:
    if ends == "above 0":
        sigmas = sigmas[:-1]
    reports: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    both = []
    for sampler, into in zip((k_diffusion_sampler(ours), getattr(k, f"sample_{PEERS[ours]}")), reports, strict=True):
        torch.manual_seed(4)
        both.append(sampler(model, START, sigmas, extra_args={"shift": 0.1}, callback=told(into), disable=True))
    torch.testing.assert_close(both[0], both[1], rtol=1e-6, atol=1e-6)
    assert (sigmas[-1] == 0) == (ends == "at 0")  # as it was
    assert len(reports[0]) == len(reports[1]) == len(sigmas) - 1
    for a, b in zip(*reports, strict=True):
        assert set(a) == set(b)
        assert a["i"] == b["i"]
        for name in ("sigma", "sigma_hat", "x", "denoised"):
            torch.testing.assert_close(a[name], b[name], rtol=1e-6, atol=1e-6)


def test_the_callback_comes_between_the_calls_as_theirs_does(k: Any, sigmas: Tensor) -> None:
    order: tuple[list[str], list[str]] = ([], [])
    for sampler, into in zip((k_diffusion_sampler("heun"), k.sample_heun), order, strict=True):

        def seen(x: Tensor, sigma: Tensor, into: list[str] = into) -> Tensor:
            into.append(f"net {float(sigma[0]):.6g}")
            return model(x, sigma)

        def call(report: dict[str, Any], into: list[str] = into) -> None:
            into.append(f"callback {report['i']}")

        sampler(seen, START, sigmas, callback=call, disable=True)
    assert order[0] == order[1]


@pytest.mark.parametrize("name", ["adams", "unipc", "unipc-bh2", "sa", "churn", "rk4", "restart"])
@pytest.mark.parametrize("last", [0.0, 0.05])
def test_every_step_is_told_once_with_the_call_at_its_start(name: str, last: float) -> None:
    """Of a method with a corrector the state is the corrected one, and the prediction that of the predicted."""
    sigmas = torch.cat([torch.logspace(1.5, -1, 11, dtype=torch.float64), torch.tensor([last], dtype=torch.float64)])
    calls: list[tuple[float, Tensor]] = []

    def seen(x: Tensor, sigma: Tensor) -> Tensor:
        calls.append((float(sigma[0]), model(x, sigma)))
        return calls[-1][1]

    reports: list[dict[str, Any]] = []
    k_diffusion_sampler(name, seed=0)(seen, START, sigmas, callback=told(reports), disable=True)
    assert [report["i"] for report in reports] == list(range(len(sigmas) - 1))
    assert torch.equal(torch.stack([report["sigma"] for report in reports]), sigmas[:-1])
    for report in reports:
        assert any(s == report["sigma_hat"] and torch.equal(data, report["denoised"]) for s, data in calls)
        assert report["sigma"] <= report["sigma_hat"] <= 1.5 * report["sigma"]


@pytest.mark.parametrize("name", ["adams", "sa", "churn", "restart", "sde-dpm++3s", "predictor-corrector", "dpm-fast"])
def test_samples_are_those_of_sample(name: str) -> None:
    """On the same times and seeds."""
    sigmas = torch.cat([torch.logspace(1.5, -1.5, 8, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)])
    sde = KarrasSDE(float(sigmas[-2]) / 1000, float(sigmas[0]))
    x = 30 * START / 40
    ours = k_diffusion_sampler(name, seed=3)(model, x, sigmas, disable=True)
    theirs = sample(sde, MIXTURE.denoiser(sde), x=x, times=sigmas[:-1], solver=name, seed=3)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_neither_way_needs_k_diffusion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "k_diffusion", None)
    x = k_diffusion_sampler("euler")(model, START, torch.tensor([40.0, 2.0, 0.0]), disable=True)
    net = from_k_diffusion(model, 0.02, 50.0)
    torch.testing.assert_close(
        sample(net.sde, net, x=START, times=torch.tensor([40.0, 2.0]).double(), solver="euler"), x, rtol=1e-6, atol=1e-6
    )


def test_a_model_of_k_diffusion_is_a_denoiser(k: Any, sigmas: Tensor) -> None:
    class Inner(nn.Module):
        sigma_min = torch.tensor(0.02)
        sigma_max = torch.tensor(50.0)

        def forward(self, x: Tensor, sigma: Tensor, shift: Tensor) -> Tensor:
            return model(x, sigma) + shift[:, None]

    class Guided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner_model = Inner()

        def forward(self, x: Tensor, sigma: Tensor, shift: Tensor) -> Tensor:
            found: Tensor = self.inner_model(x, sigma, shift)
            return found

    net = from_k_diffusion(Guided())
    assert net.sde == KarrasSDE(float(torch.tensor(0.02)), 50.0)
    shift = torch.linspace(0, 1, len(START), dtype=torch.float64)
    theirs = k.sample_dpmpp_2m(Guided(), START, sigmas, extra_args={"shift": shift}, disable=True)
    ours = sample(net.sde, net, x=START, times=sigmas[:-1], solver="dpmpp_2m", condition={"shift": shift})
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert from_k_diffusion(model).sde == KarrasSDE(0.002, 80.0)
    assert from_k_diffusion(model, 0.1, 7.0).sde == KarrasSDE(0.1, 7.0)


def test_noise_is_the_global_generator_s_or_a_seed_s() -> None:
    sigmas = torch.tensor([10.0, 3.0, 1.0, 0.0], dtype=torch.float64)
    globally, seeded = k_diffusion_sampler("ddpm"), k_diffusion_sampler("ddpm", seed=5)

    def run(sampler: Callable[..., Tensor], x: Tensor, seed: int) -> Tensor:
        torch.manual_seed(seed)
        return sampler(model, x, sigmas, disable=True)

    assert torch.equal(run(globally, START, 1), run(globally, START, 1))
    assert not torch.equal(run(globally, START, 1), run(globally, START, 2))
    assert torch.equal(run(seeded, START, 1), run(seeded, START, 2))
    torch.testing.assert_close(run(seeded, START[:2], 1), run(seeded, START, 1)[:2])


def test_gradients_stay_as_they_were_and_one_level_is_enough() -> None:
    sigmas = torch.tensor([5.0, 0.0])
    x = START.float().requires_grad_()
    data = k_diffusion_sampler("dpm++")(lambda x, sigma: 0 * x + sigma[:, None], x, sigmas, disable=True)
    assert torch.is_grad_enabled()
    assert not data.requires_grad
    assert torch.equal(data, torch.full_like(data, 5.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigmas": torch.tensor([1.0, 2.0])}, "expected a vector of two or more falling numbers"),
        ({"sigmas": torch.tensor([1.0, -1.0])}, "expected a vector of two or more falling numbers"),
        ({"x": torch.ones(3)}, r"expected \(batch, \*shape\)"),
        ({"model": lambda x, sigma: x[:1]}, "model returned"),
    ],
)
def test_what_is_wrong_is_refused(change: dict[str, Any], message: str) -> None:
    right = {"model": model, "x": START, "sigmas": torch.tensor([1.0, 0.0])}
    with pytest.raises(ValueError, match=message):
        k_diffusion_sampler("euler")(**{**right, **change}, disable=True)


@pytest.mark.parametrize("sigmas", [[1.0, 0.0], torch.tensor([1, 0])])
def test_sigmas_are_a_tensor_of_floating_point(sigmas: Any) -> None:
    with pytest.raises(TypeError, match=r"sigmas .*expected a (floating-point )?tensor \(steps \+ 1,\)"):
        k_diffusion_sampler("euler")(model, START, sigmas, disable=True)


def test_extra_arguments_are_not_divided() -> None:
    with pytest.raises(ValueError, match=r"for \d of 6 samples, and extra_args cannot be divided"):
        k_diffusion_sampler("dopri5")(model, START, torch.tensor([40.0, 0.05, 0.0], dtype=torch.float64), disable=True)
