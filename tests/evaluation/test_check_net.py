"""check_net: nets that are called as they were in their training fit; each silent mistake is found and named."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sdescore import VPSDE, Denoiser, DiscreteSDE, FlowSDE, GaussianMixture, LinearSDE, NetTerms, check_net

DDPM = DiscreteSDE.from_betas(VPSDE().betas(1000))


@pytest.fixture(scope="module")
def mixture() -> GaussianMixture:
    """Correlated data between about -1 and 1."""
    means = torch.tensor([[0.8, 0.8, -0.7], [-0.8, -0.6, 0.7], [0.2, -0.8, -0.8]], dtype=torch.float64)
    return GaussianMixture(means, 0.15)


@pytest.fixture(scope="module")
def data(mixture: GaussianMixture) -> Tensor:
    return mixture.sample(128, seed=0)


def indexed(mixture: GaussianMixture, kind: str) -> Callable[[Tensor, Tensor], Tensor]:
    """A net trained on DDPM's table, called with an index into it."""
    exact = mixture.denoiser(DDPM)
    return lambda x, index: exact.predict(kind, x, index.clamp(0, 999))


def test_exact_denoisers_fit_on_every_process(sde: LinearSDE, mixture: GaussianMixture, data: Tensor) -> None:
    report = check_net(mixture.denoiser(sde), data)
    assert report.fits and report.advice == () and report.ratio < 0.9
    assert report.rho == tuple(sorted(report.rho)) and len(report.rho) >= 5


@pytest.mark.parametrize("kind", ["data", "noise", "v", "score", "velocity"])
def test_nets_in_their_own_terms_fit(kind: str, mixture: GaussianMixture, data: Tensor) -> None:
    report = check_net(Denoiser(indexed(mixture, kind), DDPM, kind, terms="ddpm"), data)
    assert report.fits and report.advice == ()


def test_the_errors_are_those_of_theory() -> None:
    """Of N(0, diag(v)), whose exact denoiser is linear: the error is the mean of v / (v + rho^2)."""
    stds = torch.tensor([[0.3, 0.5, 0.9, 1.3]], dtype=torch.float64)
    gaussian = GaussianMixture(torch.zeros(1, 4), stds)
    report = check_net(gaussian.denoiser(VPSDE()), gaussian.sample(20_000))
    for rho, error, linear in zip(report.rho, report.error, report.linear, strict=True):
        exact = float((stds**2 / (stds**2 + rho**2)).mean())
        assert error == pytest.approx(exact, rel=0.02)
        assert linear == pytest.approx(exact, rel=0.02)
    assert report.fits and report.ratio == pytest.approx(1, abs=0.02)
    zero = check_net(Denoiser(lambda x, t: torch.zeros_like(x), VPSDE(), "noise"), gaussian.sample(20_000))
    assert zero.error == pytest.approx([1.0] * len(zero.rho), rel=0.02)  # of the noise itself
    assert not zero.fits


@pytest.mark.parametrize("kind", ["v", "data", "score"])
def test_a_forgotten_prediction_is_named(kind: str, mixture: GaussianMixture, data: Tensor) -> None:
    report = check_net(Denoiser(indexed(mixture, kind), DDPM, terms="ddpm"), data)
    assert not report.fits and report.ratio > 2
    assert report.advice[0].startswith(f"predicts='{kind}'")
    assert f"DOES NOT FIT (better: predicts='{kind}', at 0." in str(report)


def test_a_time_that_is_not_divided_by_1000_is_named(mixture: GaussianMixture, data: Tensor) -> None:
    vp = mixture.denoiser(VPSDE())
    given_index = check_net(Denoiser(lambda x, t: vp.noise(x, t.clamp(1e-5, 1)), DDPM, terms="ddpm"), data)
    assert not given_index.fits  # though its error is a linear denoiser's: it takes all for noise
    assert given_index.advice[0].startswith("terms=NetTerms('state', 't', 0.001, predicts='noise')")
    terms = NetTerms("state", "t")
    given_t = check_net(Denoiser(indexed(mixture, "noise"), VPSDE(), terms=terms), data)
    assert not given_t.fits and given_t.ratio > 2
    assert given_t.advice[0].startswith("terms=NetTerms('state', 't', 999, predicts='noise')")


@pytest.mark.parametrize("sde", [DDPM, VPSDE()], ids=["table", "VPSDE"])
def test_terms_of_edm_for_a_net_of_ddpm_are_noticed(sde: LinearSDE, mixture: GaussianMixture, data: Tensor) -> None:
    report = check_net(Denoiser(indexed(mixture, "noise"), sde), data)
    assert not report.fits and report.ratio > 2
    time = "'index', 1" if sde is DDPM else "'t', 999"
    assert report.advice[0].startswith(f"terms=NetTerms('state', {time}, predicts='noise')")


