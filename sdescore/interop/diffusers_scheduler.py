"""Any solver of ours in any pipeline of diffusers.

This module needs diffusers and greenlet; sdescore.interop imports it when DiffusersScheduler is asked for.
"""

import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, Literal

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
from torch import Tensor

from sdescore.common.checks import check_returned, check_seed
from sdescore.common.linear_combinations import expand
from sdescore.interop.calls import Calls, planned_calls
from sdescore.interop.pipeline_run import Generators, PipelineNoise, PipelineRun
from sdescore.interop.pipeline_times import inverse_time, own_scheduler, pipeline_times, scheduler_name
from sdescore.interop.schedules import read_schedule
from sdescore.sampling import Grid, Solver, WhiteNoise
from sdescore.sampling.fitted_solver import solver_of
from sdescore.sampling.solver import grid_of
from sdescore.sampling.times import time_grid

__all__ = ["DiffusersScheduler"]


class DiffusersScheduler(SchedulerMixin, ConfigMixin):
    """A scheduler of diffusers that is a solver of ours.

        pipe.scheduler = DiffusersScheduler.from_config(pipe.scheduler.config, solver="adams")

    The solver's steps are num_inference_steps, at the times of the scheduler that is replaced; `timesteps` has an entry
    for each net call, the last denoising included: for Heun 2 num_inference_steps - 1. States are x_t of the process:
    of preserved variance for tables of betas. What the pipeline does around the net, such as guidance, stays its own.

    Args:
        solver: A name or a Solver, as of sample(), with fixed steps.
        times: Another grid (sde, steps) -> times, a tensor of times of the process, or "solver" for the solver's own,
            which a fitted solver always has.
        seed: Of the solver's noise, sample i of which depends on (seed, i) alone; by default the pipeline's generator
            is drawn from.
        config: The configuration of the scheduler that is replaced.

    Raises:
        TypeError, ValueError: For an unknown solver or configuration.
    """

    def __init__(
        self,
        solver: str | Solver = "adams",
        times: Grid | Tensor | Literal["solver"] | None = None,
        seed: int | None = None,
        **config: Any,
    ) -> None:
        if seed is not None:
            check_seed(seed)
        self.solver = solver_of(solver)
        replaces = scheduler_name(config)
        self.schedule = read_schedule({**config, "_class_name": replaces})
        self.own = own_scheduler(replaces, config)
        own_grid = grid_of(self.solver)
        # A fitted solver's levels, so many and no others, are part of it.
        fixed = times is None and hasattr(own_grid, "steps")
        self.times = own_grid if fixed or isinstance(times, str) else times
        self.seed = seed
        self.register_to_config(**{**config, "solver": solver, "times": times, "seed": seed, "replaces": replaces})
        if "correct_steps" in config:  # calls between those of the solver, of a pipeline's own
            self.register_to_config(correct_steps=0)
        self.timesteps = torch.arange(self.schedule.count - 1, -1, -1)
        self.num_inference_steps: int | None = None
        self._listed: list[float] = []
        self._grid = torch.zeros(0, dtype=torch.float64)
        self._calls = Calls(self._grid, False)
        self._forget()

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **changes: Any) -> Any:
        """A scheduler in place of the one that has this configuration; `changes` are arguments and other options."""
        if not isinstance(config, Mapping):
            raise TypeError(f"config is a {type(config).__name__}; expected a configuration, such as scheduler.config")
        made = cls(**{**config, **changes})
        return (made, {}) if return_unused_kwargs else made

    def save_config(self, save_directory: Any, push_to_hub: bool = False, **options: Any) -> None:
        """Write scheduler_config.json. Raises TypeError for a solver or times that no name stands for."""
        for name, known in (("solver", str), ("times", str | None)):
            if not isinstance(self.config[name], known):
                raise TypeError(f"{name} is {self.config[name]!r}, which a configuration cannot hold; expected a name")
        super().save_config(save_directory, push_to_hub, **options)

    def __getstate__(self) -> dict[str, Any]:
        """All but a run, whose greenlet can be neither copied nor pickled."""
        return {**self.__dict__, "_run": None, "_lost": self._lost or self._run is not None}

    # The times ------------------------------------------------------------------------------------------------------

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        *,
        sigmas: Sequence[float] | None = None,
        timesteps: Sequence[float] | None = None,
        mu: float | None = None,
    ) -> None:
        """Begin a new run of so many steps; sigmas, timesteps and mu are as of the scheduler that is replaced.

        With times of its own, sigmas and timesteps count the steps alone. Raises ValueError for a solver that sizes its
        own steps, and for arguments that the replaced scheduler does not take.
        """
        options = {"sigmas": sigmas, "timesteps": timesteps, "mu": mu}
        given = {name: value for name, value in options.items() if value is not None}
        listed = timesteps if timesteps is not None else sigmas
        if num_inference_steps is None and listed is None:
            raise ValueError("num_inference_steps, sigmas and timesteps are all None; expected one of them")
        if self.times is None:
            self._grid, net_times = pipeline_times(self.own, self.schedule, num_inference_steps, given)
        else:
            steps = len(listed or ()) if num_inference_steps is None else num_inference_steps
            own_steps = None if isinstance(self.times, Tensor) else steps
            self._grid = time_grid(self.schedule.process, self.solver, own_steps, times=self.times)
            net_times = self.schedule.net_time(self._grid).float()
        self._calls = self._plan(self._grid)
        same = self._grid[:, None] == self._calls.times
        found = self.schedule.net_time(self._calls.times)
        found = torch.where(same.any(0), net_times.double()[same.double().argmax(0)], found)
        exact = net_times.is_floating_point() or bool((found == found.round()).all())
        self.timesteps = found.to(device, net_times.dtype if exact else torch.float32)
        self._listed = self.timesteps.tolist()
        self.num_inference_steps = len(self._grid)
        self._forget()

    def _plan(self, grid: Tensor) -> Calls:
        return planned_calls(self.solver, self.schedule.process, grid, repr(self.config["solver"]))

    def _forget(self) -> None:
        """Be as before the first step."""
        self._run: PipelineRun | None = None
        self._lost = False  # the run was that of the scheduler of which this is a copy
        self._index: int | None = None
        self._begin_index: int | None = None

    @property
    def order(self) -> int:
        """Net calls a step, by which pipelines find the call that a step begins with; 1 where steps differ."""
        intervals = max(len(self._grid) - 1, 1)
        each = max((len(self._calls.times) - 1) // intervals, 1)
        return each if torch.equal(self._calls.times[::each], self._grid) else 1

    @property
    def step_index(self) -> int | None:
        """Which net call comes next; None before the first."""
        return self._index

    @property
    def begin_index(self) -> int | None:
        """The net call to begin with, where a pipeline has said so."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin with this net call instead of the first, as image-to-image does."""
        self._begin_index = begin_index

    @property
    def sigmas(self) -> Tensor:
        """The noise-to-signal ratio at each net call and 0; of a flow its sigma."""
        process = self.schedule.process
        t = self._calls.times
        levels = process.sigma(t) if self.schedule.terms.time == "t" else process.rho(t)
        return torch.cat([levels, levels.new_zeros(1)]).float()

    @property
    def init_noise_sigma(self) -> float:
        """The standard deviation of the states that a pipeline begins with."""
        exploding = self.schedule.terms.time in ("sigma", "c_noise")
        return float(self.own.init_noise_sigma) if exploding else 1.0

    def __len__(self) -> int:
        return self.schedule.count

    # The steps ------------------------------------------------------------------------------------------------------

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """What the net is given for a sample at the next call, of its shape."""
        schedule = self.schedule
        if schedule.terms.x == "state":
            return sample
        t = self._calls.times[self._next(timestep)]
        return float(schedule.terms.inputs(schedule.process, t, schedule.data_std)[0]) * sample

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
        **_: Any,
    ) -> SchedulerOutput | tuple[Tensor]:
        """Hand in what the net returned at `sample`; prev_sample is where it is to be called next, at last the data.

        model_output and sample are (batch, *shape); the output may have further channels, of a learned variance.

        Raises:
            ValueError: For a step out of order, a sample that is not what the last step returned, an output of another
                shape, and a first step from which the solver's calls would not be those that are listed.
        """
        index = self._next(timestep)
        if not self._same(timestep, self._listed[index]):
            raise ValueError(f"timestep={float(timestep):g} is out of order; expected {self._listed[index]:g}")
        if model_output.shape[1] == 2 * sample.shape[1]:
            model_output = model_output[:, : sample.shape[1]]
        check_returned(model_output, sample, "the net")
        if self._run is None:
            begun = self._from(index)
            if begun is None:
                raise ValueError(
                    f"solver={self.config['solver']!r} cannot begin at timestep={float(timestep):g}, call {index}: it "
                    "would call the net at other times than are listed; expected a solver whose steps are alike, such "
                    "as 'dpm++'"
                )
            noise = PipelineNoise() if self.seed is None else WhiteNoise(self.seed, range(len(sample)), sample.device)
            self._run = PipelineRun(self.solver, self.schedule, sample, *begun, noise)
        state = self._run.step(model_output, sample, generator)
        self._index = index + 1
        return SchedulerOutput(prev_sample=state) if return_dict else (state,)

    @staticmethod
    def _same(timestep: Any, listed: float) -> bool:
        return math.isclose(float(timestep), listed, rel_tol=1e-5, abs_tol=1e-6)

    def _from(self, index: int) -> tuple[Tensor, Calls] | None:
        """The grid from a call on, and its calls; None if these are not the listed ones."""
        if index == 0:
            return self._grid, self._calls
        for k in (self._grid == self._calls.times[index]).nonzero().flatten().tolist():
            calls = self._plan(self._grid[k:])
            if torch.equal(calls.times, self._calls.times[index:]):
                return self._grid[k:], calls
        return None

    def _next(self, timestep: Any) -> int:
        """Which net call comes next. Raises ValueError if there is none."""
        if self._lost:
            raise ValueError(
                "this scheduler is a copy, from the midst of a run that it cannot go on with; expected a call of "
                "set_timesteps first"
            )
        if self.num_inference_steps is None:
            raise ValueError("no times are set; expected a call of set_timesteps first")
        if self._index == len(self._listed):
            raise ValueError("the run is over; expected a call of set_timesteps before another")
        for known in (self._index, self._begin_index):
            if known is not None:
                return known
        if timestep is None:
            return 0
        same = [i for i, listed in enumerate(self._listed) if self._same(timestep, listed)]
        if not same:
            raise ValueError(f"timestep={float(timestep):g} is not one of timesteps, {self._listed}")
        return next((i for i in same if self._from(i) is not None), same[0])

    # Image to image -------------------------------------------------------------------------------------------------

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The states of data (batch, *shape) at timesteps (batch,), with normal draws of its shape."""
        t = self._process_time(timesteps).to(original_samples.device)
        alpha, sigma = (
            level.to(original_samples.dtype)
            for level in (self.schedule.process.alpha(t), self.schedule.process.sigma(t))
        )
        return expand(alpha, original_samples) * original_samples + expand(sigma, noise) * noise

    def scale_noise(self, sample: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """add_noise() as pipelines of flows call it."""
        return self.add_noise(sample, noise, timestep)

    def _process_time(self, timesteps: Tensor) -> Tensor:
        """The times of the process at which the net is given these: of listed ones exactly."""
        given = timesteps.double().cpu()
        found = inverse_time(self.schedule, given)
        for t, listed in zip(self._calls.times.tolist(), self._listed, strict=True):
            found = torch.where(given == listed, t, found)
        return found

    # The pipeline of score_sde's exploding process ------------------------------------------------------------------

    def set_sigmas(self, num_inference_steps: int, *_: Any) -> None:
        """Nothing: set_timesteps has set them."""

    def step_pred(
        self, model_output: Tensor, timestep: Any, sample: Tensor, generator: Generators = None, **_: Any
    ) -> Any:
        """step(), with the state as prev_sample_mean too."""
        (found,) = self.step(model_output, timestep, sample, generator, return_dict=False)
        return SimpleNamespace(prev_sample=found, prev_sample_mean=found)
