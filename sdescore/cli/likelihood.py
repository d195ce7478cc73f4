"""Compute the log-likelihood of data under a trained model, by its probability-flow ODE.

    sdescore likelihood --model runs/digits/model --data digits:test
    sdescore likelihood --model ... --data my.npz --trace exact --out runs/mine/likelihood.json
    sdescore likelihood --model ... --probes 16 --draws 5 --bound 32 --out ...
    accelerate launch -m sdescore.cli likelihood ... --out ...                the GPUs of this machine share the data
    torchrun --standalone --nproc_per_node 2 -m sdescore.cli likelihood ... --out ...     two processes, on CPUs too

Prints means over all samples with their standard errors. For data with levels, such as images, nats are a bound on the
log-probability of the levels, and bits per dimension the same: noise of one level's width and that of t_min are added,
and corrected for; more --draws make the bound tighter. For other data nats are the log-density in the units of the
data: a table in feet has others than one in metres. --bound adds the evidence bound of the reverse SDE and its gap to
the ODE. With --out the same command goes on after an interruption.
"""

import math
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from sdescore.cli.command_line import run_with_settings
from sdescore.cli.likelihood_parts import Batch, check_whole, finite_means, hash_of, listed, load_parts
from sdescore.cli.models import load_model
from sdescore.cli.outputs import claim, write_json
from sdescore.cli.sources import model_values
from sdescore.cli.tables import markdown
from sdescore.common.checks import check_fields
from sdescore.common.fingerprint import fingerprint
from sdescore.common.scaling import level_width
from sdescore.data.load import load
from sdescore.denoisers import Denoiser
from sdescore.density import dequantize, elbo, log_likelihood, quantised_likelihood
from sdescore.density.dequantisation import draw_seed
from sdescore.training.accelerator import build_accelerator


@dataclass(frozen=True)
class LikelihoodConfig:
    """Settings of a likelihood.

    Args:
        model: Folder of a saved model, such as runs/digits/model, or its name on the Hugging Face Hub.
        data: digits:test, digits:train, a .npz file (array x), a .csv file with the model's columns or a folder of
            images.
        label_key: Name of the labels, by default y; of a table none.
        out: JSON file for the summary and the values of each sample; must not exist yet. Batches that are done are
            kept beside it until all are.
        count: Take this many samples from the start of the data; by default all.
        trace: hutchinson (random signs, unbiased), gaussian, orthogonal, hutch++, or exact (slower by the number of
            dimensions).
        probes: Random directions per sample.
        draws: Noises of a sample that has levels: several make the importance-weighted bound, and need several probes
            or the exact trace.
        bound: Times in each of eight groups of the evidence bound; 0 leaves it out.
        ode: The ODE for this many samples, from the start, and for the others the bound, which costs less; by default
            for all.
        conditional: Tell the model the labels of the data.
        seed: Of the random directions and of the noise that dequantises.
        rtol: Relative tolerance of the ODE.
        atol: Absolute tolerance of the ODE.
        batch_size: Samples at a time in each process.
        trust_code: Import the net's class where the model names one of someone's own, as module:name.
    """

    model: str
    data: str = "digits:test"
    label_key: str | None = None
    out: str | None = None
    count: int | None = None
    trace: str = "hutchinson"
    probes: int = 1
    draws: int = 1
    bound: int = 0
    ode: int | None = None
    conditional: bool = False
    seed: int = 0
    rtol: float = 1e-3
    atol: float = 1e-3
    batch_size: int = 100
    trust_code: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.count is not None and self.count < 1:
            raise ValueError(f"count={self.count}; expected integers of at least 1")
        for name, least in (("probes", 1), ("draws", 1), ("bound", 0), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}; expected integers of at least {least}")
        if self.ode is not None and not (self.ode >= 0 and self.bound > 0):
            raise ValueError(f"ode={self.ode} with bound={self.bound}; expected integers from 0 on, and a bound")
        self.check_out()

    def check_out(self) -> None:
        """Raise ValueError for a file that exists."""
        if self.out is not None and Path(self.out).exists():
            raise ValueError(f"out={self.out!r} exists; expected a new file")


