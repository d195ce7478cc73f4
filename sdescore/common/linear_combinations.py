"""Linear combinations of tensors in as few passes over memory as possible: beside a small net, passes are the cost."""

from collections.abc import Sequence

from torch import Tensor, add

__all__ = [
    "Coefficient",
    "Summand",
    "combine",
    "dot",
    "expand",
    "materialise",
    "nonzero",
    "per_step",
    "scale",
    "weight",
]

Coefficient = Tensor | float  # a number, or () or (batch,) for a factor of each sample
Summand = tuple[Tensor, Coefficient]


def expand(coefficient: Coefficient, x: Tensor) -> Coefficient:
    """Make a coefficient of shape () or (batch,) multiply x of shape (batch, *shape) sample by sample.

    A coefficient () is returned as it is: torch multiplies by it in the dtype of x without a device transfer.
    """
    if not isinstance(coefficient, Tensor) or coefficient.ndim == 0:
        return coefficient
    return coefficient.to(x).reshape(-1, *(1,) * (x.ndim - 1))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each sample, (batch,), of two tensors (batch, *shape)."""
    return (a * b).flatten(1).sum(1)


def scale(b: Coefficient, y: Tensor) -> Tensor:
    """b y, sample by sample; y itself for the number 1."""
    return y if not isinstance(b, Tensor) and b == 1 else expand(b, y) * y


def combine(summands: Sequence[Summand], onto: Tensor | None = None) -> Tensor:
    """The sum of tensors (batch, *shape) times their factors: new, or added to `onto`, which may be overwritten.

    There is at least one summand. A tensor that comes first and comes again is added once.
    """
    (x, a), *others = summands
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


def weight(weights: Sequence[Coefficient], sums: Sequence[Sequence[Summand]]) -> list[Summand]:
    """The summands of a weighted sum of sums. Where one sequence is longer than the other, its rest is left out."""
    return [(x, w * a) for w, summands in zip(weights, sums, strict=False) for x, a in summands]


def nonzero(summands: Sequence[Summand]) -> list[Summand]:
    """The summands without those whose factor is the number 0."""
    return [(x, a) for x, a in summands if isinstance(a, Tensor) or a != 0]


def materialise(summands: Sequence[Summand]) -> Summand:
    """The sum as one new tensor and its factor: that of the first summand where it is a number, which saves a pass."""
    (x, a), *rest = summands
    if isinstance(a, Tensor):  # some of it may be 0
        return combine(summands), 1.0
    return combine([(x, 1.0), *((y, b / a) for y, b in rest)]), a


def per_step(coefficients: Tensor) -> list[Coefficient]:
    """The coefficients of each step: numbers from (n,), tensors (batch,) from (n, batch)."""
    return coefficients.tolist() if coefficients.ndim == 1 else list(coefficients)
