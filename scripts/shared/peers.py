"""Other libraries' samplers as solvers of this one: their own code, stepped on any process and grid.

Each walks through `times` and then takes its own last step to the data. Noise comes from the solver's `noise`, and
diffusers, which casts to float32 on its way, works in float64: what is compared is the method. Of azula and k-diffusion
only the samplers are imported, so that `pip install --no-deps azula k-diffusion` is enough.
"""

import importlib
import inspect
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from sdescore import LinearSDE, Noise, ReverseProcess

__all__ = ["Azula", "Diffusers", "KDiffusion", "k_diffusion_sampling"]

ZERO = torch.zeros(1, dtype=torch.float64)


class _Altered:
    """A module with some names replaced."""

    def __init__(self, module: ModuleType, **names: Any) -> None:
        self._module, self._names = module, names

    def __getattr__(self, name: str) -> Any:
        return self._names[name] if name in self._names else getattr(self._module, name)


@contextmanager
def _altered(module: ModuleType, **names: Any) -> Iterator[None]:
    """What a module knows under these names, for a while; names that it does not know are left out."""
    with ExitStack() as stack:
        for name, value in names.items():
            if hasattr(module, name):
                stack.enter_context(patch.object(module, name, value))
        yield


def _time(sde: LinearSDE, times: Tensor, rho: float) -> Tensor:
    """The time of a noise-to-signal ratio: one of `times` to the bit if it is theirs."""
    known = sde.rho(times)
    nearest = int((known - rho).abs().argmin())
    if math.isclose(float(known[nearest]), rho, rel_tol=1e-9):
        return times[nearest]
    return sde.time(-torch.tensor(rho, dtype=torch.float64).log()).clamp(sde.t_min, sde.T)


@dataclass(frozen=True)
class Diffusers:
    """A scheduler of diffusers, with a table of noise levels made from the times.

    Args:
        scheduler: The name of its class, without "Scheduler".
        options: Of its constructor.
        step: Of its step().
        last: It takes the last step to the data itself, if a step has one net call; else sample() denoises.
        stages: Net calls of a step.
    """

    scheduler: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    step: Mapping[str, Any] = field(default_factory=dict, hash=False)
    last: bool = True
    stages: int = 1

    def make(self, rho: Tensor) -> Any:
        """The scheduler, set to noise-to-signal ratios (count,)."""
        import diffusers

        cls, count = getattr(diffusers, f"{self.scheduler}Scheduler"), len(rho)
        known: dict[str, Any] = {
            "num_train_timesteps": count,
            "timestep_spacing": "trailing",
            "clip_sample": False,
        }
        if self.scheduler == "IPNDM":
            known["trained_betas"] = torch.cat([rho / (1 + rho**2).sqrt(), ZERO]).tolist()
        known = {name: value for name, value in known.items() if name in inspect.signature(cls.__init__).parameters}
        with self.altered():
            scheduler = cls(**known, **self.options)
            scheduler.alphas_cumprod = 1 / (1 + rho.flip(0) ** 2)
            if self.scheduler == "DPMSolverSinglestep":  # it knows no "trailing"
                scheduler.set_timesteps(timesteps=list(range(count))[::-1])
            else:
                scheduler.set_timesteps(count)
        if hasattr(scheduler, "precondition_outputs"):
            scheduler.sigmas = torch.cat([rho, ZERO])
        if self.flow:
            sigmas = torch.cat([rho / (1 + rho), ZERO])
            twice = [1, *[self.stages] * (count - 1), 1]
            scheduler.sigmas = sigmas.repeat_interleave(torch.tensor(twice))
        scheduler.is_scale_input_called = True
        return scheduler

    def altered(self, **names: Any) -> Any:
        """The scheduler's module with float64 for float32 and with these names, for a while."""
        import diffusers

        module = sys.modules[getattr(diffusers, f"{self.scheduler}Scheduler").__module__]
        wide = {"torch": _Altered(torch, float32=torch.float64), "np": _Altered(np, float32=np.float64)}
        return _altered(module, **{**wide, **names})

    @property
    def flow(self) -> bool:
        return self.scheduler.startswith("FlowMatch")

    @property
    def denoises(self) -> bool:
        return self.last and self.stages == 1

    def nfe(self, intervals: int) -> int:
        return self.stages * intervals + self.denoises

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        sde, rho = reverse.sde, reverse.sde.rho(times)
        scheduler = self.make(rho)

        def size(rho: Tensor) -> Tensor:
            """Its states are x / (alpha size): those of a flow, of an exploding or of a preserved variance."""
            exploding = float(getattr(scheduler, "init_noise_sigma", 1.0)) != 1
            return 1 + rho if self.flow else torch.ones_like(rho) if exploding else (1 + rho**2).sqrt()

        scale = torch.cat([sde.alpha(times) * size(rho), ZERO + 1])
        x, done = x / scale[0], 0
        for i, step in enumerate(scheduler.timesteps):
            if done == len(times) - 1 and not self.denoises:
                return
            level = self._level(scheduler, i, rho)
            t = _time(sde, times, level)
            state = x * sde.alpha(t) * size(torch.tensor(level, dtype=torch.float64))
            output = self._output(scheduler, reverse, x, state, t, level)
            ends = times[done], times[min(done + 1, len(times) - 1)]
            with self.altered(randn_tensor=lambda *_, x=x, ends=ends, **__: noise(x, *ends)):
                x = scheduler.step(output, step, x, **self.step).prev_sample
            if getattr(scheduler, "state_in_first_order", True):
                done += 1
                yield scale[done] * x

    def _level(self, scheduler: Any, i: int, rho: Tensor) -> float:
        """The noise-to-signal ratio at which the net is called for the i-th time."""
        if getattr(scheduler, "sigmas", None) is None:
            return float(rho[i])
        if hasattr(scheduler, "sigmas_interpol") and i % 2:  # the second stage of a step
            return float(scheduler.sigmas_interpol[i - ("Ancestral" in self.scheduler)])
        sigma = float(scheduler.sigmas[i])
        return sigma / (1 - sigma) if self.flow else sigma

    def _output(
        self, scheduler: Any, reverse: ReverseProcess, x: Tensor, state: Tensor, t: Tensor, level: float
    ) -> Tensor:
        """What the scheduler takes for the net's output: eps, for iPNDM v, for a flow eps - x0, or EDM's own."""
        if self.flow:
            return reverse.linear(state, t, -1.0, 1.0)
        if hasattr(scheduler, "precondition_outputs"):
            sigma = torch.tensor(level, dtype=torch.float64)
            kept = scheduler.precondition_outputs(x, torch.zeros_like(x), sigma)
            share = scheduler.precondition_outputs(torch.zeros_like(x), torch.ones_like(x), sigma)
            return (reverse.data(state, t) - kept) / share
        eps = reverse.noise(state, t)
        return math.hypot(1, level) * eps - level * x if self.scheduler == "IPNDM" else eps


