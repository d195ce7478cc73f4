"""k-diffusion's interface: our solvers as its samplers, and its models as our denoisers. Neither needs k-diffusion."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sdescore.common.checks import check_returned, check_seed, check_states, check_tensor
from sdescore.common.linear_combinations import Coefficient
from sdescore.denoisers import Denoiser
from sdescore.interop.calls import CalledAtLevel
from sdescore.processes import KarrasSDE
from sdescore.sampling import Noise, ReverseProcess, Solver, WhiteNoise
from sdescore.sampling.fitted_solver import solver_of
from sdescore.sampling.run import solver_states

__all__ = ["GlobalNoise", "from_k_diffusion", "k_diffusion_sampler"]

Model = Callable[..., Tensor]  # (x, sigma (batch,), **extra) to the data prediction
Callback = Callable[[dict[str, Any]], Any]

FORMULA_TO_ZERO = ("lms",)  # k-diffusion's takes its last step by its formula, where all others take the prediction
NEAR_ZERO = 1e-9  # of the level before


class GlobalNoise:
    """Draws from torch's global generator, as k-diffusion's samplers do."""

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, std: float = 1.0) -> Tensor:
        return self.randn(x, std)

    def levy_area(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return self.randn(x)

    def randn(self, x: Tensor, std: float = 1.0) -> Tensor:
        return torch.randn_like(x).mul_(std)

    def select(self, index: Tensor) -> Noise:
        return self


class ReportedCalls:
    """The calls of a model, of which a callback is told once a step: of that at the step's start.

    A method with a corrector has made that call before the state there is final: it is told of before the next one.
    """

    def __init__(
        self, model: Model, extra: Mapping[str, Any], x: Tensor, sigmas: Tensor, callback: Callback | None
    ) -> None:
        self._model, self._extra, self._callback = model, extra, callback
        self._sigmas, self._levels = sigmas, sigmas.tolist()
        self._shape, self._told = x.shape, 0
        self._state: Tensor | None = None  # at the start of a step that is not told of
        self._last: tuple[float, Tensor] | None = None

    def __call__(self, x: Tensor, level: Coefficient) -> Tensor:
        if x.shape != self._shape:
            raise ValueError(
                f"the solver calls the net for {len(x)} of {self._shape[0]} samples, and extra_args cannot be divided; "
                "expected a solver with fixed steps"
            )
        sigma = torch.as_tensor(level, dtype=x.dtype, device=x.device).expand(len(x))
        now = float(sigma[0]) if isinstance(level, Tensor) else level
        if self._last is not None and self._last[0] == self._levels[self._told] != now:
            self.tell()
        data = check_returned(self._model(x, sigma, **self._extra), x, "model")
        self._last = now, data
        if self._state is not None:
            self._state = x
            self.tell()
        return data

    def begin(self, state: Tensor) -> None:
        """A step begins at this state."""
        self._state = state

    def tell(self) -> None:
        """Tell the callback of the last call, if a step began."""
        if self._state is None or self._last is None:
            return
        level, data = self._last
        i = self._told
        told = {"x": self._state, "i": i, "sigma": self._sigmas[i], "sigma_hat": self._sigmas.new_tensor(level)}
        self._state = None
        self._told = min(i + 1, len(self._levels) - 1)
        if self._callback is not None:
            self._callback({**told, "denoised": data})


def k_diffusion_sampler(solver: str | Solver = "adams", seed: int | None = None) -> Callable[..., Tensor]:
    """A solver as a sampler (model, x, sigmas, extra_args=None, callback=None, disable=None) -> samples.

    model(x, sigma, **extra_args) returns the data prediction for x (batch, *shape) and sigma (batch,). sigmas is a
    decreasing vector; x is the state at the first, and what is returned that at the last: the data where it is 0, for
    which the last prediction stands, but with "lms", as there, its formula. callback is called once a step, with a dict
    of x, i, sigma, sigma_hat, which is the sigma of the call, and denoised. disable hides the progress bar.

    Args:
        solver: A name or a Solver, as of sample().
        seed: Of the noise, sample i of which depends on (seed, i) alone; by default torch's global generator, from
            which k-diffusion draws.

    Raises:
        TypeError, ValueError: For an unknown solver; the sampler for x and sigmas that are something else.
    """
    if seed is not None:
        check_seed(seed)
    chosen = solver_of(solver)

    @torch.no_grad()
    def sampler(
        model: Model,
        x: Tensor,
        sigmas: Tensor,
        extra_args: Mapping[str, Any] | None = None,
        callback: Callback | None = None,
        disable: bool | None = None,
    ) -> Tensor:
        check_states(x)
        check_tensor("sigmas", sigmas, "(steps + 1,)")
        given = sigmas.detach().double().cpu()
        if given.ndim != 1 or len(given) < 2 or not bool((given.diff() < 0).all()) or given[-1] < 0:
            raise ValueError(f"sigmas is {sigmas}; expected a vector of two or more falling numbers down to 0 or above")
        if given[-1] == 0 and any(chosen == solver_of(name) for name in FORMULA_TO_ZERO):
            given = torch.cat([given[:-1], NEAR_ZERO * given[-2:-1]])
        times = given[:-1] if given[-1] == 0 else given
        # Ancestral steps lead to levels below that at their end, and then back up.
        process = KarrasSDE(float(times[-1]) / 1000, float(times[0]))
        net = ReportedCalls(model, extra_args or {}, x, sigmas, callback)
        reverse = ReverseProcess(process, CalledAtLevel(net, process, "data"))
        noise = GlobalNoise() if seed is None else WhiteNoise(seed, range(len(x)), x.device)
        steps = len(given) - 1
        states = solver_states(reverse, chosen, x, times, noise)
        net.begin(next(states))
        for i in tqdm(range(1, steps + 1), disable=disable):
            x = next(states)
            net.tell()
            if i < steps:
                net.begin(x)
        return x

    return sampler


def from_k_diffusion(
    model: Model,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    *,
    shape: tuple[int, ...] | None = None,
) -> Denoiser:
    """A model(x, sigma, **extra) of k-diffusion, which returns the data prediction, as a denoiser on a KarrasSDE.

    Args:
        model: Such a model, with sigma (batch,); `extra` are conditions by their names.
        sigma_min, sigma_max: The noise levels that it is for: by default what it, or a model within it, says of itself
            by these names, or EDM's 0.002 and 80.
        shape: Of one sample.
    """
    known: list[float] = []
    for name, given, default in (("sigma_min", sigma_min, 0.002), ("sigma_max", sigma_max, 80.0)):
        own: Any = model
        while given is None and not hasattr(own, name) and hasattr(own, "inner_model"):
            own = own.inner_model
        known.append(float(getattr(own, name, default) if given is None else given))
    return Denoiser(model, KarrasSDE(*known), terms="k-diffusion", shape=shape)
