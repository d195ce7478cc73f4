"""Evaluation: sets beside real data, features of every kind, and what is kept."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scripting import Refusal
from sklearn.neighbors import NearestNeighbors
from torch import nn

import sdescore.cli.kept_features
from sdescore import Scaling
from sdescore.cli import digits_judge, main
from sdescore.cli.kept_features import kept_features
from sdescore.cli.sources import features_of
from sdescore.data.load import digits, load
from sdescore.data.source import Arrays
from sdescore.evaluation import Features
from sdescore.evaluation.metrics import frechet_distance, kernel_distance, precision_recall, sliced_wasserstein
from sdescore.training.accelerator import build_accelerator

OWN = """
import torch
from torch import nn

START = None

def embed(x):
    return x.flatten(1)

def classify(x):
    return torch.stack([x.mean((1, 2)), 1 - x.mean((1, 2))], 1)

def scalars(x):
    return x.flatten(1).sum(1)

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 3, bias=False)
        if START is not None:
            nn.init.constant_(self.layer.weight, START)
    def forward(self, x):
        return self.layer(x.flatten(1))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with functions and modules of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_judge", raising=False)
    (tmp_path / "own_judge.py").write_text(OWN)
    return tmp_path


def table(out: Path) -> dict[str, dict[str, Any]]:
    return {row["set"]: row for row in json.loads((out / "evaluation.json").read_text())["sets"]}


