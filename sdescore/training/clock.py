"""What a run does by the clock and on signals, decided alike in all of its processes."""

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator

from sdescore.training.config import TrainConfig

__all__ = ["Clock", "Due", "catching"]

LOG_SECONDS = 30.0
FIRST_PICTURE_SECONDS = 20.0  # into a run, so that there is one within the first minute
FIRST_SAVE_SECONDS = 60.0
TOGETHER = 10  # steps between decisions of several processes: each costs a message, and waits for the device
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class Due(NamedTuple):
    """What is due after a step: the signal that came (0 for none), the end of `minutes`, a line, a save, a picture.

    `seconds` is what the run took so far.
    """

    seconds: float
    signal: int = 0
    end: bool = False
    log: bool = False
    save: bool = False
    picture: bool = False


@dataclass
class Caught:
    """The first signal that came, 0 before."""

    signal: int = 0


@contextmanager
def catching() -> Iterator[Caught]:
    """Note SIGINT, SIGTERM and SIGHUP instead of ending; one that comes again does what it did before.

    Outside of the main thread, where Python takes no signals, nothing is noted.
    """
    caught = Caught()
    before: dict[int, Any] = {}

    def note(number: int, _: Any) -> None:
        caught.signal = caught.signal or number
        signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():
        for number in (getattr(signal, name) for name in SIGNALS if hasattr(signal, name)):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):  # as nohup ignores a closed terminal
                before[number] = signal.signal(number, note)
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Clock:
    """The time of a run.

    Args:
        config: The settings.
        accelerator: The processes.
        before: Seconds that the run took before it was resumed.
        start: When this process began, in seconds of time.monotonic().
    """

    def __init__(self, config: TrainConfig, accelerator: Accelerator, before: float, start: float) -> None:
        self.config = config
        self.accelerator = accelerator
        self.before = before
        self.start = start
        self.agreed = before  # the time at the last decision of all processes
        self.logged = time.monotonic()
        self.save_at = self.logged + min(FIRST_SAVE_SECONDS, 60 * config.save_minutes)
        # A short run has its first picture after a quarter, since that tells how long its last will take.
        limit = 60 * (config.minutes or math.inf)
        self.picture_at = start + min(FIRST_PICTURE_SECONDS, limit / 4)
        if before > 0 or not config.sample_every:
            self.picture_at = math.inf
        self.took = {"save": 0.0, "picture": 0.0}  # for which the end of a run leaves time

    def saved(self, began: float) -> None:
        """Note that a checkpoint was written, begun at this time."""
        now = time.monotonic()
        self.took["save"] = now - began
        self.save_at = now + 60 * self.config.save_minutes

    def pictured(self, began: float) -> None:
        """Note that a picture was drawn, begun at this time."""
        self.took["picture"] = time.monotonic() - began
        self.picture_at = math.inf

    def due(self, step: int, last: bool, caught: Caught) -> Due:
        """What is due after a step, the same in all processes."""
        processes = self.accelerator.num_processes
        if processes > 1 and step % TOGETHER and not last:
            return Due(self.agreed)
        now = time.monotonic()
        seconds = self.before + now - self.start
        found = [
            seconds,
            caught.signal,
            seconds + sum(self.took.values()) >= 60 * (self.config.minutes or math.inf),
            now - self.logged >= LOG_SECONDS,
            now >= self.save_at,
            now >= self.picture_at,
        ]
        if processes > 1:
            own = torch.tensor([[float(each) for each in found]], device=self.accelerator.device)
            every: Any = self.accelerator.gather(own)
            found = every.max(0).values.tolist()
        self.agreed, number, *flags = found
        return Due(self.agreed, int(number), *map(bool, flags))
