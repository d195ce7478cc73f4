"""A residual multilayer perceptron for vectors."""

from collections.abc import Mapping, Sequence
from typing import Any

from einops import rearrange
from torch import Tensor, nn

from .blocks import zeroed
from .checks import check_input, named_classes, positive, probability
from .conditions import stated
from .embedding import Conditioning


class Layers(nn.Module):
    """Residual block of two layers with scale-shift conditioning; the identity at initialisation."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.affine = nn.Linear(width, 2 * width)
        last = zeroed(nn.Linear(width, width))
        self.layers = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Dropout(dropout), last)

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        scale, shift = rearrange(self.affine(embedded), "b (two c) -> two b c", two=2)
        y: Tensor = x + self.layers(self.norm(x) * (1 + scale) + shift)
        return y


class MLP(nn.Module):
    """Residual perceptron called as net(x, c_noise, label=None, **conditions): x (batch, features) -> the same shape.

    Its output is zero at initialisation. `config` holds the constructor's arguments.

    Args:
        features: Length of the vectors.
        width: Hidden width, also that of the embedding.
        depth: Number of residual blocks, of two layers each.
        dropout: Probability, inside the residual blocks.
        classes: Number of labels; labels are 0 ... classes - 1, and `classes` itself stands for no label.
        class_names: Their names, to travel with the saved net.
        conditions: Vectors by name, such as {"past": {"kind": "vector", "size": 3}}; see conditions.py.

    Raises ValueError for an argument out of range and, when called, for an input that does not fit.
    """

    def __init__(
        self,
        features: int,
        *,
        width: int = 256,
        depth: int = 4,
        dropout: float = 0.0,
        classes: int | None = None,
        class_names: Sequence[str] | None = None,
        conditions: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "features": positive("features", features),
            "width": positive("width", width),
            "depth": positive("depth", depth),
            "dropout": probability("dropout", dropout),
            "classes": None if classes is None else positive("classes", classes),
            "class_names": named_classes(classes, class_names),
            "conditions": stated(conditions, ("vector",)),
        }
        self.axes = {"features": features}
        self.conditioning = Conditioning(width, classes, self.config["conditions"])
        self.entry = nn.Linear(features, width)
        self.blocks = nn.ModuleList(Layers(width, dropout) for _ in range(depth))
        self.exit = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), zeroed(nn.Linear(width, features)))

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, **conditions: Tensor | None) -> Tensor:
        check_input(x, self.axes)
        self.conditioning.check(x, c_noise, label, conditions)
        embedded = self.conditioning(c_noise, label, conditions)
        h = self.entry(x)
        for block in self.blocks:
            h = block(h, embedded)
        y: Tensor = self.exit(h)
        return y.to(x.dtype)
