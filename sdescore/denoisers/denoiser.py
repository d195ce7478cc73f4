"""From what a net predicts to data, noise, score, v and velocity, on every linear process."""

import inspect
from collections.abc import Callable
from functools import partial
from itertools import chain
from pathlib import Path
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sdescore.common.checks import check_number, check_tensor, check_times_of
from sdescore.common.linear_combinations import Coefficient, Summand, combine, nonzero, scale
from sdescore.common.scaling import Scaling
from sdescore.denoisers import folders
from sdescore.denoisers.codes import Codes
from sdescore.denoisers.conversions import PREDICTIONS, Pair, change, check_prediction
from sdescore.denoisers.terms import NetTerms, find_terms
from sdescore.processes.base import LinearSDE

__all__ = ["BareDenoiser", "Denoiser", "state_like"]


def per_sample(t: Coefficient, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """t, a number or of shape () or (batch,), as (batch,) like x or in a dtype, without waiting for its device."""
    dtype = dtype or x.dtype
    if not isinstance(t, Tensor):
        return x.new_full(x.shape[:1], t, dtype=dtype)
    return t.to(x.device, dtype, non_blocking=True).expand(len(x))


def state_like(net: Any) -> Tensor | None:
    """A parameter or buffer that tells where a net lives and in which dtype; None for a callable that has neither."""
    if not isinstance(net, nn.Module):
        return None
    return next((tensor for tensor in chain(net.parameters(), net.buffers()) if tensor.is_floating_point()), None)


def modules_within(function: Any) -> list[nn.Module]:
    """The modules that a plain callable uses: in its closure, its arguments or its attributes."""
    if isinstance(function, partial):
        near = [*function.args, *function.keywords.values()]
        return [*_modules(near), *modules_within(function.func)]
    if isinstance(function, nn.Module | MethodType):
        return _modules([getattr(function, "__self__", function)])
    function = inspect.unwrap(function)
    if not inspect.isfunction(function):
        return _modules(getattr(function, "__dict__", {}).values())
    names = inspect.getclosurevars(function)
    return _modules([*names.nonlocals.values(), *names.globals.values()])


def _modules(values: Any) -> list[nn.Module]:
    return [value for value in values if isinstance(value, nn.Module)]


def _version(x: Tensor) -> int:
    """How often x has been written to, where torch counts it."""
    return 0 if torch.compiler.is_compiling() or x.is_inference() else x._version


class Coefficients(NamedTuple):
    """What of p x0 + q eps is known before x: of_x x + of_raw net(factor x, level)."""

    factor: Coefficient
    level: Coefficient
    of_x: Coefficient
    of_raw: Coefficient


class Denoiser(nn.Module):
    """The posterior mean E[x0 | x_t] of a raw net, and with it the noise, score, v and velocity.

    What the net is given, and what it returns, is up to its terms: by default net(y, c_noise, **condition) with
    y = x / sqrt(alpha^2 data_std^2 + sigma^2), of about unit variance, and c_noise = ln(rho) / 4 of shape (batch,),
    whatever it predicts (Karras et al. 2022, section 5). Both are in the net's dtype and on its device, the time never
    below float32.

    Args:
        net: Any module, or a function of modules; its prediction has the shape of x.
        sde: The process whose (x, t) this denoiser is called with.
        predicts: What the net outputs: "data", "noise", "score", "v", "velocity" or "edm"; by default what the terms
            say, which is "noise" for those of EDM.
        data_std: Standard deviation of the data.
        terms: A NetTerms, or a name of one: "edm", "ddpm", "score-sde", "k-diffusion", "flow". check_net() tells
            whether they are right.
        shape: Shape of one sample, to travel with the saved net.
        scaling: How raw data was scaled, to travel with the saved net.
        codes: Of which autoencoder the data are codes, and of what, to travel with it too; None for data themselves.
    """

    def __init__(
        self,
        net: nn.Module | Callable[..., Any],
        sde: LinearSDE,
        predicts: str | None = None,
        data_std: float = 0.5,
        *,
        terms: str | NetTerms = "edm",
        shape: tuple[int, ...] | None = None,
        scaling: Scaling | None = None,
        codes: Codes | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(sde, LinearSDE):
            raise TypeError(f"sde is a {type(sde).__name__}; a Denoiser needs a LinearSDE, whose kernel is known")
        if not callable(net):
            raise TypeError(f"net is a {type(net).__name__}; expected a module or a function")
        check_number("data_std", data_std, above=0)
        self.net: Any = net
        if not isinstance(net, nn.Module):
            self.used = nn.ModuleList(modules_within(net))  # so that they are moved, and put in evaluation mode
        self.sde = sde
        self.terms = find_terms(terms, sde, predicts)
        self.data_std = float(data_std)
        self.shape = None if shape is None else tuple(shape)
        self.scaling = scaling
        self.codes = codes

    @property
    def predicts(self) -> str:
        """What the net outputs."""
        return self.terms.predicts

    def inputs(self, t: Tensor) -> Pair:
        """The factor of x and the time that the net is given at times t, each of the shape of t."""
        return self.terms.inputs(self.sde, t, self.data_std)

    def nfe(self, t: Tensor) -> Tensor:
        """How many net calls a prediction costs at times t, of their shape."""
        return torch.ones_like(t, dtype=torch.long)

    def strength(self, t: Tensor) -> Tensor:
        """The scale of guidance at times t, of their shape; 1 is unguided. Solvers may take it into account."""
        return torch.ones_like(t)

    def coefficients(self, t: Tensor, p: Coefficient, q: Coefficient) -> tuple[Any, ...]:
        """All of linear(x, t, p, q) that does not depend on x, for summands(): numbers, or of the shape of t.

        Tuples of such tuples are those of denoisers that are made of others.
        """
        given = PREDICTIONS[self.predicts](self.sde, t, self.data_std)
        return Coefficients(*self.inputs(t), *change(given, (p, q), self.sde.alpha(t), self.sde.sigma(t)))

    def summands(self, coefficients: tuple[Any, ...], x: Tensor, **condition: Tensor) -> list[Summand]:
        """The combination that coefficients() prepared, at x, as what there is to add up; one net call."""
        factor, level, of_x, of_raw = coefficients
        like = state_like(self.net if isinstance(self.net, nn.Module) else self.used)
        y = scale(factor, x if like is None else x.to(like.device, like.dtype))
        before = _version(y)
        time = per_sample(level, y, self.terms.time_dtype(y.dtype))
        output = self.terms.prediction(self.net(y, time, **condition), y)
        if y is x and _version(x) != before:
            raise ValueError("net wrote over its input, which is the state; expected a net without such operations")
        if x.requires_grad and torch.is_grad_enabled() and not output.requires_grad:
            # Or a divergence would lack the net's part, without a word.
            raise ValueError("net returned what has no derivative by x; expected a net that detaches nothing")
        return nonzero([(x, of_x), (output.to(x.device, x.dtype), of_raw)])

    def linear(self, x: Tensor, t: Tensor, p: Coefficient, q: Coefficient, **condition: Tensor) -> Tensor:
        """p x0 + q eps, as the net sees them at (x, t), with p and q of shape () or (batch,); one net call."""
        return combine(self.summands(self.coefficients(t, p, q), x, **condition))

    def check(self, x: Tensor, t: Tensor) -> None:
        """Raise ValueError for a time or a shape that does not fit, and TypeError for what is no tensor.

        Times on a GPU are not read, as that would wait.
        """
        check_tensor("x", x, "(batch, *shape)")
        check_times_of(t, x)
        if self.shape is not None and tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"x has samples of shape {tuple(x.shape[1:])}; expected {self.shape}")
        if t.device.type == "cpu" and not torch.compiler.is_compiling():
            self.sde.check_times(t)

    def predict(self, kind: str, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        """The prediction of the named kind at x (batch, *shape), t () or (batch,). Raises ValueError as check()."""
        self.check(x, t)
        pair = PREDICTIONS[check_prediction(kind, "kind")](self.sde, t, self.data_std)
        return self.linear(x, t, *pair, **condition)

    def forward(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        """E[x0 | x_t = x], of the shape of x (batch, *shape); t is () or (batch,). Raises ValueError as check()."""
        self.check(x, t)
        return self.linear(x, t, 1.0, 0.0, **condition)

    def noise(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        """E[eps | x_t = x]."""
        return self.predict("noise", x, t, **condition)

    def score(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        """The gradient of log p_t at x."""
        return self.predict("score", x, t, **condition)

    def v(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        """alpha eps - sigma x0 (Salimans & Ho 2022)."""
        return self.predict("v", x, t, **condition)

    def velocity(self, x: Tensor, t: Tensor, **condition: Tensor) -> Tensor:
        """dx_t / dt of the probability-flow ODE."""
        return self.predict("velocity", x, t, **condition)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors to a folder. Raises as sdescore.denoisers.folders.save()."""
        folders.save(self, folder)

    @classmethod
    def from_pretrained(
        cls: type[folders.Loaded],
        source: str | Path,
        *,
        net: nn.Module | None = None,
        trust_code: bool = False,
        **hub: Any,
    ) -> folders.Loaded:
        """The denoiser in a folder, or on the Hub by "owner/name", into `net` if one is given.

        Code of the folder's own choice is imported with trust_code alone. See sdescore.denoisers.folders.load().
        """
        return folders.load(cls, source, net=net, trust_code=trust_code, **hub)

    def push_to_hub(self, repo_id: str, **hub: Any) -> str:
        """Save to a repository "owner/name" of the Hub. See sdescore.denoisers.folders.push()."""
        return folders.push(self, repo_id, **hub)


class BareDenoiser(Denoiser):
    """A plain callable function(x, t, **condition) of the sampling process's own (x, t), with t of shape (batch,)."""

    def __init__(
        self, function: Callable[..., Tensor], sde: LinearSDE, predicts: str = "score", data_std: float = 0.5
    ) -> None:
        super().__init__(function, sde, predicts, data_std, terms=NetTerms("state", "t"))


def as_denoiser(net: Any, sde: LinearSDE, predicts: str | None = None) -> Denoiser:
    """A Denoiser as it is; another callable as a function of (x, t) on `sde`, predicting what is said, or the score.

    A Denoiser is found in what torch wraps around it: torch.compile, averages, data-parallel modules. Raises TypeError
    if net is not callable, and ValueError if `predicts` contradicts a Denoiser's own, and for another module that
    contains a Denoiser, unless it says what it predicts.
    """
    net = _unwrapped(net)
    if isinstance(net, Denoiser):
        if predicts not in (None, net.predicts):
            raise ValueError(f"predicts={predicts!r}, but the Denoiser's net predicts {net.predicts!r}")
        return net
    if not callable(net):
        raise TypeError(f"net is a {type(net).__name__}; expected a Denoiser or a callable net(x, t)")
    predicts = getattr(net, "predicts", None) if predicts is None else predicts
    if predicts is None and isinstance(net, nn.Module) and any(isinstance(m, Denoiser) for m in net.modules()):
        raise ValueError(
            f"net is a {type(net).__name__} that contains a Denoiser; expected the Denoiser itself, or predicts=, what "
            "the module returns at (x, t) of the process"
        )
    return BareDenoiser(net, sde, "score" if predicts is None else predicts)


def _unwrapped(net: Any) -> Any:
    """The Denoiser inside torch's own wrappers, if there is one; else net itself."""
    inner = net
    while isinstance(inner, nn.Module) and type(inner).__module__.startswith("torch."):
        inner = getattr(inner, "_orig_mod", None) or getattr(inner, "module", None)
    return inner if isinstance(inner, Denoiser) else net


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of a state beside a net of the given dtype: never below float32."""
    return torch.promote_types(dtype, torch.float32)
