"""The benchmark of posteriors: that its problems are exact, that it goes on, and measures what it says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from scripting import NEEDS_SCRIPTS

from sdescore import VPSDE, GaussianMixture
from sdescore.testing import two_sample

pytestmark = NEEDS_SCRIPTS


def test_its_problems_have_the_mixtures_denoiser_and_posterior(script: Callable[[str], Any]) -> None:
    shared, sde = script("shared.posteriors"), VPSDE()
    problem = shared.mcgdiff_problem(8, 2, 3, 0.5)
    mixture = GaussianMixture(problem.means, 1.0, problem.weights)
    t = torch.tensor(0.3, dtype=torch.float64)
    x = mixture.at(sde, t).sample(20)
    torch.testing.assert_close(problem.denoiser(sde)(x, t), mixture.denoiser(sde)(x, t))
    exact = mixture.posterior(problem.operator, problem.y, 0.5)
    torch.testing.assert_close(problem.shares[problem.shares > 0], exact.weights)
    assert two_sample(problem.exact(3000, 1), exact.sample(3000, 2)) > 1e-3
    values = torch.linalg.svdvals(problem.operator.matrix)
    assert 0 < float(values[1]) < float(values[0]) < 1
    assert 0 < shared.mcgdiff_problem(8, 2, 3, None).noise_std < float(values[0])


def test_its_wide_problems_have_the_mixtures_denoiser_and_posterior(script: Callable[[str], Any]) -> None:
    sde, problem = VPSDE(), script("shared.posteriors").wide_problem(1)
    mixture = GaussianMixture(problem.means, 0.5**0.5, problem.weights, dtype=torch.float64)
    t = torch.tensor(0.6, dtype=torch.float64)
    x = mixture.at(sde, t).sample(10)
    torch.testing.assert_close(problem.denoiser(sde)(x, t), mixture.denoiser(sde)(x, t))
    exact = mixture.posterior(problem.operator, problem.y, problem.noise_std)
    found = problem.exact(2000, 1)
    torch.testing.assert_close(problem.mean, exact.weights @ exact.means)
    floor = float(exact.variances[int(exact.weights.argmax())].sum()) / 256
    assert 0.5 < floor**0.5 < 0.6  # the published error of 256 exact draws is .543
    assert float((found.mean(0) - problem.mean).square().sum()) < 1.5 * floor * 256 / 2000
    assert two_sample(found[:600], exact.sample(600, 2)) > 1e-3


def test_wide_problems_tell_good_methods_from_bad_ones(script: Callable[[str], Any], tmp_path: Path) -> None:
    module = script("bench.wide_posterior")
    given: dict[str, Any] = dict(out=str(tmp_path), particles=64, steps=30, projections=50)
    module.bench(module.WidePosteriorConfig(problems=1, methods=("DDNM",), **given))
    first = (tmp_path / "results.jsonl").read_text()
    module.bench(module.WidePosteriorConfig(problems=1, methods=("DDNM", "MMPS"), **given))
    assert (tmp_path / "results.jsonl").read_text().startswith(first)
    rows = {row["method"]: row for row in map(json.loads, (tmp_path / "results.jsonl").read_text().splitlines())}
    assert rows["sdescore MMPS"]["mean"] < 1.5 * rows["two exact sets"]["mean"] < rows["sdescore DDNM"]["mean"]
    assert "| sdescore MMPS " in (tmp_path / "table.md").read_text()
    with pytest.raises(ValueError, match=r"methods=\('mmps',\); expected TDS"):
        module.WidePosteriorConfig(methods=("mmps",))


def test_it_ranks_and_goes_on_from_what_it_has(script: Callable[[str], Any], tmp_path: Path) -> None:
    module = script("bench.posterior")
    given: dict[str, Any] = dict(out=str(tmp_path), dims=(8,), measured=(4,), count=200, particles=50, steps=40)
    given |= dict(projections=50, peers=False)
    module.bench(module.PosteriorConfig(problems=1, methods=("TDS",), **given))
    kept = tmp_path / "results.jsonl"
    first = kept.read_text()
    kept.write_text(first + '{"method": "half a li')  # it was stopped
    module.bench(module.PosteriorConfig(problems=2, methods=("TDS", "DDNM"), **given))
    assert kept.read_text().startswith(first) and len(kept.read_text().splitlines()) == 6
    rows = [json.loads(line) for line in kept.read_text().splitlines()]
    mean = {
        name: sum(row["W1"] for row in rows if row["method"] == name) / 2
        for name in ("two exact sets", "sdescore TDS", "sdescore DDNM")
    }
    assert mean["two exact sets"] < mean["sdescore TDS"] < mean["sdescore DDNM"] / 3
    table = (tmp_path / "table.md").read_text()
    assert "| sdescore TDS" in table and "the best method, sdescore TDS: 8/4: " in table
    with pytest.raises(ValueError, match=r"methods=\('tds',\); expected TDS"):
        module.PosteriorConfig(methods=("tds",))


def test_azulas_methods_run_on_the_same_problems(script: Callable[[str], Any]) -> None:
    """Of one unit Gaussian they are exact; the samples of a run of TDS depend on each other."""
    pytest.importorskip("azula")
    module, shared = script("bench.posterior"), script("shared.posteriors")
    few = shared.mcgdiff_problem(8, 1, 0)
    size = torch.linalg.svdvals(few.operator.matrix)
    one = shared.LinearProblem(few.means[12:13], torch.ones(1).double(), few.operator, 1.5 * size, few.noise_std)
    config, exact = module.PosteriorConfig(count=400, particles=200, steps=60), one.exact(400, 2)
    assert two_sample(module.peer("TMPD")(one, config, 1), exact) > 1e-3
    found, exact, before = (
        float(one.operator.A(x).mean()) for x in (module.peer("TDS, PiGDM")(one, config, 1), exact, one.means)
    )
    assert abs(found - exact) < 0.3 * float(size) < abs(before - exact) / 3
