#!/usr/bin/env python
"""Compare a run with diffusers' loop on the same net and budget: Fréchet distance for each sampler and number of calls.

    python scripts/bench/diffusers_loop.py --run runs/fashion --out runs/fashion-diffusers
    python scripts/bench/compare_loops.py --own runs/fashion/model --theirs runs/fashion-diffusers/model \\
        --out runs/compared

Our net is sampled by our solvers, diffusers' by its own schedulers at their own settings, from one noise. Distances are
to the test images, in the features of scripts/shared/fashion.py; the same number of training images says what can be
reached. Leaves results.json, table.md, picture.png and the samples. After an interruption the same command goes on.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from tqdm.auto import tqdm

from sdescore import Denoiser, DiscreteSDE, fit_times, sample
from sdescore.cli.command_line import run_with_settings
from sdescore.cli.models import load_model
from sdescore.cli.outputs import npz_bytes, write_json, write_whole
from sdescore.cli.sources import features_of
from sdescore.cli.tables import markdown
from sdescore.common.plugins import named_object
from sdescore.data.load import load
from sdescore.data.source import Arrays
from sdescore.evaluation.figures import panels, save_figure
from sdescore.evaluation.metrics import frechet_distance
from sdescore.sampling.noise import WhiteNoise

sys.path.append(str(Path(__file__).parents[1]))  # for the features of shared/fashion.py

# Samplers of diffusers, with what its documentation advises for few steps where the default is another.
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "DDIM": ("DDIMScheduler", {"timestep_spacing": "trailing"}),
    "DPM-Solver++": ("DPMSolverMultistepScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "DDPM": ("DDPMScheduler", {"timestep_spacing": "trailing"}),
}
PILOTS = 16  # samples that times are fitted to


@dataclass(frozen=True)
class CompareConfig:
    """Settings of a comparison.

    Args:
        own: Folder of our model.
        theirs: Folder of the model of diffusers_loop.py.
        out: Folder to write to.
        solvers: Our solvers.
        schedulers: Theirs: DDIM, DPM-Solver++, UniPC, DDPM.
        nfe: Net calls per sample.
        fitted: Which of our solvers to sample by at times fitted to the net too; a fit costs 4,800 samples.
        count: Samples of each.
        data: The real images: their training set, and with :test their test set.
        features: module:function that makes features.
        seed: Of the noise.
        batch_size: Samples at a time.
    """

    own: str
    theirs: str
    out: str
    solvers: list[str]
    schedulers: list[str]
    nfe: list[int]
    fitted: tuple[str, ...] = ()
    count: int = 2000
    data: str = "/usr/share/datasets/fashion-mnist"
    features: str = "shared.fashion:features"
    seed: int = 0
    batch_size: int = 250

    def __post_init__(self) -> None:
        for name in self.schedulers:
            if name not in SCHEDULERS:
                raise ValueError(f"schedulers={self.schedulers}; expected {', '.join(SCHEDULERS)}")
        if self.count < 2 or self.batch_size < 1 or any(nfe < 1 for nfe in self.nfe):
            raise ValueError(f"count={self.count}, batch_size={self.batch_size}, nfe={self.nfe}; expected positive")


Sampler = Callable[[range], Tensor]


def ours(denoiser: Denoiser, solver: str, nfe: int, config: CompareConfig) -> Sampler:
    """Samples of these numbers by one of our solvers."""
    return sampler(denoiser, config, solver=solver, nfe=nfe)


def fitted(denoiser: Denoiser, solver: str, nfe: int, config: CompareConfig) -> Sampler:
    """The same at times fitted to the net, on pilots of another seed."""
    shape = (PILOTS, *(denoiser.shape or ()))
    times = fit_times(denoiser.sde, denoiser, shape, solver=solver, nfe=nfe, seed=config.seed + 1, progress=True)
    return sampler(denoiser, config, solver=solver, times=times)


def sampler(denoiser: Denoiser, config: CompareConfig, **settings: Any) -> Sampler:
    assert denoiser.shape is not None
    shape = denoiser.shape

    def draw(numbers: range) -> Tensor:
        size, first = (len(numbers), *shape), numbers.start
        return sample(denoiser.sde, denoiser, size, seed=config.seed, index_offset=first, **settings)

    return draw


def theirs(denoiser: Denoiser, name: str, nfe: int, config: CompareConfig) -> Sampler:
    """Samples of these numbers by one of diffusers' schedulers."""
    diffusers, (cls, options) = import_module("diffusers"), SCHEDULERS[name]
    if not isinstance(denoiser.sde, DiscreteSDE) or denoiser.shape is None:
        raise ValueError(f"theirs={config.theirs!r} is no model of diffusers_loop.py")
    net, shape, table = denoiser.net.eval(), denoiser.shape, -torch.tensor(denoiser.sde.lambdas) / 4

    @torch.no_grad()
    def draw(numbers: range) -> Tensor:
        scheduler = getattr(diffusers, cls)(num_train_timesteps=len(table), beta_schedule="linear", **options)
        scheduler.set_timesteps(nfe)
        white = WhiteNoise(config.seed, numbers, use="start")
        x = white.randn(torch.zeros(len(numbers), *shape)) * scheduler.init_noise_sigma
        generator = torch.Generator().manual_seed(config.seed + numbers.start)
        random = {"generator": generator} if name == "DDPM" else {}
        for t in scheduler.timesteps:
            level = table[int(t)].expand(len(x))
            x = scheduler.step(net(scheduler.scale_model_input(x, t), level), t, x, **random).prev_sample
        return x

    return draw


