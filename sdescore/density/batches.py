"""Data, a denoiser and a process whose densities or latents are wanted: checked, and gone through in batches."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sdescore.common.checks import check_count, check_finite, check_number, check_states, check_tensor
from sdescore.denoisers.denoiser import Denoiser, as_denoiser, state_like
from sdescore.processes.base import LinearSDE, check_linear
from sdescore.sampling.reverse import ReverseProcess
from sdescore.sampling.run import check_condition
from sdescore.sampling.times import check_range

__all__ = ["Batches", "check_deterministic", "check_tolerance", "warn_out_of_range"]

# Rounding alone makes errors of this size in a step, whatever its length.
FINEST = 1e-13


def check_tolerance(rtol: float, atol: float) -> None:
    """Raise ValueError for tolerances below rounding, and for those that are not finite numbers."""
    for name, value in (("rtol", rtol), ("atol", atol)):
        check_number(name, value, least=FINEST)


def warn_out_of_range(sde: LinearSDE, denoiser: Denoiser, x: Tensor, index_offset: int = 0) -> None:
    """Warn of samples x (batch, *shape) at t_min beyond [-1, 1], if the denoiser's data was scaled to that."""
    scaling = denoiser.scaling
    if scaling is None or not scaling.bounded:
        return
    t = torch.tensor(sde.t_min, dtype=torch.float64)
    # Half a level for dequantisation, and the noise of t_min.
    reach = 1 + (1 / (scaling.levels - 1) if scaling.levels else 0.0) + 6 * float(sde.rho(t))
    largest = x.flatten(1).abs().amax(1) / float(sde.alpha(t))
    rows = (largest > reach).nonzero().flatten().tolist()
    if rows:
        worst = max(rows, key=lambda row: float(largest[row]))
        names = ", ".join(str(index_offset + row) for row in rows[:8]) + (", …" if len(rows) > 8 else "")
        warnings.warn(
            f"x leaves [-1, 1], the range of the net's training data, in sample {names}: by most in sample "
            f"{index_offset + worst}, with {float(largest[worst]):.4g}; the net extrapolates there. "
            "Scale raw data with denoiser.scaling.to_model()",
            RuntimeWarning,
            stacklevel=3,
        )


def check_deterministic(given: "Batches") -> None:
    """Raise ValueError for a net that answers otherwise when it is asked again, whose flow has no likelihood.

    Two net calls for one sample, in the middle of the process.
    """
    alone = replace(given, x=given.x[:1], condition={name: value[:1] for name, value in given.condition.items()})
    t = torch.tensor((given.sde.t_min + given.sde.T) / 2, dtype=torch.float64)
    with torch.no_grad(), tqdm(disable=True) as bar:
        ((_, state, reverse, _),) = alone.through(bar)
        one, other = (reverse.noise(state, t) for _ in range(2))
    if bool(((one - other).abs() > 1e-2 * one.abs().amax()).any()):  # more than the order of sums on a GPU
        raise ValueError("net answers otherwise when it is asked again; expected one that draws no random numbers")


@dataclass(frozen=True)
class Batches:
    """Checked arguments of likelihoods, bounds and latents."""

    sde: LinearSDE
    denoiser: Denoiser
    x: Tensor
    condition: Mapping[str, Tensor]
    batch_size: int
    device: torch.device

    @staticmethod
    def of(
        sde: LinearSDE,
        net: Any,
        x: Tensor,
        condition: Mapping[str, Tensor] | None,
        predicts: str | None,
        batch_size: int | None,
    ) -> "Batches":
        """Check the arguments, before any net call. Raises TypeError or ValueError, naming the argument."""
        check_linear(sde)
        check_tensor("x", x, "(batch, *shape)", ": scale it first, as for training")
        if batch_size is not None:
            check_count("batch_size", batch_size)
        check_finite("x", check_states(x))
        denoiser = as_denoiser(net, sde, predicts)
        if denoiser.shape is not None and tuple(x.shape[1:]) != denoiser.shape:
            raise ValueError(f"x has samples of shape {tuple(x.shape[1:])}; the net takes {denoiser.shape}")
        check_range(sde, denoiser, torch.tensor([sde.T, sde.t_min], dtype=torch.float64))
        like = state_like(denoiser)
        device = x.device if like is None else like.device
        return Batches(sde, denoiser, x, check_condition(condition, len(x)), batch_size or len(x), device)

    def through(self, bar: tqdm) -> Iterator[tuple[int, Tensor, ReverseProcess, Callable[[float], None]]]:
        """Of each batch: its first sample's number, its states in float64, the reverse process with its condition, and
        a function that moves the bar to a share of the batch."""
        for start in range(0, len(self.x), self.batch_size):
            rows = slice(start, start + self.batch_size)
            # Integrals are summed without a graph: a gradient through the rest alone would be wrong.
            state = self.x[rows].detach().to(self.device, torch.float64)
            condition = {name: value[rows].to(self.device) for name, value in self.condition.items()}

            def advance(share: float, start: int = start, count: int = len(state)) -> None:
                bar.update(start + share * count - bar.n)

            yield start, state, ReverseProcess(self.sde, self.denoiser, condition), advance
