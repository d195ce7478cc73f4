"""The nets of EDM's checkpoints, beyond what the originals returned: what holds of every net, and of magnitudes."""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from small_nets import filled, inputs
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from sdescore.common.plugins import find_plugin
from sdescore.nets import DhariwalUNet, EDM2UNet, SongUNet
from sdescore.nets.edm2 import DecoderBlock, EncoderBlock, Features, Weight, blend, join, silu
from sdescore.nets.edm_parts import ConvDownsample, decoder_stages, downsample, encoder_stages, filter_of, upsample

SMALL: dict[str, Any] = {"channels": 1, "image_size": 8, "base_width": 8, "multipliers": (1, 2), "blocks": 1}
NCSNPP = {"embedding": "fourier", "noise_multiplier": 2, "encoder": "residual", "taps": (1, 3, 3, 1)}
MAKE: dict[str, Callable[..., Any]] = {
    "DDPM++": lambda **a: SongUNet(**{**SMALL, "attention": (4,), **a}),
    "NCSN++": lambda **a: SongUNet(**{**SMALL, "attention": (4,), **NCSNPP, **a}),
    "skips": lambda **a: SongUNet(**{**SMALL, "attention": (8,), "encoder": "skip", "decoder": "skip", **a}),
    "ADM": lambda **a: DhariwalUNet(**{**SMALL, "attention": (4,), "head_width": 8, **a}),
    "EDM2": lambda **a: EDM2UNet(**{**SMALL, "attention": (4,), "head_width": 8, **a}),
}
nets = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


@nets
def test_output_is_zero_at_initialisation_and_of_the_shape_of_x_after(make: Callable[..., nn.Module]) -> None:
    net = make().eval()
    x, c_noise = inputs(net)
    assert torch.equal(net(x, c_noise), torch.zeros_like(x))
    y = filled(net)(x, c_noise)
    assert y.shape == x.shape and y.std() > 1e-3


@nets
def test_each_sample_answers_to_its_own_noise_level_and_label(make: Callable[..., nn.Module]) -> None:
    net = filled(make(classes=3)).eval()
    x, c_noise = inputs(net)
    label = torch.tensor([0, 3, 2])
    y = net(x, c_noise, label)
    alone = torch.cat([net(x[i : i + 1], c_noise[i : i + 1], label[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(alone, y, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net(x, c_noise)[1], y[1])  # 3 stands for no label
    moved = net(x, c_noise + torch.tensor([0.0, 0.1, 0.0]), torch.tensor([1, 3, 2]))
    assert (moved - y).flatten(1).abs().amax(1)[:2].min() > 1e-4
    torch.testing.assert_close(moved[2], y[2])


@nets
def test_derivatives(make: Callable[..., nn.Module]) -> None:
    net = filled(make()).double().eval()
    net(*inputs(net, dtype=torch.float64)).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []
    x, c_noise = inputs(net, batch=1, dtype=torch.float64)
    at = (x.requires_grad_(), c_noise.requires_grad_())
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.autograd.gradcheck(net, at, fast_mode=True, check_forward_ad=True)


@nets
def test_bfloat16_is_near_float32(make: Callable[..., nn.Module]) -> None:
    net = filled(make()).eval()
    x, c_noise = inputs(net)
    y = net(x, c_noise)
    low = net.bfloat16()(x.bfloat16(), c_noise)  # the time stays in float32
    assert low.dtype == torch.bfloat16
    assert 1e-4 < (low.float() - y).norm() / y.norm() < 0.1


@pytest.mark.slow
@nets
def test_compiled_as_one_graph(make: Callable[..., nn.Module]) -> None:
    net = filled(make(classes=3)).eval()
    given = (*inputs(net), torch.tensor([0, 3, 2]))
    assert torch.equal(torch.compile(net, fullgraph=True, backend="eager")(*given), net(*given))


@nets
def test_config_rebuilds_the_net(make: Callable[..., Any]) -> None:
    net = filled(make(classes=2)).eval()
    cls = find_plugin("sdescore.nets", type(net).__name__, "net")
    again = cls(**json.loads(json.dumps(net.config))).eval()
    assert again.config == net.config
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(*inputs(net)), net(*inputs(net)))


@nets
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"channels": 0}, "channels has 0; expected"),
        ({"image_size": 7}, "image_size=7, multipliers has 2 levels; expected"),
        ({"multipliers": ()}, "multipliers has 0 levels"),
        ({"multipliers": (1, -1)}, "multipliers has -1; expected"),
        ({"blocks": 0}, "blocks has 0; expected"),
        ({"dropout": 1.0}, r"dropout=1.0; expected a number in \[0, 1\)"),
        ({"classes": 0}, "classes has 0; expected"),
    ],
)
def test_arguments_out_of_range(make: Callable[..., Any], arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoder": "deep"}, "encoder='deep'; expected 'standard', 'skip', 'residual'"),
        ({"taps": (1, 2, 1)}, r"taps=\[1, 2, 1\]; expected an even number"),
        ({"encoder": "residual", "taps": (1, -1)}, r"taps=\[1, -1\]; expected .* sum that is not 0"),
    ],
)
def test_arguments_of_ncsnpp_out_of_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MAKE["DDPM++"](**arguments)