def measure(
    denoiser: Denoiser,
    x: Tensor,
    labels: Tensor | None = None,
    *,
    draws: int = 1,
    bound: int = 0,
    ode: bool = True,
    seed: int = 0,
    first: int = 0,
    **options: Any,
) -> dict[str, Tensor]:
    """The nats and, for a model of data with levels, the bits per dimension of each sample; x are model values.

    Nats are those of the levels or, without levels, of the data in its own units, as the model's scaling has them.

    draws and bound are those of LikelihoodConfig, options of likelihood(); seed and first also number the noise.
    Without `ode` there is the bound alone.
    """
    sde, scaling, size = denoiser.sde, denoiser.scaling, x[0].numel()
    numbers: dict[str, Any] = {"index_offset": first, "condition": None if labels is None else {"label": labels}}
    quantised = scaling is not None and scaling.levels is not None
    values, mass, data = {}, 0.0, x
    if scaling is not None and not quantised:
        mass = scaling.log_volume(x.shape[1:])
    elif scaling is not None:
        data, mass = dequantize(x, scaling, draw_seed(seed, 0), first), size * math.log(level_width(scaling))
    if ode and scaling is not None and quantised:
        found = quantised_likelihood(sde, denoiser, x, scaling, draws=draws, seed=seed, **numbers, **options)
        values["nats"] = found.log_prob
    elif ode:
        values["nats"] = log_likelihood(sde, denoiser, x, seed=seed, **numbers, **options) + mass
    if bound:
        values["bound_nats"] = elbo(sde, denoiser, data, levels=bound, seed=seed, **numbers).log_prob + mass
    if quantised:
        values |= {name.replace("nats", "bits_per_dim"): -v / (size * math.log(2)) for name, v in values.items()}
    if ode and bound:
        values["gap_nats"] = values["nats"] - values["bound_nats"]
    if ode and bound and quantised:
        values["gap_bits_per_dim"] = values["bound_bits_per_dim"] - values["bits_per_dim"]
    return {name: value.cpu() for name, value in values.items()}


