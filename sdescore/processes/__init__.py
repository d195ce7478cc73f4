"""Forward processes, from data at t = 0 to noise at t = T.

To add one: a frozen dataclass in linear.py that states alpha and sigma, its name below, and a line under
sdescore.processes in pyproject.toml; in a package of your own, that line in its pyproject.toml.
"""

from sdescore.processes.base import SDE, LinearSDE, VariancePreserving, check_linear
from sdescore.processes.discrete import DiscreteSDE
from sdescore.processes.linear import VESDE, VPSDE, CosineSDE, FlowSDE, KarrasSDE, SubVPSDE
from sdescore.processes.nonlinear import CIRSDE
from sdescore.processes.simulation import simulate

__all__ = [
    "CIRSDE",
    "SDE",
    "VESDE",
    "VPSDE",
    "CosineSDE",
    "DiscreteSDE",
    "FlowSDE",
    "KarrasSDE",
    "LinearSDE",
    "SubVPSDE",
    "VariancePreserving",
    "check_linear",
    "simulate",
]
