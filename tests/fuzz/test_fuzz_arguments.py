"""Anything in place of the arguments of public functions: a right answer, or an error that names one of them."""

from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from fuzzing import TooLong, answer, anything, fuzz, same
from torch import Tensor

import sdescore
from sdescore import VPSDE, Denoiser, GaussianMixture, Scaling, sampling
from sdescore.denoisers import convert
from sdescore.density import GaussianFit, scale_temperature, slerp
from sdescore.evaluation import metrics
from sdescore.mcmc import annealed_langevin, effective_sample_size, hmc, langevin, mala
from sdescore.nets import MLP
from sdescore.objectives import (
    denoising_score_matching,
    explicit_score_matching,
    finite_difference_energy_matching,
    finite_difference_score_matching,
    implicit_score_matching,
    sliced_score_matching,
    variance_reduced_score_matching,
)
from sdescore.operators import Downsample, Mask
from sdescore.processes import simulate
from sdescore.sampling import reverse_sample
from sdescore.training.averages import HalfLife, PowerFunction
from sdescore.training.config import TrainConfig

pytestmark = pytest.mark.fuzz

SDE = VPSDE()
MIXTURE = GaussianMixture(torch.tensor([[-0.5, 0.5], [0.5, 0.0]]), 0.5)
NET = MIXTURE.denoiser(SDE)
LEARNT = Denoiser(MLP(2, width=4, depth=1, classes=3), SDE, shape=(2,))


def x() -> Tensor:
    return torch.linspace(-1, 1, 6).reshape(3, 2)


def levels() -> Tensor:
    return torch.tensor([[-1.0, 0.0], [1.0, 0.5], [-0.5, 0.0]])


SCORE: dict[str, Any] = {"score": lambda x: -x, "x": x}
RUN: dict[str, Any] = {"sde": SDE, "net": NET, "condition": None, "predicts": None, "batch_size": None, "seed": 0}
OFFSET: dict[str, Any] = {"index_offset": 0}
LOOSE: dict[str, Any] = {"rtol": 1e-2, "atol": 1e-2}

