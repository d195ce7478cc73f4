"""Latents: encode and decode invert each other, and follow known flows."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sdescore import (
    VPSDE,
    Denoiser,
    FlowSDE,
    GaussianMixture,
    LinearSDE,
    decode,
    denoising_score_matching,
    encode,
    sample,
    trajectory,
)
from sdescore.density import scale_temperature, slerp
from sdescore.nets import MLP
from sdescore.solvers import Adaptive


def relative(found: Tensor, expected: Tensor) -> float:
    return float(((found - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)).max())


@pytest.fixture(scope="module")
def trained() -> tuple[Denoiser, Tensor]:
    """A perceptron after a short training on eight dimensions, in float64, and data of the same kind."""
    torch.manual_seed(0)
    data = GaussianMixture(torch.randn(4, 8), 0.2)
    denoiser = Denoiser(MLP(8, width=64), VPSDE())
    optimizer = torch.optim.Adam(denoiser.parameters(), 2e-3)
    for step in range(60):
        optimizer.zero_grad()
        denoising_score_matching(denoiser, data.sample(64, seed=step), time_distribution="importance").mean().backward()
        optimizer.step()
    return denoiser.double(), data.sample(16, seed=1000).double()


def test_a_trained_net_decodes_what_it_encoded(trained: tuple[Denoiser, Tensor]) -> None:
    denoiser, x = trained
    errors = []
    for tolerance in (1e-5, 1e-6, 1e-7):
        options: dict[str, Any] = {"rtol": tolerance, "atol": tolerance}
        z = encode(denoiser.sde, denoiser, x, **options)
        errors.append(relative(decode(denoiser.sde, denoiser, z, **options), x))
        assert relative(z, x) > 0.5  # they are far from each other
    assert errors[1] < 1e-3 and errors[1] < errors[0] / 10 and errors[2] < errors[1] / 10


def test_a_float32_net_decodes_what_it_encoded(trained: tuple[Denoiser, Tensor]) -> None:
    denoiser, x = trained
    denoiser = Denoiser(MLP(8, width=64), VPSDE()).float()
    denoiser.net.load_state_dict({name: value.float() for name, value in trained[0].net.state_dict().items()})
    z = encode(denoiser.sde, denoiser, x.float())
    assert z.dtype == torch.float32
    assert relative(decode(denoiser.sde, denoiser, z), x.float()) < 1e-3


def test_the_flow_of_an_oracle_is_inverted_on_every_process(main_sde: LinearSDE, oracle2: GaussianMixture) -> None:
    denoiser, x = oracle2.denoiser(main_sde), oracle2.at(main_sde, main_sde.t_min).sample(32)
    z = encode(main_sde, denoiser, x)
    torch.testing.assert_close(decode(main_sde, denoiser, z), x, rtol=1e-3, atol=1e-4)


def test_latents_of_a_gaussian_are_known(main_sde: LinearSDE) -> None:
    oracle = GaussianMixture([[0.5, -1.0]], 0.3, dtype=torch.float64)
    near, far = oracle.at(main_sde, main_sde.t_min), oracle.at(main_sde, main_sde.T)
    x = near.sample(5)
    z = far.means[0] + (x - near.means[0]) / near.stds[0] * far.stds[0]
    for carry, given, expected in ((encode, x, z), (decode, z, x)):
        found = carry(main_sde, oracle.denoiser(main_sde), given, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_sampling_from_a_latent_is_decoding_and_one_denoising(oracle2: GaussianMixture) -> None:
    sde = VPSDE()
    denoiser, z = oracle2.denoiser(sde), torch.randn(8, 2, dtype=torch.float64)
    ends = torch.tensor([sde.T, sde.t_min], dtype=torch.float64)
    *_, state, denoised = trajectory(sde, denoiser, x=z, solver=Adaptive(rtol=1e-8, atol=1e-8), times=ends)
    torch.testing.assert_close(state, decode(sde, denoiser, z, rtol=1e-8, atol=1e-8), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(denoised, denoiser(state, ends[1]))


def test_the_solver_is_found_by_name_and_its_samples_are_right(oracle2: GaussianMixture) -> None:
    """Against a fourth-order method on many steps from the same noise."""
    sde = FlowSDE()
    options: dict[str, Any] = {"shape": (16, 2), "seed": 3}
    found = sample(sde, oracle2.denoiser(sde), solver="dopri5", **options)
    expected = sample(sde, oracle2.denoiser(sde), solver="rk4", steps=300, **options)
    torch.testing.assert_close(found, expected, rtol=0, atol=3e-3)
    fine = sample(sde, oracle2.denoiser(sde), solver=Adaptive(rtol=1e-7, atol=1e-7), **options)
    torch.testing.assert_close(fine, expected, rtol=0, atol=3e-6)
    alone = sample(sde, oracle2.denoiser(sde), solver="dopri5", batch_size=1, **options)
    torch.testing.assert_close(found, alone, rtol=1e-9, atol=1e-9)


class Breaks(nn.Module):
    """A standard normal's noise, but NaN for the samples whose condition says so, once sigma is large."""

    def forward(self, y: Tensor, c_noise: Tensor, bad: Tensor) -> Tensor:
        return torch.where((bad & (c_noise > 0)).reshape(-1, 1), torch.nan, y)


