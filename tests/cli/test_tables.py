"""Tables from the command line: columns of their own scale and names, likelihoods in their units."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scripting import Refusal
from torch import Tensor, nn

from sdescore import Denoiser, KarrasSDE, Scaling
from sdescore.cli import main
from sdescore.data import table

SPREADS = np.array([1e-4, 30.0, 5e6])
MEANS = np.array([1e-3, -70.0, 1e9])


class Zero(nn.Module):
    """Of EDM's output: with it a denoiser is the exact one of N(0, data_std^2)."""

    config: dict[str, Any] = {}  # noqa: RUF012

    def forward(self, x: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor:
        return 0 * x


def written(path: Path, x: np.ndarray, names: tuple[str, ...] = ("a", "b", "c")) -> str:
    path.write_text("\n".join([",".join(names), *(",".join(map(repr, row)) for row in x.tolist())]) + "\n")
    return str(path)


def gaussian(path: Path, units: np.ndarray) -> str:
    """The exact model of independent N(MEANS, SPREADS^2), in other units: every value is times `units`."""
    low, high = ((MEANS + sign * 2 * SPREADS) * units for sign in (-1, 1))
    scaling = Scaling(tuple(low), tuple(high), None, bounded=False, names=("a", "b", "c"))
    Denoiser(Zero(), KarrasSDE(), "edm", 0.5, shape=(3,), scaling=scaling).save_pretrained(path)
    return str(path)


def nats(model: str, data: str, out: Path) -> Tensor:
    options = ["--trace", "exact", "--rtol", "1e-6", "--atol", "1e-6", "--trust_code", "true", "--bound", "4"]
    main(["likelihood", "--model", model, "--data", data, "--out", str(out), *options])
    found = json.loads(out.read_text())
    values = torch.tensor(found["samples"]["nats"]).double()
    assert found["nats"]["mean"] == pytest.approx(float(values.mean()))
    assert found["nats"]["stderr"] == pytest.approx(float(values.std()) / len(values) ** 0.5)
    assert found["gap_nats"]["mean"] == pytest.approx(found["nats"]["mean"] - found["bound_nats"]["mean"], abs=1e-4)
    return values


def test_nats_are_those_of_the_units(tmp_path: Path) -> None:
    """Against the density of the Gaussian; in other units every sample's shifts by the log of these."""
    x = np.random.default_rng(0).standard_normal((6, 3)) * SPREADS + MEANS
    exact = (-0.5 * ((x - MEANS) / SPREADS) ** 2 - np.log(SPREADS * math.sqrt(2 * math.pi))).sum(1)
    units = np.array([100.0, 3.0, 1e-3])
    one = nats(gaussian(tmp_path / "one", np.ones(3)), written(tmp_path / "one.csv", x), tmp_path / "one.json")
    other = nats(gaussian(tmp_path / "two", units), written(tmp_path / "two.csv", x * units), tmp_path / "two.json")
    assert (one.numpy() - exact).tolist() == pytest.approx([0] * 6, abs=2e-3)
    assert (one - other - math.log(math.prod(units))).abs().max() < 1e-4


def test_a_table_from_training_to_samples(tmp_path: Path, refusal: Refusal) -> None:
    x = np.random.default_rng(0).standard_normal((64, 3)) * SPREADS + MEANS
    data, run = written(tmp_path / "train.csv", x), str(tmp_path / "run")
    quick = ["--steps", "2", "--batch_size", "8", "--sample_every", "0", "--tracker", "none", "--progress", "false"]
    main(["train", "--data", data, "--net_args.width", "8", "--out", run, *quick])
    denoiser = Denoiser.from_pretrained(f"{run}/model")
    assert denoiser.scaling == table(data).scaling and denoiser.data_std == pytest.approx(0.5, rel=1e-5)
    main(
        ["sample", "--model", f"{run}/model", "--out", f"{run}/drawn", "--count", "20", "--nfe", "4", "--animate", "3"]
    )
    drawn = np.load(f"{run}/drawn/samples.npz")
    assert drawn["columns"].tolist() == ["a", "b", "c"] and drawn["x"].dtype == np.float64
    again = table(f"{run}/drawn/samples.csv")
    assert again.scaling.names == ("a", "b", "c")
    assert (np.abs(again.__getitems__(range(20))[0].numpy() - drawn["x"]) < 1e-5 * drawn["x"].std(0)).all()
    assert (Path(run) / "drawn/trajectory.gif").stat().st_size > 1000
    other = written(tmp_path / "other.csv", x[:, :2], ("a", "c"))
    assert "other.csv has no column 'b'" in refusal("likelihood", "--model", f"{run}/model", "--data", other)
    again_resumed = ["train", "--config", f"{run}/config.json", "--resume", "--steps", "3", "--progress", "false"]
    main(again_resumed)
    assert Denoiser.from_pretrained(f"{run}/model").scaling == denoiser.scaling


@pytest.mark.parametrize(("scale", "bounded"), [("whole", True), ("columns", True), ("standard", False)])
def test_scales_on_request(tmp_path: Path, scale: str, bounded: bool) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((20, 2, 9)) * [[1.0], [50.0]])
    quick = ["--steps", "1", "--batch_size", "4", "--sample_every", "0", "--tracker", "none", "--progress", "false"]
    net = ["--net", "UNet", "--net_args", '{"base_width": 8, "multipliers": [1], "blocks": 1}']
    main(
        ["train", "--data", str(tmp_path / "x.npy"), "--data_scale", scale, "--out", str(tmp_path / "r"), *quick, *net]
    )
    scaling = Denoiser.from_pretrained(str(tmp_path / "r/model")).scaling
    assert scaling is not None and scaling.bounded == bounded
    assert isinstance(scaling.low, tuple) == (scale != "whole")


def test_a_column_as_a_condition_in_and_out(tmp_path: Path, refusal: Refusal) -> None:
    """Of a table with an age: the model of the rest is told it, in years, by a table of one column."""
    written(tmp_path / "x.csv", np.random.default_rng(0).random((32, 3)), ("age", "b", "c"))
    quick = ["--steps", "1", "--batch_size", "4", "--sample_every", "0", "--tracker", "none", "--progress", "false"]
    run = str(tmp_path / "r")
    given = ["--conditions", '{"age": "vector"}', "--net_args.width", "8"]
    main(["train", "--data", str(tmp_path / "x.csv"), *given, "--out", run, *quick])
    written(tmp_path / "ages.csv", np.full((6, 1), 0.5), ("age",))
    drawn = ["sample", "--model", f"{run}/model", "--count", "6", "--nfe", "4", "--out", f"{run}/drawn"]
    main([*drawn, "--condition", str(tmp_path / "ages.csv")])
    assert np.load(f"{run}/drawn/samples.npz")["columns"].tolist() == ["b", "c"]
    written(tmp_path / "ages.csv", np.full((6, 1), 0.5), ("years",))
    assert "has years; expected age" in refusal(*drawn[:-1], f"{run}/two", "--condition", str(tmp_path / "ages.csv"))