# Each function with arguments that are right; those that are functions without arguments are made for each case.
TARGETS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "sample": (
        sdescore.sample,
        RUN | OFFSET | {"shape": (3, 2), "solver": "dpm++", "steps": 3, "dtype": None, "device": None, "grad": False},
    ),
    "sample from x": (sdescore.sample, RUN | OFFSET | {"x": x, "nfe": 3, "solver": "ddpm", "times": None}),
    "sample a net": (sdescore.sample, RUN | {"net": LEARNT, "shape": (3, 2), "steps": 2, "times": None}),
    "trajectory": (
        lambda **each: list(sdescore.trajectory(**each)),
        {"sde": SDE, "net": NET, "shape": (3, 2), "steps": 3},
    ),
    "likelihood": (
        sdescore.likelihood,
        RUN | OFFSET | LOOSE | {"x": x, "trace": "exact", "probes": 1, "control": None, "prior": None},
    ),
    "elbo": (sdescore.elbo, RUN | OFFSET | {"x": x, "levels": 2, "groups": 2, "prior": None}),
    "encode": (sdescore.encode, {"sde": SDE, "net": NET, "x": x, "condition": None} | LOOSE),
    "decode": (sdescore.decode, {"sde": SDE, "net": NET, "z": x, "condition": None} | LOOSE),
    "quantised_likelihood": (
        sdescore.quantised_likelihood,
        RUN | OFFSET | LOOSE | {"x": levels, "scaling": Scaling(0, 4, 5), "draws": 1},
    ),
    "dequantize": (sdescore.dequantize, {"x": levels, "scaling": Scaling(0, 4, 5), "seed": 0} | OFFSET),
    "slerp": (slerp, {"a": x, "b": lambda: x() + 1, "weight": 0.5}),
    "scale_temperature": (scale_temperature, {"z": x, "temperature": 0.5}),
    "GaussianFit.of": (GaussianFit.of, {"data": x}),
    "langevin": (langevin, SCORE | {"step": 0.1, "steps": 2, "thin": 1, "seed": 0}),
    "annealed_langevin": (
        annealed_langevin,
        {"score": lambda x, s: -x, "x": x, "sigmas": lambda: torch.tensor([1.0, 0.5])}
        | {"step": 0.01, "repeats": 1, "seed": 0},
    ),
    "hmc": (
        hmc,
        {
            "log_density": lambda x: -x.square().sum(1),
            "x": x,
            "step": 0.1,
            "steps": 2,
            "leapfrog": 1,
            "thin": 1,
            "seed": 0,
        },
    ),
    "mala": (mala, {"log_density": lambda x: -x.square().sum(1), "x": x, "step": 0.1, "steps": 2, "seed": 0}),
    "effective_sample_size": (effective_sample_size, {"trace": lambda: torch.randn(8, 2, 2)}),
    "explicit": (explicit_score_matching, SCORE | {"target": x}),
    "implicit": (implicit_score_matching, SCORE),
    "sliced": (sliced_score_matching, SCORE | {"v": None, "projections": 2}),
    "variance reduced": (variance_reduced_score_matching, SCORE | {"v": None, "projections": 2}),
    "finite difference": (finite_difference_score_matching, SCORE | {"step": 0.05, "v": None, "projections": 1}),
    "finite difference of an energy": (
        finite_difference_energy_matching,
        {"log_density": lambda x: -x.square().sum(1), "x": x, "step": 0.05, "v": None, "projections": 1},
    ),
    "denoising": (
        denoising_score_matching,
        {"model": NET, "x0": x, "weighting": "simple", "time_distribution": "uniform", "u": None, "eps": None}
        | {"condition": None},
    ),
    "convert": (
        convert,
        {"prediction": x, "x": x, "t": lambda: torch.tensor(0.5), "sde": SDE, "given": "noise", "wanted": "v"}
        | {"data_std": 0.5},
    ),
    "Denoiser": (Denoiser, {"net": MLP(2, width=4), "sde": SDE, "predicts": "noise", "data_std": 0.5, "scaling": None}),
    "denoiser(x, t)": (LEARNT, {"x": x, "t": lambda: torch.tensor(0.5)}),
    "denoiser.score": (NET.score, {"x": x, "t": lambda: torch.full((3,), 0.5)}),
    "GaussianMixture": (GaussianMixture, {"means": x, "stds": 0.5, "weights": None, "dtype": None, "labels": None}),
    "mixture.sample": (MIXTURE.sample, {"n": 3, "seed": 0}),
    "mixture.log_prob": (MIXTURE.log_prob, {"x": x}),
    "mixture.at": (MIXTURE.at, {"sde": SDE, "t": 0.5}),
    "Scaling": (Scaling, {"low": 0.0, "high": 1.0, "levels": None}),
    "scaling.to_model": (Scaling(-2, 2, None).to_model, {"raw": x}),
    "VPSDE": (VPSDE, {"beta_min": 0.1, "beta_max": 20.0}),
    "KarrasSDE": (sdescore.KarrasSDE, {"sigma_min": 0.01, "sigma_max": 80.0}),
    "DiscreteSDE": (sdescore.DiscreteSDE.from_betas, {"betas": lambda: [0.1, 0.2, 0.3]}),
    "perturb": (SDE.perturb, {"x0": x, "t": lambda: torch.tensor(0.5), "eps": x}),
    "simulate": (
        simulate,
        {"sde": SDE, "x0": x, "times": lambda: torch.tensor([0.1, 0.2]), "method": "euler", "seed": 0},
    ),
    "reverse_sample": (
        reverse_sample,
        {"sde": SDE, "score": lambda x, t: -x, "shape": (3, 2), "steps": 2, "seed": 0, "condition": None} | OFFSET,
    ),
    "karras": (lambda **each: sampling.karras(**each)(SDE, 4), {"rho_min": 0.002, "power": 7.0}),
    "frechet": (metrics.frechet_distance, {"first": x, "second": x}),
    "kernel": (
        metrics.kernel_distance,
        {"first": lambda: torch.randn(4, 2), "second": lambda: torch.randn(4, 2), "groups": 2},
    ),
    "precision": (metrics.precision_recall, {"real": x, "samples": x, "neighbours": 1}),
    "nearest": (metrics.nearest, {"samples": x, "data": x, "count": 1}),
    "wasserstein": (metrics.sliced_wasserstein, {"first": x, "second": x, "projections": 2, "seed": 0}),
    "guided": (
        lambda **each: sdescore.guided(**each)(x(), torch.tensor(0.5), label=torch.zeros(3, dtype=torch.long)),
        {"denoiser": LEARNT, "scale": 2.0},
    ),
    "Mask": (lambda mask: Mask(mask).A(x()), {"mask": lambda: torch.tensor([True, False])}),
    "Downsample": (lambda factor: Downsample(factor).A(torch.zeros(1, 1, 4, 4)), {"factor": 2}),
    "HalfLife": (HalfLife, {"images": 100.0, "warmup": 0.05}),
    "PowerFunction": (PowerFunction, {"width": 0.1}),
    "TrainConfig": (
        lambda **each: replace(TrainConfig(), **each),
        {
            name: getattr(TrainConfig(), name)
            for name in ("steps", "flips", "net", "lr", "betas", "seed", "sde", "data_std")
        }
        | {"ema_halflives": (100,), "batch_size": 8, "weighting": "simple", "net_args": {}},
    ),
}


