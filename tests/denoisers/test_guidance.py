"""Guidance against the closed form of a mixture whose classes are known, and what it costs in net calls."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sdescore import VPSDE, Denoiser, FlowSDE, GaussianMixture, KarrasSDE, LinearSDE, ReverseProcess, sample, trajectory
from sdescore.common.linear_combinations import combine
from sdescore.denoisers import classifier_guided, clipped, guided
from sdescore.testing import two_sample

CLASSES = GaussianMixture(
    torch.tensor([[-1.0, 0.5], [0.8, 1.0], [0.5, -1.2], [1.1, -0.3]], dtype=torch.float64),
    [0.3, 0.2, 0.25, 0.35],
    [0.4, 0.2, 0.25, 0.15],
    labels=[0, 1, 0, 1],
)
LABELS = torch.tensor([0, 1, 1, 0, 1])


def of_classes(sde: LinearSDE, x: Tensor, t: float, labels: Tensor) -> Tensor:
    """The score of each sample's class, from the mixture's own."""
    scores = torch.stack([CLASSES.given(c).at(sde, t).score(x) for c in (0, 1)])
    return scores[labels, torch.arange(len(x))]


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.1])
def test_the_guided_score_is_the_closed_form(scale: float, sde: LinearSDE) -> None:
    net = guided(CLASSES.denoiser(sde), scale)
    for share in (0.05, 0.5, 1.0):
        t = sde.t_min + share * (sde.T - sde.t_min)
        x = CLASSES.at(sde, t).sample(5)
        null = CLASSES.at(sde, t).score(x)
        exact = null + scale * (of_classes(sde, x, t, LABELS) - null)
        found = net.score(x, torch.tensor(t, dtype=torch.float64), label=LABELS)
        assert float((found - exact).abs().max() / exact.abs().max()) < 1e-10


def test_samples_at_scale_1_are_those_of_the_class() -> None:
    sde, n = VPSDE(), 2000
    label = torch.full((n,), 1)
    x = CLASSES.given(1).at(sde, sde.T).sample(n)
    found = sample(sde, guided(CLASSES.denoiser(sde), 1.0), x=x, condition={"label": label}, solver="heun", steps=30)
    assert two_sample(found, CLASSES.given(1).sample(n, 1)) > 1e-3
    assert two_sample(found, CLASSES.given(0).sample(n, 1)) < 1e-6  # the test can fail


def test_an_exact_classifier_samples_the_class() -> None:
    """By the exact p(c | x_t) at every t the prior becomes the class."""
    sde, n = VPSDE(), 2000

    labels = torch.tensor([0, 1, 0, 1])

    def log_prob(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        joint = CLASSES.at(sde, t[0]).log_joint(x)
        own = joint.masked_fill(labels != label[:, None], -torch.inf)
        return own.logsumexp(1) - joint.logsumexp(1)

    net = classifier_guided(CLASSES.denoiser(sde), log_prob)
    t, x = torch.tensor(0.3, dtype=torch.float64), CLASSES.at(sde, 0.3).sample(5)
    exact = of_classes(sde, x, 0.3, LABELS)
    torch.testing.assert_close(net.score(x, t, label=LABELS), exact, rtol=1e-9, atol=1e-9)
    label, start = torch.zeros(n, dtype=torch.long), CLASSES.given(0).at(sde, sde.T).sample(n)
    found = sample(sde, net, x=start, condition={"label": label}, solver="heun", steps=30)
    assert two_sample(found, CLASSES.given(0).sample(n, 1)) > 1e-3


def test_the_order_of_a_solver_is_kept() -> None:
    sde, label = VPSDE(), LABELS
    net, x = guided(CLASSES.denoiser(sde), 2.5), CLASSES.at(sde, 0.6).sample(5)
    ends = torch.tensor([0.6, 0.2], dtype=torch.float64)

    def at(steps: int) -> Tensor:
        first, last = sde.lam(ends).tolist()
        lam = torch.linspace(first, last, steps + 1, dtype=torch.float64)
        *_, state, _ = trajectory(sde, net, x=x, times=sde.time(lam), solver="heun", condition={"label": label})
        return state

    exact = at(1024)
    assert float((at(32) - exact).norm() / (at(64) - exact).norm()) == pytest.approx(4, rel=0.15)


def test_the_strength_is_the_scale_where_it_guides() -> None:
    sde = VPSDE()
    t = sde.time(torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64))  # rho is e, 1 and 1 / e
    net = CLASSES.denoiser(sde)
    assert net.strength(t).tolist() == [1, 1, 1]
    inside = guided(net, 4.0, interval=(0.5, 2.0))
    assert inside.strength(t).tolist() == [1, 4, 1]
    assert guided(net, -2.0).strength(t).tolist() == [2, 2, 2]
    assert guided(net, 0.5).strength(t).tolist() == [1, 1, 1]
    assert clipped(inside).strength(t).tolist() == [1, 4, 1]
    assert classifier_guided(inside, lambda x, t: x.sum(1), 3.0).strength(t).tolist() == [3, 12, 3]
    other = ReverseProcess(KarrasSDE(), inside)  # on another process, at the times of equal rho
    assert other.strength(torch.tensor([3.0, 1.0, 0.1], dtype=torch.float64)).tolist() == [1, 4, 1]


class Counted(nn.Module):
    """A net that predicts the noise of a label, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.seen: list[Tensor | None] = []

    def forward(self, y: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        self.seen.append(label)
        return (0.1 if label is None else 0.1 + label[:, None]) * y


def test_two_branches_are_two_calls_and_one_outside_the_interval() -> None:
    sde, net = KarrasSDE(), Counted()
    label = {"label": torch.tensor([1, 2, 3])}
    for interval, budget in ((None, 20), ((0.3, 2.0), 20), ((0.3, 2.0), 31)):
        whole = guided(Denoiser(net, sde), 2.0, interval=interval)
        for solver in ("adams", "heun", "dpm++"):
            net.seen.clear()
            states = list(trajectory(sde, whole, (3, 2), solver=solver, nfe=budget, condition=label))
            assert budget - 5 <= len(net.seen) <= budget, (solver, interval)
            if interval is None:
                assert len(net.seen[::2]) == len(net.seen[1::2]) and all(each is None for each in net.seen[1::2])
            assert len(states) > 3
    net.seen.clear()
    sample(sde, guided(Denoiser(net, sde), 1.0), (3, 2), steps=5, condition=label)
    assert len(net.seen) == 5


def test_outside_the_interval_it_is_the_conditional_branch() -> None:
    sde, label = KarrasSDE(), LABELS
    plain = CLASSES.denoiser(sde)
    net, x = guided(plain, 4.0, interval=(0.3, 2.0)), torch.randn(5, 2, dtype=torch.float64)
    for sigma, same in ((0.29, True), (0.5, False), (2.1, True)):
        t = torch.tensor(sigma, dtype=torch.float64)
        along = ReverseProcess(sde, net, {"label": label}).summands(t[None], 1.0, 0.0)(0, x)
        found = combine(along)
        torch.testing.assert_close(found, net(x, t, label=label), rtol=1e-12, atol=1e-12)
        assert torch.allclose(found, plain(x, t, label=label), rtol=1e-12) == same


def test_another_null_and_another_net() -> None:
    sde = VPSDE()
    plain, t, x = CLASSES.denoiser(sde), torch.tensor(0.4, dtype=torch.float64), CLASSES.at(sde, 0.4).sample(5)
    found = guided(plain, 3.0, null={"label": 1}).score(x, t, label=torch.zeros(5, dtype=torch.long))
    zero, one = (of_classes(sde, x, 0.4, torch.full((5,), c)) for c in (0, 1))
    torch.testing.assert_close(found, one + 3 * (zero - one), rtol=1e-10, atol=1e-10)
    wide = GaussianMixture([[0.0, 0.0]], 1.1, dtype=torch.float64)
    other = FlowSDE()  # read at equal lam
    found = guided(plain, 2.0, weak=wide.denoiser(other)).noise(x, t, label=LABELS)
    strong, weak = plain.noise(x, t, label=LABELS), wide.denoiser(sde).noise(x, t)
    torch.testing.assert_close(found, weak + 2 * (strong - weak), rtol=1e-10, atol=1e-10)


def test_rescaling_restores_the_deviation() -> None:
    sde, net = VPSDE(), Denoiser(Counted().double(), VPSDE())
    x, t = torch.randn(4, 50, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    label = torch.tensor([1, 2, 3, 4])
    conditional, plain = net.noise(x, t, label=label), guided(net, 3.0).noise(x, t, label=label)
    full = guided(net, 3.0, rescale=1.0).noise(x, t, label=label)
    torch.testing.assert_close(full.std(1), conditional.std(1), rtol=1e-10, atol=0)
    half = guided(net, 3.0, rescale=0.5).noise(x, t, label=label)
    torch.testing.assert_close(half, (plain + full) / 2, rtol=1e-10, atol=1e-12)
    assert not torch.allclose(plain.std(1), conditional.std(1), rtol=0.1)
    assert sde == net.sde


@pytest.mark.parametrize(
    ("arguments", "error", "word"),
    [
        ({"scale": float("inf")}, ValueError, "scale=inf"),
        ({"scale": "3"}, TypeError, "scale='3'"),
        ({"interval": (2.0, 1.0)}, ValueError, r"interval=\(2.0, 1.0\)"),
        ({"rescale": 1.5}, ValueError, "rescale=1.5"),
        ({"weak": 3}, TypeError, "weak is a int"),
        ({"denoiser": lambda x, t: x}, TypeError, "denoiser is a function"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        given: dict[str, Any] = {"denoiser": CLASSES.denoiser(VPSDE()), "scale": 2.0}
        guided(**(given | arguments))


def test_a_classifier_of_another_shape_is_named() -> None:
    with pytest.raises(TypeError, match="log_prob is a int"):
        classifier_guided(CLASSES.denoiser(VPSDE()), 3)  # type: ignore[arg-type]
    net = classifier_guided(CLASSES.denoiser(VPSDE()), lambda x, t: x.sum())
    with pytest.raises(ValueError, match=r"log_prob returned \(\)"):
        net(torch.randn(3, 2, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64))


def test_it_is_not_saved_without_a_word(tmp_path: Any) -> None:
    with pytest.raises(ValueError, match="save the denoiser that it is made of"):
        guided(CLASSES.denoiser(VPSDE()), 2.0).save_pretrained(tmp_path)
