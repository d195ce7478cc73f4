"""An exact net, and the loop of a pipeline, for schedulers that are pushed step by step."""

from inspect import signature
from typing import Any

import torch
from torch import Tensor

from sdescore import GaussianMixture
from sdescore.denoisers import convert
from sdescore.interop import read_schedule

__all__ = ["MIXTURE", "begun", "go_on", "loop", "made", "net", "start"]

MIXTURE = GaussianMixture(0.4 * torch.randn(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64), 0.3)


def made(solver: Any = "adams", config: Any = None, **options: Any) -> Any:
    """Our scheduler in place of another, by default DDIM's."""
    import diffusers

    from sdescore.interop import DiffusersScheduler

    base = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="linspace").config if config is None else config
    return DiffusersScheduler.from_config(base, solver=solver, **options)


def start(seed: int = 0, rows: int = 4) -> Tensor:
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def net(scheduler: Any, x: Tensor, timestep: Tensor) -> Tensor:
    """What an exact net returns for what it is given, by the scheduler's configuration."""
    schedule = read_schedule(scheduler.config)
    sde, terms, std = schedule.process, schedule.terms, schedule.data_std
    time = timestep.double()
    t = (4 * time).exp() if terms.time == "c_noise" else time / terms.time_scale
    state = x / terms.inputs(sde, t, std)[0]
    t = t.clamp(max=sde.T)
    data = MIXTURE.denoiser(sde)(state, t)
    return terms.output_scale * convert(data, state, t, sde, "data", terms.predicts, std)


def loop(scheduler: Any, x: Tensor, skip: int = 0, **options: Any) -> Tensor:
    """What a pipeline does with the state x, from a net call on."""
    for timestep in scheduler.timesteps[skip:]:
        scaled = scheduler.scale_model_input(x, timestep) if hasattr(scheduler, "scale_model_input") else x
        output = net(scheduler, scaled, timestep)
        known = {name: value for name, value in options.items() if name in signature(scheduler.step).parameters}
        x = scheduler.step(output, timestep, x, **known).prev_sample
    return x


def begun(solver: Any = "dpm++", **options: Any) -> tuple[Any, Tensor]:
    """A scheduler after two steps of eight, and the state."""
    scheduler, x = made(solver, **options), start()
    scheduler.set_timesteps(8)
    for timestep in scheduler.timesteps[:2]:
        x = scheduler.step(net(scheduler, x, timestep), timestep, x).prev_sample
    return scheduler, x


def go_on(scheduler: Any, x: Tensor, timestep: Any = None) -> Any:
    """The third step."""
    timestep = scheduler.timesteps[2] if timestep is None else timestep
    return scheduler.step(net(scheduler, x, scheduler.timesteps[2]), timestep, x)