# Which take numbers in any form where the others take tensors alone.
NUMBERS = {"GaussianMixture", "DiscreteSDE"}


@pytest.mark.parametrize("name", TARGETS)
def test_arguments(name: str) -> None:
    function, right = TARGETS[name]

    def check(case: dict[str, Any]) -> None:
        given = {key: value() if value in (x, levels) or _made(value) else value for key, value in right.items()} | case
        kept = {key: value.clone() for key, value in given.items() if isinstance(value, Tensor)}
        state, mode = torch.get_rng_state(), LEARNT.training
        # A wrong value of one argument may be noticed as one that does not fit another.
        huge = any(isinstance(value, int) and value >= 2**20 for value in case.values())
        with suppress(TooLong) if huge else nullcontext():  # which is what so many steps take
            found = answer(lambda: function(**given))
            assert all(same(value, given[key]) for key, value in kept.items()), "it wrote over what it was given"
            assert LEARNT.training == mode and all(each.requires_grad for each in LEARNT.parameters())
            if isinstance(found, Exception):
                return
            for key, value in case.items():
                assert not _of_another_kind(right[key], value, name in NUMBERS), f"it took {key}={value!r}"
            if "seed" in right:
                assert torch.equal(state, torch.get_rng_state()), "it drew from the global generator"
            plain = {key: _plain(value) for key, value in given.items()}
            again = answer(lambda: function(**plain))  # numbers of NumPy and torch as Python's
            assert {"v", "u"} & set(right) or same(found, again), (found, again)  # but where there is no seed

    one = st.sampled_from(sorted(right))
    cases = st.dictionaries(one, anything(), min_size=1, max_size=2)
    fuzz(check, cases, 0.35 / len(TARGETS), name)


def _of_another_kind(right: Any, value: Any, numbers: bool) -> bool:
    """Whether nothing can be meant by a value in the place of a right one."""
    if isinstance(right, bool):
        return not isinstance(value, bool)
    if isinstance(right, int):
        return isinstance(value, bool | np.bool_ | float | str | list | dict)
    if isinstance(right, float):
        return isinstance(value, bool | str | list | dict) or (isinstance(value, float) and value != value)
    if right in (x, levels):
        return not isinstance(value, Tensor) and not numbers
    return False


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) and not isinstance(value, np.bool_) else value


def _made(value: Any) -> bool:
    """Whether this makes an argument, rather than being one."""
    return callable(value) and getattr(value, "__name__", "") == "<lambda>" and value.__code__.co_argcount == 0


def test_the_right_arguments_are_right() -> None:
    for name, (function, right) in TARGETS.items():
        arguments = {key: value() if value in (x, levels) or _made(value) else value for key, value in right.items()}
        found = answer(partial(function, **arguments))
        assert not isinstance(found, Exception), (name, found)
