"""Features of data sets that are kept in a file for other comparisons."""

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from sdescore.cli.outputs import write_whole
from sdescore.cli.sources import features_of
from sdescore.data.batches import evenly_spaced
from sdescore.data.source import Source
from sdescore.evaluation.features import Features

__all__ = ["data_fingerprint", "kept_features"]

logger = logging.getLogger(__name__)


def data_fingerprint(source: Source, name: str) -> str:
    """What tells two data sets apart: number, shape and scaling, and all samples.

    Of data that is read as it is needed, 256 samples, evenly spaced, and the sizes and times of the files of its name.
    """
    count = len(source)
    digest = hashlib.sha256(repr((count, tuple(source.shape), asdict(source.scaling))).encode())
    chosen: Sequence[int] = range(count)
    if source.lazy:
        chosen = evenly_spaced(count, 256)
        path = Path(name) if Path(name).exists() else Path(name.rpartition(":")[0] or name)
        for file in sorted(path.rglob("*")) if path.is_dir() else [path] * path.exists():
            said = file.stat()
            digest.update(repr((file.relative_to(path).as_posix(), said.st_size, said.st_mtime_ns)).encode())
    for start in range(0, len(chosen), 256):
        digest.update(source.__getitems__(chosen[start : start + 256])[0].contiguous().numpy().tobytes())
    return digest.hexdigest()


def kept_features(
    folder: str | None, features: Features, source: Source, name: str, *, batch: int, accelerator: Accelerator
) -> Tensor:
    """Features of a set from a file that an earlier run kept, or computed and kept; the name is that of the data.

    The file is named by a key of the data and the features, so that a change of either does not find it.
    """
    if folder is None:
        return features_of(features, source, f"features of {name}", batch=batch, accelerator=accelerator)
    key = hashlib.sha256((data_fingerprint(source, name) + features.identity).encode()).hexdigest()
    key = broadcast_object_list([key])[0]  # times of copied files differ between machines
    path, found = Path(folder) / f"{key[:24]}.safetensors", None
    try:
        found = load_file(path)["features"]
    except FileNotFoundError:
        pass
    except (SafetensorError, KeyError, OSError) as error:
        logger.warning("%s cannot be read and is made again: %s", path, error)
    accelerator.wait_for_everyone()  # all have looked before one writes
    if found is None:
        found = features_of(features, source, f"features of {name}", batch=batch, accelerator=accelerator)
        if accelerator.is_main_process:
            said = json.dumps({"data": name, "samples": len(source), "features": features.name})
            write_whole(path, save({"features": found.contiguous()}, {"made_from": said}))
    return found
