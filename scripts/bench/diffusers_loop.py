#!/usr/bin/env python
"""Train the net of a run with diffusers' own training loop, on as many images and from the same first weights.

    python scripts/bench/diffusers_loop.py --run runs/fashion --steps 3000 --out runs/fashion-diffusers

The loop is that of diffusers' example of unconditional training: DDPMScheduler's linear betas, uniform time steps, the
mean squared error of the noise, AdamW, a cosine schedule, gradients clipped at 1, and EMAModel with its warm-up. Batch
size, learning rate, betas, warm-up and the averages' final decay are the run's. The result is saved in out/model as a
Denoiser of its DiscreteSDE, so that both libraries' samplers can use it; data is not dequantised, as the loop has it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm

from sdescore import Denoiser, DiscreteSDE
from sdescore.cli.command_line import run_with_settings
from sdescore.cli.models import training_of
from sdescore.cli.outputs import write_json
from sdescore.common.random import generator
from sdescore.data.batches import batches
from sdescore.data.source import Source
from sdescore.training.config import TrainConfig


@dataclass(frozen=True)
class LoopConfig:
    """Settings of the training.

    Args:
        run: Folder of a run of `sdescore train`, whose config.json names data, net, batch size and seed.
        out: Folder to write to: model/ and log.json.
        steps: Updates of the weights; by default as many as the run.
        log_every: Steps between entries of the log.
        progress: Show a progress bar.
    """

    run: str
    out: str
    steps: int | None = None
    log_every: int = 50
    progress: bool = True

    def __post_init__(self) -> None:
        if (self.steps is not None and self.steps < 1) or self.log_every < 1:
            raise ValueError(f"steps={self.steps}, log_every={self.log_every}; expected integers of at least 1")
        if (Path(self.out) / "model").exists():
            raise ValueError(f"out={self.out!r} has a model; expected a new folder")


def noise_levels(alphas_cumprod: Tensor) -> Tensor:
    """What the net is told at each of the scheduler's time steps: ln(sigma / alpha) / 4, as everywhere here."""
    return ((1 - alphas_cumprod) / alphas_cumprod).log() / 8


def loop(config: LoopConfig) -> None:
    """Train, and save the averaged weights."""
    own, out = training_of(config.run), Path(config.out)
    steps = config.steps or own.steps
    log: list[dict[str, float]] = []
    losses: list[Tensor] = []
    since = time.perf_counter()
    with tqdm(total=steps, disable=not config.progress, unit="step") as bar:

        def note(step: int, loss: Tensor) -> None:
            nonlocal since
            bar.update()
            losses.append(loss)
            if step % config.log_every == 0 or step == steps:
                speed = len(losses) * own.batch_size / (time.perf_counter() - since)
                mean = float(torch.stack(losses).mean())
                log.append({"step": step, "loss": mean, "images_per_second": round(speed, 1)})
                losses.clear()
                since = time.perf_counter()
                write_json(out / "log.json", log)

        denoiser = fit(own, own.build_source(), steps, note)
    denoiser.save_pretrained(out / "model")
    print(f"{steps} steps of {own.batch_size} images, last loss {log[-1]['loss']:.4f}; model in {out / 'model'}")


def fit(own: TrainConfig, source: Source, steps: int, note: Callable[[int, Tensor], None]) -> Denoiser:
    """The averaged denoiser after so many steps with a run's settings; note gets each step and its loss."""
    from diffusers import DDPMScheduler
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    torch.manual_seed(generator("train init", own.seed).initial_seed())
    net = own.build_net(source.shape, None)
    scheduler: Any = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    levels = noise_levels(scheduler.alphas_cumprod)
    optimizer = torch.optim.AdamW(net.parameters(), lr=own.lr, betas=own.betas, weight_decay=1e-6, eps=1e-8, fused=True)
    rise = min(own.warmup, steps // 10)
    schedule = get_scheduler("cosine", optimizer=optimizer, num_warmup_steps=rise, num_training_steps=steps)
    decay = 0.5 ** (own.batch_size / own.ema_halflives[0])  # type: ignore[index]  # a tuple once it is checked
    ema: Any = EMAModel(net.parameters(), decay=decay, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    torch.manual_seed(own.seed)
    for step, (raw, _) in enumerate(batches(source, own.seed, own.batch_size, range(steps)), start=1):
        x0 = source.scaling.to_model(raw)
        noise = torch.randn_like(x0)
        timesteps = torch.randint(0, len(levels), (len(x0),))
        noisy = scheduler.add_noise(x0, noise, timesteps)
        loss = F.mse_loss(net(noisy, levels[timesteps]), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        ema.step(net.parameters())
        note(step, loss.detach())
    ema.copy_to(net.parameters())
    # A net that is told x_t of unit variance is a Denoiser's net with data of unit variance.
    sde = DiscreteSDE.from_betas(scheduler.betas)
    return Denoiser(net, sde, "noise", data_std=1.0, shape=source.shape, scaling=source.scaling)


def main(arguments: Sequence[str] | None = None) -> None:
    run_with_settings(LoopConfig, loop, "bench/diffusers_loop.py", __doc__, arguments)


if __name__ == "__main__":
    main()
