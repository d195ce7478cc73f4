"""Nets that the library did not train, each by the plain loop of its own paper, and the problems that they pose.

Perceptrons with sinusoidal times see the digits of scikit-learn, a U-Net of diffusers sees Fashion-MNIST. They are kept
in a folder once they are trained.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from sdescore import VESDE, VPSDE, Denoiser, DiscreteSDE, FlowSDE, GaussianMixture, KarrasSDE, LinearSDE
from sdescore.data.idx import idx
from sdescore.denoisers import NetTerms

from . import fashion

__all__ = ["FLOWS", "Flow", "TutorialVE", "foreign", "mixture"]

DIGITS, CLASSES = 64, 10


class SinusoidalMLP(nn.Module):
    """Residual blocks, each of which is given the time by 32 sines and cosines, and a label that may be left out."""

    def __init__(self, width: int = 384, labelled: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(DIGITS, width)
        self.time = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(CLASSES + 1, width) if labelled else None
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(4)
        )
        self.last = nn.Linear(width, DIGITS)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        frequencies = torch.exp(-math.log(10000) * torch.arange(32) / 32).to(x)
        angles = t.to(x).reshape(-1, 1) * frequencies
        known = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        if self.label is not None:
            known = known + self.label(torch.full((len(x),), CLASSES) if label is None else label)
        h = self.first(x)
        for block in self.blocks:
            h = h + block(h + known)
        return torch.as_tensor(self.last(h))


class Convolutional(nn.Module):
    """diffusers' U-Net of 28 x 28 pixels, small enough for a CPU."""

    def __init__(self, labelled: bool = False) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        self.net = UNet2DModel(
            sample_size=28,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(16, 32, 32),
            norm_num_groups=8,
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            num_class_embeds=CLASSES + 1 if labelled else None,
        )
        self.labelled = labelled

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        if self.labelled and label is None:
            label = torch.full((len(x),), CLASSES)
        return torch.as_tensor(self.net(x, t, class_labels=label).sample)


def _digits() -> tuple[Tensor, Tensor]:
    """Values (n, 64) in [-1, 1] and labels."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.tensor(data.images, dtype=torch.float32).flatten(1) / 8 - 1, torch.tensor(data.target)


def _clothes() -> tuple[Tensor, Tensor]:
    """Values (n, 1, 28, 28) in [-1, 1] and labels."""
    source = idx(fashion.FOLDER)
    assert source.labels is not None
    return source.scaling.to_model(source.raw), source.labels


@dataclass(frozen=True)
class TutorialVE(LinearSDE):
    """dx = 25^t dw, whose variance (25^(2t) - 1) / (2 ln 25) is 0 at 0: that of a tutorial on score-based models."""

    @property
    def t_min(self) -> float:
        return 1e-3

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return (torch.expm1(2 * math.log(25) * t) / (2 * math.log(25))).sqrt()

    def time(self, lam: Tensor) -> Tensor:
        return torch.log1p(2 * math.log(25) * torch.exp(-2 * lam)) / (2 * math.log(25))


def linear_table() -> DiscreteSDE:
    return DiscreteSDE.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))


def cosine_table(steps: int = 200) -> DiscreteSDE:
    """Nichol & Dhariwal 2021, eq. 17."""
    share = torch.arange(steps + 1, dtype=torch.float64) / steps
    square = torch.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2
    return DiscreteSDE.from_betas((1 - square[1:] / square[:-1]).clamp(max=0.999))


# Times (n,) that a net is trained on.
def _entries(sde: LinearSDE, n: int) -> Tensor:
    return torch.randint(0, int(sde.T) + 1, (n,))


def _logit_normal(sde: LinearSDE, n: int) -> Tensor:
    return torch.sigmoid(torch.randn(n))


def _uniform(sde: LinearSDE, n: int) -> Tensor:
    return torch.rand(n) * (1 - sde.t_min) + sde.t_min


@dataclass(frozen=True)
class Recipe:
    """How a net was trained: its process, what it is given and returns, the law of its times, its kind and its data."""

    sde: LinearSDE
    terms: NetTerms
    times: Callable[[LinearSDE, int], Tensor]
    net: Callable[..., nn.Module] = SinusoidalMLP
    data: Callable[[], tuple[Tensor, Tensor]] = _digits
    shape: tuple[int, ...] = (DIGITS,)
    steps: int = 3500
    batch: int = 256


RECIPES = {
    "noise, linear table": Recipe(linear_table(), NetTerms("state", "index", predicts="noise"), _entries),
    "v, linear table": Recipe(linear_table(), NetTerms("state", "index", predicts="v"), _entries),
    "noise, cosine table of 200": Recipe(cosine_table(), NetTerms("state", "index", predicts="noise"), _entries),
    "velocity, flow": Recipe(FlowSDE(), NetTerms("state", "t", 1000.0, predicts="velocity"), _logit_normal),
    "noise, tutorial's VE": Recipe(TutorialVE(), NetTerms("vp", "t", 999.0, predicts="noise"), _uniform),
    "noise, U-Net on clothes": Recipe(
        linear_table(),
        NetTerms("state", "index", predicts="noise"),
        _entries,
        Convolutional,
        _clothes,
        (1, 28, 28),
        steps=6000,
        batch=64,
    ),
}


def _train(net: nn.Module, recipe: Recipe, labelled: bool, name: str) -> None:
    """Adam with a rate that falls to 0, and an average of the weights, which is what is kept."""
    x0s, labels = recipe.data()
    sde, terms, batch = recipe.sde, recipe.terms, recipe.batch
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.0)
    average = [each.detach().clone() for each in net.parameters()]
    for step in tqdm(range(recipe.steps), desc=name):
        rows = torch.randint(len(x0s), (batch,))
        t = recipe.times(sde, batch)
        alpha, sigma = (_column(each(t.double()), recipe) for each in (sde.alpha, sde.sigma))
        x0 = x0s[rows]
        eps = torch.randn(x0.shape)
        wanted = {"noise": eps, "v": alpha * eps - sigma * x0, "velocity": eps - x0}[terms.predicts]
        factor, time = terms.inputs(sde, t.double(), 0.5)
        state = alpha * x0 + sigma * eps
        given = state * _column(factor, recipe) if isinstance(factor, Tensor) else state
        label = torch.where(torch.rand(batch) < 0.15, CLASSES, labels[rows]) if labelled else None
        loss = (net(given, torch.as_tensor(time).float(), label) - wanted).square().mean()
        optimiser.zero_grad()
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 100) * (1 - step / recipe.steps)
        optimiser.step()
        with torch.no_grad():
            for kept, each in zip(average, net.parameters(), strict=True):
                kept.lerp_(each, 1 - min(0.998, (1 + step) / (10 + step)))
    with torch.no_grad():
        for kept, each in zip(average, net.parameters(), strict=True):
            each.copy_(kept)


def _column(values: Tensor, recipe: Recipe) -> Tensor:
    """One number a sample, against its shape."""
    return values.float().reshape(-1, *[1] * len(recipe.shape))


def foreign(name: str, labelled: bool, folder: Path) -> Denoiser:
    """The denoiser of a recipe's net, trained unless the folder has it."""
    recipe = RECIPES[name]
    torch.manual_seed(0)
    net = recipe.net(labelled=labelled)
    file = folder / f"{name}{', labelled' if labelled else ''}.safetensors"
    if file.exists():
        net.load_state_dict(load_file(file))
    else:
        _train(net, recipe, labelled, file.stem)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(net.state_dict(), file)
    net.eval()
    return Denoiser(net, recipe.sde, terms=recipe.terms, data_std=0.7, shape=recipe.shape)