def jobs(config: CompareConfig) -> dict[tuple[str, str, int], Callable[[], Sampler]]:
    """What is sampled: by whose loop trained, the sampler, its calls, and how."""
    found: dict[tuple[str, str, int], Callable[[], Sampler]] = {}
    sides = (
        ("sdescore", config.own, config.solvers, "", ours),
        ("sdescore", config.own, config.fitted, ", fitted times", fitted),
        ("diffusers", config.theirs, config.schedulers, "", theirs),
    )
    for library, model, names, kind, make in sides:
        if names:
            denoiser = load_model(model)[0].eval()
            for name, nfe in product(names, config.nfe):
                found[library, name + kind, nfe] = partial(make, denoiser, name, nfe, config)
    return found


def compare(config: CompareConfig) -> None:
    """Sample what is missing, and write the table and the picture."""
    out, function = Path(config.out), named_object(config.features, "features")
    test, train = load(f"{config.data}:test"), load(config.data)
    real = features_of(function, test)
    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(config.seed))[: config.count]
    raw, _ = train.__getitems__(chosen.tolist())
    floor = frechet_distance(features_of(function, Arrays(raw, None, train.scaling)), real)
    for (library, name, nfe), make in tqdm(jobs(config).items(), desc="samplers"):
        path = out / f"{library}-{name}-{nfe}.json"
        if path.exists():
            continue
        draw, since = make(), time.process_time()
        starts = range(0, config.count, config.batch_size)
        x = torch.cat([draw(range(s, min(s + config.batch_size, config.count))) for s in starts])
        seconds = time.process_time() - since
        samples = Arrays(train.scaling.to_data(x).round().to(torch.uint8), None, train.scaling)
        distance = frechet_distance(features_of(function, samples), real)
        write_whole(path.with_suffix(".npz"), npz_bytes(x=samples.raw.numpy()[:100]))
        row = {"net and sampler": library, "name": name, "nfe": nfe, "Fréchet": distance, "seconds": seconds}
        write_json(path, row)
    report(config, floor)


def report(config: CompareConfig, floor: float) -> None:
    """The table, with a line for each sampler, and the picture."""
    out = Path(config.out)
    rows = [json.loads(path.read_text()) for path in out.glob("*-*-*.json")]
    write_json(out / "results.json", {"count": config.count, "train to test": floor, "rows": rows})
    names = sorted({(row["net and sampler"], row["name"]) for row in rows}, reverse=True)
    values = {(row["net and sampler"], row["name"], row["nfe"]): row["Fréchet"] for row in rows}
    costs = sorted({row["nfe"] for row in rows})
    table = []
    for library, name in names:
        cells = {f"{c} calls": values.get((library, name, c)) for c in costs}
        shown = {key: None if value is None else f"{value:.2f}" for key, value in cells.items()}
        table.append({"net and sampler": f"{library}, {name}", **shown})
    text = f"{markdown(table)}\n\n{config.count} samples; of as many training images: {floor:.2f}\n"
    write_whole(out / "table.md", text)
    print(text)
    draw_picture(config, values, floor)


def draw_distances(axis: Any, config: CompareConfig, values: dict[tuple[str, str, int], float], floor: float) -> None:
    """What is best of its library at some number of calls in colour and by name, the others grey."""
    lines: dict[tuple[str, str], dict[int, float]] = {}
    for (library, name, calls), value in values.items():
        lines.setdefault((library, name), {})[calls] = value
    best = {
        min(
            (line for line in lines if line[0] == library and calls in lines[line]), key=lambda line: lines[line][calls]
        )
        for library in {line[0] for line in lines}
        for calls in config.nfe
        if any(line[0] == library and calls in lines[line] for line in lines)
    }
    for library, name in sorted(lines, key=lambda line: line in best):
        points, shown = sorted(lines[library, name].items()), (library, name) in best
        style, label = "o-" if library == "sdescore" else "s--", f"{library}, {name}" if shown else None
        axis.plot(*zip(*points, strict=True), style, label=label, **({} if shown else {"color": "0.85"}))
    axis.axhline(floor, color="0.4", linewidth=1, linestyle=":", label="training images")
    axis.set(xscale="log", yscale="log", xlabel="net calls per sample", ylabel="Fréchet distance to the test images")
    axis.set(
        ylim=(floor / 1.5, 4 * float(np.median([max(line.values()) for line in lines.values()])))
    )  # others leave it
    axis.set_xticks(config.nfe, [str(nfe) for nfe in config.nfe], minor=False)
    axis.set_xticks([], minor=True)
    axis.legend(fontsize=8)


def draw_picture(config: CompareConfig, values: dict[tuple[str, str, int], float], floor: float) -> None:
    """The distances against the calls, and samples of the best of both."""
    figure, axes = panels(3, (12, 4.2), width_ratios=[1.6, 1, 1])
    draw_distances(axes[0], config, values, floor)
    for axis, library in zip(axes[1:], ("sdescore", "diffusers"), strict=True):
        axis.axis("off")
        if not any(key[0] == library for key in values):
            continue
        best = min((value, key) for key, value in values.items() if key[0] == library)[1]
        with np.load(Path(config.out) / f"{best[0]}-{best[1]}-{best[2]}.npz") as file:
            images = file["x"]
        side = min(8, int(len(images) ** 0.5))
        grid = rearrange(images[: side**2], "(r c) channels h w -> (r h) (c w) channels", r=side)
        axis.imshow(grid.squeeze(-1) if grid.shape[-1] == 1 else grid, cmap="gray")
        axis.set_title(f"{library}: {best[1]}, {best[2]} calls", fontsize=10)
    save_figure(Path(config.out) / "picture.png", figure, dpi=90)


def main(arguments: Sequence[str] | None = None) -> None:
    run_with_settings(CompareConfig, compare, "bench/compare_loops.py", __doc__, arguments)


if __name__ == "__main__":
    main()
