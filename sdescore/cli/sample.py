"""Draw samples from a trained model.

    sdescore sample --model runs/digits/model --out runs/digits/heun --count 1500
    sdescore sample --model ... --out ... --solver dpm++ --nfe 20
    sdescore sample --model ... --out ... --label boot --guidance 3         of a class folder's name
    sdescore sample --model ... --out ... --solver torchdiffeq --solver_args.method bosh3
    accelerate launch -m sdescore.cli sample ...                            the GPUs of this machine share the set
    torchrun --standalone --nproc_per_node 2 -m sdescore.cli sample ...     two processes share it, on CPUs too

Writes samples.npz (raw values, labels if there are any, and the names of columns), cost.json (net calls per sample and
seconds of all processes together), and, for images, images/000000.png ... and grid.png; for volumes grid.png of slices
and volumes.gif; for tables samples.csv. --animate 16 adds trajectory.gif, the way of 16 samples from noise to data.
The same command goes on after an interruption; samples of other settings are never overwritten.
"""

import hashlib
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from sdescore.cli.command_line import run_with_settings
from sdescore.cli.models import build_solver, counted, load_model, read_times
from sdescore.cli.outputs import claim, npz_bytes, write_json, write_whole
from sdescore.cli.sample_files import beyond, decoded, find_decoder, raw_array, write_images, write_set
from sdescore.cli.sources import read_arrays
from sdescore.common.checks import check_fields
from sdescore.common.files import read_json
from sdescore.common.fingerprint import fingerprint
from sdescore.common.scaling import Scaling
from sdescore.data.source import from_array
from sdescore.denoisers import Autoencoder, Denoiser, guided
from sdescore.evaluation.pictures import is_image
from sdescore.evaluation.trajectories import save_trajectory
from sdescore.sampling import (
    Solver,
    approaching,
    beta_quantile,
    karras,
    polynomial_t,
    sample,
    uniform_angle,
    uniform_asinh,
    uniform_lambda,
    uniform_t,
)
from sdescore.sampling.grids import Grid
from sdescore.training.accelerator import build_accelerator

