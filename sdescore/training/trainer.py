"""One training step, and all the state that it changes."""

import logging
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import convert_outputs_to_fp32
from torch import Tensor

from sdescore.common.files import refused
from sdescore.common.random import generator
from sdescore.common.scaling import level_width
from sdescore.data.batches import share
from sdescore.data.source import Source, read
from sdescore.data.statistics import checksum
from sdescore.denoisers.denoiser import Denoiser
from sdescore.denoisers.folders import STAGING
from sdescore.objectives.denoising import denoising_score_matching
from sdescore.training import checkpoints
from sdescore.training import posthoc_averages as posthoc
from sdescore.training.averages import Averages
from sdescore.training.conditions import state_conditions
from sdescore.training.config import TrainConfig
from sdescore.training.draws import Draws, draw, in_training
from sdescore.training.learning_rate import learning_rate
from sdescore.training.sharding import full, parts, placed, whole

__all__ = ["Trainer"]

logger = logging.getLogger(__name__)


class Trainer:
    """All that changes in a run: the net, its averages, the optimiser, the step, and the time that it took.

    `seconds` is what the run took so far, over all times that it was resumed: the same in all processes, since the
    learning rate of a run with `minutes` follows it. Raises ValueError for settings that do not fit the source, the net
    or the number of processes.
    """

    def __init__(self, config: TrainConfig, source: Source, accelerator: Accelerator, std: float | None = None) -> None:
        if config.batch_size < accelerator.num_processes * config.accumulation:
            raise ValueError(
                f"batch_size={config.batch_size} is less than {accelerator.num_processes} processes with "
                f"accumulation={config.accumulation} parts each"
            )
        config = config.resolved(source, accelerator.device.type)
        self.config = config
        self.source = source
        self.accelerator = accelerator
        self.step = 0
        self.seconds = 0.0
        torch.manual_seed(generator("train init", config.seed).initial_seed())
        conditions = state_conditions(config.conditions, source)  # which reads the data
        self.denoiser = config.build_denoiser(source, conditions, std).to(accelerator.device)
        split = accelerator.is_fsdp2
        channels_last = config.channels_last
        if channels_last and split:
            raise ValueError("channels_last=True; expected False where FSDP splits the weights")
        if channels_last is None:  # on a CPU it is faster in float32 alone: bf16 took twice the time
            kind = accelerator.device.type
            channels_last = not split and (kind == "cuda" or (kind == "cpu" and accelerator.mixed_precision == "no"))
        if channels_last and len(source.shape) == 3:
            self.denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.classes = source.classes if config.conditional else None
        self.averages = Averages(self.denoiser, config.averages(), config.batch_size)
        net = self.denoiser.net
        optimizer = self._optimizer()
        if config.compile:
            net.forward = torch.compile(net.forward)
        if split and accelerator.mixed_precision != "no":
            net.forward = convert_outputs_to_fp32(accelerator.autocast()(net.forward))  # as accelerate does elsewhere
        self.net, self.optimizer = accelerator.prepare(net, optimizer)
        self.averages.split_like(self.denoiser)
        # The same net inside accelerate's wrapper, for several processes and mixed precision.
        self.parallel = Denoiser(self.net, self.denoiser.sde, config.predicts, self.denoiser.data_std)
        self.share = share(config.batch_size, accelerator.process_index, accelerator.num_processes)
        size = self.share.stop - self.share.start
        self.parts = [share(size, k, config.accumulation) for k in range(config.accumulation)]
        self.data = self._data(conditions)
        self.checksum = checksum(source, config.data)
        self._rehearse()

    def _optimizer(self) -> torch.optim.Optimizer:
        config = self.config
        cls = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[config.optimizer]
        return cls(
            self.denoiser.parameters(),
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=self.accelerator.device.type in ("cpu", "cuda"),
        )

    def _rehearse(self) -> None:
        """A pass without effect: a net that does not fit the data fails here, and torch settles its gradient buckets.

        After the first pass torch reorders the buckets, and with them sums over more than two processes: otherwise the
        first step of a resumed run would be summed in another order than the same step of an unbroken run.
        """
        before = {name: value.clone() for name, value in self.denoiser.state_dict().items()}
        raw, known = read(self.source, [0])
        draws = draw(self.config, 0, self.source.shape, self.accelerator.device)
        count = self.parts[0].stop - self.parts[0].start
        known = {name: rows.expand(count, *rows.shape[1:]) for name, rows in known.items()}
        self._backward(raw.expand(count, *self.source.shape), known, draws.select(slice(0, count)))
        self.optimizer.zero_grad()
        self.denoiser.load_state_dict(before)

    def given(self, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Of what is known of samples, what the net is given, on the device."""
        found = {name: known[name].to(self.accelerator.device, non_blocking=True) for name in self.config.drops()}
        wide = torch.get_default_dtype()
        return {name: rows if name == "label" else rows.to(wide) for name, rows in found.items()}

    def shown(self) -> dict[str, Tensor]:
        """What the net is given for a picture: labels in turn, and conditions of evenly spaced samples of the data."""
        count = self.config.sample_count
        known = {"label": torch.arange(count) % (self.classes or 1)}
        if self.config.conditions:
            known = {**read(self.source, [k * len(self.source) // count for k in range(count)])[1], **known}
        return self.given(known)

    def _backward(self, raw: Tensor, known: Mapping[str, Tensor], draws: Draws) -> Tensor:
        """Add the gradient of a part of the batch to this process's; returns its part of the loss.

        The loss is the mean over a sample's elements and over the batch. Accelerate averages sums over the processes:
        their shares need not be equal.
        """
        device = self.accelerator.device
        config = self.config
        raw = raw.to(device, non_blocking=True)
        x0 = self.source.scaling.to_model(raw, torch.get_default_dtype())
        if config.flips:
            x0 = torch.where(draws.flip.reshape(-1, 1, 1, 1), x0.flip(-1), x0)
        if config.dequantize:
            x0 = x0 + level_width(self.source.scaling) * draws.shift
        losses = denoising_score_matching(
            self.parallel,
            x0,
            weighting=config.weighting,
            time_distribution=config.time_distribution,
            u=draws.u,
            eps=draws.eps,
            condition=in_training(self.given(known), draws, config, self.classes),
        )
        loss = losses.sum() * (2 / x0[0].numel() * self.accelerator.num_processes / config.batch_size)
        self.accelerator.backward(loss)
        return loss.detach()

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        config = self.config
        share = self.step / config.steps if config.steps else 1.0
        if config.minutes is not None:
            share = max(share, self.seconds / (60 * config.minutes))
        return learning_rate(config.lr, config.decay, config.warmup, self.step, share)

    @property
    def finished(self) -> str:
        """What is used up, the steps or the minutes; empty if there is more to do."""
        config = self.config
        if self.step >= config.steps:
            return f"steps={config.steps}"
        over = config.minutes is not None and self.seconds >= 60 * config.minutes
        return f"minutes={config.minutes:g}" if over else ""

    def update(self, raw: Tensor, known: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """One step on this process's share of the batch: raw (share, *shape), and what is known of it by name.

        Returns, both (), its part of the loss, whose mean over the processes is the batch's, and the gradient's norm.
        """
        config = self.config
        accelerator = self.accelerator
        torch.manual_seed(generator("train dropout", config.seed, accelerator.process_index, self.step).initial_seed())
        draws = draw(config, self.step, self.source.shape, accelerator.device).select(self.share)
        losses = []
        for part in self.parts:
            with nullcontext() if part is self.parts[-1] else accelerator.no_sync(self.net):
                some = {name: rows[part] for name, rows in known.items()}
                losses.append(self._backward(raw[part], some, draws.select(part)))
        norm = accelerator.clip_grad_norm_(self.net.parameters(), config.grad_clip or float("inf"))
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.averages.update(self.denoiser, self.step)
        return torch.stack(losses).sum(), full(norm)

    @property
    def averaged(self) -> Denoiser:
        """The denoiser with the weights of the first average; every process must ask, since each may hold a part."""
        return self.averages.whole().to(self.accelerator.device)

    def save(self) -> None:
        """Write a checkpoint, remove older ones, and write the averaged denoiser to model/. Raises OSError.

        As with snapshot() and publish(), every process must call it, since each may hold a part; the main one writes.
        """
        content = self._state()
        if self.accelerator.is_main_process:
            root = Path(self.config.out) / "checkpoints"
            checkpoints.save_checkpoint(root, self.step, *content)
            checkpoints.prune(root, self.step, self.config.keep)
        del content
        self.publish()
        self.accelerator.wait_for_everyone()

    def snapshot(self) -> None:
        """Write the averages to snapshots/, where they are kept."""
        folder = Path(self.config.out) / "snapshots"
        posthoc.write_snapshots(folder, self.averages, self.step, write=self.accelerator.is_main_process)

    def publish(self) -> None:
        """Write the averaged denoiser to model/, from which it can be sampled."""
        averaged = self.averaged
        folder = Path(self.config.out) / "model"
        if not self.accelerator.is_main_process:
            return
        for left in folder.glob(f"{STAGING}*"):  # by a process that was killed while it saved
            shutil.rmtree(left, ignore_errors=True)
        try:
            averaged.save_pretrained(folder)
        except OSError as error:
            message = f"the model was not written to {folder}: {error}; the checkpoint of step {self.step} is whole"
            raise refused(error, f"{message}, and resuming writes the model too") from error

    def _data(self, conditions: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """The properties of the data that must be unchanged in a resumed run."""
        source = self.source
        scaling = source.scaling
        known = {"samples": len(source), "shape": list(source.shape), "data_std": self.denoiser.data_std}
        low, high = (list(each) if isinstance(each, tuple) else each for each in (scaling.low, scaling.high))
        known |= {"low": low, "high": high, "classes": source.classes}
        return known | {"conditions": conditions} if conditions else known

    def _state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        moments, groups = checkpoints.split_optimizer(self.optimizer.state_dict())
        held = {"net": self.denoiser.state_dict(), "optimizer": moments, **self.averages.state_dicts()}
        tensors = {name: whole(group, self.accelerator.is_main_process) for name, group in held.items()}
        scaler = self.accelerator.scaler
        state = {
            "step": self.step,
            "config": self.config.to_json(),
            "data": self.data,
            "checksum": self.checksum,
            "processes": self.accelerator.num_processes,
            "mixed_precision": self.accelerator.mixed_precision,
            "optimizer": groups,
            "seconds": self.seconds,
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        return tensors, state

    def load(self, folder: Path) -> None:
        """Take over the state of a checkpoint. Raises ValueError if it is of another run or of other data."""
        tensors, state = checkpoints.load(folder)
        if self.data | state["data"] != self.data:  # older checkpoints say less
            raise ValueError(f"{folder} was made with data {state['data']}; now it is {self.data}")
        self.denoiser.load_state_dict(parts(tensors["net"], self.denoiser.state_dict()))
        self.averages.load_state_dicts(tensors)
        saved = checkpoints.join_optimizer(tensors["optimizer"], state["optimizer"])
        weights = [weight for group in self.optimizer.param_groups for weight in group["params"]]
        for i, moments in saved["state"].items():
            for name, value in moments.items():
                if value.shape == weights[i].shape:  # fused kernels assume the same memory layout
                    moments[name] = placed(value, weights[i])
        self.optimizer.load_state_dict(saved)
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
        self.seconds = state["seconds"]
        if state.get("checksum", self.checksum) != self.checksum:
            logger.warning("%s was made with other samples, of the same number, shape and range", folder)
        precision = self.accelerator.mixed_precision
        if state.get("mixed_precision", precision) != precision:
            logger.warning("%s was computed in %s, and goes on in %s", folder, state["mixed_precision"], precision)
        if state["processes"] != self.accelerator.num_processes:
            logger.warning(
                "%s was written by %d processes and goes on with %d: data and noise stay the same, but dropout "
                "differs, and sums in their last bits",
                folder,
                state["processes"],
                self.accelerator.num_processes,
            )
        then = {name: state["config"].get(name) for name in ("accumulation", "channels_last", "compile")}
        now = {name: getattr(self.config, name) for name in then}
        if then != now:
            logger.warning("%s was written with %s and goes on with %s: dropout may differ", folder, then, now)
