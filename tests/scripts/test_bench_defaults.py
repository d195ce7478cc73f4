"""The benchmark of defaults: units and loops beside exact answers and other libraries; that it goes on; its tables."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scripting import NEEDS_SCRIPTS, refused

from sdescore import GaussianMixture, KarrasSDE, Scaling
from sdescore.data.source import Arrays
from sdescore.objectives import TIME_DISTRIBUTIONS
from sdescore.training.config import TrainConfig

pytestmark = NEEDS_SCRIPTS
IMAGES = Arrays(torch.randint(0, 256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8))
TINY = TrainConfig(net="UNet", net_args={"base_width": 8, "multipliers": [1], "blocks": 1}, batch_size=8, warmup=1)


@pytest.fixture
def bench(script: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, with two sets: points and images that are noise."""
    module, sets = script("bench.defaults"), script("shared.small_sets")
    points = torch.randn(300, 2, generator=torch.Generator().manual_seed(0)).numpy()
    small = {
        "points": lambda root, made: sets.of_table(points[:200], points[200:]),
        "absent": lambda root, made: sets.etth1(root, made),
    }
    monkeypatch.setattr(module, "SETS", small)
    return module


def test_nats_are_those_of_columns_at_unit_variance(script: Callable[[str], Any]) -> None:
    sets = script("shared.small_sets")
    raw = np.random.default_rng(0).normal([3.0, -1.0], [10.0, 0.1], (300, 2))
    for make, axes in ((sets.of_table, lambda rows: rows), (sets.of_series, lambda rows: rows[:, :, None])):
        small = make(axes(raw[:200]), axes(raw[200:]))
        x = small.test.scaling.to_model(small.test.raw).double()[:8]
        slope = float((small.test.raw[0] - small.test.raw[1]).abs().max())
        slope /= float((x[0] - x[1]).abs().max())  # from model values to unit variance
        law = GaussianMixture(torch.zeros(1, 2, dtype=torch.float64), 1 / slope)
        found = law.log_prob(x.flatten(1)) + small.unit
        standard = (raw[200:208] - raw[:200].mean(0)) / raw[:200].std(0)
        np.testing.assert_allclose(found.numpy(), -(standard**2).sum(1) / 2 - math.log(2 * math.pi), atol=1e-4)


def test_features_see_what_the_two_first_moments_do_not(script: Callable[[str], Any]) -> None:
    x = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    features = script("shared.small_sets").fourier_features(x[:2000])
    same = (features(x[:2000]).mean(0) - features(x[2000:]).mean(0)).square().sum()
    coin = (features(x[:2000]).mean(0) - features(x[2000:].sign()).mean(0)).square().sum()
    assert coin > 50 * same