class TestSets:
    def test_in_files_are_those_in_memory(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        train, out = digits("train"), tmp_path / "out"
        for count in (18, 35):  # as `sdescore sample` leaves them
            folder = tmp_path / f"heun-{count}"
            folder.mkdir()
            np.savez(folder / "samples.npz", x=train.raw[:300].numpy())
            (folder / "settings.json").write_text('{"solver": "heun", "steps": 18}')
            (folder / "cost.json").write_text(f'{{"samples": 300, "nfe": {count}.0, "seconds": 12.5}}')
        (tmp_path / "set").mkdir()
        for i, image in enumerate((train.raw[:300, 0].double() * 255 / 16).round().to(torch.uint8).numpy()):
            Image.fromarray(image).save(tmp_path / f"set/{i:04d}.png")
        (tmp_path / "likelihood.json").write_text('{"bits_per_dim": {"mean": 1.25, "stderr": 0.5}}')
        sets = [str(tmp_path / name) for name in ("heun-18", "heun-35", "set")]
        arguments = ["--samples", json.dumps(sets), "--likelihood", str(tmp_path / "likelihood.json")]
        main(["evaluate", *arguments, "--out", str(out)])
        rows, said = table(out), capsys.readouterr().out
        test = digits("test")
        one, two = (digits_judge.features(train.scaling.to_model(raw)) for raw in (train.raw[:300], test.raw))
        row = rows[sets[0]]
        assert row["frechet"] == pytest.approx(frechet_distance(one, two), rel=1e-9)
        assert (row["kernel"], row["kernel_error"]) == pytest.approx(kernel_distance(one, two), rel=1e-9)
        assert (row["precision"], row["recall"]) == pytest.approx(precision_recall(two, one))
        flat = [each.scaling.to_model(each.raw).flatten(1) for each in (train, test)]
        assert row["sliced_wasserstein"] == pytest.approx(sliced_wasserstein(flat[0][:300], flat[1])[0], rel=1e-9)
        assert (row["nearest"], row["memorised"]) == (0, 1)  # they are training digits
        assert (row["solver"], row["nfe"], row["seconds"]) == ("heun", 18, 12.5)
        assert rows[sets[2]]["frechet"] == pytest.approx(row["frechet"], rel=0.02)
        assert rows["digits:test"]["nearest"] == 1 and rows["digits:test"]["memorised"] == 0
        assert "frechet" not in rows["digits:test"] and rows["digits:train"]["recognised"] > 0.95
        assert "Bits per dimension: 1.2500 ± 0.5000" in said and (out / "table.md").read_text() in said
        assert json.loads((out / "evaluation.json").read_text())["bits_per_dim"]["mean"] == 1.25
        pictures = sorted(path.name for path in out.glob("*.png"))
        assert pictures == ["calls.png", "neighbours-0.png", "neighbours-1.png", "neighbours-2.png"]

    def test_neighbours_are_found_and_shown(self, here: Path) -> None:
        """Training data 0 to 49, and samples of which one is a copy: it comes first, its neighbour beside it."""
        draw = np.random.default_rng(0)
        train, test = (draw.integers(0, 256, (50, 1, 50, 50), dtype=np.uint8) for _ in range(2))
        samples = draw.integers(0, 256, (40, 1, 50, 50), dtype=np.uint8)
        samples[23] = train[7]
        for name, x in (("train", train), ("test", test), ("samples", samples)):
            np.savez(f"{name}.npz", x=x)
        arguments = ["--samples", "samples.npz", "--reference", "test.npz", "--training", "train.npz", "--out", "out"]
        arguments += ["--features", "own_judge:embed", "--classifier", "", "--metrics", "[neighbours]"]
        main(["evaluate", *arguments])
        rows = table(here / "out")
        unit = [x.reshape(len(x), -1) / 127.5 - 1 for x in (train, test, samples)]
        found = NearestNeighbors(n_neighbors=2).fit(unit[0])
        usual, own = (found.kneighbors(x)[0] for x in unit[1:])
        assert rows["samples.npz"]["nearest"] == pytest.approx(np.median(own[:, 0]) / np.median(usual[:, 0]), rel=1e-5)
        assert rows["samples.npz"]["memorised"] == 1 / 40 and rows["test.npz"]["memorised"] == 0
        with Image.open("out/neighbours-0.png") as picture:
            pixels = np.asarray(picture)
        assert (pixels[2:52, 2:52] == samples[23, 0]).all() and (pixels[2:52, 54:104] == train[7, 0]).all()
        # Below those nearest to the training data stand the first samples.
        top = 2 + 8 * 52
        assert (pixels[top : top + 50, 2:52] == samples[0, 0]).all()

    def test_functions_of_ones_own(self, here: Path) -> None:
        own = torch.Generator().manual_seed(0)
        a, b = torch.rand(60, 2, 3, generator=own), torch.rand(50, 2, 3, generator=own)
        np.savez("a.npz", x=a.numpy())
        np.savez("b.npz", x=b.clamp(a.min(), a.max()).numpy())
        arguments = ["--samples", "b.npz", "--reference", "a.npz", "--training", "", "--out", "out"]
        arguments += ["--features", "own_judge:embed", "--classifier", "own_judge:classify"]
        main(["evaluate", *arguments])
        low, high = a.min(), a.max()
        x, y = ((each.clamp(low, high) - low) / (high - low) * 2 - 1 for each in (a, b))
        wanted = frechet_distance(x.flatten(1), y.flatten(1))
        assert table(here / "out")["b.npz"]["frechet"] == pytest.approx(wanted, rel=1e-3)
        assert "nearest" not in table(here / "out")["b.npz"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--samples", "wide.npz"], "wide.npz has samples of shape (1, 4, 4); those of reference='digits:test'"),
            (["--features", "digits"], "features='digits'; expected 'module:name'"),
            (["--features", "sdescore.cli.digits_judge:smell"], "has no attribute 'smell'"),
            (["--features", "own_judge:scalars"], "gave (297,) for 297 samples; expected (n, d)"),
            (["--features", "inception"], "features='inception' needs weights"),
            (["--features", "model.pt2"], "torch.export unpickles what it loads"),
            (["--features", "model.pt"], "there is no file 'model.pt'"),
            (["--features", "own_judge:Small", "--weights", "evil.pth"], "evil.pth does not hold weights alone"),
            (["--features", "own_judge:Small", "--weights", "other.pth"], "other.pth does not fit Small"),
            (["--samples", "one.npz"], "expected (n, d) with n of at least 2"),
            (["--samples", "none.npz"], "there is no file 'none.npz'"),
            (["--samples", "nothing"], "data='nothing'; expected"),
            (["--threshold", "1.5"], "threshold=1.5; expected"),
            (["--metrics", "[inception-score]"], "metrics has inception-score; expected frechet, kernel"),
            (["--likelihood", "own_judge.py"], "own_judge.py has no bits per dimension"),
        ],
    )
    def test_bad_input_is_one_line(self, arguments: list[str], message: str, here: Path, refusal: Refusal) -> None:
        np.savez("wide.npz", x=np.zeros((4, 1, 4, 4), np.uint8))
        np.savez("one.npz", x=np.zeros((1, 1, 8, 8), np.uint8))
        torch.save({"layer.weight": Arrays}, "evil.pth")  # an object: loading it would import code
        torch.save({"layer.weight": torch.zeros(2, 2)}, "other.pth")
        given = ["--samples", "digits:train", "--classifier", "", "--metrics", "[frechet]", *arguments]
        assert message in refusal("evaluate", *given)


