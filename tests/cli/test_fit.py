"""`sdescore fit`: what it leaves, and what sampling makes of a file of times."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scripting import Refusal

from sdescore import Denoiser, KarrasSDE, sample
from sdescore.cli import main
from sdescore.nets import MLP


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A small net with weights at random: its flow is as good as another."""
    torch.manual_seed(0)
    net = MLP(3, width=32, depth=2)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    Denoiser(net, KarrasSDE(), "edm", shape=(3,)).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_fitted_times_are_written_and_sampled_with(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], refusal: Refusal
) -> None:
    out, common = tmp_path / "times.json", ["--model", model, "--solver", "heun"]
    main(["fit", *common, "--nfe", "9", "--pilots", "12", "--runs", "40", "--out", str(out)])
    known = json.loads(out.read_text())
    assert known["distance"]["fitted"] < 0.9 * known["distance"]["own"]
    assert f"{known['distance']['fitted']:.3g} with those in {out}" in capsys.readouterr().out
    assert out.with_suffix(".png").stat().st_size > 5000

    draws = [*common, "--count", "5", "--times", str(out)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        main(["sample", *draws, "--out", str(tmp_path / "samples")])
    with np.load(tmp_path / "samples/samples.npz") as file:
        found = torch.from_numpy(file["x"])
    denoiser = Denoiser.from_pretrained(model)
    times = torch.tensor(known["times"], dtype=torch.float64)
    assert torch.equal(found, sample(denoiser.sde, denoiser, (5, 3), solver="heun", times=times, batch_size=256))

    # Times of other steps, under the same name, are other samples.
    out.write_text(json.dumps(known | {"times": known["times"][1:]}))
    said = refusal("sample", *draws, "--out", str(tmp_path / "samples"))
    assert "samples of other settings (saved, given): times" in said

    out.write_text(json.dumps(known | {"weights": "others"}))
    with pytest.warns(UserWarning, match="fitted to a net of other weights"):
        main(["sample", *draws, "--out", str(tmp_path / "others")])


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("{", [], "is no file of `sdescore fit`"),
        ("[1.0]", [], "is no file of `sdescore fit`"),
        ({"weights": None}, [], "is no file of `sdescore fit`"),
        ({"solver": "heun"}, [], "were fitted for ('heun', {})"),
        ({"times": [1.0, 2.0]}, [], "strictly decreasing times"),
        ({}, ["--nfe", "9"], "leave steps and nfe out"),
        ({}, ["--grid", "karras"], "are both given"),
    ],
)
@pytest.mark.filterwarnings("ignore:times=.* other weights")
def test_bad_files_of_times_are_named(
    text: str | dict[str, Any], arguments: list[str], message: str, model: str, tmp_path: Path, refusal: Refusal
) -> None:
    if not isinstance(text, str):
        known = {"solver": "adams", "solver_args": {}, "weights": "", "times": [2.0, 1.0]} | text
        text = json.dumps({name: value for name, value in known.items() if value is not None})
    (tmp_path / "times.json").write_text(text)
    given = ["--model", model, "--times", str(tmp_path / "times.json"), "--out", str(tmp_path / "out"), *arguments]
    assert message in refusal("sample", *given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--solver", "ddpm"], "draws noise; expected solvers of the probability-flow ODE"),
        (["--pilots", "0"], "pilots=0; expected"),
        (["--out", "times"], "expected the name of a .json file"),
        (["--nfe", "1"], "nfe=1 is too small"),
    ],
)
def test_bad_settings_of_a_fit_are_named(
    arguments: list[str], message: str, model: str, tmp_path: Path, refusal: Refusal
) -> None:
    given = ["--model", model, "--nfe", "9", "--out", str(tmp_path / "times.json"), "--pilots", "4", *arguments]
    assert message in refusal("fit", *given)
