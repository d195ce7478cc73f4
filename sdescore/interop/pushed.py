"""A solver that is pushed: it runs in a greenlet, which stops at each net call until the output is handed in."""

from collections.abc import Callable
from typing import Any

import torch
from greenlet import GreenletExit, getcurrent, greenlet
from torch import Tensor

from sdescore.common.linear_combinations import Coefficient
from sdescore.denoisers import Denoiser
from sdescore.denoisers.clipping import Clipped
from sdescore.interop.calls import CalledAtLevel
from sdescore.interop.schedules import Schedule
from sdescore.sampling import Noise, ReverseProcess, Solver
from sdescore.sampling.run import solver_states

__all__ = ["PushedRun"]


def _ask(x: Tensor, level: Coefficient) -> Any:
    """Stop the solver's greenlet with what the net is to be called with, until the output is handed in."""
    parent = getcurrent().parent
    assert parent is not None
    return parent.switch((x, level))


class PushedRun:
    """One run of a solver, begun at once.

    The greenlet does not hold this object, so that a run that is given up ends with it.

    Attributes:
        state: Where the net is to be called next; once the run is over, the data.
        level: At which time of the process; None once the run is over.
    """

    def __init__(self, solver: Solver, schedule: Schedule, x: Tensor, times: Tensor, noise: Noise) -> None:
        process = schedule.process
        net: Denoiser = CalledAtLevel(_ask, process, schedule.terms.predicts, schedule.data_std)
        if schedule.clip is not None:
            net = Clipped(net, schedule.clip, schedule.keeps_noise)
        reverse = ReverseProcess(process, net)

        def solve() -> tuple[Tensor, None]:
            state = x
            for state in solver_states(reverse, solver, x, times, noise):  # noqa: B007
                pass
            return state, None

        self._greenlet = greenlet(solve)
        self._grad = torch.is_grad_enabled()
        self._switch(self._greenlet.switch)

    def push(self, output: Tensor) -> None:
        """Go on with the net's output at `state`, of its shape, to the next call or the end."""
        self._switch(self._greenlet.switch, output)

    def _switch(self, into: Callable[..., Any], *value: Any) -> None:
        """Into the greenlet and back. Whether gradients are on belongs to the thread: each side keeps its own."""
        outside = torch.is_grad_enabled()
        self._greenlet.parent = getcurrent()
        torch.set_grad_enabled(self._grad)
        try:
            self.state, self.level = into(*value)
        finally:
            self._grad = torch.is_grad_enabled()
            torch.set_grad_enabled(outside)

    def __del__(self) -> None:
        """End the greenlet, whose blocks would otherwise set the mode of gradients whenever it is collected."""
        if getattr(self, "_greenlet", None):  # true while it can go on
            outside = torch.is_grad_enabled()
            self._greenlet.parent = getcurrent()
            self._greenlet.throw(GreenletExit)
            torch.set_grad_enabled(outside)