def read(config: LikelihoodConfig, denoiser: Denoiser, shape: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
    """The model values of the data, and their labels where the model is told them."""
    source = load(config.data, label_key=config.label_key, scaling=denoiser.scaling)
    if source.shape != shape:
        raise ValueError(f"data={config.data!r} has samples of shape {source.shape}; the model's are {shape}")
    own = denoiser.scaling
    if own is not None and replace(source.scaling, names=own.names) != own:
        raise ValueError(f"data={config.data!r} has {source.scaling}; the model was trained on {denoiser.scaling}")
    if config.conditional and source.classes is None:
        raise ValueError(f"conditional=True, but data={config.data!r} has no labels")
    parts = list(model_values(source, progress="reading"))
    x = torch.cat([x for x, _ in parts])[: config.count]
    if not config.conditional:
        return x, None
    found = torch.cat([labels for _, labels in parts if labels is not None])[: config.count]
    return x, in_numbers_of(denoiser, found, getattr(source, "class_names", None))


def in_numbers_of(denoiser: Denoiser, labels: Tensor, names: Sequence[str] | None) -> Tensor:
    """Labels in the model's numbers, by the names of classes where both have them: a part of the data may lack some."""
    known = getattr(denoiser.net, "config", {}).get("class_names")
    if not names or not known or list(names) == list(known):
        return labels
    lacking = sorted(set(names) - set(known))
    if lacking:
        raise ValueError(f"the data has the classes {', '.join(lacking)}; the model knows {', '.join(known)}")
    return torch.tensor([known.index(name) for name in names])[labels]


def compute(config: LikelihoodConfig) -> None:
    """Measure this process's batches; the main process then puts them together."""
    denoiser, shape = load_model(config.model, config.trust_code)
    x, labels = read(config, denoiser, shape)
    if config.out is None:
        measure_batches(config, denoiser, x, labels, None, {})
        return
    folder = Path(f"{config.out}.parts")
    settings = {n: v for n, v in asdict(config).items() if n not in ("model", "out")}
    settings |= {"count": len(x), "weights": fingerprint(denoiser), "values": hash_of(x, labels)}
    with claim(folder, settings):
        config.check_out()  # another may have finished in between
        measure_batches(config, denoiser, x, labels, folder, settings)


def measure_batches(
    config: LikelihoodConfig,
    denoiser: Denoiser,
    x: Tensor,
    labels: Tensor | None,
    folder: Path | None,
    settings: dict[str, Any],
) -> None:
    """Measure the batches that are not in the folder of these settings yet, and report on all."""
    options = {n: getattr(config, n) for n in ("trace", "probes", "draws", "bound", "seed", "rtol", "atol")}
    accelerator = build_accelerator("no", "none", str(folder or "."))
    if accelerator.num_processes > 1 and folder is None:
        raise ValueError(f"out is not set; {accelerator.num_processes} processes put their results together in a file")
    accelerator.wait_for_everyone()  # all have looked before one writes
    if folder is not None and accelerator.is_main_process:
        write_json(folder / "settings.json", settings)
    denoiser = denoiser.to(accelerator.device)
    some = len(x) if config.ode is None else min(config.ode, len(x))
    starts = [*range(0, some, config.batch_size), *range(some, len(x), config.batch_size)]
    done = {} if folder is None else load_parts(folder)
    mine = [s for s in starts[accelerator.process_index :: accelerator.num_processes] if s not in done]
    if done:
        accelerator.print(f"{len(done)} of {len(starts)} batches are there already")
    with tqdm(mine, disable=not accelerator.is_main_process, desc="batches") as bar:
        for start in bar:
            rows = slice(start, min(start + config.batch_size, some if start < some else len(x)))
            label = None if labels is None else labels[rows]
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", RuntimeWarning)
                values = measure(denoiser, x[rows], label, first=start, ode=start < some, **options)
            done[start] = Batch(values, list(dict.fromkeys(str(each.message) for each in caught)))
            for message in done[start].warnings:
                bar.write(f"warning: {message}")
            if folder is not None:
                done[start].save(folder / f"{start:09d}.json")
            means, _ = finite_means(Batch.joined(done).values)
            name = next(n for n in ("bits_per_dim", "nats", "bound_bits_per_dim", "bound_nats") if n in means)
            bar.set_postfix_str("{} {:.4f} ± {:.4f}".format(name.replace("_", " "), *means[name]))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        found = done if folder is None else load_parts(folder)
        check_whole(found, starts, len(x), folder)
        report(config, Batch.joined(found))
        if folder is not None:
            shutil.rmtree(folder)


def report(config: LikelihoodConfig, batch: Batch) -> None:
    """Print the means, and write them with the values of all samples."""
    values = batch.values
    means, failed = finite_means(values)
    rows = [
        {"": name.replace("_", " "), "mean": f"{m:.4f}", "±": f"{e:.4f}", "samples": len(values[name])}
        for name, (m, e) in means.items()
    ]
    count = max(map(len, values.values()))
    print(f"{count} samples of {config.data}\n{markdown(rows)}")
    if failed:
        print(f"left out of the means: samples {failed}")
    for message in batch.warnings:
        print(f"warning: {message}")
    if config.out is not None:
        summary = {
            n: {"mean": m, "stderr": e} for n, (m, e) in ((n, listed(torch.tensor(p))) for n, p in means.items())
        }
        content = {
            "config": asdict(config),
            "count": count,
            "failed": failed,
            "warnings": batch.warnings,
            **summary,
            "samples": {name: listed(each) for name, each in values.items()},
        }
        write_json(Path(config.out), content)
    if len(failed) == count:
        raise FloatingPointError("no sample has a finite likelihood")


def main(arguments: Sequence[str] | None = None) -> None:
    run_with_settings(LikelihoodConfig, compute, "sdescore likelihood", __doc__, arguments)
