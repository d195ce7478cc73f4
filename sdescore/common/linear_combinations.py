"""Sums of tensors times factors, in as few passes over memory as can be: beside a small net, passes are the cost."""

from collections.abc import Sequence

from torch import Tensor, add

__all__ = ["Coefficient", "Summand", "in_one", "scaled", "total", "weighted"]

Coefficient = Tensor | float  # a number, or () or (batch,) for a factor of each sample
Summand = tuple[Tensor, Coefficient]


def expand(coefficient: Tensor | float, x: Tensor) -> Tensor | float:
    """Make a coefficient of shape () or (batch,) multiply x of shape (batch, *shape) sample by sample.

    A coefficient () is returned as it is: torch multiplies by it in the dtype of x without a device transfer.
    """
    if not isinstance(coefficient, Tensor) or coefficient.ndim == 0:
        return coefficient
    return coefficient.to(x).reshape(-1, *(1,) * (x.ndim - 1))


def scaled(b: Coefficient, y: Tensor) -> Tensor:
    """b y, sample by sample; y itself for the number 1."""
    return y if not isinstance(b, Tensor) and b == 1 else expand(b, y) * y


def total(terms: Sequence[Summand], onto: Tensor | None = None) -> Tensor:
    """The sum of tensors (batch, *shape) times their factors: new, or added to `onto`, which may be overwritten.

    There is one term at least. A tensor that comes first and comes again is added once.
    """
    (x, a), *others = terms
    rest = []
    for y, b in others:
        if y is x:
            a = a + b
        else:
            rest.append((y, b))
    if onto is not None:
        rest.append((x, a))
    elif rest and not isinstance(a, Tensor) and abs(a - 1) < 1e-15:
        y, b = rest.pop(0)
        onto = x + expand(b, y) * y if isinstance(b, Tensor) else add(x, y, alpha=b)
    else:
        onto = expand(a, x) * x
    for y, b in rest:
        if isinstance(b, Tensor):
            onto = onto + expand(b, y) * y
        elif b:
            onto.add_(y, alpha=b)
    return onto


def weighted(weights: Sequence[Coefficient], sums: Sequence[Sequence[Summand]]) -> list[Summand]:
    """The terms of a weighted sum of sums. Where there are more weights than sums, or fewer, the rest is left out."""
    return [(x, weight * a) for weight, terms in zip(weights, sums, strict=False) for x, a in terms]


def in_one(terms: Sequence[Summand]) -> Summand:
    """The sum as one new tensor and its factor, which is the first one's: a pass less."""
    (x, a), *rest = terms
    return total([(x, 1.0), *((y, b / a) for y, b in rest)]), a
