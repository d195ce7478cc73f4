"""Sampling: sample() and trajectory(), the loop over batches around any solver."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sdescore.common.checks import all_finite, check_count
from sdescore.processes.base import LinearSDE
from sdescore.sampling.grids import Grid
from sdescore.sampling.initial import InitialLaw
from sdescore.sampling.noise import WhiteNoise
from sdescore.sampling.run import NoiseSource, Run
from sdescore.sampling.solver import Solver

__all__ = ["sample", "trajectory"]


def trajectory(
    sde: LinearSDE,
    net: Any,
    shape: tuple[int, ...] | None = None,
    *,
    solver: str | Solver = "adams",
    steps: int | None = None,
    nfe: int | None = None,
    times: Tensor | Grid | None = None,
    x: Tensor | None = None,
    prior: InitialLaw | None = None,
    seed: int = 0,
    condition: Mapping[str, Tensor] | None = None,
    predicts: str | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    grad: bool = False,
    noise_source: NoiseSource = WhiteNoise,
) -> Iterator[Tensor]:
    """Yield the states (n, *sample_shape) of sample(): the initial one, one for each step, and the denoised last.

    Arguments are those of sample(), and so are the errors but one: states that are not finite are yielded as they are.
    All samples are in one batch.
    """
    run = Run(
        sde,
        net,
        shape,
        solver=solver,
        steps=steps,
        nfe=nfe,
        times=times,
        x=x,
        prior=prior,
        seed=seed,
        condition=condition,
        predicts=predicts,
        device=device,
        dtype=dtype,
        noise_source=noise_source,
    )
    return torch.set_grad_enabled(grad)(run.states)(0, len(run))


def sample(
    sde: LinearSDE,
    net: Any,
    shape: tuple[int, ...] | None = None,
    *,
    solver: str | Solver = "adams",
    steps: int | None = None,
    nfe: int | None = None,
    times: Tensor | Grid | None = None,
    x: Tensor | None = None,
    prior: InitialLaw | None = None,
    seed: int = 0,
    index_offset: int = 0,
    condition: Mapping[str, Tensor] | None = None,
    predicts: str | None = None,
    batch_size: int | None = None,
    progress: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    grad: bool = False,
    noise_source: NoiseSource = WhiteNoise,
) -> Tensor:
    """Draw samples (n, *sample_shape) of a process run backwards from noise to data.

    Sample i depends on (seed, index_offset + i) alone: its initial state and noise are the same bits in every batch.

    Args:
        sde: The process to sample on; the net may have been trained on another.
        net: A Denoiser, or any callable net(x, t, **condition) with t (batch,) in the time of `sde`. check_net() tells
            whether one from elsewhere is called as in its training: a wrong one is sampled without an error.
        shape: (n, *sample_shape).
        solver: A name of the entry-point group sdescore.solvers, or a Solver.
        steps: Number of times: steps - 1 intervals, and the last denoising. 50 by default.
        nfe: Net calls per sample, instead of steps.
        times: Decreasing times instead of steps, or a grid (sde, steps) -> times; the solver's own by default.
        x: State (n, *sample_shape) at times[0] to start from, instead of shape.
        prior: Law of the state at times[0], anything with sample(n, seed), such as mixture.at(sde, sde.T); by default
            N(0, sigma^2). It is wrong where alpha times the data is not small against sigma.
        seed: Seed of the set of samples.
        index_offset: Number of the first sample, so that several processes can share a set.
        condition: Tensors, sample first, that are handed to the net by name.
        predicts: What a plain callable outputs; by default its attribute `predicts`, or "score" if it has none.
        batch_size: Samples at a time, the last of several batches padded; by default all at once.
        progress: Show a progress bar.
        device: Where to run; by default where the net is.
        dtype: Of the state; by default that of the net, but at least float32.
        grad: Keep the graph, so that gradients flow through a fixed-step solver.
        noise_source: Makes the noise from (seed, numbers of the samples, device); with Brownian(sde) every sample has
            one path.

    Raises:
        TypeError, ValueError: For arguments that are unknown, contradictory or out of range, before any net call.
        FloatingPointError: If the result is not finite; says which solver, and where it began.
    """
    run = Run(
        sde,
        net,
        shape,
        solver=solver,
        steps=steps,
        nfe=nfe,
        times=times,
        x=x,
        prior=prior,
        seed=seed,
        index_offset=index_offset,
        condition=condition,
        predicts=predicts,
        device=device,
        dtype=dtype,
        noise_source=noise_source,
    )
    size = len(run)
    if batch_size is not None:
        check_count("batch_size", batch_size)
        size = min(batch_size, size)
    starts = range(0, len(run), size)
    done = []
    bar = tqdm(
        total=len(starts) * len(run.times),
        disable=not progress,
        desc=run.name if isinstance(solver, str) else type(solver).__name__,
    )
    with bar, torch.set_grad_enabled(grad):
        for start in starts:
            for step, x in enumerate(run.states(start, start + size)):  # noqa: B007
                bar.update(step > 0)
            assert x is not None
            x = x[: len(run) - start]  # without the padding
            if not all_finite(x):
                raise FloatingPointError(run.explain(start, start + size))
            done.append(x)
    return torch.cat(done)
