"""The learning rate: a linear rise, and a fall until the end of the run."""

import math
from collections.abc import Callable

__all__ = ["DECAYS", "learning_rate"]

# The factor of the highest rate, by the share of the run that is done, the steps done, and those of the warm-up.
DECAYS: dict[str, Callable[[float, int, int], float]] = {
    # Loshchilov & Hutter 2017, eq. 5
    "cosine": lambda share, step, warmup: (1 + math.cos(math.pi * share)) / 2,
    "linear": lambda share, step, warmup: 1 - share,
    # Karras et al. 2024, eq. 15, with their reference at the end of the warm-up
    "inverse-root": lambda share, step, warmup: math.sqrt(warmup / max(step, warmup)),
    "none": lambda share, step, warmup: 1.0,
}


LONGEST_RISE = 0.1  # as a share of the run


def learning_rate(highest: float, decay: str, warmup: int, step: int, share: float) -> float:
    """The rate of a step (from 0), of which `share` in [0, 1] of the run is done before.

    The rise takes `warmup` steps, or a tenth of the run where that is less.
    """
    rise = min(1.0, max((step + 1) / max(warmup, 1), share / LONGEST_RISE))
    return highest * rise * DECAYS[decay](min(share, 1.0), step, max(warmup, 1))