def mixture(dims: int, low: float, high: float, sde: LinearSDE) -> Denoiser:
    """The exact denoiser of ten Gaussians of different widths."""
    own = torch.Generator().manual_seed(0)
    means = 0.6 * torch.randn(10, dims, generator=own)
    return GaussianMixture(means, low + (high - low) * torch.rand(10, dims, generator=own)).denoiser(sde)


@dataclass(frozen=True)
class Flow:
    """A denoiser to be followed, and with which scale its labels are guided."""

    make: Callable[[Path], Denoiser]
    scale: float | None = None


def _named(name: str, labelled: bool = False) -> Callable[[Path], Denoiser]:
    return lambda folder: foreign(name, labelled, folder)


# Those after "held out" were not looked at when the default was chosen.
FLOWS = {
    **{name: Flow(_named(name)) for name in list(RECIPES)[:4]},
    "mixture, 64-D, VP": Flow(lambda _: mixture(64, 0.02, 0.3, VPSDE())),
    "mixture, 64-D, Karras": Flow(lambda _: mixture(64, 0.02, 0.3, KarrasSDE())),
    "mixture, 2-D, VE": Flow(lambda _: mixture(2, 0.1, 0.3, VESDE())),
    "held out: noise, tutorial's VE": Flow(_named("noise, tutorial's VE")),
    "held out: mixture, 768-D, VP": Flow(lambda _: mixture(768, 0.05, 0.3, VPSDE())),
    "held out: mixture, 768-D, VE": Flow(lambda _: mixture(768, 0.05, 0.3, VESDE())),
    **{
        f"{name}, guided {scale:g}": Flow(_named(name, True), scale)
        for name in ("noise, linear table", "noise, cosine table of 200", "velocity, flow")
        for scale in (1.0, 3.0, 7.0)
    },
    **{
        f"held out: noise, U-Net on clothes, guided {scale:g}": Flow(_named("noise, U-Net on clothes", True), scale)
        for scale in (1.0, 3.0, 7.0)
    },
}
