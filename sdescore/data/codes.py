"""The codes of a data set, made by an autoencoder once and kept in a folder, for latent diffusion.

In the folder are codes.npy, a file for what is known of each sample, such as known.label.npy, and codes.json, which
comes last: it says that the rest is there, of which data and by which autoencoder.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from sdescore.common.checks import check_integer
from sdescore.common.files import is_empty, locked, read_json, replace_file
from sdescore.common.scaling import Scaling
from sdescore.data.batches import in_order
from sdescore.data.conditions import Conditioned, MappedRows
from sdescore.data.memory_mapped import CHUNK, MemoryMapped, open_array
from sdescore.data.ranges import find_scaling
from sdescore.data.source import Source, from_array, read
from sdescore.data.statistics import checksum
from sdescore.denoisers import Autoencoder, Codes

__all__ = ["MappedCodes", "is_codes", "write_codes"]

CODES = "codes.npy"
RECORD = "codes.json"
PROGRESS = "progress.json"
PART = ".part"  # what the names of files end with until all rows are there
FORMAT = 1
NEAR = 0.02  # of the largest value of a code: how far two devices may be apart, in half precision too


class MappedCodes(MemoryMapped):
    """The codes in a folder that write_codes() made, with the labels and conditions of the data.

    Raises ValueError, naming the file, for another folder and a damaged one.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        record = read_json(self.folder / RECORD)
        try:
            if record["format"] != FORMAT:
                raise ValueError(f"format is {record['format']!r}; this version of sdescore reads {FORMAT}")
            known = {name: self.folder / _known(name) for name in record["known"]}
            super().__init__(self.folder / CODES, known.pop("label", None), Scaling(**record["scaling"]))
            if len(self) != record["samples"]:
                raise ValueError(f"{CODES} has {len(self)} samples; expected {record['samples']}")
            self.codes = Codes.from_json(record["codes"])
            self.classes = record["classes"]
            self.class_names = record["class_names"]
            self._given = Conditioned(self, {name: MappedRows(path) for name, path in known.items()})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.folder / RECORD} does not describe the codes beside it: {error}") from error
        self.record = record
        self.autoencoder: Autoencoder | None = None  # where it is at hand

    def __reduce__(self) -> tuple[Callable[..., "MappedCodes"], tuple[Any, ...]]:
        return MappedCodes, (self.folder,)

    def _tensor(self, rows: np.ndarray) -> Tensor:
        # As they are: codes have their channels first, however few there are elsewhere. The mapped file is read-only.
        return from_array(np.array(rows))

    def conditions(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The conditions of the data; see Conditioned."""
        return self._given.conditions(indices)


def _known(name: str) -> str:
    return f"known.{name}.npy"


def is_codes(path: Path) -> bool:
    """Whether this is a folder of codes."""
    return (path / RECORD).is_file()


def write_codes(
    source: Source,
    autoencoder: Autoencoder,
    folder: str | Path,
    *,
    batch_size: int = 16,
    workers: int = 0,
    progress: bool = True,
) -> MappedCodes:
    """The codes of all data, in the folder: made where they are not there yet, on the autoencoder's device.

    What was made before an interruption is kept; the result does not depend on it, nor on the size of batches but for
    the last bits.

    Args:
        source: The data.
        autoencoder: What makes the codes.
        folder: A new folder, or one with codes of this autoencoder and data.
        batch_size: How many samples are encoded at a time.
        workers: Processes that read ahead data that is not in memory.
        progress: Show a progress bar.

    Raises:
        ValueError: For a folder with codes of another autoencoder or of other data, or with something else, and for
            codes that are not finite.
        BlockingIOError: If another process writes to the folder.
    """
    check_integer("batch_size", batch_size, 1)
    folder = Path(folder)
    wanted = {
        "format": FORMAT,
        "autoencoder": autoencoder.fingerprint(),
        "data": checksum(source),
        "samples": len(source),
        "known": sorted(read(source, [0])[1]),
    }
    if not is_codes(folder):
        if folder.exists() and not is_empty(folder) and not (folder / PROGRESS).is_file():
            raise ValueError(f"{folder} is not empty, and has no codes; expected a new folder")
        with locked(folder):
            if not is_codes(folder):  # another process may have made them meanwhile
                _write(source, autoencoder, folder, wanted, batch_size, workers, progress)
    found = MappedCodes(folder)
    _check(found, source, autoencoder, wanted)
    found.autoencoder = autoencoder
    return found


def _write(
    source: Source,
    autoencoder: Autoencoder,
    folder: Path,
    wanted: dict[str, Any],
    batch_size: int,
    workers: int,
    progress: bool,
) -> None:
    count, done = len(source), _done(folder, wanted)
    if done == 0:
        for left in folder.glob(f"*{PART}"):  # of another autoencoder or other data
            left.unlink()
    parts: dict[str, np.memmap] = {}
    with tqdm(total=count, initial=done, disable=not progress, desc="encoding", unit="sample") as bar:
        for raw, known in in_order(source, batch_size, done, workers):
            codes = autoencoder.to_codes(source.scaling.to_model(raw), done).cpu()
            if not bool(codes.isfinite().all()):
                bad = done + int((~codes.isfinite()).flatten(1).any(1).nonzero()[0])
                raise ValueError(f"the codes of sample {bad} are not finite; expected an encoder that makes numbers")
            for name, rows in {CODES: codes, **{_known(name): rows for name, rows in known.items()}}.items():
                array = rows.numpy()
                if name not in parts:
                    parts[name] = _opened(folder / f"{name}{PART}", (count, *array.shape[1:]), array.dtype, done == 0)
                parts[name][done : done + len(array)] = array
            for part in parts.values():
                part.flush()
            done += len(codes)
            _write_json(folder / PROGRESS, {**wanted, "done": done})
            bar.update(len(codes))
    del parts
    for path in sorted(folder.glob(f"*{PART}")):
        os.replace(path, path.with_suffix(""))
    record = {
        **wanted,
        "scaling": asdict(_scaling(folder / CODES)),
        "classes": source.classes,
        "class_names": getattr(source, "class_names", None),
        "codes": Codes(
            autoencoder.name, autoencoder.args, wanted["autoencoder"], tuple(source.shape), source.scaling
        ).to_json(),
    }
    _write_json(folder / RECORD, record)
    (folder / PROGRESS).unlink()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    replace_file(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def _done(folder: Path, wanted: dict[str, Any]) -> int:
    """How many rows an interrupted process has left of these codes."""
    if not (folder / PROGRESS).is_file():
        return 0
    saved = read_json(folder / PROGRESS)
    done = int(saved.pop("done", 0))
    there = (folder / f"{CODES}{PART}").is_file() or done == wanted["samples"]
    return done if saved == wanted and there else 0


def _opened(path: Path, shape: tuple[int, ...], dtype: np.dtype, new: bool) -> np.memmap:
    """A .npy file to write rows to. Raises ValueError, naming it, for an older one of another shape."""
    if new:
        return np.lib.format.open_memmap(path, "w+", dtype, shape)
    rows = np.lib.format.open_memmap(path, "r+")
    if rows.shape != shape or rows.dtype != dtype:
        raise ValueError(f"{path} has {rows.shape}, {rows.dtype}; expected {shape}, {dtype}: remove it to begin anew")
    return rows


def _scaling(path: Path) -> Scaling:
    """Each channel by its mean and deviation; one scale for all where a channel is dead."""
    rows = open_array(path, "r")
    size = max(1, CHUNK // max(1, rows[0].nbytes))

    def pieces() -> Iterator[Tensor]:
        return (from_array(np.array(rows[start : start + size])) for start in range(0, len(rows), size))

    try:
        return find_scaling(pieces(), "standard")
    except ValueError:
        return find_scaling(pieces(), "whole")


def _check(found: MappedCodes, source: Source, autoencoder: Autoencoder, wanted: dict[str, Any]) -> None:
    """Raise ValueError for codes of another autoencoder, of other data, or of data of which something else is known."""
    try:
        autoencoder.check(found.codes)
    except ValueError as error:
        raise ValueError(f"{found.folder}: {error}; expected it, or a new folder") from error
    record = found.record
    if (record["data"], record["samples"]) != (wanted["data"], wanted["samples"]):
        raise ValueError(
            f"{found.folder} has the codes of other data, {record['samples']} samples of shape {found.codes.shape}; "
            "expected those data, or a new folder"
        )
    if record["known"] != wanted["known"]:
        raise ValueError(f"{found.folder} was made with {record['known']}; now known are {wanted['known']}")
    # What functions do may change without a change of their name.
    code = autoencoder.to_codes(source.scaling.to_model(read(source, [0])[0]))[0].double().cpu()
    stored = torch.from_numpy(np.array(found.rows[0])).double()
    if code.shape != stored.shape or float((code - stored).abs().max()) > NEAR * float(stored.abs().max()):
        raise ValueError(f"{found.folder}: the encoder makes another code of sample 0 now; expected a new folder")
