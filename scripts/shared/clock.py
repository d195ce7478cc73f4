"""What benchmarks call time."""

import time

import torch

__all__ = ["clock"]


def clock(device: torch.device) -> float:
    """Seconds, after the device has done what it was told; on a CPU those that the process itself computed."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()
