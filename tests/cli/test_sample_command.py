"""`sdescore sample`: what it leaves, interruptions, processes, and what it refuses in one line."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from saved_models import saved
from scripting import Refusal
from torch import Tensor

import sdescore.cli.sample
from sdescore import Denoiser, find_solver, guided, sample
from sdescore.cli import main
from sdescore.cli.models import build_solver


@pytest.fixture
def model(tmp_path: Path) -> str:
    return saved(tmp_path / "model")


def content(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


class TestSample:
    def test_writes_what_the_library_draws(
        self, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], refusal: Refusal
    ) -> None:
        out = tmp_path / "out"
        arguments = ["--model", model, "--out", str(out), "--count", "10", "--nfe", "7", "--batch_size", "4"]
        main(["sample", *arguments, "--seed", "3"])
        denoiser = Denoiser.from_pretrained(model)
        x = sample(denoiser.sde, denoiser, (10, 1, 8, 8), nfe=7, seed=3, batch_size=4)
        raw = content(out / "samples.npz")["x"]
        assert raw.dtype == np.uint8 and raw.shape == (10, 1, 8, 8)
        # Rounded to the nearest of 17 levels, not cut off.
        assert np.abs(raw - ((x.clamp(-1, 1) + 1) * 8).numpy()).max() <= 0.5 + 1e-4
        pictures = sorted((out / "images").iterdir())
        assert [path.name for path in pictures] == [f"{i:06d}.png" for i in range(10)]
        for path, image in zip(pictures, raw, strict=True):
            assert np.abs(np.asarray(Image.open(path)) - image[0] * (255 / 16)).max() <= 0.5
        assert (out / "grid.png").exists() and not (out / "parts").exists()
        cost = json.loads((out / "cost.json").read_text())
        assert (cost["nfe"], cost["samples"]) == (7, 10) and cost["seconds"] > 0

        before = (out / "samples.npz").stat().st_mtime_ns
        main(["sample", *arguments, "--seed", "3"])
        assert "is complete" in capsys.readouterr().out and (out / "samples.npz").stat().st_mtime_ns == before
        assert "other settings (saved, given): seed (3, 4)" in refusal("sample", *arguments, "--seed", "4")
        saved(Path(model), active=False)
        assert "other settings (saved, given): weights" in refusal("sample", *arguments, "--seed", "3")

    def test_goes_on_after_an_interruption(self, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        arguments = [
            "--model",
            model,
            "--count",
            "10",
            "--steps",
            "3",
            "--batch_size",
            "4",
            "--solver",
            "euler-maruyama",
        ]
        main(["sample", *arguments, "--out", str(tmp_path / "whole")])
        firsts: list[int] = []

        def stopping(*given: Any, index_offset: int, **named: Any) -> Tensor:
            firsts.append(index_offset)
            if firsts == [0, 4]:
                raise KeyboardInterrupt
            return sample(*given, index_offset=index_offset, **named)

        monkeypatch.setattr(sdescore.cli.sample, "sample", stopping)
        with pytest.raises(SystemExit, match="interrupted"):
            main(["sample", *arguments, "--out", str(tmp_path / "halves")])
        assert not (tmp_path / "halves/samples.npz").exists()
        main(["sample", *arguments, "--out", str(tmp_path / "halves")])
        assert firsts == [0, 4, 4, 8]
        assert (tmp_path / "halves/samples.npz").read_bytes() == (tmp_path / "whole/samples.npz").read_bytes()

    @pytest.mark.slow
    def test_processes_share_the_set(self, model: str, tmp_path: Path) -> None:
        arguments = ["sdescore.cli", "sample", "--model", model, "--count", "19", "--steps", "3", "--batch_size", "4"]
        alone, two = tmp_path / "alone", tmp_path / "two"
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
        subprocess.run([sys.executable, "-m", *arguments, "--out", str(alone)], check=True)
        subprocess.run([*launcher, *arguments, "--out", str(two)], check=True)
        assert (alone / "samples.npz").read_bytes() == (two / "samples.npz").read_bytes()
        assert len(list((two / "images").iterdir())) == 19

    def test_classes(self, tmp_path: Path, refusal: Refusal) -> None:
        arguments = [
            "--model",
            saved(tmp_path / "model", classes=3),
            "--count",
            "7",
            "--steps",
            "2",
            "--batch_size",
            "4",
        ]
        main(["sample", *arguments, "--label", "-1", "--out", str(tmp_path / "each")])
        assert content(tmp_path / "each/samples.npz")["y"].tolist() == [0, 1, 2, 0, 1, 2, 0]
        arguments += ["--out", str(tmp_path / "one"), "--label"]
        assert "label=3; expected -1 to 2" in refusal("sample", *arguments, "3")

    def test_guidance(self, tmp_path: Path) -> None:
        model, out = saved(tmp_path / "model", classes=3), tmp_path / "guided"
        main(
            [
                "sample",
                "--model",
                model,
                "--out",
                str(out),
                "--count",
                "4",
                "--nfe",
                "9",
                "--label",
                "1",
                "--guidance",
                "3",
            ]
        )
        denoiser = Denoiser.from_pretrained(model)
        label = {"label": torch.ones(4, dtype=torch.long)}
        x = sample(denoiser.sde, guided(denoiser, 3.0), (4, 1, 8, 8), nfe=9, condition=label)
        raw = content(out / "samples.npz")["x"]
        assert np.abs(raw - ((x.clamp(-1, 1) + 1) * 8).numpy()).max() <= 0.5 + 1e-4
        assert json.loads((out / "cost.json").read_text())["nfe"] == 8  # two a step

    def test_solvers_of_all_kinds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "own_solvers.py").write_text(
            "from sdescore.solvers import EulerMaruyama, Langevin, PredictorCorrector\n"
            "corrected = PredictorCorrector(EulerMaruyama(), Langevin(snr=0.1, repeats=2))\n"
        )
        monkeypatch.chdir(tmp_path)
        build: Any = build_solver
        assert build("own_solvers:corrected", {}).corrector.repeats == 2
        assert build("ddpm", {"tau": 0.5}).tau == 0.5
        assert build("dpmpp_2m", {}) == find_solver("dpm++")
        assert build("churn", {"amount": 5.0}).amount == 5.0

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--solver", "huen"], "solver='huen' is not installed; expected"),
            (["--solver", "nowhere:thing"], "No module named 'nowhere'"),
            (["--solver", "heun", "--solver_args.order", "3"], "solver_args has order"),
            (["--nfe", "2", "--solver", "heun"], "nfe=2 is too small"),
            (["--nfe", "9", "--steps", "3"], "expected one of them"),
            (["--grid", "square"], "grid='square'; expected karras, uniform-lambda, uniform-angle"),
            (["--count", "0"], "count=0; expected"),
            (["--label", "1"], "the model has no classes"),
            (["--guidance", "3"], "guidance=3 needs a label or a condition"),
            (["--model", "nothing/here/either"], "no folder"),
        ],
    )
    def test_bad_input_is_one_line(
        self, arguments: list[str], message: str, model: str, tmp_path: Path, refusal: Refusal
    ) -> None:
        given = ["--model", model, "--out", str(tmp_path / "out"), *arguments]
        assert message in refusal("sample", *given)

    def test_a_folder_with_other_things(self, model: str, tmp_path: Path, refusal: Refusal) -> None:
        (tmp_path / "mine.txt").write_text("mine")
        assert "is not empty" in refusal("sample", "--model", model, "--out", str(tmp_path))
