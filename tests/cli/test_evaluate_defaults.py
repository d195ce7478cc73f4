"""`sdescore evaluate` on data that is nobody's but the user's: what fits by default, and what is said of it."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scripting import Refusal

from sdescore.cli import main
from sdescore.cli.sets import Range
from sdescore.data import digits
from sdescore.evaluation import frechet_distance
from sdescore.evaluation.default_features import random_filters
from sdescore.evaluation.neighbours import Neighbourhood


def rows(out: Path) -> list[dict[str, Any]]:
    content: dict[str, Any] = json.loads((out / "evaluation.json").read_text())
    found: list[dict[str, Any]] = content["sets"]
    return found


def pictures(folder: Path, raw: np.ndarray) -> str:
    folder.mkdir()
    for number, pixels in enumerate(raw):
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    return str(folder)


def test_own_images_have_features_that_fit_and_no_judge_of_digits(tmp_path: Path) -> None:
    raw = np.random.default_rng(0).integers(0, 256, (60, 12, 12, 3), dtype=np.uint8)
    folders = [pictures(tmp_path / name, part) for name, part in zip("abc", np.split(raw, 3), strict=True)]
    options = ["--training", folders[1], "--metrics", '["frechet", "neighbours"]']
    main(["evaluate", "--samples", folders[2], "--reference", folders[0], "--out", str(tmp_path / "e"), *options])
    content = json.loads((tmp_path / "e/evaluation.json").read_text())
    assert content["config"]["features"] == "random-filters" and content["config"]["classifier"] == ""
    x = [torch.from_numpy(part).movedim(3, 1).float() / 127.5 - 1 for part in np.split(raw, 3)]
    wanted = frechet_distance(random_filters(x[2]), random_filters(x[0]))
    assert content["sets"][2]["frechet"] == pytest.approx(wanted, rel=1e-4)
    assert all("recognised" not in row and row["outside"] == 0 for row in content["sets"])


def test_random_filters_see_what_is_wrong_with_pictures() -> None:
    """Blur, noise and a single class are each farther from the test digits than the training digits are."""
    train, test = ((d := digits(split)).scaling.to_model(d.raw) for split in ("train", "test"))
    draw = torch.Generator().manual_seed(0)
    usual = frechet_distance(random_filters(train[:297]), random_filters(test))
    noise = (train[:297] + 0.3 * torch.randn(297, 1, 8, 8, generator=draw)).clamp(-1, 1)
    blur = torch.nn.functional.avg_pool2d(train[:297], 3, 1, 1)
    for spoilt in (noise, blur, train[digits().labels == 3]):
        assert frechet_distance(random_filters(spoilt), random_filters(test)) > 1.5 * usual
    assert all(random_filters(torch.rand(2, 3, *[9] * axes)).shape[0] == 2 for axes in (1, 2, 3))


def test_samples_that_leave_the_range_are_counted(tmp_path: Path) -> None:
    """Of a table, column by column; the samples themselves are as they were drawn."""
    real = np.random.default_rng(0).random((50, 2)) * [1.0, 100.0]
    drawn = np.random.default_rng(1).random((40, 2)) * [1.0, 100.0]
    drawn[:4, 0], drawn[4:6, 1], drawn[6, 1] = 1.2, -20.0, 105.0  # the last by less than an eighth
    np.savez(tmp_path / "real.npz", x=real)
    np.savez(tmp_path / "drawn.npz", x=drawn)
    named = ["--samples", str(tmp_path / "drawn.npz"), "--reference", str(tmp_path / "real.npz")]
    main(["evaluate", *named, "--out", str(tmp_path / "e")])
    reference, samples = rows(tmp_path / "e")
    assert reference["outside"] == 0 and samples["outside"] == pytest.approx(6 / 40)
    x = torch.tensor([[[0.0, 1.0]], [[0.5, 0.25]]])  # (2, 1, 2): a channel of two values
    assert Range.of(x).share_outside(torch.tensor([[[0.0, 1.12]], [[0.0, 1.13]]])) == 0.5


def test_of_a_table_the_columns_of_the_samples_are_compared(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    real, drawn = draw.random((40, 2)), draw.random((30, 2))
    lines = [f"{b},cat,{a}" for a, b in real.tolist()]
    (tmp_path / "real.csv").write_text("\n".join(["b,kind,a", *lines]))
    np.savez(tmp_path / "real.npz", x=real, columns=["a", "b"])
    np.savez(tmp_path / "drawn.npz", x=drawn, columns=["a", "b"])
    for kind in ("csv", "npz"):
        named = ["--samples", str(tmp_path / "drawn.npz"), "--reference", str(tmp_path / f"real.{kind}")]
        main(["evaluate", *named, "--out", str(tmp_path / kind)])
    one, other = (rows(tmp_path / kind)[1] for kind in ("csv", "npz"))
    assert {**one, "set": ""} == pytest.approx({**other, "set": ""}) and one["frechet"] > 0


def test_a_reference_that_was_trained_on_gives_a_warning_and_no_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "train.npz", x=draw.random((60, 3)))
    np.savez(tmp_path / "drawn.npz", x=draw.random((50, 3)))
    train = str(tmp_path / "train.npz")
    with caplog.at_level(logging.WARNING):
        named = ["--samples", str(tmp_path / "drawn.npz"), "--reference", train, "--training", train]
        main(["evaluate", *named, "--out", str(tmp_path / "e")])
    assert "is what the model was trained on: nearest ÷ real is left out" in caplog.text
    assert all("nearest" not in row for row in rows(tmp_path / "e"))
    own = torch.rand(20, 3, generator=torch.Generator().manual_seed(0))
    assert "nearest" in Neighbourhood(own, own + 0.1).measure(own + 0.2)


def test_recognised_never_stands_alone(refusal: Refusal) -> None:
    said = refusal("evaluate", "--samples", "x.npz", "--classifier", "own:f", "--metrics", '["neighbours"]')
    assert "expected frechet or kernel among them" in said
    said = refusal("evaluate", "--samples", "digits", "--features", "values", "--weights", "w.safetensors")
    assert "weights='w.safetensors' with features='values', which have none" in said
