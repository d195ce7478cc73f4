"""How much bench/gpu.py does on a GPU, and in its rehearsal on a CPU."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from bench.train import Setting

__all__ = ["SIZES", "Sizes"]

BEST = Setting(torch.bfloat16, channels_last=True, compile=True)


@dataclass(frozen=True)
class Sizes:
    """The amounts of each step.

    Attributes:
        environment: Of the tests.
        tests: Which of them, for pytest.
        net: A name of bench.nets.SIZES.
        batches: Images of a training step; the first is profiled.
        settings: How each library's net is trained.
        rounds: Steps, or calls, that are timed.
        images, calls: Of sampling.
        precisions: Of each library's net in sampling; diffusers' pipeline fails in bfloat16.
        modes: Ways to compile a net for sampling, as arguments of torch.compile; None for not at all.
        learning: Steps, and images of each, by which the net of the likelihood has learnt something.
        likelihoods: Images in a batch whose likelihood is computed.
        tolerances: Of its integration, relative and absolute.
        recipe: What of the recipe is changed for a short run.
        samples, columns: Images that are drawn at its end, and how many are in a row of the picture.
        tested: Test images whose bits are counted.
        at_a_time: Images in a batch of these.
    """

    environment: Mapping[str, str]
    tests: tuple[str, ...]
    net: str
    batches: tuple[int, ...]
    settings: Mapping[str, tuple[Setting, ...]]
    rounds: int
    images: int
    calls: int
    precisions: Mapping[str, torch.dtype]
    modes: Mapping[str, Mapping[str, Any] | None]
    learning: tuple[int, int]
    likelihoods: int
    tolerances: tuple[float, ...]
    recipe: Mapping[str, Any]
    samples: int
    columns: int
    tested: int
    at_a_time: int


# A short run's own pace: the recipe's is that of 31 hours.
SHORT: dict[str, Any] = {
    "dequantize": True,
    "warmup": 100,
    "decay": "cosine",
    "lr": 5e-4,
    "ema_halflives": (5000,),
    "ema_widths": (),
    "snapshot_every": 0,
    "sample_every": 0,
    "log_every": 20,
    "save_every": 10**6,
    "save_minutes": 0.4,
    "compile": False,  # which takes a minute
    "tracker": "none",
    "progress": False,
}
SIZES = {
    "cuda": Sizes(
        environment={},
        tests=("-m", "gpu and not slow"),
        net="full",
        batches=(256, 128),
        settings={"sdescore": (BEST,), "diffusers": (BEST, Setting(torch.bfloat16, channels_last=True))},
        rounds=20,
        images=1024,
        calls=20,
        precisions={"sdescore": torch.bfloat16, "diffusers": torch.float16},
        modes={"eager": None, "reduce-overhead": {"mode": "reduce-overhead"}},
        learning=(60, 64),
        likelihoods=32,
        tolerances=(1e-3, 1e-5),
        recipe={**SHORT, "batch_size": 256},
        samples=1024,
        columns=16,
        tested=512,
        at_a_time=128,
    ),
    "cpu": Sizes(
        environment={"GPU_TESTS_ON": "cpu"},
        tests=("-m", "gpu and not slow", "-k", "adams or ddpm or guided or back or automatic or karras0"),
        net="tiny",
        batches=(4, 2),
        settings={
            "sdescore": (Setting(channels_last=True), Setting(torch.bfloat16, channels_last=True)),
            "diffusers": (Setting(channels_last=True),),
        },
        rounds=2,
        images=4,
        calls=4,
        precisions={"sdescore": torch.bfloat16, "diffusers": torch.float32},
        modes={"eager": None, "compiled": {"backend": "eager"}},
        learning=(2, 4),
        likelihoods=1,
        tolerances=(1e-3, 1e-2),
        recipe={**SHORT, "batch_size": 4, "net_args": {"base_width": 16, "multipliers": [1, 1], "blocks": 1}},
        samples=70,
        columns=8,
        tested=2,
        at_a_time=35,
    ),
}
