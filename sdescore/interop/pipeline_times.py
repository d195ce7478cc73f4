"""The times of a diffusers pipeline: those of the scheduler that its configuration describes, on our processes."""

import inspect
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from sdescore.common.checks import require
from sdescore.interop.schedules import NAMED, Schedule
from sdescore.processes import DiscreteSDE, FlowSDE

__all__ = ["inverse_time", "own_scheduler", "pipeline_times", "scheduler_name"]

# A flow begins at sigma = 1, where lam is infinite; this is as near as diffusers' multistep schedulers come to it.
FLOW_START = 1 - 1e-6

# Schedulers that list more than one time a step: another of the same spacing lists the steps alone.
ONE_TIME_A_STEP = {
    "PNDMScheduler": "DDIMScheduler",
    "FlowMatchHeunDiscreteScheduler": "FlowMatchEulerDiscreteScheduler",
    "HeunDiscreteScheduler": "EulerDiscreteScheduler",
    "KDPM2DiscreteScheduler": "EulerDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler": "EulerDiscreteScheduler",
    "DPMSolverSDEScheduler": "EulerDiscreteScheduler",
}


@cache
def _options(name: str) -> frozenset[str]:
    """The options of a scheduler of diffusers."""
    import diffusers

    return frozenset(inspect.signature(getattr(diffusers, name).__init__).parameters) - {"self", "args", "kwargs"}


def scheduler_name(config: Mapping[str, Any]) -> str:
    """The class of diffusers that a configuration belongs to: as it says, or else that of the most of its options.

    Schedulers that were made in memory do not name their class. Raises ValueError if there is none.
    """
    import diffusers

    for key in ("replaces", "_class_name"):
        if hasattr(diffusers, str(config.get(key))):
            return str(config[key])
    defaulted = set(config.get("_use_default_values", ()))  # options of that class for sure
    names = [name for name in dir(diffusers) if name.endswith("Scheduler")]
    known = [name for name in names if name in NAMED or "beta_schedule" in _options(name)]
    fitting = [name for name in known if defaulted <= _options(name) <= set(config)]
    if not fitting:
        raise ValueError(f"config has {sorted(config)}; expected all options of one of diffusers' schedulers")
    return max(fitting, key=lambda name: (len(_options(name)), -len(name)))


def own_scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """The scheduler of diffusers of that name and configuration, or one of the same times."""
    import diffusers

    name = ONE_TIME_A_STEP.get(name, name)
    return getattr(diffusers, name)(**{key: value for key, value in config.items() if key in _options(name)})


def pipeline_times(
    own: Any, schedule: Schedule, steps: int | None, given: Mapping[str, Sequence[float] | float]
) -> tuple[Tensor, Tensor]:
    """The times of the process, float64, and of the net, in the type of diffusers, (steps,) each.

    `given` are further arguments of set_timesteps: sigmas, timesteps and mu. Raises ValueError for one that diffusers'
    scheduler does not take, and for times that do not fall.
    """
    require(steps is None or steps >= 1, f"num_inference_steps={steps}; expected 1 or more")
    takes = inspect.signature(own.set_timesteps).parameters
    if isinstance(schedule.process, DiscreteSDE) and "timesteps" in given and "timesteps" not in takes:
        net_times = torch.as_tensor(given["timesteps"])
        times = net_times.double()
    else:
        for name in given:
            require(name in takes, f"{name} is given, but the times are {type(own).__name__}'s, which takes none")
        own.set_timesteps(None if "sigmas" in given or "timesteps" in given else steps, **given)
        times, net_times = _on_process(own, schedule)
    require(
        times.ndim == 1 and len(times) > 0 and bool((times.diff() < 0).all()),
        f"timesteps are {net_times.tolist()}; expected falling ones",
    )
    return times, net_times


def _on_process(own: Any, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """The times that a scheduler has set."""
    process, net_times = schedule.process, own.timesteps.cpu()
    if schedule.terms.time == "sigma":
        return net_times.double(), schedule.net_time(net_times)
    sigmas = getattr(own, "sigmas", None)
    if sigmas is None:
        return net_times.double(), net_times
    sigmas = torch.as_tensor(sigmas).cpu().double()[: len(net_times)]
    if isinstance(process, DiscreteSDE):
        return process.time(-sigmas.log()).clamp(0, process.T), net_times
    return sigmas.clamp(max=FLOW_START) if isinstance(process, FlowSDE) else sigmas, net_times


def inverse_time(schedule: Schedule, net_times: Tensor) -> Tensor:
    """The times of the process at which the net is given these, of their shape."""
    process, terms = schedule.process, schedule.terms
    if terms.time == "c_noise":
        return process.time(-4 * net_times)
    return process.time(-net_times.log()) if terms.time == "sigma" else net_times / terms.time_scale
