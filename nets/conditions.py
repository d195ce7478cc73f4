"""What nets are given besides x and the noise level: vectors, images and sequences of tokens, by names of the user's.

A condition is stated as {"kind": "vector", "image" or "tokens", "size": ...}, where size counts the numbers of a vector
(batch, size), the channels of an image (batch, size, *spatial) or the features of a token (batch, length, size). It is
given in the data's own units, of which "mean" and "std", a number or one for each of size, make the net's: zero and one
by default. None, as a row of NaN, stands for no condition: a learnt null, so that a net that was trained with some rows
left out can be guided (Ho & Salimans 2022, section 3.2).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .checks import positive

KINDS = ("vector", "image", "tokens")
RESERVED = ("x", "c_noise", "label")
RESIZING = {1: "linear", 2: "bilinear", 3: "trilinear"}

Given = Mapping[str, Tensor | None]
Context = tuple[Tensor, Tensor]  # tokens (batch, length, width), and which of them are there (batch, 1, 1, length)


def stated(conditions: Mapping[str, Mapping[str, Any]] | None, kinds: Sequence[str] = KINDS) -> dict[str, Any]:
    """Conditions with everything stated, as JSON can hold it. Raises ValueError for what is not understood."""
    whole = {}
    for name, said in (conditions or {}).items():
        at = f"conditions[{name!r}]"
        if not name.isidentifier() or name in RESERVED:
            raise ValueError(f"conditions has {name!r}; expected names that are identifiers, not {', '.join(RESERVED)}")
        unknown = set(said) - {"kind", "size", "mean", "std"}
        if unknown or "size" not in said:
            raise ValueError(f"{at} has {', '.join(said)}; expected kind, size and, at most, mean and std")
        if said.get("kind") not in kinds:
            raise ValueError(f"{at} has kind {said.get('kind')!r}; expected {', '.join(kinds)}")
        size = positive(f"{at} size", said["size"])
        mean, std = (
            _numbers(f"{at} {key}", said.get(key, value), size) for key, value in (("mean", 0.0), ("std", 1.0))
        )
        if min(std if isinstance(std, list) else [std]) <= 0:
            raise ValueError(f"{at} has std {std}; expected positive numbers")
        whole[name] = {"kind": said["kind"], "size": size, "mean": mean, "std": std}
    return whole


def _numbers(name: str, value: Any, size: int) -> float | list[float]:
    numbers = [float(each) for each in (value if isinstance(value, Sequence) else [value])]
    if not all(map(math.isfinite, numbers)) or (isinstance(value, Sequence) and len(numbers) != size):
        raise ValueError(f"{name} is {value!r}; expected a finite number, or {size} of them")
    return numbers if isinstance(value, Sequence) else numbers[0]


class Condition(nn.Module):
    """A condition in the net's units, with the learnt null, which begins at their zero, where there is none."""

    def __init__(self, name: str, kind: str, size: int, mean: float | list[float], std: float | list[float]) -> None:
        super().__init__()
        self.name = name
        self.kind = kind
        self.axis = 2 if kind == "tokens" else 1
        self.null = nn.Parameter(torch.zeros(size))
        units = torch.stack([torch.as_tensor(each, dtype=torch.float32).expand(size) for each in (mean, std)])
        # As integers, since a mean far from 0 would not bear to be rounded with the weights of a bf16 net.
        self.register_buffer("units", units.view(torch.int32), persistent=False)

    def check(self, x: Tensor, value: Tensor | None) -> None:
        """Raise ValueError unless the value fits the batch of x; numbers are not read."""
        if value is None:
            return
        size = len(self.null)
        shapes = {
            "vector": f"({len(x)}, {size})",
            "image": f"({len(x)}, {size}, {', '.join('any' for _ in x.shape[2:])})",
            "tokens": f"({len(x)}, any, {size})",
        }
        axes = {"vector": 2, "image": x.ndim, "tokens": 3}[self.kind]
        good = value.ndim == axes and value.shape[0] == len(x) and value.shape[self.axis] == size
        if not good or value.is_complex() or value.dtype == torch.bool:
            raise ValueError(
                f"{self.name} has shape {tuple(value.shape)}, {value.dtype}; expected numbers of shape "
                f"{shapes[self.kind]}, or None"
            )

    def along(self, numbers: Tensor, axes: int) -> Tensor:
        """Numbers (size,) along this condition's axis of a tensor of so many axes."""
        shape = [1] * axes
        shape[self.axis] = -1
        return numbers.reshape(shape)

    def forward(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The value in the net's units and dtype, and which rows, or tokens, are there: (batch,) or (batch, length)."""
        wide = value.to(torch.promote_types(self.null.dtype, torch.float32))
        mean, std = self.units.view(torch.float32).to(wide)  # type: ignore[operator]
        missing = wide.isnan().all(2) if self.kind == "tokens" else wide.flatten(1).isnan().all(1)
        scaled = (wide - self.along(mean, value.ndim)) / self.along(std, value.ndim)
        where = missing.reshape(*missing.shape, *[1] * (value.ndim - missing.ndim))
        return torch.where(where, self.along(self.null, value.ndim), scaled.to(self.null)), ~missing


class Conditions(nn.Module):
    """All conditions of a net: vectors as an embedding, images beside x, tokens as a context for cross-attention."""

    def __init__(self, conditions: Mapping[str, Mapping[str, Any]], width: int) -> None:
        super().__init__()
        self.each = nn.ModuleDict({name: Condition(name, **said) for name, said in conditions.items()})
        of = {kind: {n: said["size"] for n, said in conditions.items() if said["kind"] == kind} for kind in KINDS}
        self.images = list(of["image"])
        self.channels = sum(of["image"].values())
        self.vectors = nn.ModuleDict(
            {
                n: nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width))
                for n, size in of["vector"].items()
            }
        )
        self.tokens = nn.ModuleDict({n: nn.Linear(size, width) for n, size in of["tokens"].items()})
        self.width = width

    def check(self, x: Tensor, given: Given) -> None:
        """Raise ValueError for a name that is not known, and for what does not fit the batch of x."""
        for name, value in given.items():
            if name not in self.each:
                raise ValueError(f"{name} was given to a net with the conditions {sorted(self.each)}; expected None")
            self.each[name].check(x, value)  # type: ignore[operator]

    def beside(self, x: Tensor, given: Given) -> Tensor:
        """x with the images as further channels; those of another size are interpolated to that of x."""
        parts = [x]
        for name in self.images:
            each, value = self.each[name], given.get(name)
            if value is None:
                image = each.along(each.null, x.ndim)  # type: ignore[operator]
            else:
                image, _ = each(value)
                if image.shape[2:] != x.shape[2:]:
                    image = F.interpolate(image, size=x.shape[2:], mode=RESIZING[x.ndim - 2])
            parts.append(image.to(x.dtype).expand(len(x), -1, *x.shape[2:]))
        return x if len(parts) == 1 else torch.cat(parts, dim=1)

    def embed(self, given: Given, embedded: Tensor) -> Tensor:
        """An embedding (batch, width) plus those of the vectors."""
        for name, layers in self.vectors.items():
            value = given.get(name)
            vector = self.each[name].null.unsqueeze(0) if value is None else self.each[name](value)[0]  # type: ignore
            embedded = embedded + layers(vector)
        return embedded

    def context(self, given: Given, batch: int) -> Context | None:
        """All tokens, each sequence in order and behind its null, so that there is always one to look at."""
        tokens, there = [], []
        for name, project in self.tokens.items():
            each, value = self.each[name], given.get(name)
            null = project(each.null.expand(batch, 1, -1))  # type: ignore[operator]
            tokens.append(null)
            there.append(torch.ones(batch, 1, dtype=torch.bool, device=null.device))
            if value is not None:
                sequence, known = each(value)
                projected = project(sequence)
                tokens.append(
                    projected + waves(torch.arange(value.shape[1], device=value.device), self.width).to(projected)
                )
                there.append(known)
        if not tokens:
            return None
        return torch.cat(tokens, dim=1), torch.cat(there, dim=1)[:, None, None]


def waves(places: Tensor, width: int) -> Tensor:
    """Sines and cosines (n, width) of places (n,), at wavelengths from 2 pi to 20,000 pi (Vaswani et al. 2017, 3.5)."""
    rates = torch.exp(torch.arange(0, width, 2, device=places.device) * (-math.log(10_000) / width))
    angles = places[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()), dim=1)[:, :width]
