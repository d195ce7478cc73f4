"""sample() and trajectory(): values that are not finite, what is refused, and the progress that is shown."""

import math
from typing import Any

import pytest
import torch
from named_solvers import NoCalls
from torch import Tensor, nn

from sdescore import SDE, VESDE, VPSDE, FlowSDE, GaussianMixture, KarrasSDE, OneStep, karras, sample, trajectory
from sdescore.solvers import AnnealedLangevin, EulerMaruyama, Langevin


def test_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str], oracle2: GaussianMixture) -> None:
    sde, net = VPSDE(), oracle2.denoiser(VPSDE())
    quiet = sample(sde, net, (5, 2), steps=4, batch_size=2)
    assert capsys.readouterr() == ("", "")
    loud = sample(sde, net, (5, 2), steps=4, batch_size=2, progress=True)
    out, err = capsys.readouterr()
    assert out == "" and "adams" in err and "12/12" in err
    assert torch.equal(quiet, loud)


class Breaking(nn.Module):
    """A score that is not finite for rows beyond a value, from a time on."""

    def __init__(self, below: float, value: float) -> None:
        super().__init__()
        self.below, self.value, self.calls = below, value, 0

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        self.calls += 1
        bad = (t < self.below) & (label == 1)
        return torch.where(bad.unsqueeze(1), self.value, -x)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["heun", "euler-maruyama"])
def test_values_that_are_not_finite(name: str, value: float) -> None:
    """The error names the solver, the step, its time, and the samples by their number in the set."""
    sde, net = VPSDE(), Breaking(0.55, value)
    label = torch.zeros(6)
    label[4] = 1
    times = torch.linspace(0.9, 0.1, 5)  # 0.9, 0.7, 0.5, 0.3, 0.1
    with pytest.raises(FloatingPointError, match=f"^{name}: ") as caught:
        sample(sde, net, (6, 2), solver=name, times=times, condition={"label": label}, batch_size=2, index_offset=100)
    # The net is first bad at 0.5: Heun meets it on the step that ends there, Euler-Maruyama on the next one.
    step, t = (2, 0.5) if name == "heun" else (3, 0.3)
    assert f"from step {step} of 5 (t = {t:g}) on, in sample 104" in str(caught.value)


def test_the_last_denoising_can_fail() -> None:
    net = Breaking(0.15, math.nan)
    condition = {"label": torch.ones(2)}
    with pytest.raises(FloatingPointError, match=r"from step 5 of 5 \(the last denoising\) on, in sample 0, 1"):
        sample(VPSDE(), net, (2, 2), times=torch.linspace(0.9, 0.1, 5), condition=condition, solver="euler-maruyama")


def test_padding_does_not_fail_for_the_samples() -> None:
    """The copies that fill the last batch have noise of their own; nobody asked for them."""
    sde = VPSDE()

    def net(x: Tensor, t: Tensor) -> Tensor:
        return torch.where((torch.arange(len(x)) == 1).unsqueeze(1), math.nan, -x)

    assert sample(sde, net, (1, 2), steps=3, batch_size=2).shape == (1, 2)
    with pytest.raises(FloatingPointError, match=r"in sample 1$"):
        sample(sde, net, (2, 2), steps=3, batch_size=2)


def test_a_solver_that_is_an_object_is_named_with_its_settings() -> None:
    with pytest.raises(FloatingPointError, match=r"^EulerMaruyama\(\): values are not finite from step 1 of 4"):
        sample(VPSDE(), lambda x, t: x * math.nan, (2, 2), solver=EulerMaruyama(), steps=4)