def test_at_most_eight_settings_and_each_is_one_of_train(bench: Any) -> None:
    for shape, count, std in [((2,), 400, 0.1), ((1, 4, 4), 600, 0.7), ((1, 1, 1), 60_000, 0.5)]:
        source = Arrays(torch.rand(2, *shape).repeat(count // 2, *[1] * len(shape)))
        default = TrainConfig().resolved(source, "cpu")
        found = bench.settings_of(default, shape, std)
        assert 5 <= len(found) < 8  # the eighth is an average of the default's own run
        for changes in found.values():
            rest = {key: value for key, value in changes.items() if key not in ("dropout", "width")}
            assert replace(default, **rest) != default or rest == {}


def test_runs_go_on_and_settings_are_undone(
    bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = bench.DefaultsConfig(
        out=str(tmp_path), data_root=str(tmp_path), minutes=1e-4, sets=("points", "absent"), seeds=2,
        settings=("diffusers", "dropout of 0.1", "VP and v"),
    )  # fmt: skip
    pytest.importorskip("diffusers")

    def fingerprint(self: Any, denoiser: Any) -> dict[str, float]:
        weight = float(sum(parameter.detach().abs().sum() for parameter in denoiser.parameters()))
        return {"frechet": 1.0, "log_prob": weight}

    monkeypatch.setattr(bench.Bench, "measure", fingerprint)
    monkeypatch.setattr(bench.Bench, "steps", lambda self: 3)
    bench.bench(config)
    said = capsys.readouterr().out
    assert "absent is left out: " in said
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    done = [(row["setting"], row["seed"]) for row in rows]
    assert len(set(done)) == len(done)
    wanted = {"training data", "default", bench.AVERAGE, "diffusers", "dropout of 0.1", "VP and v"}
    assert {name for name, seed in done if seed == 0} == wanted
    best = bench.best_of(rows, 1e-4)
    assert {(best, 10), (best, 11), (best, 1), ("default", 1)} <= set(done)
    assert len({row["log_prob"] for row in rows if row["seed"] == 0 and "log_prob" in row}) == 5  # each is another net
    assert {row["steps"] for row in rows if "steps" in row} == {3}
    monkeypatch.setattr(bench.Bench, "measure", None)  # nothing is left to measure
    bench.bench(config)
    bench.bench(replace(config, table=True))
    assert json.loads((tmp_path / "results.json").read_text())["rows"] == rows


def test_levels_by_spread_are_those_of_edm_for_data_of_its_spread(
    script: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module, sets = script("bench.defaults"), script("shared.small_sets")
    x = 0.05 * torch.randn(60, 1, 4, generator=torch.Generator().manual_seed(0)).clamp(-20, 20)
    source = Arrays(x, None, Scaling(-1, 1, None))
    small = sets.SmallSet(source, source, sets.fourier_features(x))
    monkeypatch.setattr(module, "SETS", {"narrow": lambda root, made: small})
    bench = module.Bench(module.DefaultsConfig(out=str(tmp_path), sets=("narrow",)), "narrow")
    seen: list[torch.Tensor] = []

    def update(trainer: Any, raw: Any, known: Any) -> None:
        u = torch.tensor([0.5], dtype=torch.float64)
        seen.append(-trainer.denoiser.sde.lam(TIME_DISTRIBUTIONS["log-normal"].place(trainer.denoiser.sde, u)[0]))

    monkeypatch.setattr(module.Trainer, "update", update)
    for setting in ("default", module.BY_SPREAD, "default"):
        bench.trained(setting, replace(bench.default, steps=1))
    median = [float(each.exp()) for each in seen]
    assert median[0] == median[2] == pytest.approx(math.exp(-1.2), rel=0.02)
    assert median[1] / median[0] == pytest.approx(bench.std / 0.5, rel=0.03)  # of a law cut off at 0.002


def test_an_exact_net_is_measured_as_such(bench: Any, tmp_path: Path) -> None:
    own, sde = bench.Bench(bench.DefaultsConfig(out=str(tmp_path), sets=("points",)), "points"), KarrasSDE()
    spread = 1 / own.test.std(0).mean()  # from model values to unit variance, about
    found = own.measure(GaussianMixture(torch.zeros(1, 2), 1 / spread).denoiser(sde))
    standard = own.small.test.raw
    assert found["log_prob"] == pytest.approx(
        float(-standard.square().sum(1).mean() / 2 - math.log(2 * math.pi)), abs=0.06
    )
    wide = own.measure(GaussianMixture(torch.zeros(1, 2), 2 / spread).denoiser(sde))
    assert wide["log_prob"] < found["log_prob"] - 0.3 and wide["frechet"] > 4 * found["frechet"]


def test_a_name_without_a_set_is_refused(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert "sets=('nothing',); expected points, absent" in refused(bench.main, ["--sets=[nothing]"], capsys)


def test_tables_have_means_and_two_standard_errors(script: Callable[[str], Any]) -> None:
    tables = script("shared.defaults_tables")

    def row(setting: str, seed: int, frechet: float, log_prob: float = -1.0) -> dict[str, Any]:
        found = {"set": "digits", "minutes": 1.0, "setting": setting, "seed": seed, "steps": 7}
        return {**found, "frechet": frechet, "log_prob": log_prob}

    rows = [row("default", seed, value) for seed, value in enumerate((1.0, 2.0, 6.0))]
    rows += [row("a", 0, 0.5, -3.0), row("b", 0, 0.75, -0.5), row("a", 10, 4.0), row("diffusers", 0, 0.25)]
    text = tables.tables(rows)
    error = 2 * np.std([1, 2, 6], ddof=1) / 3**0.5
    assert f"| digits, 1 min |     7 | a       |             – | 3 ± {error:.2g} |  0.5 |                 4 |" in text
    assert "| a         |     0.50 (-2) |" in text
    assert tables.best_of([{**r, "set": "wine"} for r in rows], 1.0) == "b"
    assert tables.best_of(rows[:3], 1.0) is None


def randomised(net: torch.nn.Module) -> None:
    """A net whose answer depends on the level, as that of one that was hardly trained does not."""
    torch.manual_seed(0)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)


def test_diffusers_loop_gives_the_denoiser_of_its_scheduler(script: Callable[[str], Any]) -> None:
    diffusers = pytest.importorskip("diffusers")
    module = script("bench.diffusers_loop")
    losses: list[float] = []
    denoiser = module.fit(TINY, IMAGES, 3, lambda step, loss: losses.append(float(loss))).eval()
    assert len(losses) == 3
    randomised(denoiser.net)
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", clip_sample=False)
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for t in (10, 500):
            level = module.noise_levels(scheduler.alphas_cumprod)[t].expand(4)
            wanted = scheduler.step(denoiser.net(x, level), t, x).pred_original_sample
            torch.testing.assert_close(denoiser(x, torch.tensor(float(t))), wanted, rtol=1e-3, atol=1e-3)


def test_lucidrains_loop_gives_the_denoiser_of_its_diffusion(script: Callable[[str], Any]) -> None:
    pytest.importorskip("ema_pytorch")
    module = script("shared.lucidrains")
    with module.without_torchvision():
        theirs = pytest.importorskip("denoising_diffusion_pytorch")
    denoiser = module.fit(TINY, IMAGES, 3).eval()
    randomised(denoiser.net)
    net = module.AsTheirs(denoiser.net, 1)
    diffusion = theirs.GaussianDiffusion(net, image_size=(8, 8)).eval()
    net.levels = module.noise_levels(diffusion)
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for t in (10, 500):
            wanted = diffusion.model_predictions(x, torch.full((4,), t)).pred_x_start
            torch.testing.assert_close(denoiser(x, torch.tensor(float(t))), wanted, rtol=1e-3, atol=1e-3)