class TestFeatures:
    def test_modules_from_files(self, here: Path) -> None:
        """The same net as a class with weights of two kinds, and as a TorchScript file."""
        x = torch.rand(5, 1, 8, 8) * 2 - 1
        weight = torch.randn(3, 64)
        save_file({"layer.weight": weight}, "a.safetensors")
        torch.save({"state_dict": {"module.layer.weight": weight}, "epoch": 3}, "a.pth")
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3, bias=False))
        net.load_state_dict({"1.weight": weight})
        torch.jit.save(torch.jit.trace(net, x), "a.pt")
        made = [
            Features("own_judge:Small", "a.safetensors"),
            Features("own_judge:Small", "a.pth"),
            Features("a.pt"),
        ]
        for each in made:
            torch.testing.assert_close(each(x), x.flatten(1) @ weight.T)
            assert not each(x).requires_grad
        assert len({each.identity for each in made}) == 3
        own, same = (Features("own_judge:Small") for _ in range(2))
        assert own.identity == same.identity and own(x).equal(same(x))  # in every process, and where they are kept
        sys.modules["own_judge"].START = 0.0  # type: ignore[attr-defined]  # weights that a class gets from elsewhere
        assert Features("own_judge:Small").identity != own.identity

    def test_are_kept_by_what_they_were_made_from(
        self, here: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        calls: list[str] = []

        def noted(*given: Any, **named: Any) -> Any:
            calls.append(given[2])
            return features_of(*given, **named)

        monkeypatch.setattr(sdescore.cli.kept_features, "features_of", noted)
        x = np.random.default_rng(0).integers(0, 17, (80, 1, 8, 8), dtype=np.uint8)
        np.savez("s.npz", x=x)

        def frechet(*arguments: str) -> float:
            calls.clear()
            given = ["--samples", "s.npz", "--classifier", "", "--metrics", "[frechet]", "--cache", "kept"]
            main(["evaluate", *given, "--features", "own_judge:embed", *arguments, "--out", "out"])
            found = float(table(here / "out")["s.npz"]["frechet"])
            shutil.rmtree(here / "out")
            return found

        first = frechet()
        assert calls == ["features of digits:test", "features of digits:train", "features of s.npz"]
        assert frechet() == first and calls == ["features of s.npz"]
        assert len(list((here / "kept").iterdir())) == 2
        np.savez("t.npz", x=digits("test").raw[:200].numpy())
        frechet("--reference", "t.npz", "--training", "")  # unknown range: read as 0 to 255
        assert calls == ["features of t.npz", "features of s.npz"]
        (here / "own_judge.py").write_text(OWN.replace("return x.flatten(1)", "return 2 * x.flatten(1)", 1))
        sys.modules.pop("own_judge")
        assert frechet() == pytest.approx(4 * first, rel=1e-6) and len(calls) == 3
        for path in (here / "kept").iterdir():
            path.write_bytes(path.read_bytes()[:100])
        assert frechet() == pytest.approx(4 * first, rel=1e-6) and "is made again" in caplog.text

    @pytest.mark.parametrize("kind", ["npz", "npy", "images"])
    def test_any_change_of_the_data_is_noticed(self, here: Path, kind: str) -> None:
        """Of one sample of 600 alone, which is not among those that are evenly spaced."""
        x = np.random.default_rng(0).integers(0, 256, (600, 1, 4, 4), dtype=np.uint8)
        features, accelerator = Features("own_judge:embed"), build_accelerator("no", "none", ".")

        def kept() -> torch.Tensor:
            if kind == "npz":
                np.savez("x.npz", x=x)
            elif kind == "npy":
                if not Path("x.npy").exists() or (np.load("x.npy") != x).any():
                    np.save("x.npy", x)
            else:
                Path("x.images").mkdir(exist_ok=True)
                for i, image in enumerate(x[:, 0]):
                    path = Path(f"x.images/{i:03d}.bmp")
                    if not path.exists() or (np.asarray(Image.open(path)) != image).any():
                        Image.fromarray(image).save(path)
            name = f"x.{kind}"
            return kept_features("kept", features, load(name), name, batch=100, accelerator=accelerator)

        for _ in range(2):
            assert kept().equal(Scaling().to_model(torch.from_numpy(x)).flatten(1))
            x[1] = 255 - x[1]
        x[1] = 255 - x[1]
        kept()
        assert len(list(Path("kept").iterdir())) == 2

    @pytest.mark.parametrize("count", [1, 2, 7, 10])
    def test_processes_share_them(self, count: int) -> None:
        """Three processes, simulated: what each would send, put together by each."""
        source = Arrays(torch.randn(count, 4, generator=torch.Generator().manual_seed(0)), scaling="whole")
        sent: list[torch.Tensor] = []

        class Process:
            num_processes, device = 3, torch.device("cpu")

            def __init__(self, rank: int) -> None:
                self.process_index = rank

            def gather(self, rows: torch.Tensor) -> torch.Tensor:
                if len(sent) == 3:
                    return torch.cat(sent)
                sent.append(rows)
                return rows.repeat(3, 1)

        def square(x: torch.Tensor) -> torch.Tensor:
            return x[:, :2] ** 2

        for rank in (0, 1, 2, 0):
            whole = features_of(square, source, batch=2, accelerator=cast(Any, Process(rank)))
        assert whole.equal(square(source.scaling.to_model(source.raw)))

    @pytest.mark.slow
    def test_two_processes_make_the_same_table(self, here: Path) -> None:
        command = ["sdescore.cli", "evaluate", "--samples", "digits:train"]
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
        subprocess.run([sys.executable, "-m", *command, "--out", "one"], check=True)
        subprocess.run([*launcher, *command, "--out", "two", "--cache", "kept"], check=True)
        one, two = (json.loads((here / name / "evaluation.json").read_text())["sets"] for name in ("one", "two"))
        for a, b in zip(one, two, strict=True):
            assert a.pop("set") == b.pop("set") and a == pytest.approx(b, rel=1e-6)
        assert len(list((here / "kept").iterdir())) == 2
