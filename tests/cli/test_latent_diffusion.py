"""Latent diffusion by the commands: train on an autoencoder's codes, sample through its decoder."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from saved_models import saved
from scripting import Refusal
from torch import Tensor

from sdescore import Denoiser, sample
from sdescore.cli import main
from sdescore.data import MappedCodes, digits
from sdescore.interop import load_autoencoder

QUICK = ["--tracker", "none", "--progress", "false", "--workers", "0", "--warmup", "0"]
SMALL = '{"base_width": 8, "multipliers": [1], "blocks": 1, "attention": [], "heads": 1}'
TINY = ["--net", "UNet", "--net_args", SMALL, "--conditional", "true", "--batch_size", "8", "--sample_count", "4"]
MLP = ["--net", "MLP", "--net_args", '{"width": 8, "depth": 1}']

MINE = """
import torch

TURN = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64))[0]
KEPT = TURN[:, :3].float()  # orthonormal columns

calls = []

def encoder(x):
    calls.append(len(x))
    return x @ KEPT

linear = (encoder, lambda z: z @ KEPT.T)
"""


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The columns that the autoencoder of mine_linear:linear keeps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("mine_linear.py").write_text(MINE)
    monkeypatch.delitem(sys.modules, "mine_linear", raising=False)
    import mine_linear  # type: ignore[import-not-found]

    found: Tensor = mine_linear.KEPT.double()
    return found


def test_decoded_samples_have_the_law_of_the_data_in_the_decoder_s_range(kept: Tensor, refusal: Refusal) -> None:
    """An untrained net of EDM's is exact for normal codes, so that nothing but the way to them and back is tested."""
    mean, std = torch.tensor([3.0, -2.0, 0.5]).double(), torch.tensor([2.0, 1.0, 0.25]).double()
    codes = mean + std * torch.randn(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    outside = torch.randn(4000, 3, dtype=torch.float64) @ torch.linalg.qr(kept, mode="complete")[0][:, 3:].T
    np.save("data.npy", (codes @ kept.T + outside).float().numpy())
    data = ["--data", "data.npy", "--data_low", "-40", "--data_high", "40", "--autoencoder", "mine_linear:linear"]
    main(["train", *data, *MLP, *QUICK, "--steps", "1", "--lr", "1e-12", "--sample_every", "0", "--out", "run"])
    arguments = ["--model", "run/model", "--out", "out", "--count", "10000", "--batch_size", "10000", "--nfe", "30"]
    assert "'mine_linear:linear' is someone's own code; expected trust_code=True" in refusal("sample", *arguments)
    main(["sample", *arguments, "--trust_code", "true"])
    with np.load("out/samples.npz") as file:
        x = torch.from_numpy(file["x"]).double()
    assert x.shape == (10000, 6)
    # The law is that of the 4,000 samples' own mean and deviation, channel by channel.
    own_mean, own_std = codes.mean(0), codes.std(0, correction=0)
    found = x @ kept
    assert bool(((found.mean(0) - own_mean).abs() < 5 * own_std / 10000**0.5).all())
    assert bool(((found.std(0) / own_std - 1).abs() < 5 / 20000**0.5 + 0.002).all())
    correlation = torch.corrcoef(found.T) - torch.eye(3)
    assert float(correlation.abs().max()) < 5 / 10000**0.5
    torch.testing.assert_close(found @ kept.T, x, rtol=0, atol=1e-4)  # and nothing outside the decoder's range


def vae(path: Path, seed: int = 0) -> str:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(seed)
    diffusers.AutoencoderKL(
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=8,
    ).save_pretrained(path)
    return str(path)


def content(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of few steps
def test_a_diffusers_autoencoder_of_pictures(tmp_path: Path, refusal: Refusal) -> None:
    """Training, previews, an interrupted run, sampling, and all that is refused."""
    theirs, run = vae(tmp_path / "vae"), tmp_path / "run"
    source = digits()
    np.savez(tmp_path / "data.npz", x=source.raw[:40].numpy(), y=source.labels[:40].numpy())  # type: ignore[index]
    options = [*TINY, *QUICK, "--sample_steps", "2"]
    scale = ["--data_low", "0", "--data_high", "16", "--data_levels", "17"]
    data = ["--data", str(tmp_path / "data.npz"), *scale]
    train = ["train", *options, *data, "--autoencoder", theirs, "--autoencoder_args.posterior", "sample"]
    main([*train, "--steps", "2", "--out", str(run)])
    codes = MappedCodes(run / "codes")
    assert (len(codes), codes.shape, codes.classes) == (40, (4, 4, 4), 10)
    assert Image.open(run / "samples" / "step-000002.png").size[0] > 8  # decoded pictures, where codes have 4 channels
    made = (run / "codes" / "codes.npy").stat().st_mtime_ns
    main([*train, "--steps", "3", "--out", str(run), "--resume"])
    assert (run / "codes" / "codes.npy").stat().st_mtime_ns == made

    net = Denoiser.from_pretrained(run / "model")
    assert net.codes is not None and net.codes.scaling == digits().scaling and net.codes.args == {"posterior": "sample"}
    drawn = ["--model", str(run / "model"), "--count", "6", "--nfe", "4", "--label", "-1", "--batch_size", "4"]
    main(["sample", *drawn, "--out", str(tmp_path / "out")])
    assert net.scaling is not None
    labels = torch.arange(6)
    z = net.scaling.to_data(sample(net.sde, net, (6, 4, 4, 4), nfe=4, seed=0, condition={"label": labels}))
    decoded = load_autoencoder(theirs).to_data(z)
    expected = ((decoded.clamp(-1, 1) + 1) * 8).round()
    found = content(tmp_path / "out" / "samples.npz")
    assert found["x"].dtype == np.uint8 and found["y"].tolist() == labels.tolist()
    assert float((torch.from_numpy(found["x"]) - expected).abs().max()) <= 1 and expected.std() > 0.5
    assert float((torch.from_numpy(found["x"]) != expected).float().mean()) < 0.01
    assert len(list((tmp_path / "out" / "images").iterdir())) == 6

    # The codes of another run, and as data.
    shared = ["--codes", str(run / "codes"), "--steps", "1", "--sample_every", "0"]
    main([*train, *shared, "--out", str(tmp_path / "second")])
    assert not (tmp_path / "second" / "codes").exists()
    other = vae(tmp_path / "other", seed=1)
    assert "is not the one that made the codes" in refusal(
        "train", *options, *data, "--autoencoder", other, *shared, "--out", str(tmp_path / "third")
    )
    alone = ["train", *options, "--data", str(run / "codes"), *shared[2:], "--out", str(tmp_path / "fourth")]
    main(alone)
    assert Denoiser.from_pretrained(tmp_path / "fourth" / "model").codes == net.codes
    assert "flips=True, but samples are codes" in refusal(*alone[:-1], str(tmp_path / "fifth"), "--flips", "true")
    assert "are codes already" in refusal(*alone[:-1], str(tmp_path / "fifth"), "--autoencoder", theirs)

    # Where the autoencoder is now.
    (tmp_path / "vae").rename(tmp_path / "moved")
    more = [*drawn, "--out", str(tmp_path / "out2")]
    assert "expected autoencoder=, where that of the model's codes is now" in refusal("sample", *more)
    assert "is not the one that made the codes" in refusal("sample", *more, "--autoencoder", other)
    main(["sample", *more, "--autoencoder", str(tmp_path / "moved")])
    assert np.array_equal(content(tmp_path / "out2" / "samples.npz")["x"], found["x"])


def test_what_does_not_go_together(tmp_path: Path, refusal: Refusal) -> None:
    model = saved(tmp_path / "model")
    said = refusal("sample", "--model", model, "--out", str(tmp_path / "out"), "--autoencoder", "vae")
    assert "autoencoder='vae', but the model makes data, not codes" in said
    said = refusal("train", "--codes", "somewhere", "--out", str(tmp_path / "run"))
    assert "codes='somewhere', but no autoencoder" in said
