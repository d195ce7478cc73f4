"""EDM's and EDM2's checkpoints as denoisers, against what the originals returned."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from edm_originals import checkpoint, inputs, names_and_shapes, picked, whole_state
from torch import Tensor

from sdescore import VESDE, VPSDE, Denoiser, KarrasSDE, Scaling, sample
from sdescore.interop import load_edm

CASES: dict[str, Any] = json.loads((Path(__file__).parent / "edm_numbers.json").read_text("utf-8"))["cases"]


def data_prediction(denoiser: Denoiser, case: dict[str, Any], dtype: torch.dtype) -> Tensor:
    """What the originals return: of x = x0 + sigma eps, by sigma."""
    x, sigma, label, augment = inputs(case)
    given = {"label": label} if "label_dim" in case["kwargs"] else {}
    given |= {"augment": augment} if "augment_dim" in case["kwargs"] else {}
    t = denoiser.sde.time(-sigma.log())
    alpha = denoiser.sde.alpha(t)[:, None, None, None]
    with torch.no_grad():
        return denoiser.to(dtype)((alpha * x).to(dtype), t.to(dtype), **given)


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_those_of_the_original(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    denoiser = load_edm(checkpoint(tmp_path / "network.pkl", case))
    assert not denoiser.training
    scale = torch.tensor(case["sigma"]).clamp(min=1)[:, None]
    expected = torch.tensor(case["values"], dtype=torch.float64)
    for dtype in (torch.float32, torch.float64):
        error = (picked(data_prediction(denoiser, case, dtype)) - expected).abs() / scale
        assert error.max() < 1e-5, dtype


@pytest.mark.parametrize("name", CASES)
def test_weights_have_the_names_and_shapes_of_the_original(name: str) -> None:
    assert names_and_shapes(whole_state(CASES[name])) == CASES[name]["names_and_shapes"]


@pytest.mark.parametrize("name", ["NCSN++ under VE", "ADM under iDDPM", "EDM2"])
def test_it_can_be_saved_as_any_other(name: str, tmp_path: Path) -> None:
    denoiser = load_edm(checkpoint(tmp_path / "network.pkl", CASES[name]))
    denoiser.save_pretrained(tmp_path / "saved")
    again = Denoiser.from_pretrained(tmp_path / "saved")
    assert (again.sde, again.terms, again.shape) == (denoiser.sde, denoiser.terms, denoiser.shape)
    first, second = (data_prediction(each, CASES[name], torch.float32) for each in (denoiser, again))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("name", "changes", "process"),
    [
        ("DDPM++ under VP", {}, VPSDE(0.1, 20.0)),
        ("DDPM++ under VP", {"beta_min": 0.2, "beta_d": 10.0}, VPSDE(0.2, 10.2)),
        ("NCSN++ under VE", {}, VESDE(0.02, 100.0)),
        ("NCSN++ under VE", {"sigma_max": 50.0}, VESDE(0.02, 50.0)),
        ("ADM under EDM", {}, KarrasSDE()),
        ("EDM2", {}, KarrasSDE()),
    ],
)
def test_the_process_is_that_of_the_checkpoint(
    name: str, changes: dict[str, Any], process: Any, tmp_path: Path
) -> None:
    case = {**CASES[name], "kwargs": {**CASES[name]["kwargs"], **changes}}
    assert load_edm(checkpoint(tmp_path / "network.pkl", case)).sde == process


def test_the_table_of_iddpm_is_its_process(tmp_path: Path) -> None:
    case = CASES["ADM under iDDPM"]
    sde = load_edm(checkpoint(tmp_path / "network.pkl", case)).sde
    rho = sde.rho(torch.arange(20.0, dtype=torch.float64)).flip(0)
    torch.testing.assert_close(rho, torch.tensor(case["u"][:-1], dtype=torch.float64))


def test_arguments_by_position_are_those_of_the_original(tmp_path: Path) -> None:
    case = CASES["EDM2"]
    kwargs = dict(case["kwargs"])
    given = {name: kwargs.pop(name) for name in ("img_resolution", "img_channels", "label_dim")}
    file = checkpoint(tmp_path / "network.pkl", {**case, "kwargs": kwargs}, args=tuple(given.values()), built=case)
    torch.testing.assert_close(
        data_prediction(load_edm(file), case, torch.float32),
        data_prediction(load_edm(checkpoint(tmp_path / "named.pkl", case)), case, torch.float32),
    )


@pytest.mark.parametrize(
    ("encoder", "scaling"), [(None, Scaling()), ("StandardRGBEncoder", Scaling()), ("StabilityVAEEncoder", None)]
)
def test_images_have_a_scaling_and_latents_none(encoder: str | None, scaling: Scaling | None, tmp_path: Path) -> None:
    file = checkpoint(tmp_path / "network.pkl", CASES["EDM2"], encoder=encoder)
    assert load_edm(file).scaling == scaling


def test_weights_in_half_precision_are_read_as_float32(tmp_path: Path) -> None:
    case = CASES["EDM2"]
    denoiser = load_edm(checkpoint(tmp_path / "network.pkl", case, dtype=torch.float16))
    assert {x.dtype for x in denoiser.state_dict().values()} == {torch.float32}
    error = picked(data_prediction(denoiser, case, torch.float32)) - torch.tensor(case["values"])
    assert 1e-5 < (error.abs() / torch.tensor(case["sigma"]).clamp(min=1)[:, None]).max() < 1e-2


def test_a_net_of_one_process_samples_on_another(tmp_path: Path) -> None:
    denoiser = load_edm(checkpoint(tmp_path / "network.pkl", CASES["DDPM++ under VP"]))
    times = torch.tensor([80.0, 5.0, 0.5, 0.02])
    label = torch.tensor([0, 3])
    x = sample(KarrasSDE(), denoiser, (2, 2, 8, 8), times=times, solver="euler", condition={"label": label}, seed=0)
    other = sample(
        denoiser.sde,
        denoiser,
        (2, 2, 8, 8),
        solver="euler",
        condition={"label": label},
        seed=0,
        times=denoiser.sde.time(-times.double().log()).float(),
    )
    torch.testing.assert_close(x, other, rtol=1e-3, atol=1e-3)
