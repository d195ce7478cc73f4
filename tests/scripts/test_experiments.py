"""Every experiment runs by one command within five minutes of one processor, and shows what the tutorial says.

Minutes each, so slow: `pytest -m slow tests/scripts/test_experiments.py`.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from scripting import NEEDS_SCRIPTS, SCRIPTS

pytestmark = [pytest.mark.slow, NEEDS_SCRIPTS]


def run(script: str, picture: str, out: Path) -> Any:
    """The numbers of a script that is run as its user runs it."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "experiments" / script), "--out", str(out)],
        capture_output=True,
        text=True,
        cwd=out,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr[-2000:]
    assert after.ru_utime - before.ru_utime < 300
    assert "%|" in done.stderr  # a bar of progress
    assert 10_000 < (out / picture).stat().st_size < 400_000
    numbers = (out / picture).with_suffix(".json")
    return json.loads(numbers.read_text("utf-8")) if numbers.exists() else None


def test_the_sliced_loss_settles_only_with_noise(tmp_path: Path) -> None:
    found = run("manifold.py", "manifold.png", tmp_path)
    raw, noise = found["raw"], found["noise"]
    assert raw["last_quarter"] < 2 * raw["third_quarter"] < 0  # still falling
    assert noise["last_quarter"] == pytest.approx(noise["third_quarter"], rel=0.2) and noise["relative_spread"] < 0.1


def test_the_score_is_wrong_where_no_data_is(tmp_path: Path) -> None:
    found = run("low_density.py", "low_density.png", tmp_path)
    assert found["grid, density below 1e-8"] > 10 * max(
        found["at the data: large mode"], found["at the data: small mode"]
    )


def test_annealing_and_the_reverse_sde_get_the_weights(tmp_path: Path) -> None:
    """10,000 samples: the standard error of a right share is 0.004."""
    found = run("weights.py", "weights.png", tmp_path)
    for sampler in ("annealed Langevin", "reverse SDE"):
        assert found[sampler]["exact"] == pytest.approx(0.2, abs=0.02)
        assert 0 < found[sampler]["learnt"] < 1  # reported beside
    assert abs(found["Langevin"]["exact"] - 0.2) > 0.1


def test_objectives_reach_the_same_divergence_and_energies_the_density(tmp_path: Path) -> None:
    """Within 0.006 of explicit matching with the same nets and as many samples: 0.3 % of the divergence of s = 0."""
    found = run("objectives.py", "objectives.png", tmp_path)
    scores = found["scores"]
    assert len(scores) == 7
    for name, one in scores.items():
        floor = scores["explicit, noised" if name == "denoising" else "explicit"]
        assert abs(one["fisher_divergence"] - floor["fisher_divergence"]) < 0.006, name
        assert one["standard_error"] < 0.001 and one["share_of_zero"] < 0.005
    assert max(found["energy_kl"].values()) < 0.02


def test_one_net_serves_every_sampler(tmp_path: Path) -> None:
    found = run("one_net.py", "one_net.png", tmp_path)
    assert len(found) == 6 and max(found.values()) < 0.004


def test_a_learnt_process_without_kernel_returns_to_the_data(tmp_path: Path) -> None:
    found = run("cir.py", "cir.png", tmp_path)
    assert len(found) == 4 and max(found.values()) < 0.03


def test_forward_and_reverse_are_a_film(tmp_path: Path) -> None:
    run("animation.py", "animation.gif", tmp_path)


def test_the_forecast_is_reported_for_three_seeds_before_and_after(tmp_path: Path) -> None:
    found = run("forecast.py", "forecast.png", tmp_path)
    assert len(found) == 3
    for seed in found:
        assert {"no refinement", "residual perceptron", "conditional score model"} < seed.keys() and len(seed) == 6
        assert all(0 < mse < 2 and 0 < crps < 1 for mse, crps in seed.values())


def test_guidance_gets_its_classes_and_another_law_than_the_tilted_one(tmp_path: Path) -> None:
    found = run("guidance.py", "guidance.png", tmp_path)
    digits, plane = found["digits"], found["plane"]
    right = {way: numbers[0] for way, numbers in digits.items()}
    assert 0.9 < right["scale 1"] <= right["scale 2"] and right["scale 8"] < right["scale 8, APG"]
    exact, guided = plane["tilted, by quadrature"], plane["guided, w = 3"]
    assert abs(guided[0] - exact[0]) > 0.2
    assert plane["corrected"] == pytest.approx(exact, abs=0.06)  # standard errors are about 0.015


def test_posteriors_of_digits_fit_what_is_measured(tmp_path: Path) -> None:
    found = run("inverse_problems.py", "inverse_problems.png", tmp_path)
    for task in ("upper half", "means of 2 x 2", "blur"):
        for method in ("MMPS", "TMPD", "ΠGDM"):
            residual, distance, _, right, _ = found[f"{task}, {method}, 50 calls"]
            assert 0.8 < residual < 1.2 and distance < 0.5 and right > 0.5
    assert found["means of 2 x 2, DDNM, 50 calls"][0] < 1e-3  # takes the noise for truth
