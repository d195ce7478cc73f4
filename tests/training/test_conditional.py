"""Training on conditions: what the net learns against the exact posterior, and how conditions are read and withheld."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_runs import assert_same_bits, make_trainer, next_batch

from sdescore import Denoiser, guided, sample
from sdescore.cli import main
from sdescore.cli.train import parse
from sdescore.data import Conditioned
from sdescore.data.source import Arrays
from sdescore.training.config import TrainConfig
from sdescore.training.draws import draw, in_training
from sdescore.training.loop import train

KINDS = {"past": "vector", "low": "image", "text": "tokens"}


def arrays(count: int = 12, seed: int = 0) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(seed)
    return {
        "x": draw.integers(0, 256, (count, 1, 8, 8), np.uint8),
        "y": np.arange(count) % 3,
        "past": draw.normal(2020, 5, (count, 2)),
        "low": draw.integers(0, 256, (count, 2, 4, 4), np.uint8),
        "text": draw.normal(size=(count, 3, 4)).astype(np.float32),
    }


@pytest.fixture
def conditioned(config: TrainConfig, tmp_path: Path) -> TrainConfig:
    np.savez(tmp_path / "data.npz", **arrays())  # type: ignore[arg-type]
    return replace(config, data=str(tmp_path / "data.npz"), conditions=KINDS)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Denoiser:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(20_000, 1, generator=draw)
    y = 0.8 * x + 0.5 * torch.randn(20_000, 1, generator=draw)
    # In other units: years about 2000, of which the net is told mean and spread.
    source = Conditioned(Arrays(x.clamp(-5, 5)), {"seen": (2000 + 10 * y).double()})
    config = TrainConfig(
        conditions={"seen": "vector"},
        drop=0.4,
        net="MLP",
        net_args={"width": 32, "depth": 2},
        steps=600,
        batch_size=256,
        lr=1e-2,
        ema_halflives=20_000,
        sample_every=0,
        tracker="none",
        progress=False,
        out=str(tmp_path_factory.mktemp("posterior") / "run"),
    )
    return train(config, source=source)


class TestPosterior:
    """x and y jointly Gaussian: E[x0 | x_t, y] is linear in both, and so is E[x0 | x_t]."""

    def exact(self, x: torch.Tensor, rho: torch.Tensor, y: torch.Tensor | None, gain: float, noise: float) -> Any:
        """By precisions: 1 of the prior, 1 / rho^2 of x_t, gain^2 / noise^2 of y = gain x0 + noise n."""
        precision, mean = 1 + rho**-2, x * rho**-2
        if y is not None:
            precision, mean = precision + gain**2 / noise**2, mean + y * gain / noise**2
        return mean / precision

    def test_is_learnt_with_and_without_the_condition(self, learnt: Denoiser) -> None:
        scaling = learnt.scaling
        assert scaling is not None
        shift = float(scaling.to_model(torch.zeros(1, 1)))
        unit = float(scaling.to_model(torch.ones(1, 1))) - shift  # of x as the net sees it
        draw = torch.Generator().manual_seed(1)
        x0 = torch.randn(4000, 1, generator=draw)
        y = 0.8 * x0 + 0.5 * torch.randn(4000, 1, generator=draw)
        for level in (0.3, 1.0, 3.0):
            x = x0 + level * torch.randn(4000, 1, generator=draw)
            t = torch.tensor(level * unit)
            with torch.no_grad():
                seen = {"seen": 2000 + 10 * y}
                given = (learnt(unit * x + shift, t, **seen) - shift) / unit
                plain = (learnt(unit * x + shift, t) - shift) / unit
            exact, prior = (self.exact(x, torch.tensor(level), at, 0.8, 0.5) for at in (y, None))
            apart = (exact - prior).square().mean().sqrt()  # what is missed without the condition
            assert (given - exact).square().mean().sqrt() < apart / 3, level
            assert (plain - prior).square().mean().sqrt() < 0.06, level
            assert apart > 0.1

    def test_samples_have_the_posteriors_mean_and_spread_and_are_guided_by_leaving_it_out(
        self, learnt: Denoiser
    ) -> None:
        assert learnt.scaling is not None
        y = torch.full((3000, 1), 1.5)
        precision = 1 + 0.8**2 / 0.5**2
        mean, std = 1.5 * 0.8 / 0.5**2 / precision, precision**-0.5
        seen = {"seen": 2000 + 10 * y}
        x = learnt.scaling.to_data(sample(learnt.sde, learnt, (3000, 1), nfe=14, condition=seen))
        assert float(x.mean()) == pytest.approx(mean, abs=0.08) and float(x.std()) == pytest.approx(std, abs=0.08)
        # The guided score at the lowest level is (1 - w) of the prior's and w of the posterior's: a Gaussian again.
        further = learnt.scaling.to_data(sample(learnt.sde, guided(learnt, 2.0), (3000, 1), nfe=28, condition=seen))
        assert float(further.mean()) > mean + 0.1
        without = guided(learnt, 0.0)
        t, x = torch.tensor(0.2), torch.randn(5, 1, generator=torch.Generator().manual_seed(0)) / 4
        torch.testing.assert_close(without(x, t, seen=2000 + 10 * y[:5]), learnt(x, t))


class TestTraining:
    def test_gives_the_net_all_conditions_mirrored_and_withheld(self, conditioned: TrainConfig) -> None:
        config = replace(conditioned, batch_size=12, accumulation=1, drop=0.5)
        own, seen = make_trainer(config), []
        forward = own.denoiser.net.forward

        def record(x: torch.Tensor, c_noise: torch.Tensor, **condition: torch.Tensor) -> torch.Tensor:
            seen.append(condition)
            y: torch.Tensor = forward(x, c_noise, **condition)
            return y

        own.net.forward = record
        raw, known = next_batch(own)
        own.update(raw, known)
        draws, given = draw(config, 0, (1, 8, 8)), seen[-1]
        assert list(given) == ["label", "past", "low", "text"]
        dropped = dict(zip(given, draws.drop.unbind(1), strict=True))
        assert draws.flip.any() and not draws.flip.all() and all(0 < each.sum() < 12 for each in dropped.values())
        assert given["label"].equal(torch.where(dropped["label"], 3, known["label"]))
        low = known["low"].float()
        wanted = {
            "past": known["past"].float(),
            "low": torch.where(draws.flip.reshape(-1, 1, 1, 1), low.flip(-1), low),
            "text": known["text"],
        }
        for name, value in wanted.items():
            gone = dropped[name]
            assert given[name][gone].isnan().all() and given[name][~gone].equal(value[~gone]), name

    def test_withholds_as_often_as_told_together_and_apart(self, conditioned: TrainConfig) -> None:
        shares = {"label": 0.4, "past": 0.4, "low": 0.2, "text": 0.0}
        config = replace(conditioned, batch_size=40_000, drop=shares)
        drop = draw(config, 0, (1,)).drop.double()
        assert drop.mean(0).tolist() == pytest.approx(list(shares.values()), abs=0.01)
        # Together with share s / 2, and each by itself with (s / 2) / (1 - s / 2) of the rest.
        alone = 0.2 / 0.8
        assert float((drop[:, 0] * drop[:, 1]).mean()) == pytest.approx(0.2 + 0.8 * alone**2, abs=0.01)
        assert float((drop[:, 0] * (1 - drop[:, 1])).mean()) == pytest.approx(0.8 * alone * (1 - alone), abs=0.01)

    def test_resumes_in_the_same_bits_and_refuses_other_units(self, conditioned: TrainConfig, tmp_path: Path) -> None:
        unbroken = replace(conditioned, out=str(tmp_path / "unbroken"))
        train(unbroken)
        train(replace(conditioned, steps=3))
        train(conditioned, resume=True)
        assert_same_bits(unbroken.out, conditioned.out)
        other = arrays()
        other["past"] = other["past"] + 1
        np.savez(tmp_path / "data.npz", **other)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"made with data .*'mean': \[20"):
            train(replace(conditioned, steps=8), resume=True)

    def test_units_travel_with_the_folder_and_pictures_are_of_conditions(self, conditioned: TrainConfig) -> None:
        config = replace(conditioned, steps=2, sample_every=2, sample_count=5, sample_steps=2, data_std=0.5)
        train(config)
        net: Any = Denoiser.from_pretrained(Path(config.out) / "model").net
        data, stated = arrays(), net.config["conditions"]
        assert stated["past"]["mean"] == pytest.approx(data["past"].mean(0).tolist())
        assert stated["past"]["std"] == pytest.approx(data["past"].std(0).tolist())
        assert stated["low"]["std"] == pytest.approx(data["low"].std((0, 2, 3)).tolist())
        assert stated["text"]["mean"] == pytest.approx(float(data["text"].mean()), abs=1e-6)
        assert [stated[name]["size"] for name in KINDS] == [2, 2, 4]
        assert (Path(config.out) / "samples/step-000002.png").exists()

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"conditions": {"past": "words"}}, "conditions={'past': 'words'}; expected names"),
            ({"conditions": {"label": "vector"}}, "expected names, label not among them"),
            ({"conditions": {"past": "tokens"}}, r"in the data it is \(2,\); expected 2 axes"),
            ({"conditions": {"future": "vector"}}, "no array 'future'; it holds 'x', 'y', 'past', 'low', 'text'"),
            ({"corrupt": "skip"}, "conditions=.* with corrupt='skip'; expected corrupt='stop'"),
            ({"drop": {"colour": 0.1}}, "drop={'colour': 0.1}; expected at most label, past, low, text"),
            ({"drop": {"past": 1.0}}, "drop={'past': 1.0}; expected numbers in"),
            ({"net": "MLP", "net_args": {}, "flips": False}, "x has shape|has kind 'image'; expected vector"),
        ],
    )
    def test_refuses_what_does_not_fit(self, conditioned: TrainConfig, fields: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            train(replace(conditioned, **fields))

    def test_command_line(self) -> None:
        arguments = ["--conditions.past", "vector", "--drop", "0.2", "--ema_halflives", "5000"]
        config, _ = parse(arguments)
        assert (config.conditions, config.drop, config.ema_halflives) == ({"past": "vector"}, 0.2, (5000,))
        config, _ = parse(
            ["--conditions", '{"past": "vector"}', "--drop", '{"past": 0.3}', "--ema_halflives", "[5, 7]"]
        )
        assert (config.drops(), config.ema_halflives) == ({"past": 0.3}, (5, 7))


def test_names_of_folders_travel_with_the_model_and_are_drawn_by(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    draws = np.random.default_rng(0)
    for name in ("bag", "boot", "coat"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(draws.integers(0, 256, (8, 8), np.uint8)).save(tmp_path / f"images/{name}/{i}.png")
    train(replace(config, data=str(tmp_path / "images"), steps=1))
    model = str(Path(config.out) / "model")
    assert json.loads((Path(model) / "config.json").read_text())["net"]["config"]["class_names"] == [
        "bag",
        "boot",
        "coat",
    ]
    given = ["sample", "--model", model, "--count", "4", "--steps", "2", "--guidance", "3", "--label"]
    main([*given, "boot", "--out", str(tmp_path / "named")])
    main([*given, "1", "--out", str(tmp_path / "numbered")])
    with np.load(tmp_path / "named/samples.npz") as one, np.load(tmp_path / "numbered/samples.npz") as two:
        assert one["y"].tolist() == [1] * 4 and np.array_equal(one["x"], two["x"])
    with pytest.raises(SystemExit) as caught:
        main([*given, "boots", "--out", str(tmp_path / "wrong")])
    said = str(caught.value.code) + capsys.readouterr().err
    assert "label='boots'; expected 'bag', 'boot', 'coat', -1 to 2" in said and not (tmp_path / "wrong").exists()


def test_in_training_leaves_alone_what_is_not_drawn(conditioned: TrainConfig) -> None:
    config = replace(conditioned, flips=False, drop=0.0)
    own = make_trainer(config)
    _, known = next_batch(own)
    given = own.given(known)
    found = in_training(given, draw(config, 0, (1, 8, 8)), config, 3)
    assert all(found[name].equal(given[name]) for name in given)