def k_diffusion_sampling() -> Any:
    """The module k_diffusion.sampling alone: the package would import torchvision, wandb and more, of which sampling
    uses nothing but a function of one line."""
    if "_k_diffusion.sampling" not in sys.modules:
        found = find_spec("k_diffusion")
        assert found is not None and found.origin is not None
        package, utils = ModuleType("_k_diffusion"), ModuleType("_k_diffusion.utils")
        package.__path__ = [str(Path(found.origin).parent)]
        utils.append_dims = lambda a, count: a[(..., *(None,) * (count - a.ndim))]  # type: ignore[attr-defined]
        package.utils = utils  # type: ignore[attr-defined]
        sys.modules |= {"_k_diffusion": package, "_k_diffusion.utils": utils}
    return importlib.import_module("_k_diffusion.sampling")


@dataclass(frozen=True)
class KDiffusion:
    """A function of k_diffusion.sampling, named without "sample_"; its options; its net calls a step."""

    function: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    stages: int = 1

    denoises = True

    def nfe(self, intervals: int) -> int:
        return self.stages * intervals + 1

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        sde, module = reverse.sde, k_diffusion_sampling()
        sampler, options, states = getattr(module, f"sample_{self.function}"), dict(self.options), []

        def time(sigma: Tensor) -> Tensor:
            return _time(sde, times, float(sigma))

        def model(y: Tensor, sigma: Tensor) -> Tensor:
            t = time(sigma[0])
            return reverse.data(sde.alpha(t) * y, t)

        if "noise_sampler" in inspect.signature(sampler).parameters:
            options["noise_sampler"] = lambda sigma, below: noise(x, time(sigma), time(below))
        with _altered(module, torch=_Altered(torch, randn_like=noise.randn)):
            sigmas, keep = torch.cat([sde.rho(times), ZERO]), lambda seen: states.append(seen["x"])
            data = sampler(model, x / sde.alpha(times[0]), sigmas, callback=keep, disable=True, **options)
        yield from (alpha * y for alpha, y in zip(sde.alpha(times[1:]), states[1:], strict=True))
        yield data


@dataclass(frozen=True)
class Azula:
    """A sampler of azula, its class named without "Sampler", whose last step to the data is sample()'s; its options;
    its net calls a step."""

    sampler: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    stages: int = 1

    def nfe(self, intervals: int) -> int:
        return self.stages * intervals

    def solve(self, reverse: ReverseProcess, x: Tensor, times: Tensor, noise: Noise) -> Iterator[Tensor]:
        module, sde, steps = importlib.import_module("azula.sample"), reverse.sde, len(times) - 1
        states: dict[int, Tensor] = {}  # a second call at a time is with the state that stays

        class Posterior:
            def __init__(self, mean: Tensor) -> None:
                self.mean = mean

        class Wrapped:
            def index(self, share: Tensor) -> Tensor:
                return ((1 - share) * steps).round().long()

            def schedule(self, share: Tensor) -> tuple[Tensor, Tensor]:
                t = times[self.index(share)]
                return sde.alpha(t), sde.sigma(t)

            def __call__(self, x: Tensor, share: Tensor) -> Posterior:
                i = int(self.index(share))
                states[i] = x
                return Posterior(reverse.data(x, times[i]))

        cls = getattr(module, f"{self.sampler}Sampler")
        with _altered(module, torch=_Altered(torch, randn_like=noise.randn)):
            end = cls(Wrapped(), steps=steps, silent=True, dtype=torch.float64, **self.options)(x)
        yield from (states[i] for i in range(1, steps))
        yield end
