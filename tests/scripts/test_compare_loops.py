"""The comparison with diffusers' loop: samplers of both sides on small nets, one side alone, what is there already."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from scripting import NEEDS_SCRIPTS, refused
from small_nets import filled

from sdescore import Denoiser, DiscreteSDE, KarrasSDE, Scaling, sample
from sdescore.nets import MLP, UNet
from sdescore.sampling.fitting import distances

pytestmark = NEEDS_SCRIPTS


def saved(folder: Path, sde: Any, predicts: str) -> Denoiser:
    torch.manual_seed(0)
    net = UNet(1, 8, base_width=8, multipliers=(1,), blocks=1, attention=())
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    denoiser = Denoiser(net, sde, predicts, 0.5, shape=(1, 8, 8), scaling=Scaling(0, 16, 17))
    denoiser.save_pretrained(folder)
    return denoiser.eval()


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    saved(tmp_path / "own", KarrasSDE(), "edm")
    saved(tmp_path / "theirs", DiscreteSDE.from_betas(torch.linspace(1e-4, 0.02, 1000)), "noise")
    named = {"own": tmp_path / "own", "theirs": tmp_path / "theirs", "out": tmp_path / "out"}
    settings = {
        "nfe": "[2, 3]",
        "count": 20,
        "batch_size": 8,
        "data": "digits",
        "features": "sdescore.cli.digits_judge:features",
    }
    return [f"--{name}={value}" for name, value in (named | settings).items()]


def test_one_side_and_then_the_other(script: Callable[[str], Any], arguments: list[str], tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    main, out = script("bench.compare_loops").main, tmp_path / "out"
    main([*arguments, "--solvers=[ddim]", "--schedulers=[]"])
    assert (out / "picture.png").exists()
    before = {path: path.stat().st_mtime_ns for path in out.glob("sdescore-*")}
    assert len(before) == 4
    main([*arguments, "--solvers=[ddim]", "--schedulers=[DDIM, DDPM, UniPC, DPM-Solver++]"])
    assert {path: path.stat().st_mtime_ns for path in before} == before
    found = json.loads((out / "results.json").read_text())
    assert len(found["rows"]) == 10 and all(row["Fréchet"] > 0 for row in found["rows"])
    assert "diffusers, UniPC" in (out / "table.md").read_text()


def test_samples_do_not_depend_on_the_batch(script: Callable[[str], Any], tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    loops = script("bench.compare_loops")
    own = saved(tmp_path / "own", KarrasSDE(), "edm")
    theirs = saved(tmp_path / "theirs", DiscreteSDE.from_betas(torch.linspace(1e-4, 0.02, 1000)), "noise")
    config = loops.CompareConfig("own", "theirs", "out", ["heun"], ["DDIM"], [5])
    for draw in (loops.ours(own, "heun", 5, config), loops.theirs(theirs, "DDIM", 5, config)):
        whole, parts = draw(range(6)), torch.cat([draw(range(2)), draw(range(2, 6))])
        torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        loops.ours(own, "heun", 5, config)(range(6)), sample(own.sde, own, (6, 1, 8, 8), solver="heun", nfe=5, seed=0)
    )


def test_both_sides_begin_with_one_noise(script: Callable[[str], Any], tmp_path: Path) -> None:
    pytest.importorskip("diffusers")
    loops = script("bench.compare_loops")
    own = saved(tmp_path / "own", KarrasSDE(), "edm")
    theirs = saved(tmp_path / "theirs", DiscreteSDE.from_betas(torch.linspace(1e-4, 0.02, 1000)), "noise")
    config, seen = loops.CompareConfig("own", "theirs", "out", [], [], [5]), []
    for denoiser, make, name in ((own, loops.ours, "heun"), (theirs, loops.theirs, "DDIM")):
        starts: list[torch.Tensor] = []
        with denoiser.net.register_forward_pre_hook(lambda _, given, starts=starts: starts.append(given[0])):
            make(denoiser, name, 5, config)(range(3, 7))
        seen.append(starts[0])
    torch.testing.assert_close(*seen, rtol=1e-3, atol=1e-3)


def test_fitted_times_are_nearer_to_the_flow(script: Callable[[str], Any], tmp_path: Path) -> None:
    loops = script("bench.compare_loops")
    own = Denoiser(filled(MLP(3, width=32, depth=2), 0.3), KarrasSDE(), "edm", shape=(3,))
    own.save_pretrained(tmp_path / "own")
    config = loops.CompareConfig("own", "theirs", "out", [], [], [7], fitted=("heun",))
    assert list(loops.jobs(replace(config, own=str(tmp_path / "own")))) == [("sdescore", "heun, fitted times", 7)]
    exact = sample(own.sde, own, (8, 3), nfe=200)
    plain, fitted = (
        float(distances(make(own, "heun", 7, config)(range(8)), exact).median()) for make in (loops.ours, loops.fitted)
    )
    assert fitted < 0.8 * plain


def test_a_model_that_is_not_theirs(
    script: Callable[[str], Any], arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("diffusers")
    main = script("bench.compare_loops").main
    swapped = [*arguments, f"--theirs={tmp_path / 'own'}", "--solvers=[]", "--schedulers=[DDIM]"]
    assert "is no model of diffusers_loop.py" in refused(main, swapped, capsys)
    assert "expected DDIM" in refused(main, [*arguments, "--solvers=[]", "--schedulers=[nope]"], capsys)
