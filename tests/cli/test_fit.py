"""scripts/fit_times.py and the solver benchmark: what they leave, and what sampling makes of a file of times."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scripting import NEEDS_SCRIPTS, refused

from sdescore import Denoiser, KarrasSDE, sample
from sdescore.nets import MLP

pytestmark = NEEDS_SCRIPTS


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
    script: Callable[[str], Any], model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, common = tmp_path / "times.json", ["--model", model, "--solver", "heun"]
    script("fit_times").main([*common, "--nfe", "9", "--pilots", "12", "--runs", "40", "--out", str(out)])
    known = json.loads(out.read_text())
    assert known["distance"]["fitted"] < 0.9 * known["distance"]["own"]
    assert f"{known['distance']['fitted']:.3g} with those in {out}" in capsys.readouterr().out
    assert out.with_suffix(".png").stat().st_size > 5000

    draws = [*common, "--count", "5", "--times", str(out)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        script("sample").main([*draws, "--out", str(tmp_path / "samples")])
    with np.load(tmp_path / "samples/samples.npz") as file:
        found = torch.from_numpy(file["x"])
    denoiser = Denoiser.from_pretrained(model)
    times = torch.tensor(known["times"], dtype=torch.float64)
    assert torch.equal(found, sample(denoiser.sde, denoiser, (5, 3), solver="heun", times=times, batch_size=256))

    # Times of other steps, under the same name, are other samples.
    out.write_text(json.dumps(known | {"times": known["times"][1:]}))
    said = refused(script("sample").main, [*draws, "--out", str(tmp_path / "samples")], capsys)
    assert "samples of other settings (saved, given): times" in said

    out.write_text(json.dumps(known | {"weights": "others"}))
    with pytest.warns(UserWarning, match="fitted to a net of other weights"):
        script("sample").main([*draws, "--out", str(tmp_path / "others")])


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("{", [], "is no file of fit_times.py"),
        ("[1.0]", [], "is no file of fit_times.py"),
        ({"weights": None}, [], "is no file of fit_times.py"),
        ({"solver": "heun"}, [], "were fitted for ('heun', {})"),
        ({"times": [1.0, 2.0]}, [], "strictly decreasing times"),
        ({}, ["--nfe", "9"], "leave steps and nfe out"),
        ({}, ["--grid", "karras"], "are both given"),
    ],
)
@pytest.mark.filterwarnings("ignore:times=.* other weights")
def test_bad_files_of_times_are_named(
    text: str | dict[str, Any],
    arguments: list[str],
    message: str,
    script: Callable[[str], Any],
    model: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if not isinstance(text, str):
        known = {"solver": "adams", "solver_args": {}, "weights": "", "times": [2.0, 1.0]} | text
        text = json.dumps({name: value for name, value in known.items() if value is not None})
    (tmp_path / "times.json").write_text(text)
    given = ["--model", model, "--times", str(tmp_path / "times.json"), "--out", str(tmp_path / "out"), *arguments]
    assert message in refused(script("sample").main, given, capsys)


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
    arguments: list[str],
    message: str,
    script: Callable[[str], Any],
    model: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = ["--model", model, "--nfe", "9", "--out", str(tmp_path / "times.json"), "--pilots", "4", *arguments]
    assert message in refused(script("fit_times").main, given, capsys)


def test_the_benchmark_of_solvers_ranks_and_compares(script: Callable[[str], Any], tmp_path: Path) -> None:
    module = script("bench_solvers")
    config = module.BenchConfig(
        out=str(tmp_path), dims=4, components=3, count=24, budgets=(5, 8), peers=False, fitted=("adams",)
    )
    module.bench(config)
    rows = {row["method"]: row for row in json.loads((tmp_path / "results.json").read_text())["rows"]}
    assert rows["sdescore adams, fitted"]["5"]["median"] < rows["sdescore adams, approaching"]["5"]["median"]
    problem = module.find_problem(config)
    for name, nfe in (("ddim", 8), ("heun", 5)):
        solver, grid = module.OURS[name], module.GRIDS["lam"]
        found = sample(problem.sde, problem.denoiser, x=problem.x, solver=solver, nfe=nfe, times=grid)
        distance = (found - problem.exact).square().mean(1).sqrt()
        assert rows[f"sdescore {name}, lam"][str(nfe)]["median"] == pytest.approx(float(distance.median()))
    table = (tmp_path / "table.md").read_text()
    assert table.startswith("VP, 3 Gaussians of std 0.1 in 4 dimensions, seed 0, 24 noises")
    assert "| sdescore ddim, t " in table and (tmp_path / "error.png").stat().st_size > 5000
