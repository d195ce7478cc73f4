"""A solver fitted to a net: where it is called and what its data predictions weigh, by the gradient through sampling.

Solvers trained on the endpoints of the flow are due to Watson et al. 2022 (https://arxiv.org/abs/2202.05830), Shaul et
al. 2024 (https://arxiv.org/abs/2403.01329) and Frankel et al. 2025 (https://arxiv.org/abs/2502.17423).
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from sdescore.common.checks import check_count
from sdescore.common.evaluation_mode import evaluating, frozen
from sdescore.common.fingerprint import fingerprint
from sdescore.denoisers.denoiser import as_denoiser
from sdescore.processes.base import LinearSDE, check_linear
from sdescore.sampling.fitted_solver import FittedSolver, linear_map
from sdescore.sampling.fitting import distances
from sdescore.sampling.grids import uniform_asinh
from sdescore.sampling.reverse import ReverseProcess
from sdescore.sampling.sample import sample, trajectory
from sdescore.sampling.solver import Solver, find_solver
from sdescore.sampling.times import time_grid

__all__ = ["fit_solver"]

REFERENCE = 100  # steps of heun that stand for the flow
STEP = 0.1  # of log rho, for the derivative by it: nets that round their times see some of them move
RATE = 0.5  # of learning, over nfe^2: the more calls, the finer each weight
CHECKS = 20  # how often a fit is judged by the samples that it does not see


class _Map(nn.Module):
    """The numbers that are fitted, as what keeps their meaning when others move.

    From one call to the next y goes the share 1 - rho'/rho of the way to a mean of the data predictions so far, whose
    weights sum to 1. Levels fall by factors e^gap.
    """

    def __init__(self, start: FittedSolver) -> None:
        super().__init__()
        levels = torch.tensor(start.levels, dtype=torch.float64)
        self.first = start.levels[0]
        self.gaps = nn.Parameter((levels[:-1] / levels[1:]).log().log())
        rows = [(1.0,), *start.states]
        ratios = (levels[1:] / levels[:-1]).tolist()
        self.weights = nn.ParameterList()
        for before, row, ratio in zip(rows, rows[1:], ratios, strict=False):
            old = torch.tensor([*before[1:], 0.0], dtype=torch.float64)
            mean = (torch.tensor(row[1:], dtype=torch.float64) - ratio * old) / (1 - ratio)
            self.weights.append(nn.Parameter(mean[:-1]))
        self.end = nn.Parameter(torch.tensor(start.end[1:-1], dtype=torch.float64))

    def levels(self, least: float) -> Tensor:
        """The logarithms of rho at the calls, none below `least`."""
        falls = self.gaps.exp().cumsum(0)
        room = math.log(self.first / least)
        falls = falls * (room / falls[-1]).clamp(max=1.0)
        return math.log(self.first) - torch.cat([falls.new_zeros(1), falls])

    def solver(self, least: float) -> FittedSolver:
        """The map with the weights of states written out."""
        with torch.no_grad():
            levels = self.levels(least).exp()
            row = levels.new_ones(1)
            rows = []
            for weights, a, b in zip(self.weights, levels[:-1], levels[1:], strict=True):
                row = torch.cat([b / a * row, row.new_zeros(1)])
                row[1:] += (1 - b / a) * _whole(weights)
                rows.append(tuple(row.tolist()))
            end = (0.0, *_whole(self.end).tolist())
            return FittedSolver(tuple(levels.tolist()), tuple(rows), end)


def _whole(weights: Tensor) -> Tensor:
    """Weights that sum to 1, of which the last is left out."""
    return torch.cat([weights, 1 - weights.sum()[None]])


def _data(reverse: ReverseProcess, y: Tensor, log_rho: Tensor) -> Tensor:
    """The data prediction at y = x / alpha; its derivative by log rho, where one is wanted, is by differences."""
    sde = reverse.sde

    def at(level: Tensor) -> Tensor:
        t = sde.time(-level).clamp(sde.t_min, sde.T)
        return reverse.data(y * sde.alpha(t).to(y), t)

    level = log_rho.detach()
    found = at(level)
    if not (log_rho.requires_grad and torch.is_grad_enabled()):
        return found
    ends = sde.rho(torch.tensor([sde.T, sde.t_min], dtype=torch.float64)).log()
    high = (level + STEP).clamp(max=ends[0])
    low = (level - STEP).clamp(min=ends[1])
    with torch.no_grad():
        slope = (at(high) - at(low)) / float(high - low)
    return found + slope * (log_rho - level).to(y)


def _sampled(fitted: _Map, reverse: ReverseProcess, x: Tensor, least: float) -> Tensor:
    """The samples from states x at the first level."""
    logs = fitted.levels(least)
    ratios = (logs[1:] - logs[:-1]).exp().to(x)
    start = reverse.sde.time(-logs[0].detach()).clamp(reverse.sde.t_min, reverse.sde.T)
    y = x / reverse.sde.alpha(start).to(x)
    found = [_data(reverse, y, logs[0].detach())]
    for weights, ratio, level in zip(fitted.weights, ratios, logs[1:], strict=True):
        y = ratio * y + (1 - ratio) * _mean(weights, found)
        found.append(_data(reverse, y, level))
    return _mean(fitted.end, found)


def _mean(weights: Tensor, found: list[Tensor]) -> Tensor:
    whole = _whole(weights).to(found[0])
    return torch.stack(found).mul(whole.reshape(-1, *[1] * found[0].ndim)).sum(0)


def _loss(found: Tensor, exact: Tensor) -> Tensor:
    """Half the logarithm of the mean distance, half that of the root mean square: typical and stray samples alike."""
    square = (found - exact).flatten(1).square().mean(1).clamp(min=1e-24)
    return square.sqrt().mean().log() / 2 + square.mean().log() / 4


def fit_solver(
    sde: LinearSDE,
    net: Any,
    shape: tuple[int, ...],
    *,
    nfe: int,
    solver: str | Solver = "adams",
    seed: int = 0,
    condition: Mapping[str, Tensor] | None = None,
    predicts: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    iterations: int = 300,
    batch_size: int | None = None,
    progress: bool = False,
) -> FittedSolver:
    """A solver of `nfe` net calls whose times and weights bring samples of this net nearest to its exact flow.

    It begins as a multistep solver and follows the gradient of the distances through the sampler (Adam). A third of the
    pilots only judge: what is best on those is returned, which may be the solver that it began with.

    Args:
        shape: (pilots, *sample_shape); a few hundred pilots for small data, some dozens for images.
        nfe: Net calls per sample of the solver that is fitted.
        solver: To begin with; one that calls the net once at each level.
        iterations: Steps of the optimiser; each costs `nfe` net calls forward and backward and, for the derivative by
            the noise level, twice as many forward, on two thirds of the pilots.
        batch_size: Pilots at a time, to save memory; the gradient is then the mean of the batches'.
        sde, net, seed, condition, predicts, device, dtype, progress: As of sample(). Conditions are the pilots'.

    Raises:
        TypeError, ValueError: As sample(); for solvers that are stochastic or call the net twice at a level; for fewer
            than six pilots; for a net whose output has no derivative by x: fit_times() needs none.
    """
    check_linear(sde)
    check_count("iterations", iterations)
    if shape[0] < 6:
        raise ValueError(f"shape={shape}; expected at least 6 pilots")
    chosen = find_solver(solver)
    denoiser = as_denoiser(net, sde, predicts)
    times = time_grid(sde, chosen, nfe=nfe, denoiser=denoiser)
    begun = linear_map(chosen, sde, times, denoiser)
    common: dict[str, Any] = dict(condition=condition, predicts=predicts, device=device, dtype=dtype)
    x = next(trajectory(sde, net, shape, solver=chosen, times=times, seed=seed, **common))
    least = max(float(each.rho(torch.tensor(each.t_min, dtype=torch.float64))) for each in (sde, denoiser.sde))
    exact = _flow(sde, net, x, times[0], least, common, progress)

    fitted = _Map(begun)
    held = max(2, len(x) // 3)
    size = len(x) - held if batch_size is None else min(batch_size, len(x) - held)
    parts = [torch.arange(i, min(i + size, len(x)), device=x.device) for i in range(held, len(x), size)]
    whole = {name: value.to(x.device) for name, value in (condition or {}).items()}
    reverse = ReverseProcess(sde, denoiser, whole)
    optimiser = torch.optim.Adam(fitted.parameters(), lr=RATE / nfe**2)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, iterations)

    def judged() -> float:
        with torch.no_grad():
            index = torch.arange(held, device=x.device)
            return float(_loss(_sampled(fitted, reverse.select(index), x[index], least), exact[index]))

    with evaluating(denoiser), frozen(denoiser):
        best = (judged(), begun)
        with tqdm(range(iterations), disable=not progress, desc="solver") as bar:
            for i in bar:
                optimiser.zero_grad()
                for index in parts:
                    found = _sampled(fitted, reverse.select(index), x[index], least)
                    (_loss(found, exact[index]) * len(index) / (len(x) - held)).backward()
                optimiser.step()
                decay.step()
                if i % max(1, iterations // CHECKS) == 0 or i == iterations - 1:
                    now = judged()
                    bar.set_postfix_str(f"distance {math.exp(now):.3g}")
                    if now < best[0]:
                        best = (now, fitted.solver(least))

    def median(solver: FittedSolver) -> float:
        rows = {**common, "condition": {name: value[:held] for name, value in whole.items()}}
        return float(distances(sample(sde, net, x=x[:held], solver=solver, **rows), exact[:held]).median())

    return replace(best[1], weights=fingerprint(denoiser), before=median(begun), after=median(best[1]))


def _flow(
    sde: LinearSDE, net: Any, x: Tensor, start: Tensor, least: float, common: dict[str, Any], progress: bool
) -> Tensor:
    """Where the flow takes states x at `start`: the data prediction at the end, by heun with many steps."""
    grid = uniform_asinh(40.0, rho_min=least * (1 + 1e-9))(sde, REFERENCE)
    times = torch.cat([start[None], grid[grid < start - 1e-9 * sde.T]])
    return sample(sde, net, x=x, solver="heun", times=times, progress=progress, **common)
