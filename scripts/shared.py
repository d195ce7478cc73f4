"""What the scripts share: the command line, names of objects and data, tables and files."""

import argparse
import hashlib
import io
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from jsonargparse import ArgumentParser, DefaultHelpFormatter
from torch import Tensor, nn
from tqdm.auto import tqdm

from sdescore import Denoiser, Scaling, Solver, find_solver
from sdescore.common.files import refused, replace_file
from sdescore.common.plugins import check_arguments, find_plugin, named_object
from sdescore.data.load import load
from sdescore.data.source import Source, share
from sdescore.training.config import TrainConfig

__all__ = [
    "Function",
    "build_solver",
    "clock",
    "features_of",
    "fingerprint",
    "load_model",
    "make_folder",
    "markdown",
    "model_values",
    "named_object",
    "npz_bytes",
    "open_source",
    "parse",
    "read_times",
    "run",
    "save_figure",
    "training_of",
    "write_json",
    "write_whole",
]

Config = TypeVar("Config")
Function = Callable[[Tensor], Any]


class HelpFormatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Leaves the lines of the description as they are."""


def parse(cls: type[Config], name: str, description: str | None, arguments: Sequence[str] | None = None) -> Config:
    """Settings from the command line, --config for a file of them included; their docstring makes --help."""
    parser = ArgumentParser(prog=name, description=description, formatter_class=HelpFormatter)
    parser.add_argument("--config", action="config", help="File of settings, YAML or JSON; flags after it count more.")
    parser.add_class_arguments(cls)
    given = parser.parse_args(arguments)
    try:
        return cls(**{each.name: given[each.name] for each in fields(cls)})  # type: ignore[arg-type]
    except ValueError as error:
        parser.error(str(error))


def run(script: str, task: Callable[[], None]) -> None:
    """Do what a script is for; what is wrong with the input ends it with one line instead of a traceback."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        task()
    except (ValueError, TypeError, OSError, FloatingPointError) as error:
        raise SystemExit(f"{script}: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit(f"{script}: interrupted") from None
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def training_of(folder: str) -> TrainConfig:
    """The settings of a run of train.py; those that this version no longer has are left out. Raises OSError."""
    saved = json.loads((Path(folder) / "config.json").read_text("utf-8"))
    return TrainConfig(**{each.name: saved[each.name] for each in fields(TrainConfig) if each.name in saved})


def clock(device: torch.device) -> float:
    """Seconds, after the device has done what it was told; on a CPU those that the process itself computed."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def load_model(name: str) -> tuple[Denoiser, tuple[int, ...]]:
    """A saved denoiser and the shape of its samples. Raises ValueError if it does not know that."""
    denoiser = Denoiser.from_pretrained(name)
    if denoiser.shape is None:
        raise ValueError(f"model={name!r} does not say the shape of its samples; save it with shape=")
    return denoiser, denoiser.shape


def open_source(name: str, scaling: Scaling | None = None) -> Source:
    """The data of a name, as training has it; scaling is the range of arrays in files. Raises ValueError."""
    return load(name, scaling=scaling)


def model_values(
    source: Source, batch: int = 500, progress: str | None = None
) -> Iterable[tuple[Tensor, Tensor | None]]:
    """All samples of a source in order, as batches of model values in [-1, 1] and labels; with a bar of this title."""
    starts = range(0, len(source), batch)
    for start in tqdm(starts, disable=progress is None, desc=progress, unit="batch", leave=False):
        raw, labels = source.__getitems__(range(start, min(start + batch, len(source))))
        yield source.scaling.to_model(raw), labels


def features_of(
    function: Function,
    source: Source,
    progress: str | None = None,
    *,
    batch: int = 500,
    accelerator: Accelerator | None = None,
) -> Tensor:
    """What a function of model values gives for all samples of a source, (n, d), in order, on the CPU.

    Several processes compute a part each, and all return the whole: nothing is dropped or counted twice.

    Raises ValueError unless it gives a row for each sample.
    """
    rank, processes = (accelerator.process_index, accelerator.num_processes) if accelerator else (0, 1)
    device = accelerator.device if accelerator else torch.device("cpu")
    mine = share(len(source), rank, processes)
    starts = range(mine.start, max(mine.stop, mine.start + 1), batch)  # one with nothing to do learns the width
    rows = []
    for start in tqdm(starts, disable=progress is None or rank > 0, desc=progress, unit="batch", leave=False):
        indices = range(start, max(min(start + batch, mine.stop), start + 1))
        raw, _ = source.__getitems__([min(i, len(source) - 1) for i in indices])
        found = torch.as_tensor(function(source.scaling.to_model(raw).to(device))).detach()
        if found.ndim != 2 or len(found) != len(raw):
            name = getattr(function, "name", function)
            raise ValueError(f"{name} gave {tuple(found.shape)} for {len(raw)} samples; expected (n, d)")
        rows.append(found.cpu())
    own = torch.cat(rows)[: mine.stop - mine.start]
    if accelerator is None or processes == 1:
        return own
    sizes = [part.stop - part.start for part in (share(len(source), k, processes) for k in range(processes))]
    padded = own.new_zeros(max(sizes), own.shape[1])
    padded[: len(own)] = own
    gathered: Any = accelerator.gather(padded.to(device))
    parts = gathered.cpu().split(max(sizes))
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def fingerprint(module: nn.Module) -> str:
    """What tells two modules' weights apart."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def build_solver(name: str, arguments: dict[str, Any]) -> Solver:
    """The installed solver of a name, or module:name in a Python file of the user's, with these arguments."""
    found = named_object(name, "solver") if ":" in name else find_plugin("sdescore.solvers", name, "solver")
    ready = isinstance(found, Solver) and not isinstance(found, type)
    check_arguments(type(found) if ready else found, arguments, "solver_args")
    if not ready:
        return find_solver(found(**arguments))
    return replace(found, **arguments) if arguments else found


def read_times(path: str, solver: str, arguments: Mapping[str, Any], weights: str) -> Tensor:
    """The times that fit_times.py wrote for this solver. Raises ValueError for another's, or another file; warns of
    other weights, which may be those of the same net trained on: the times serve it still."""
    try:
        known = json.loads(Path(path).read_text())
        times, fitted = torch.tensor(known["times"], dtype=torch.float64), (known["solver"], known["solver_args"])
        net = known["weights"]
    except (OSError, UnicodeDecodeError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"times={path!r} is no file of fit_times.py: {error!r}") from error
    if fitted != (solver, dict(arguments)):
        raise ValueError(f"times={path!r} were fitted for {fitted}; given are {(solver, dict(arguments))}")
    if net != weights:
        warnings.warn(f"times={path!r} were fitted to a net of other weights than the given", stacklevel=2)
    return times


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with equal keys as a Markdown table; the first column is text, the rest to the right."""
    cells = [list(rows[0]), *(["–" if value is None else str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    first, *rest = widths
    lines = [
        " | ".join([texts[0].ljust(first), *(text.rjust(width) for text, width in zip(texts[1:], rest, strict=True))])
        for texts in cells
    ]
    lines.insert(1, " | ".join(["-" * first, *("-" * (width - 1) + ":" for width in rest)]))
    return "\n".join(f"| {line} |" for line in lines)


def make_folder(path: Path) -> Path:
    """A folder that can be written to, made if need be. Raises OSError, naming it, before the work and not after it."""
    path.mkdir(parents=True, exist_ok=True)
    try:
        TemporaryFile(dir=path).close()
    except OSError as error:
        raise refused(error, f"nothing can be written to {path}: {error.strerror}") from error
    return path


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file, in a folder that is made for it, whole or not at all. Raises OSError, naming it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content)


def write_json(path: Path, content: Any) -> None:
    """Write what JSON can hold, whole or not at all."""
    write_whole(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def save_figure(path: Path, figure: Any, **options: Any) -> None:
    """Write a figure of matplotlib, whole or not at all, and close it."""
    from matplotlib import pyplot as plt

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", **options)
    plt.close(figure)
    write_whole(path, buffer.getvalue())


def npz_bytes(**arrays: Any) -> bytes:
    """The content of a .npz file."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()