class NotLinear(SDE):
    drift = diffusion = prior_sample = prior_log_prob = lambda *_: torch.zeros(1)  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"solver": "hein"}, ValueError, r"solver='hein' is not installed; expected heun, "),
        ({"solver": OneStep}, TypeError, r"solver is .*; expected a name or an object"),
        ({"solver": 3}, TypeError, "solver is 3; expected a name or an object with solve"),
        ({"sde": NotLinear()}, TypeError, "expected a LinearSDE"),
        ({"sde": "VPSDE"}, TypeError, "sde is 'VPSDE'; expected a LinearSDE"),
        ({"net": "net"}, TypeError, "net is a str; expected a Denoiser or a callable"),
        ({"predicts": "epsilon"}, ValueError, "predicts='epsilon'; expected 'data'"),
        ({"shape": None}, ValueError, r"give one of shape, \(n, \*sample_shape\), and x"),
        ({"x": torch.zeros(4, 2)}, ValueError, "give one of shape"),
        ({"shape": None, "x": torch.zeros(4, 2, dtype=torch.long)}, TypeError, "x has dtype torch.int64"),
        (
            {"shape": None, "x": torch.tensor([[0.0, 0.0], [0.0, math.nan]])},
            ValueError,
            "x is not finite in sample 1",
        ),
        ({"shape": (4,)}, ValueError, r"shape=\(4,\); expected \(n, \*sample_shape\)"),
        ({"shape": (0, 2)}, ValueError, r"shape=\(0, 2\); expected .* positive numbers"),
        ({"shape": (4, -1)}, ValueError, r"shape=\(4, -1\)"),
        ({"steps": 0}, ValueError, "steps=0; expected a positive integer"),
        ({"steps": 5, "nfe": 10}, ValueError, "steps=5 and nfe=10 are both given"),
        ({"nfe": 2, "solver": "heun"}, ValueError, "nfe=2 is too small"),
        ({"nfe": 8, "solver": AnnealedLangevin(Langevin(repeats=0))}, ValueError, "nfe=8 sets no limit"),
        ({"nfe": 9, "solver": NoCalls()}, ValueError, r"NoCalls defines no nfe\(intervals\)"),
        ({"times": torch.tensor([0.9, 0.5]), "steps": 2}, ValueError, "leave steps and nfe out"),
        ({"times": torch.tensor([0.9, 0.5]), "nfe": 9}, ValueError, "leave steps and nfe out"),
        ({"times": torch.tensor([0.5, 0.9])}, ValueError, "strictly decreasing times"),
        ({"times": torch.tensor([0.5, 0.5])}, ValueError, "strictly decreasing times"),
        ({"times": torch.tensor([[0.5, 0.1]])}, ValueError, r"times has shape \(1, 2\)"),
        ({"times": torch.tensor([])}, ValueError, r"times has shape \(0,\)"),
        ({"times": torch.tensor([0.5, math.nan])}, ValueError, "strictly decreasing times"),
        ({"times": torch.tensor([0.5, 0.0])}, ValueError, r"times spans \[0, 0.5\], but VPSDE is used on \[1e-05, 1\]"),
        ({"times": torch.tensor([1.1, 0.5])}, ValueError, r"times spans \[0.5, 1.1\]"),
        ({"times": lambda sde, steps: torch.linspace(2, 1, steps)}, ValueError, "times spans"),
        ({"condition": {"label": torch.zeros(3)}}, ValueError, r"condition\['label'\] is \(3,\); .* length 4"),
        ({"condition": {"label": torch.tensor(1)}}, ValueError, r"condition\['label'\] is \(\)"),
        ({"condition": {"label": [1, 2, 3, 4]}}, ValueError, r"condition\['label'\] is list"),
        ({"batch_size": 0}, ValueError, "batch_size=0; expected a positive integer"),
    ],
)
def test_bad_input(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    called = []

    def net(x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        called.append(t)
        return -x

    given: dict[str, Any] = {"sde": VPSDE(), "net": net, "shape": (4, 2), **arguments}
    with pytest.raises(error, match=message):
        sample(**given)
    if "batch_size" not in given:
        with pytest.raises(error, match=message):
            trajectory(**given)  # at the call, not at the first state
    assert not called


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"shape": 5}, TypeError, r"shape=5; expected \(n, \*sample_shape\)"),
        ({"shape": (2.0, 2)}, TypeError, r"shape=\(2\.0, 2\)"),
        ({"times": [1.0, 0.5]}, TypeError, "times is a list"),
        ({"steps": 2.5}, TypeError, r"steps=2\.5"),
        ({"nfe": "7"}, TypeError, "nfe='7'"),
        ({"batch_size": 1.5}, TypeError, r"batch_size=1\.5"),
        ({"dtype": torch.int32}, TypeError, r"dtype=torch\.int32"),
    ],
)
def test_arguments_of_a_wrong_type_are_named(options: dict[str, Any], error: type[Exception], message: str) -> None:
    def never(x: Tensor, t: Tensor) -> Tensor:
        raise AssertionError("the net was called")

    with pytest.raises(error, match=message):
        sample(VPSDE(), never, **{"shape": (2, 2), **options})


def test_a_net_of_another_shape(oracle2: GaussianMixture) -> None:
    with pytest.raises(ValueError, match=r"shape=\(4, 3\) asks for samples \(3,\); the net makes \(2,\)"):
        sample(VPSDE(), oracle2.denoiser(VPSDE()), (4, 3))
    with pytest.raises(ValueError, match=r"shape=\(4, 3\) asks for samples"):
        sample(VPSDE(), oracle2.denoiser(VPSDE()), x=torch.zeros(4, 3))
    with pytest.raises(ValueError, match=r"net returned \(4, 1\) for x of shape \(4, 2\)"):
        sample(VPSDE(), lambda x, t: x[:, :1], (4, 2))


def test_levels_that_the_net_was_not_trained_on(oracle2: GaussianMixture) -> None:
    """VE noise reaches beyond the net's: given times there are refused by both ranges; default grids stay inside."""
    net = oracle2.denoiser(KarrasSDE(0.01, 20.0))
    with pytest.raises(ValueError, match=r"VESDE span lam in \[-3.91.*trained on KarrasSDE with lam in \[-2.99.*, 4.6"):
        sample(VESDE(), net, (4, 2), times=karras()(VESDE(), 10))
    inside = VESDE().time(torch.linspace(-2.9, 4.5, 10))
    assert bool(sample(VESDE(), net, (4, 2), times=inside).isfinite().all())
    with pytest.raises(ValueError, match="FlowSDE span lam"):
        sample(FlowSDE(), net, (4, 2), times=karras()(FlowSDE(), 10))
    assert bool(sample(FlowSDE(), net, (4, 2)).isfinite().all())