@pytest.mark.parametrize("name", ["DDPM++", "ADM"])
def test_inputs_that_do_not_fit(name: str) -> None:
    net = MAKE[name](classes=2, augmentations=3)
    x, c_noise = inputs(net)
    for given, message in (
        ((x[:, :, :4], c_noise), r"x has shape \(3, 1, 4, 8\)"),
        ((x, c_noise[:2]), r"c_noise has shape \(2,\)"),
        ((x, c_noise, torch.zeros(3)), r"label has shape \(3,\), torch.float32; expected \(3,\), torch.int64, 0 to 1"),
        ((x, c_noise, None, torch.zeros(3, 2)), r"augment has shape \(3, 2\); expected None or \(3, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            net(*given)
    with pytest.raises(ValueError, match=r"augment has shape .*; expected None"):
        MAKE[name]()(x, c_noise, None, torch.zeros(3, 3))


@pytest.mark.parametrize("name", ["DDPM++", "ADM"])
def test_no_augmentation_is_zeros(name: str) -> None:
    net = filled(MAKE[name](augmentations=3)).eval()
    x, c_noise = inputs(net)
    y = net(x, c_noise)
    torch.testing.assert_close(net(x, c_noise, augment=torch.zeros(3, 3)), y)
    assert (net(x, c_noise, augment=torch.ones(3, 3)) - y).abs().max() > 1e-3


def test_a_decoder_takes_all_that_the_encoder_leaves() -> None:
    widths = [8, 16, 24]
    down = encoder_stages(3, 8, widths, 2, 16)
    up = decoder_stages(down, widths, 2)
    blocks = [stage for stage in up if stage.is_block]
    assert len(blocks) == len(down)
    entered = [previous.width for previous, stage in pairwise(up) if stage.is_block]
    assert [b.width_in - e for b, e in zip(blocks, entered, strict=True)] == [s.width for s in reversed(down)]
    assert [b.size for b in blocks] == [s.size for s in reversed(down)]


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
def test_resampling(taps: tuple[float, ...]) -> None:
    kernel = filter_of(taps).double()
    ramp = (torch.arange(16.0, dtype=torch.float64)[:, None] + 3 * torch.arange(16.0, dtype=torch.float64)).expand(
        1, 2, 16, 16
    )
    half = downsample(ramp, kernel)
    assert half.shape == (1, 2, 8, 8)
    # Away from the edges a symmetric filter keeps a plane: pixel i of half the size lies at 2 i + 1/2.
    torch.testing.assert_close(half[..., 1:-1, 1:-1], (ramp[..., ::2, ::2] + 0.5 + 1.5)[..., 1:-1, 1:-1])
    x, y = torch.randn(1, 2, 16, 16, dtype=torch.float64), torch.randn(1, 2, 8, 8, dtype=torch.float64)
    torch.testing.assert_close((upsample(y, kernel) * x).sum(), 4 * (y * downsample(x, kernel)).sum())
    if taps == (1, 1):
        torch.testing.assert_close(upsample(y, kernel), y.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_a_convolution_before_the_filter_is_that_after_it_away_from_the_edges() -> None:
    layer = ConvDownsample(2, 3, 3, (1, 3, 3, 1)).double()
    x = torch.randn(1, 2, 16, 16, dtype=torch.float64)
    filtered = nn.functional.conv2d(x, layer.resample_filter.expand(2, 1, 4, 4), groups=2)  # 13 x 13, offset 1
    after = nn.functional.conv2d(filtered, layer.weight, layer.bias, stride=2)
    torch.testing.assert_close(layer(x)[..., 1:7, 1:7], after)


class TestMagnitudes:
    """EDM2's promise: what has magnitude 1 keeps it (Karras et al. 2024, section 2.3)."""

    @staticmethod
    def magnitude(x: Tensor) -> float:
        return float(x.detach().square().mean().sqrt())

    def noise(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(2))

    def test_of_layers(self) -> None:
        torch.manual_seed(0)
        layer = Weight(64, 128, 3, 3)
        with torch.no_grad():
            layer.weight.mul_(7.0)
        y = layer(self.noise(2, 64, 16, 16))[..., 1:-1, 1:-1]
        assert self.magnitude(y) == pytest.approx(1, abs=0.02)
        assert self.magnitude(silu(self.noise(100_000))) == pytest.approx(1, abs=0.01)
        assert self.magnitude(Features(4096)(torch.tensor([-1.0, 0.3]))) == pytest.approx(1, abs=0.02)
        assert self.magnitude(blend(self.noise(99_999), self.noise(100_000)[1:], 0.3)) == pytest.approx(1, abs=0.01)

    def test_of_joined_channels(self) -> None:
        a, b = self.noise(2, 8, 64, 64), self.noise(2, 24, 64, 64)
        joined = join(a, b, 0.3)
        assert self.magnitude(joined) == pytest.approx(1, abs=0.01)
        # Each part adds to a layer's output by its share, however many channels it has.
        shares = [float(part.norm()) for part in joined.split([8, 24], dim=1)]
        assert shares[1] / shares[0] == pytest.approx(0.3 / 0.7, rel=0.02)

    @pytest.mark.parametrize("block", [EncoderBlock, DecoderBlock])
    def test_of_blocks(self, block: type[EncoderBlock] | type[DecoderBlock]) -> None:
        torch.manual_seed(0)
        settings = {"dropout": 0.0, "residual_balance": 0.3, "attention_balance": 0.3, "clip": None}
        layer = block(32, 64, 16, resampling=None, heads=0, **settings)
        assert self.magnitude(layer(self.noise(2, 32, 16, 16), self.noise(2, 16))) == pytest.approx(1, abs=0.05)

    def test_training_keeps_the_weights_normalised_and_evaluation_leaves_them(self) -> None:
        net = filled(MAKE["EDM2"]())
        before = {name: p.clone() for name, p in net.named_parameters()}
        net.eval()(*inputs(net))
        assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())
        y = net(*inputs(net))
        torch.testing.assert_close(net.train()(*inputs(net)), y, rtol=1e-2, atol=1e-3)  # but for the small constant
        weights = [p for p in net.parameters() if p.ndim > 1]
        assert all((p.flatten(1).square().mean(1) - 1).abs().max() < 2e-2 for p in weights)
