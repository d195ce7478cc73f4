"""The settings of a training run, and the objects that they name."""

import inspect
import json
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, cast

from torch import nn

from sdescore.common.checks import check_fields, check_number
from sdescore.common.plugins import check_arguments, find_plugin
from sdescore.data.load import load
from sdescore.data.ranges import given_scaling
from sdescore.data.source import Source
from sdescore.data.statistics import data_std
from sdescore.denoisers.denoiser import Denoiser
from sdescore.denoisers.descriptions import NETS, PROCESSES, build_net, build_process, find_class
from sdescore.processes.base import LinearSDE
from sdescore.sampling.solver import find_solver
from sdescore.training.averages import Average, HalfLife, PowerFunction
from sdescore.training.conditions import KINDS
from sdescore.training.default_net import default_net
from sdescore.training.setting_rules import AT_LEAST_ONE, AT_LEAST_ZERO, CHOICES, FREE

__all__ = ["TrainConfig"]


@dataclass(frozen=True)
class TrainConfig:
    """Settings of a training run.

    Args:
        data: "digits", a .npz or .csv file, a .npy file of any size, a folder of images (sub-folders are classes),
            MNIST-like idx files or their folder, a folder of Hugging Face's save_to_disk, or module:name of a data set
            like torchvision's; where there are splits, ":test" after the name chooses the test set.
        data_args: Arguments of module:name, such as root.
        data_key: Name of the samples in a .npz file or a Hugging Face data set.
        label_key: Name of their labels, by default y; those of NAME.npy are in NAME.y.npy; a table's column, if named.
        data_low: Smallest raw value of arrays, or one for each column or channel; by default 0 for uint8.
        data_high: Largest raw value of arrays, or one for each; by default 255 for uint8.
        data_scale: What scales floating point else: whole (the smallest and largest of all values), columns (those of
            each) or standard (mean and deviation of each, without ends: the default for tables; for all else whole).
        data_levels: Number of equally spaced raw values if the arrays are quantised; by default 256 for uint8.
        corrupt: What to do about samples that cannot be read: stop, or skip them with a warning that names each.
        autoencoder: Folder or repository of a diffusers autoencoder, or module:name of your own Autoencoder or pair of
            functions (encoder, decoder): the net is trained on its codes of the data, and samples are decoded.
        autoencoder_args: Arguments of the autoencoder, such as posterior=sample.
        codes: Folder where the codes are, or are made once; by default codes in out. As data it needs no autoencoder.
        statistics: File of `sdescore measure`, from which data_std is read; by default 4,096 samples are measured.
        flips: Mirror every other image, left to right.
        dequantize: Add uniform noise of one level's width to quantised data: needed for a good likelihood.
        workers: Processes, for each training process, that read ahead data that is not in memory.
        conditional: Give the labels to the net.
        conditions: What else to give to the net: names in the data, or CONDITION of NAME.CONDITION.npy beside it, each
            with its kind: vector, image (channels beside the sample) or tokens (a sequence).
        drop: Share of the samples without a condition or label, so that the net can be guided: for all, or by name.
        net: Name of the net: UNet, DiT, MLP, a plug-in's, or module:name of your own; by default one for the data.
        net_args: Arguments of the net, such as base_width; those that the data decides follow from it.
        sde: Name of the process: VPSDE, SubVPSDE, VESDE, CosineSDE, KarrasSDE, FlowSDE, DiscreteSDE, or a plug-in's.
        sde_args: Arguments of the process, such as beta_max.
        predicts: What the net outputs: score, noise, data, v, velocity, edm.
        data_std: Standard deviation of the data scaled to [-1, 1]; by default that of the statistics.
        weighting: Weight of the loss over time: simple, likelihood, edm, min-snr.
        time_distribution: How times are drawn: uniform, importance, log-normal, low-discrepancy.
        steps: Total number of updates of the weights.
        minutes: Most time for the run, with previews and what it took before it was resumed; none for no limit.
        batch_size: Samples per update over all processes together; the result does not depend on their number.
        accumulation: Number of parts in which each process computes its share of a batch.
        optimizer: adamw or adam.
        lr: Learning rate, at its highest.
        betas: Adam's decay rates of the gradient's first and second moment.
        weight_decay: Of the optimiser.
        warmup: Steps over which the learning rate rises from 0; a tenth of steps or minutes where that is less.
        decay: How it falls until the end of steps or minutes: cosine, linear, none, or inverse-root, whatever the end.
        grad_clip: Largest norm of the gradient; none for no clipping.
        ema_halflives: Half-lives, in images, of exponential averages of the weights, of which the first is the model.
        ema_warmup: Largest half-life as a share of the images seen so far; 0 for no limit.
        ema_widths: Widths of power-function averages, as shares of the training so far; from snapshots of 0.05 and 0.1
            any other can be made afterwards (`sdescore average`).
        snapshot_every: Steps between snapshots of all averages, which are kept; 0 for none.
        mixed_precision: Precision inside the net: no, bf16, fp16 (GPU only), or auto: what accelerate launch was asked
            for, else bf16 on a GPU that supports it.
        channels_last: Whether an image net has its channels last in memory; by default where that is faster.
        compile: Compile the net: slow to start, then faster.
        seed: Of the weights, the data's order and all noise.
        out: Folder of the run: config.json, log.jsonl, checkpoints/, samples/, model/.
        save_every: Steps between checkpoints.
        save_minutes: Minutes between checkpoints, whatever the steps; the first comes after one minute at most.
        keep: How many checkpoints to keep.
        log_every: Steps between lines of the log, whose losses are means over these steps; there is one every 30 s too.
        tracker: tensorboard or none.
        progress: Show a progress bar.
        sample_every: Steps between grids of samples, of which there is one in the first minute; 0 for none.
        sample_count: Number of samples in a grid, or as many as are drawn in 15 seconds.
        sample_solver: Name of the solver that draws the grids.
        sample_steps: Number of its steps.

    Raises ValueError, naming the field, for a value out of range or an unknown name.
    """

    data: str = "digits"
    data_args: dict[str, Any] = field(default_factory=dict)
    data_key: str = "x"
    label_key: str | None = None
    data_low: float | tuple[float, ...] | None = None
    data_high: float | tuple[float, ...] | None = None
    data_scale: str | None = None
    data_levels: int | None = None
    corrupt: str = "stop"
    autoencoder: str | None = None
    autoencoder_args: dict[str, Any] = field(default_factory=dict)
    codes: str | None = None
    statistics: str | None = None
    flips: bool = False
    dequantize: bool = False
    workers: int = 2
    conditional: bool = False
    conditions: dict[str, str] = field(default_factory=dict)
    drop: float | dict[str, float] = 0.1
    net: str | None = None
    net_args: dict[str, Any] = field(default_factory=dict)
    sde: str = "KarrasSDE"
    sde_args: dict[str, Any] = field(default_factory=dict)
    predicts: str = "edm"
    data_std: float | None = None
    weighting: str = "edm"
    time_distribution: str = "log-normal"
    steps: int = 10_000
    minutes: float | None = None
    batch_size: int = 128
    accumulation: int = 1
    optimizer: str = "adamw"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    warmup: int = 100
    decay: str = "cosine"
    grad_clip: float | None = 1.0
    ema_halflives: float | tuple[float, ...] = (100_000,)
    ema_warmup: float = 0.05
    ema_widths: float | tuple[float, ...] = ()
    snapshot_every: int = 0
    mixed_precision: str = "auto"
    channels_last: bool | None = None
    compile: bool = False
    seed: int = 0
    out: str = "runs/train"
    save_every: int = 1000
    save_minutes: float = 10.0
    keep: int = 3
    log_every: int = 50
    tracker: str = "tensorboard"
    progress: bool = True
    sample_every: int = 1000
    sample_count: int = 64
    sample_solver: str = "heun"
    sample_steps: int = 18

    def __post_init__(self) -> None:
        for name in ("betas", "ema_halflives", "ema_widths"):
            value = getattr(self, name)
            object.__setattr__(self, name, (value,) if isinstance(value, int | float) else tuple(value))
        check_fields(self)
        for name, choices in CHOICES.items():
            self._check(name, getattr(self, name) in choices, ", ".join(map(repr, choices)))
        for name in AT_LEAST_ONE:
            self._check(name, getattr(self, name) >= 1, "an integer of at least 1")
        for name in AT_LEAST_ZERO:
            self._check(name, getattr(self, name) >= 0, "a number of at least 0")
        for name in ("lr", "minutes", "save_minutes", "grad_clip", "data_std"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), above=0)
        for name in ("betas", "ema_halflives", "ema_widths"):
            for value in getattr(self, name):
                check_number(name, value)
        self._check("betas", len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "two numbers in [0, 1)")
        self._check("ema_halflives", self.ema_halflives != (), "a list of at least one number")
        names = [average.name for average in self.averages()]
        self._check("ema_halflives", len(set(names)) == len(names), "a list without repetitions")
        kinds = set(self.conditions.values()) <= set(KINDS) and "label" not in self.conditions
        self._check("conditions", kinds, f"names, label not among them, and for each {', '.join(KINDS)}")
        self._check("drop", all(0 <= share < 1 for share in self.drops().values()), "numbers in [0, 1)")
        known = not isinstance(self.drop, dict) or set(self.drop) <= set(self.drops())
        self._check("drop", known, f"at most {', '.join(self.drops()) or 'none'}: what is given to the net")
        self._check("accumulation", self.accumulation <= self.batch_size, f"at most batch_size={self.batch_size}")
        find_plugin(PROCESSES, self.sde, "sde")
        if self.net is not None and ":" not in self.net:  # code is imported where the net is built
            find_plugin(NETS, self.net, "net")
        find_solver(self.sample_solver)

    def _check(self, name: str, good: bool, expected: str) -> None:
        if not good:
            raise ValueError(f"{name}={getattr(self, name)!r}; expected {expected}")

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON has them: lists for tuples."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        return content

    def conflicts(self, saved: dict[str, Any]) -> list[str]:
        """The differences to a saved run's settings that keep this one from continuing it, as "name (saved, given)"."""
        own = self.to_json()
        then = TrainConfig().to_json() | saved  # fields that are newer than the saved run have their default
        names = [each.name for each in fields(self) if each.name not in FREE]
        return [f"{name} ({then[name]!r}, {own[name]!r})" for name in names if then[name] != own[name]]

    def averages(self) -> list[Average]:
        """The rules of the averages of the weights; the first gives the model."""
        lives = [HalfLife(images, self.ema_warmup) for images in cast(tuple[float, ...], self.ema_halflives)]
        return [*lives, *(PowerFunction(width) for width in cast(tuple[float, ...], self.ema_widths))]

    def drops(self) -> dict[str, float]:
        """The names of all that is given to the net, and how often each is withheld."""
        names = [*(["label"] if self.conditional else []), *self.conditions]
        shares = self.drop if isinstance(self.drop, dict) else dict.fromkeys(names, self.drop)
        return {name: shares.get(name, 0.1) for name in names}

    def build_source(self) -> Source:
        """The data. Raises ValueError for data that does not fit the settings."""
        scaling = given_scaling(self.data_low, self.data_high, self.data_levels, self.data_scale)
        source = load(
            self.data,
            key=self.data_key,
            label_key=self.label_key,
            scaling=scaling,
            args=self.data_args,
            skip=self.corrupt == "skip",
            conditions=list(self.conditions),
        )
        found = replace(source.scaling, names=None)
        if scaling is not None and (found.levels is not None if isinstance(scaling, str) else found != scaling):
            raise ValueError(f"data={self.data!r} has a range of its own; expected no data_low or data_scale")
        return source

    def build_process(self) -> LinearSDE:
        """The process. Raises ValueError for arguments that it does not take."""
        check_arguments(find_plugin(PROCESSES, self.sde, "sde"), self.sde_args, "sde_args")
        return build_process(self.sde, self.sde_args)

    def build_net(
        self, shape: tuple[int, ...], classes: int | None, names: list[str] | None = None, given: Any = None
    ) -> nn.Module:
        """The net for samples of a shape, initialised from torch's global generator.

        Besides net_args it gets those of channels, image_size, dims, features, classes, class_names and conditions that
        its constructor takes. A net among net_args is written as in a saved config.json. Raises ValueError for others.
        """
        cls = find_class(NETS, self.net, "net", trust_code=True)
        takes = inspect.signature(cls).parameters
        check_arguments(cls, self.net_args, "net_args")
        if classes is not None and "classes" not in takes:
            raise ValueError(f"conditional=True, but net={self.net!r} takes no classes")
        if given and "conditions" not in takes:
            raise ValueError(f"conditions={self.conditions}, but net={self.net!r} takes no conditions")
        known: dict[str, Any] = {"channels": shape[0], "image_size": list(shape[1:]), "dims": len(shape) - 1}
        known |= {"features": shape[0], "classes": classes, "class_names": names, "conditions": given}
        return build_net(str(self.net), self.net_args, known, trust_code=True)

    def resolved(self, source: Source, device: str) -> "TrainConfig":
        """The settings with a net, of a size for the data and the kind of device, where none is named."""
        if self.net is not None:
            return self
        name, sizes = default_net(tuple(source.shape), len(source), device)
        return replace(self, net=name, net_args={**sizes, **self.net_args})

    def build_denoiser(self, source: Source, conditions: dict[str, Any], std: float | None = None) -> Denoiser:
        """The untrained denoiser for a source and its state_conditions(). Raises ValueError where settings do not fit.

        std is the data's standard deviation; by default the setting data_std, or measured.
        """
        if self.conditional and source.classes is None:
            raise ValueError(f"conditional=True, but data={self.data!r} has no labels")
        codes = getattr(source, "codes", None)
        if self.flips and (codes is not None or len(source.shape) != 3):
            given = "are codes" if codes is not None else f"have shape {source.shape}"
            raise ValueError(f"flips=True, but samples {given}; expected images")
        if self.dequantize and source.scaling.levels is None:
            raise ValueError(f"dequantize=True, but data={self.data!r} has no levels")
        std = self.data_std or std or data_std(source)
        classes, names = source.classes, getattr(source, "class_names", None)
        labels = (classes, names) if self.conditional else (None, None)
        net = self.build_net(source.shape, *labels, conditions)
        return Denoiser(
            net,
            self.build_process(),
            self.predicts,
            std,
            shape=source.shape,
            scaling=source.scaling,
            codes=codes,
        )