GRIDS: dict[str, Grid] = {
    "karras": karras(),
    "uniform-lambda": uniform_lambda(),
    "uniform-angle": uniform_angle(),
    "uniform-asinh": uniform_asinh(),
    "approaching": approaching(),
    "uniform-t": uniform_t(),
    "polynomial-t": polynomial_t(),
    "beta-quantile": beta_quantile(),
}
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SampleConfig:
    """Settings of a set of samples.

    Args:
        model: Folder of a saved model, such as runs/digits/model, or its name on the Hugging Face Hub.
        out: Folder to write to: a new one, or that of the same command, interrupted.
        count: How many samples.
        solver: Name of an installed solver, such as heun or dpm++; or module:name of one in a Python file of yours.
        solver_args: Arguments of the named solver, such as tau of ddpm or method of torchdiffeq.
        steps: Steps of the solver; 50 where neither steps nor nfe is given.
        nfe: Net calls per sample, instead of steps.
        grid: How the times of the steps are spaced: karras, uniform-lambda, uniform-angle, uniform-asinh, approaching,
            uniform-t, polynomial-t or beta-quantile; by default as the solver has it.
        times: File of `sdescore fit`, instead of steps, nfe and grid.
        label: Class of all samples, by its number or its name; -1 for every class in turn. Without it a model with
            classes draws any.
        condition: A .npz or .csv file of what else the model is given, by name, in the units of the data that it was
            trained on: row i is for sample i.
        guidance: How far to go beyond the prediction for the label and the conditions, away from that without them; 1
            is their own, and more costs two net calls instead of one. See sdescore.guided.
        seed: Sample i depends on the seed and on i alone.
        batch_size: Samples at a time in each process.
        animate: How many samples trajectory.gif shows on their way from noise to data; 0 for none.
        autoencoder: Where the autoencoder of a model of codes is now, which decodes them; by default as in training.
        trust_code: Import the net's class and autoencoder where the model names someone's own, as module:name.
    """

    model: str
    out: str
    count: int = 64
    solver: str = "adams"
    solver_args: dict[str, Any] = field(default_factory=dict)
    steps: int | None = None
    nfe: int | None = None
    grid: str | None = None
    times: str | None = None
    label: int | str | None = None
    condition: str | None = None
    guidance: float = 1.0
    seed: int = 0
    batch_size: int = 256
    animate: int = 0
    autoencoder: str | None = None
    trust_code: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("count", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; expected integers of at least 1")
        if not 0 <= self.animate <= self.count:
            raise ValueError(f"animate={self.animate}; expected integers from 0 to count={self.count}")
        if self.grid is not None and self.grid not in GRIDS:
            raise ValueError(f"grid={self.grid!r}; expected {', '.join(GRIDS)}")
        if self.times is not None and self.grid is not None:
            raise ValueError(f"times={self.times!r} and grid={self.grid!r} are both given; expected one of them")
        if self.guidance != 1 and self.label is None and self.condition is None:
            raise ValueError(f"guidance={self.guidance:g} needs a label or a condition; expected one of them")

    def spacing(self, weights: str) -> Tensor | Grid | None:
        """What sample() takes for its times."""
        if self.times is None:
            return None if self.grid is None else GRIDS[self.grid]
        return read_times(self.times, self.solver, self.solver_args, weights)

    def given(self, denoiser: Denoiser) -> dict[str, Tensor]:
        """What the model is given, a row for each sample: its label, and the conditions of the file.

        Raises ValueError for a label or a condition that the model does not know, and for fewer rows than samples.
        """
        config = getattr(denoiser.net, "config", {})
        known = {} if self.label is None else {"label": labels(self.label, config, self.count)}
        for name, rows in read_arrays(self.condition).items():
            if name not in config.get("conditions", {}):
                expected = ", ".join(config.get("conditions", {})) or "none"
                raise ValueError(f"condition={self.condition!r} has {name}; expected {expected}: what the model knows")
            if len(rows) < self.count:
                raise ValueError(f"condition={self.condition!r}: {name} has {len(rows)} rows; expected {self.count}")
            known[name] = from_array(rows[: self.count])
        return known


def labels(label: int | str, config: Mapping[str, Any], count: int) -> Tensor:
    """The labels (count,) that a number or a name stands for, by the arguments of a net. Raises ValueError."""
    classes, names = config.get("classes"), config.get("class_names") or []
    number = names.index(str(label)) if str(label) in names else label
    if classes is None or not isinstance(number, int) or not -1 <= number < classes:
        expected = "none, since the model has no classes"
        if classes is not None:
            expected = ", ".join([*map(repr, names), f"-1 to {classes - 1}"])
        raise ValueError(f"label={label!r}; expected {expected}")
    return torch.arange(count) % classes if number == -1 else torch.full((count,), number)


def draw(config: SampleConfig) -> None:
    """Draw this process's batches of the set; the main process then puts them together."""
    denoiser, shape = load_model(config.model, config.trust_code)
    autoencoder = find_decoder(denoiser, config.autoencoder, config.trust_code)
    if autoencoder is not None and config.animate:
        raise ValueError(f"animate={config.animate}, but the model makes codes; expected 0")
    out = Path(config.out)
    weights = fingerprint(denoiser)
    solver = build_solver(config.solver, config.solver_args)
    times = config.spacing(weights)
    settings = {name: value for name, value in asdict(config).items() if name not in ("model", "out", "autoencoder")}
    settings["weights"] = weights
    if isinstance(times, Tensor):
        settings["times"] = times.tolist()  # the file may change
    given = config.given(denoiser)
    if config.condition is not None:
        settings["condition"] = hashlib.sha256(Path(config.condition).read_bytes()).hexdigest()  # the file may change
    with claim(out, settings):
        draw_batches(config, denoiser, autoencoder, shape, solver, times, given, settings)


def draw_batches(
    config: SampleConfig,
    denoiser: Denoiser,
    autoencoder: Autoencoder | None,
    shape: tuple[int, ...],
    solver: Solver,
    times: Tensor | Grid | None,
    given: Mapping[str, Tensor],
    settings: dict[str, Any],
) -> None:
    """Write the batches that are not there yet, in the folder of these settings, and what they make together."""
    out = Path(config.out)
    accelerator = build_accelerator("no", "none", config.out)
    accelerator.wait_for_everyone()  # all have looked before one writes
    if (out / "samples.npz").exists():
        accelerator.print(f"{out / 'samples.npz'} is complete: {config.count} samples of these settings")
        return
    if accelerator.is_main_process:
        write_json(out / "settings.json", settings)
    denoiser = denoiser.to(accelerator.device)
    if config.guidance != 1:
        denoiser = guided(denoiser, config.guidance)
    parts = out / "parts"
    of_data = (denoiser.codes or denoiser).scaling
    scaling = of_data or Scaling(-1.0, 1.0, None)
    starts = range(0, config.count, config.batch_size)
    mine = starts[accelerator.process_index :: accelerator.num_processes]
    left = [start for start in mine if not (parts / f"{start:09d}.npz").exists()]
    if len(left) < len(mine):
        accelerator.print(f"{len(mine) - len(left)} of {len(mine)} batches are there already")
    several = len(left) > 1
    show = accelerator.is_main_process
    for start in tqdm(left, disable=not (show and several), desc="batches"):
        count = min(config.batch_size, config.count - start)
        condition = {name: rows[start : start + count] for name, rows in given.items()}
        since = time.perf_counter()
        with counted(denoiser) as called:
            x = sample(
                denoiser.sde,
                denoiser,
                (count, *shape),
                solver=solver,
                steps=config.steps,
                nfe=config.nfe,
                times=times,
                seed=config.seed,
                index_offset=start,
                condition=condition,
                batch_size=config.batch_size,
                progress=show and not several,
            )
        raw = raw_array(of_data, decoded(denoiser, autoencoder, x))  # on the CPU, so that the device is done
        cost = {"samples": count, "nfe": len(called), "seconds": time.perf_counter() - since}
        cost["outside"] = beyond(denoiser, x)
        arrays = {"x": raw} | ({"y": condition["label"].numpy()} if "label" in condition else {})
        if is_image(raw.shape[1:]):
            write_images(out / "images", start, arrays["x"], scaling)
        write_json(parts / f"{start:09d}.json", cost)
        write_whole(parts / f"{start:09d}.npz", npz_bytes(**arrays))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        if config.animate:
            some = {name: rows[: config.animate] for name, rows in given.items()}
            save_trajectory(out / "trajectory.gif", denoiser, config.animate, seed=config.seed, condition=some)
        classes = getattr(denoiser.net, "config", {}).get("class_names")
        finish(out, parts, starts, config.count, scaling, classes)
        print(f"{config.count} samples in {out / 'samples.npz'}")


def finish(out: Path, parts: Path, starts: range, count: int, scaling: Scaling, classes: list[str] | None) -> None:
    """Put the parts together. Raises OSError unless they hold all that was asked for, each once."""
    found = [int(path.stem) for path in sorted(parts.glob("*.npz"))]
    if found != list(starts):
        raise OSError(
            f"{parts} has the batches {found}; expected {list(starts)}: the same command makes what is missing"
        )
    loaded = [dict(np.load(parts / f"{start:09d}.npz")) for start in starts]
    arrays = {name: np.concatenate([part[name] for part in loaded]) for name in loaded[0]}
    costs = [read_json(parts / f"{start:09d}.json") for start in starts]
    drawn = sum(cost["samples"] for cost in costs)
    if {drawn, *map(len, arrays.values())} != {count}:
        raise OSError(f"{parts} has {drawn} samples; expected {count}: remove the folder and run the command again")
    nfe = sum(cost["nfe"] * cost["samples"] for cost in costs) / count
    outside = sum(cost["outside"] for cost in costs)
    total = {
        "samples": count,
        "nfe": nfe,
        "seconds": sum(cost["seconds"] for cost in costs),
        "outside": outside / count,
    }
    write_json(out / "cost.json", total)
    if outside:
        logger.warning(
            "%d of %d samples left the range of the data by more than an eighth of it, and were cut off there",
            outside,
            count,
        )
    write_set(out, arrays, scaling, classes)
    shutil.rmtree(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    run_with_settings(SampleConfig, draw, "sdescore sample", __doc__, arguments)
