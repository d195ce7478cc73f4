"""From one prediction of a net to another, on every linear process."""

from collections.abc import Callable

import torch
from torch import Tensor

from sdescore.common.checks import check_number, check_tensor, check_times_of
from sdescore.common.linear_combinations import Coefficient, combine
from sdescore.processes.base import LinearSDE, check_linear

__all__ = ["PREDICTIONS", "Pair", "change", "check_prediction", "convert"]

Pair = tuple[Coefficient, Coefficient]


def _edm(sde: LinearSDE, t: Tensor, data_std: float) -> Pair:
    rho = sde.rho(t)
    norm = (rho**2 + data_std**2).sqrt()
    return rho / (data_std * norm), -data_std / norm


# Every prediction is p x0 + q eps for some (p, q) that depend on the process and the time alone.
PREDICTIONS: dict[str, Callable[[LinearSDE, Tensor, float], Pair]] = {
    "data": lambda sde, t, data_std: (1.0, 0.0),
    "noise": lambda sde, t, data_std: (0.0, 1.0),
    "score": lambda sde, t, data_std: (0.0, -1 / sde.sigma(t)),
    "v": lambda sde, t, data_std: (-sde.sigma(t), sde.alpha(t)),
    "velocity": lambda sde, t, data_std: (sde.alpha_dot(t), sde.sigma_dot(t)),
    "edm": _edm,
}


def check_prediction(name: str, argument: str = "predicts") -> str:
    """The name of a prediction. Raises ValueError, listing the names, for another."""
    if not isinstance(name, str) or name not in PREDICTIONS:
        raise ValueError(f"{argument}={name!r}; expected {', '.join(map(repr, PREDICTIONS))}")
    return name


def change(given: Pair, wanted: Pair, alpha: Tensor, sigma: Tensor) -> Pair:
    """The factors of x = alpha x0 + sigma eps and of the given prediction in the wanted one (Cramer's rule).

    One linear map straight from the prediction: going through x0 would cancel where sigma or alpha is small.
    """
    (p0, q0), (p1, q1) = given, wanted
    determinant = alpha * q0 - sigma * p0
    return (p1 * q0 - q1 * p0) / determinant, (alpha * q1 - sigma * p1) / determinant


def convert(
    prediction: Tensor, x: Tensor, t: Tensor, sde: LinearSDE, given: str, wanted: str, data_std: float = 0.5
) -> Tensor:
    """Turn a prediction at (x, t) of one kind into another; kinds are the keys of PREDICTIONS.

    prediction and x are (batch, *shape), t is () or (batch,). Raises TypeError for what is no tensor, ValueError for
    an unknown kind, other shapes, a data_std that is not positive and times outside [t_min, T]; those on a GPU are not
    read, as that would wait.
    """
    check_linear(sde)
    check_tensor("x", x, "(batch, *shape)")
    if check_tensor("prediction", prediction, "(batch, *shape)").shape != x.shape:
        raise ValueError(f"prediction has shape {tuple(prediction.shape)}, but x has {tuple(x.shape)}")
    check_times_of(check_tensor("t", t, "() or (batch,)"), x)
    if t.device.type == "cpu" and not torch.compiler.is_compiling():
        sde.check_times(t)
    check_number("data_std", data_std, above=0)
    pairs = [
        PREDICTIONS[check_prediction(name, argument)](sde, t, data_std)
        for argument, name in (("given", given), ("wanted", wanted))
    ]
    of_x, of_prediction = change(pairs[0], pairs[1], sde.alpha(t), sde.sigma(t))
    return combine([(x, of_x), (prediction, of_prediction)])
