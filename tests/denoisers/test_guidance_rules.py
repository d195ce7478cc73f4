"""APG and CFG-Zero* in closed form on a mixture with classes, orders under guidance, and labels that nets refuse."""

from dataclasses import dataclass
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from sdescore import VPSDE, Denoiser, FlowSDE, GaussianMixture, KarrasSDE, LinearSDE, sample, trajectory
from sdescore.denoisers import APG, BareDenoiser, CFGZero, guided
from sdescore.nets import MLP
from sdescore.testing import measured_order

CLASSES = GaussianMixture(
    torch.tensor([[-1.0, 0.5, 0.2], [0.8, 1.0, -0.4], [0.5, -1.2, 0.9], [1.1, -0.3, 0.1]], dtype=torch.float64),
    [0.3, 0.2, 0.25, 0.35],
    [0.4, 0.2, 0.25, 0.15],
    labels=[0, 1, 0, 1],
)
LABELS = torch.tensor([0, 1, 1, 0, 1])
SCALE = 3.5


def branches(kind: str, sde: LinearSDE, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The predictions of each sample's class, and without one, from mixtures of their own."""
    own = torch.stack([CLASSES.given(c).denoiser(sde).predict(kind, x, t) for c in (0, 1)])
    return own[LABELS, torch.arange(5)], CLASSES.denoiser(sde).predict(kind, x, t)


def along(v: Tensor) -> Tensor:
    """The projections (batch, n, n) onto the rows of v."""
    return v[:, :, None] * v[:, None] / v.square().sum(1)[:, None, None]


@pytest.mark.parametrize("rho", [0.2, 1.0, 6.0])
@pytest.mark.parametrize(("parallel", "radius"), [(0.0, float("inf")), (0.4, 0.3), (1.0, float("inf"))])
def test_apg_is_its_closed_form(parallel: float, radius: float, rho: float, main_sde: LinearSDE) -> None:
    sde = main_sde
    t = sde.time(-torch.tensor(rho, dtype=torch.float64).log()).clamp(sde.t_min, sde.T)
    x = CLASSES.at(sde, t).sample(5)
    given, null = branches("data", sde, x, t)
    gap = given - null
    gap = gap * (radius / gap.norm(dim=1, keepdim=True)).clamp(max=1)
    projected = (along(given) @ gap[:, :, None])[:, :, 0]
    exact = given + (SCALE - 1) * (gap - projected + parallel * projected)
    net = guided(CLASSES.denoiser(sde), SCALE, rule=APG(parallel, radius))
    torch.testing.assert_close(net(x, t, label=LABELS), exact, rtol=1e-9, atol=1e-9)
    if parallel == 1:
        plain = guided(CLASSES.denoiser(sde), SCALE)(x, t, label=LABELS)
        torch.testing.assert_close(plain, exact, rtol=1e-9, atol=1e-9)


def test_cfg_zero_is_its_closed_form_in_velocities() -> None:
    sde, t = FlowSDE(), torch.tensor(0.6, dtype=torch.float64)
    x = CLASSES.at(sde, t).sample(5)
    given, null = branches("velocity", sde, x, t)
    nearest = (along(null) @ given[:, :, None])[:, :, 0]
    exact = (1 - SCALE) * nearest + SCALE * given
    net = guided(CLASSES.denoiser(sde), SCALE, rule=CFGZero())
    torch.testing.assert_close(net.velocity(x, t, label=LABELS), exact, rtol=1e-9, atol=1e-9)
    # The same on another process, where the levels are the same.
    there = VPSDE()
    s = there.time(sde.lam(t))
    other = guided(CLASSES.denoiser(there), SCALE, rule=CFGZero())
    factor = there.alpha(s) / sde.alpha(t)
    torch.testing.assert_close(other(factor * x, s, label=LABELS), net(x, t, label=LABELS), rtol=1e-8, atol=1e-8)


def test_cfg_zero_stands_still_at_first() -> None:
    sde = FlowSDE()
    net = guided(CLASSES.denoiser(sde), SCALE, rule=CFGZero(zero_above=3.0))
    times = torch.tensor([0.95, 0.9, 0.8, 0.76, 0.7, 0.3], dtype=torch.float64)  # rho = 3 at 0.75
    x = torch.randn(5, 3, dtype=torch.float64)
    states = list(trajectory(sde, net, x=x, times=times, solver="euler", condition={"label": LABELS}))
    for state in states[1:5]:
        torch.testing.assert_close(state, x)
    assert float((states[5] - x).abs().min()) > 1e-3
    late = torch.tensor(0.5, dtype=torch.float64)
    plain = guided(CLASSES.denoiser(sde), SCALE, rule=CFGZero())
    torch.testing.assert_close(net(x, late, label=LABELS), plain(x, late, label=LABELS))


@pytest.mark.parametrize("rule", [APG(), APG(0.5, 0.1), CFGZero()])
def test_scale_1_and_the_outside_of_an_interval_are_the_conditional_branch(rule: Any) -> None:
    sde, x = KarrasSDE(), torch.randn(5, 3, dtype=torch.float64)
    plain = CLASSES.denoiser(sde)
    both = torch.tensor([0.1, 0.5, 0.5, 3.0, 0.5], dtype=torch.float64)  # of each sample its own
    wanted = plain(x, both, label=LABELS)
    torch.testing.assert_close(guided(plain, 1.0, rule=rule)(x, both, label=LABELS), wanted)
    found = guided(plain, SCALE, interval=(0.3, 2.0), rule=rule)(x, both, label=LABELS)
    same = torch.isclose(found, wanted, rtol=1e-9).all(1)
    assert same.tolist() == [True, False, False, True, False]


@dataclass(frozen=True, eq=False)
class GuidedMixture:
    """What measured_order() asks of a mixture, with a flow that is guided to class 1."""

    rule: Any = None

    def denoiser(self, sde: LinearSDE) -> BareDenoiser:
        net = guided(CLASSES.denoiser(sde), 2.0, rule=self.rule)
        return BareDenoiser(lambda x, t: net.score(x, t, label=torch.ones(len(x)).long()), sde, "score", net.data_std)

    def at(self, sde: LinearSDE, t: Tensor) -> GaussianMixture:
        return CLASSES.at(sde, t)


PLAIN = GuidedMixture()
COARSE, FINE = (24, 48, 96), (48, 96, 192)
CLAIMS = {"heun": (2, 0, COARSE), "dpm++": (2, 1, COARSE), "rk4": (4, 0, COARSE)}
REST = {
    "euler": (1, 0, COARSE),
    "dpm3": (3, 0, COARSE),
    "deis": (4, 3, FINE),
    "unipc": (4, 2, FINE),
    "midpoint": (2, 0, COARSE),
    "dpm2": (2, 0, COARSE),
    "dpm++2s": (2, 0, COARSE),
    "dpm++3s": (3, 0, COARSE),
    "dpm++3m": (3, 2, FINE),
    "lms": (4, 3, FINE),
    "ipndm": (2, 3, FINE),
}


@pytest.mark.parametrize("name", [*CLAIMS, *(pytest.param(name, marks=pytest.mark.slow) for name in REST)])
def test_orders_are_kept(name: str) -> None:
    order, history, steps = {**CLAIMS, **REST}[name]
    found = measured_order(name, history, VPSDE(), PLAIN, steps)  # type: ignore[arg-type]
    assert order - 0.2 < found < order + 0.8


@pytest.mark.slow
@pytest.mark.parametrize("rule", [APG(), CFGZero()])
def test_orders_are_kept_by_rules(rule: Any) -> None:
    found = measured_order("heun", 0, VPSDE(), GuidedMixture(rule), COARSE)  # type: ignore[arg-type]
    assert 1.8 < found < 2.5


class Counted(MLP):
    calls = 0

    def forward(self, *given: Any, **named: Any) -> Tensor:
        type(self).calls += 1
        return super().forward(*given, **named)


@pytest.mark.parametrize("label", [torch.tensor([0, 4, 3]), torch.tensor([0, -1, 3])])
def test_a_label_that_the_net_does_not_know_is_refused_before_any_call(label: Tensor) -> None:
    sde = VPSDE()
    plain = Denoiser(Counted(2, width=8, depth=1, classes=3), sde)
    Counted.calls = 0
    for net in (plain, guided(plain, 2.0)):
        with pytest.raises(ValueError, match=r"condition\['label'\] holds (4|-1); expected 0 to 3"):
            sample(sde, net, (3, 2), steps=3, condition={"label": label})
    assert Counted.calls == 0
    sample(sde, plain, (3, 2), steps=3, condition={"label": torch.tensor([0, 2, 3])})  # 3 stands for none
    assert Counted.calls == 3
    with pytest.raises(ValueError, match=r"null\['label'\] holds 7"):
        guided(plain, 2.0, null={"label": 7})


def test_labels_of_a_mixture_and_of_nets_that_do_not_say() -> None:
    sde = VPSDE()
    sparse = GaussianMixture(torch.randn(3, 2), 0.5, labels=[1, 4, 4])
    with pytest.raises(ValueError, match=r"condition\['label'\] holds 2, 3; expected \[1, 4\]"):
        sample(sde, guided(sparse.denoiser(sde), 2.0), (3, 2), condition={"label": torch.tensor([3, 2, 4])})

    class Silent(nn.Module):
        def forward(self, x: Tensor, c_noise: Tensor, label: Tensor) -> Tensor:
            return x * label[:, None]

    assert sample(sde, Denoiser(Silent(), sde), (2, 2), steps=2, condition={"label": torch.tensor([7, 0])}).shape == (
        2,
        2,
    )


def test_bad_rules_are_named() -> None:
    plain, guide = CLASSES.denoiser(VPSDE()), cast(Any, guided)
    for make, error, word in (
        (lambda: guide(plain, 2.0, rule="apg"), TypeError, "rule is 'apg'"),
        (lambda: APG(radius=0.0), ValueError, "radius=0.0"),
        (lambda: APG(parallel=float("nan")), ValueError, "parallel=nan"),
        (lambda: CFGZero(zero_above=0.0), ValueError, "zero_above=0.0"),
    ):
        with pytest.raises(error, match=word):
            make()