@pytest.mark.parametrize("carry", [encode, decode])
def test_a_failing_sample_is_flagged_and_the_others_are_kept(carry: Callable[..., Tensor]) -> None:
    denoiser = Denoiser(Breaks(), VPSDE(), data_std=1.0)
    bad = torch.tensor([False, True, False])
    with pytest.warns(RuntimeWarning, match=r"sample 1 is NaN: its flow is not finite at t = "):
        found = carry(VPSDE(), denoiser, torch.ones(3, 2), condition={"bad": bad})
    assert found.isfinite().all(1).tolist() == [True, False, True]


def test_the_solver_flags_what_fails() -> None:
    denoiser, bad = Denoiser(Breaks(), VPSDE(), data_std=1.0), torch.tensor([False, True])
    with pytest.raises(FloatingPointError, match=r"dopri5: .*sample 1$"):
        sample(VPSDE(), denoiser, (2, 2), solver="dopri5", condition={"bad": bad})
    with pytest.raises(ValueError, match="rtol=0"):
        Adaptive(rtol=0)
    with pytest.raises(ValueError, match="atol=inf; expected positive, finite"):
        Adaptive(atol=math.inf)


def test_slerp_goes_along_the_great_circle() -> None:
    a = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]]], dtype=torch.float64)
    b = torch.tensor([[[0.0, 8.0]], [[0.0, 1.0]]], dtype=torch.float64)
    assert torch.equal(slerp(a, b, 0.0), a)
    torch.testing.assert_close(slerp(a, b, 1.0), b)
    third = slerp(a, b, torch.tensor([1 / 3, 0.7]))
    length = 2 * 4 ** (1 / 3)
    expected = [[[length * math.cos(math.pi / 6), length * math.sin(math.pi / 6)]], [[0.0, 1.0]]]
    torch.testing.assert_close(third, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)


def test_slerp_keeps_the_length_of_normals_where_the_line_loses_it() -> None:
    own = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 8, 3, 16, 16, generator=own).unbind()
    middle = slerp(a, b, 0.5).flatten(1).norm(dim=1) / math.sqrt(768)
    assert float((middle - 1).abs().max()) < 0.06
    assert float(((a + b) / 2).flatten(1).norm(dim=1).max()) / math.sqrt(768) < 0.8


@pytest.mark.parametrize("b", [-torch.ones(2, 3), torch.zeros(2, 3)])
def test_slerp_refuses_what_has_no_way(b: Tensor) -> None:
    with pytest.raises(ValueError, match="zero or opposite in sample 0"):
        slerp(torch.ones(2, 3), b, 0.5)
    with pytest.raises(ValueError, match="equal shapes"):
        slerp(torch.ones(2, 2), b, 0.5)


def test_temperature_scales_the_density_of_the_prior() -> None:
    """log N(z)/temperature, up to a constant, is the log-density that tempered draws have."""
    sde = VPSDE()
    z = torch.randn(2, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cold = scale_temperature(z, 0.25)
    drop = sde.prior_log_prob(z)[0] - sde.prior_log_prob(z)[1]
    assert float(sde.prior_log_prob(cold)[0] - sde.prior_log_prob(cold)[1]) == pytest.approx(0.25 * float(drop))
    with pytest.raises(ValueError, match="temperature=-1"):
        scale_temperature(z, -1)


def test_bad_arguments() -> None:
    denoiser = GaussianMixture(torch.zeros(1, 2)).denoiser(VPSDE())
    with pytest.raises(ValueError, match=r"rtol=1e-20; expected a finite number of at least 1e-13"):
        encode(VPSDE(), denoiser, torch.zeros(1, 2), rtol=1e-20)
    with pytest.raises(ValueError, match="x is not finite in sample 1"):
        decode(VPSDE(), denoiser, torch.tensor([[0.0, 0.0], [math.nan, 0.0]]))
