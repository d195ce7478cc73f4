"""Features of data sets that are kept in a file for other comparisons."""

import hashlib
import json
import logging
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from sdescore.cli.outputs import write_whole
from sdescore.cli.sources import features_of
from sdescore.data.source import Source
from sdescore.data.statistics import checksum
from sdescore.evaluation.features import Features

__all__ = ["kept_features"]

logger = logging.getLogger(__name__)


def kept_features(
    folder: str | None, features: Features, source: Source, name: str, *, batch: int, accelerator: Accelerator
) -> Tensor:
    """Features of a set from a file that an earlier run kept, or computed and kept; the name is that of the data.

    The file is named by a key of the data and the features, so that a change of either does not find it.
    """
    if folder is None:
        return features_of(features, source, f"features of {name}", batch=batch, accelerator=accelerator)
    key = hashlib.sha256((checksum(source, name) + features.identity).encode()).hexdigest()
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