@pytest.mark.parametrize(
    ("moved", "advice"),
    [
        (lambda x: x / 2, "data 2 x for x"),
        (lambda x: 2 * x, "data x / 2 for x"),
        (lambda x: (x + 1) / 2, "data 2 x - 1 for x"),
        (lambda x: 127.5 * (x + 1), "data x / 127.5 - 1 for x"),
    ],
    ids=["half", "double", "unit interval", "bytes"],
)
def test_another_range_of_the_data_is_named(
    moved: Callable[[Tensor], Tensor], advice: str, mixture: GaussianMixture, data: Tensor
) -> None:
    report = check_net(Denoiser(indexed(mixture, "noise"), DDPM, terms="ddpm"), moved(data))
    assert not report.fits
    assert report.advice[-1].startswith(advice)
    assert (report.low, report.high) == (float(moved(data).min()), float(moved(data).max()))


def test_the_other_direction_of_time_is_named(mixture: GaussianMixture, data: Tensor) -> None:
    """A net of flow matching with the noise at time 0, which returns what moves noise to data."""
    exact = mixture.denoiser(FlowSDE())

    def net(x: Tensor, s: Tensor) -> Tensor:
        return -exact.velocity(x, (1 - s).clamp(1e-5, 0.999))

    report = check_net(Denoiser(net, FlowSDE(), terms="flow"), data)
    assert report.advice[0].startswith(
        "terms=NetTerms('state', 't', -1, time_shift=1, predicts='velocity', output_scale=-1)"
    )
    terms = NetTerms("state", "t", -1.0, time_shift=1.0, predicts="velocity", output_scale=-1.0)
    assert check_net(Denoiser(net, FlowSDE(), terms=terms), data).fits


def test_a_right_net_may_fail_at_one_end(mixture: GaussianMixture, data: Tensor) -> None:
    """One of the data, off by .3: that is more than all of the noise where there is little."""
    exact = mixture.denoiser(VPSDE())
    report = check_net(
        Denoiser(lambda x, t: exact(x, t) + 0.3 * (t < 0.05)[:, None], VPSDE(), "data", terms=NetTerms("state", "t")),
        data,
    )
    assert report.ratio > 2 and report.fits
    assert str(report).startswith(f"fits (but is worse than linear at rho {report.rho[0]:.2g}")


def test_a_net_with_a_table_of_times_is_never_given_others(mixture: GaussianMixture, data: Tensor) -> None:
    """Its IndexError for a time that check_net tries is no answer, nor an end."""
    rows = torch.arange(1000.0)
    exact = mixture.denoiser(DDPM)
    net = Denoiser(lambda x, index: exact.score(x, rows[index.long()]), DDPM)
    report = check_net(net, data)
    assert not report.fits and report.advice[0].startswith("terms=NetTerms('state', 'index', 1, predicts='score')")


def test_an_untrained_net_does_not_fit_whatever_it_is_given(data: Tensor) -> None:
    report = check_net(Denoiser(lambda x, t: torch.sin(9 * x + 5), FlowSDE(), terms="flow"), data)
    assert not report.fits and report.advice == ()
    assert "nor does anything else that was tried" in str(report)


def test_the_condition_reaches_the_net(mixture: GaussianMixture) -> None:
    """A net that knows the class does better than the data's own denoiser does."""
    labelled = GaussianMixture(mixture.means, mixture.stds, labels=torch.arange(3))
    x = labelled.sample(300)
    label = labelled.log_joint(x).argmax(1)
    exact = labelled.denoiser(VPSDE())
    known, unknown = check_net(exact, x, condition={"label": label}), check_net(exact, x)
    assert known.fits and known.ratio < 0.7 * unknown.ratio


def test_the_net_is_in_evaluation_mode_and_left_as_it_was(data: Tensor) -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).train()
    denoiser = Denoiser(lambda x, t: net(x), VPSDE())
    assert check_net(denoiser, data.float()).error == check_net(denoiser, data.float()).error
    assert net.training


def test_what_is_no_net_or_no_data() -> None:
    denoiser = GaussianMixture(torch.zeros(1, 3)).denoiser(VPSDE())
    with pytest.raises(TypeError, match="denoiser is a function; expected a Denoiser, such as Denoiser"):
        check_net(lambda x, t: x, torch.zeros(4, 3))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"torch\.uint8; expected a floating-point tensor"):
        check_net(denoiser, torch.zeros(4, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="data has 4 samples that are all the same"):
        check_net(denoiser, torch.zeros(4, 3))
    with pytest.raises(ValueError, match="first axis has length 4"):
        check_net(denoiser, torch.randn(4, 3), condition={"label": torch.zeros(3)})
