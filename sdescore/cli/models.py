"""Models, solvers and times that commands take by name."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdescore.common.files import read_json
from sdescore.common.plugins import check_arguments, named_object
from sdescore.denoisers import Denoiser
from sdescore.sampling import Solver, find_solver
from sdescore.sampling.fitted_solver import solver_of
from sdescore.training.config import TrainConfig

__all__ = ["build_solver", "counted", "load_model", "read_times", "training_of"]


def load_model(name: str, trust_code: bool = False) -> tuple[Denoiser, tuple[int, ...]]:
    """A saved denoiser and the shape of its samples. Raises ValueError if it does not know that."""
    denoiser = Denoiser.from_pretrained(name, trust_code=trust_code)
    if denoiser.shape is None:
        raise ValueError(f"model={name!r} does not say the shape of its samples; save it with shape=")
    return denoiser, denoiser.shape


@contextmanager
def counted(denoiser: Denoiser) -> Iterator[list[None]]:
    """A list that grows with each call of the net."""
    called: list[None] = []
    with denoiser.net.register_forward_hook(lambda *_: called.append(None)):
        yield called


def training_of(folder: str) -> TrainConfig:
    """The settings of a training run; those that this version no longer has are left out.

    Raises OSError if there are none, and ValueError, naming the file, if they are damaged.
    """
    path = Path(folder) / "config.json"
    saved = read_json(path)
    try:
        return TrainConfig(**{each.name: saved[each.name] for each in fields(TrainConfig) if each.name in saved})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no settings of a training run: {error}") from error


def build_solver(name: str, arguments: dict[str, Any]) -> Solver:
    """The installed solver of a name, or module:name in a Python file of the user's, with these arguments."""
    found = named_object(name, "solver") if ":" in name else solver_of(name)
    if isinstance(found, type) or not isinstance(found, Solver):  # a class, or a function that makes one
        check_arguments(found, arguments, "solver_args")
        return find_solver(found(**arguments))
    check_arguments(type(found), arguments, "solver_args")
    if not is_dataclass(found):
        return type(found)(**arguments) if arguments else found
    return replace(found, **arguments)


def read_times(path: str, solver: str, arguments: Mapping[str, Any], weights: str) -> Tensor:
    """The times that `sdescore fit` wrote for this solver.

    Raises ValueError for another solver's, or another file. Warns of other weights, which may be those of the same net
    trained on: the times serve it still.
    """
    try:
        known = read_json(path)
        times = torch.tensor(known["times"], dtype=torch.float64)
        fitted = (known["solver"], known["solver_args"])
        net = known["weights"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"times={path!r} is no file of `sdescore fit`: {error!r}") from error
    if fitted != (solver, dict(arguments)):
        raise ValueError(f"times={path!r} were fitted for {fitted}; given are {(solver, dict(arguments))}")
    if net != weights:
        warnings.warn(f"times={path!r} were fitted to a net of other weights than the given", stacklevel=2)
    return times
