"""Autoencoders as pairs of functions, and codes that travel with a net."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sdescore import Denoiser, KarrasSDE, guided
from sdescore.common.scaling import Scaling
from sdescore.denoisers import Autoencoder, Codes
from sdescore.nets import MLP

TURN = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)))[0]
X = torch.rand(5, 6, generator=torch.Generator().manual_seed(1)) * 2 - 1


def turned(name: str = "mine:turned", **options: Any) -> Autoencoder:
    return Autoencoder(lambda x: x @ TURN, lambda z: z @ TURN.T, name, **options)


def layered(shift: float = 0.0, **options: Any) -> Autoencoder:
    """With weights, dropout and half precision."""
    torch.manual_seed(0)
    down, up = nn.Sequential(nn.Linear(6, 2), nn.Dropout(0.5)), nn.Linear(2, 6)
    with torch.no_grad():
        up.bias.add_(shift)
    return Autoencoder(down, lambda z: up(z), **options)


def test_functions_without_weights() -> None:
    autoencoder = turned()
    torch.testing.assert_close(autoencoder.to_codes(X), X @ TURN)
    torch.testing.assert_close(autoencoder.to_data(autoencoder.to_codes(X)), X)


def test_modules_are_found_moved_and_in_evaluation_mode() -> None:
    autoencoder = layered().bfloat16().train()
    codes = autoencoder.to_codes(X)
    assert codes.dtype == torch.float32 and not codes.requires_grad
    assert torch.equal(codes, autoencoder.to_codes(X))  # without dropout
    down: Any = autoencoder.encoder
    exact = X @ down[0].weight.float().T + down[0].bias.float()
    torch.testing.assert_close(codes, exact, rtol=0.02, atol=0.02)
    assert autoencoder.to_data(codes).shape == X.shape and autoencoder.training


def test_of_means_and_deviations_a_code_of_each_sample_is_drawn() -> None:
    """With the law that is stated, and whatever the batch."""
    drawn = Autoencoder(lambda x: (2 * x, 0.5 + 0 * x), lambda z: z / 2)
    x = torch.full((4000, 3), 0.25, dtype=torch.float64)
    codes = drawn.to_codes(x)
    assert abs(float(codes.mean()) - 0.5) < 5 * 0.5 / 12000**0.5
    assert abs(float(codes.std()) - 0.5) < 5 * 0.5 / 24000**0.5
    assert torch.equal(drawn.to_codes(x[7:9], index_offset=7), codes[7:9])


def test_what_tells_one_from_another() -> None:
    def same(one: Autoencoder, other: Autoencoder) -> bool:
        return one.fingerprint() == other.fingerprint()

    assert same(turned(), turned()) and not same(turned(), turned("mine:other"))
    assert same(layered(), layered(name="elsewhere"))  # by its weights
    for other in (layered(1e-3), layered(args={"posterior": "sample"}), layered(version="twice as large")):
        assert not same(layered(), other)
    with pytest.raises(ValueError, match="autoencoder 'mine:other' is not the one that made the codes, 'mine:turned'"):
        turned("mine:other").check(codes_of(turned()))
    turned().check(codes_of(turned()))


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        (lambda x: x[:2], r"encoder returned \(2, 6\) for 5 samples"),
        (lambda x: {"codes": x}, "encoder returned dict for 5 samples"),
        (lambda x: (x, x, x), "encoder returned 3 tensors; expected codes, or their means and deviations"),
        (lambda x: (x, x[:, :1]), "encoder returned 2 tensors"),
    ],
)
def test_what_is_no_code_is_refused(encoder: Callable[[Tensor], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Autoencoder(encoder, lambda z: z).to_codes(X)
    with pytest.raises(TypeError, match="decoder is a str; expected a function or a module"):
        Autoencoder(encoder, "mine:decode")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="decoder returned Size for 5 samples"):
        Autoencoder(encoder, lambda z: z.shape).to_data(X)  # type: ignore[arg-type,return-value]


def codes_of(autoencoder: Autoencoder) -> Codes:
    return Codes(autoencoder.name, autoencoder.args, autoencoder.fingerprint(), (1, 2, 3), Scaling(0, 16, 17))


def test_codes_travel_with_a_net(tmp_path: Path) -> None:
    codes = codes_of(turned(args={"angle": 0.5}))
    net = Denoiser(MLP(6, width=4, depth=1, classes=2), KarrasSDE(), shape=(6,), codes=codes)
    net.save_pretrained(tmp_path)
    assert Denoiser.from_pretrained(tmp_path).codes == codes
    assert guided(net, 2.0).codes == codes
    Denoiser(net.net, net.sde, shape=(6,)).save_pretrained(tmp_path)
    assert Denoiser.from_pretrained(tmp_path).codes is None
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "codes": {"autoencoder": "mine"}}))
    with pytest.raises(ValueError, match=r"config\.json does not describe a denoiser: 'scaling'"):
        Denoiser.from_pretrained(tmp_path)
