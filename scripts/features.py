"""Features of samples: functions and modules that a user names, run over a set by all processes, and kept in a file."""

import hashlib
import inspect
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from shared import Function, features_of, fingerprint, named_object
from torch import Tensor, nn

from sdescore.common.files import replace_file
from sdescore.data.source import Source, evenly_spaced

__all__ = ["Features", "data_fingerprint", "inception", "kept_features", "load_weights"]

logger = logging.getLogger(__name__)


class Features:
    """A function of model values (n, *shape) in [-1, 1] to features (n, d), by its name.

    Args:
        name: module:function; module:Class of an nn.Module, or a function that makes one, with weights; a TorchScript
            file; or "inception" for torchvision's Inception v3 with weights.
        weights: File of a state_dict, .safetensors or one that torch.load reads with weights_only, for the last two
            kinds of module; nothing is ever unpickled beyond tensors.
        device: Where modules run.

    `identity` changes with the name, the source file of the function, the content of the files and the weights.

    Raises ValueError for what cannot be found or loaded.
    """

    def __init__(self, name: str, weights: str | None = None, device: torch.device | str = "cpu") -> None:
        self.name, digest = name, hashlib.sha256(name.encode())
        path = Path(name)
        if name == "inception":
            if weights is None:
                raise ValueError("features='inception' needs weights: a file of torchvision's Inception v3")
            found: Any = inception(weights)
        elif path.suffix in (".pt", ".ts", ".torchscript"):
            found = _script(path)
            digest.update(path.read_bytes())
        elif path.suffix == ".pt2":
            raise ValueError(f"features={name!r}: torch.export unpickles what it loads; expected a TorchScript file")
        else:
            found = named_object(name, "features")
            digest.update(_source_of(found))
            if weights is not None or (isinstance(found, type) and issubclass(found, nn.Module)):
                with torch.random.fork_rng([]):
                    torch.manual_seed(0)  # what has no weights of its own is the same in every process and run
                    found = found()
                if not isinstance(found, nn.Module):
                    raise ValueError(f"features={name!r} makes a {type(found).__name__}; with weights an nn.Module")
                if weights is not None:
                    _fill(found, weights)
        if weights is not None:
            digest.update(Path(weights).read_bytes())
        if isinstance(found, nn.Module):
            digest.update(fingerprint(found).encode())
            found = found.to(device).eval()
        self.function: Function = found
        self.identity = digest.hexdigest()

    def __call__(self, x: Tensor) -> Any:
        with torch.no_grad():
            return self.function(x)


def _source_of(found: Any) -> bytes:
    """The text of the file in which a function or class is defined, nothing where there is none."""
    try:
        return Path(inspect.getfile(found)).read_bytes()
    except (TypeError, OSError):
        return b""


def _script(path: Path) -> nn.Module:
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r}")
    try:
        loaded: nn.Module = torch.jit.load(path, map_location="cpu")
    except RuntimeError as error:
        raise ValueError(f"{path} is not a TorchScript file: {str(error).splitlines()[0]}") from error
    return loaded


def load_weights(path: str | Path) -> dict[str, Tensor]:
    """The state_dict in a file; also one inside {"state_dict": ...} or with the prefix of DataParallel.

    Raises ValueError, naming the file, for anything but tensors.
    """
    try:
        if Path(path).suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"there is no file {str(path)!r}") from None
    except Exception as error:  # UnpicklingError, RuntimeError, SafetensorError, EOFError
        raise ValueError(f"{path} does not hold weights alone: {str(error).splitlines()[0]}") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} is no state_dict; expected a dict of tensors")
    return {name.removeprefix("module."): value for name, value in content.items()}


def _fill(module: nn.Module, weights: str | Path) -> None:
    try:
        module.load_state_dict(load_weights(weights))
    except RuntimeError as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{weights} does not fit {type(module).__name__}: {said}") from error


def inception(weights: str | Path) -> nn.Module:
    """torchvision's Inception v3 up to its 2,048 pooled features, which takes model values of any size, grey ones too.

    Distances in it compare with each other, not with those in the TensorFlow Inception of published FIDs.
    """
    try:
        from torchvision.models import inception_v3
    except ImportError as error:
        raise ValueError("features='inception' needs torchvision: pip install torchvision") from error
    net: nn.Module = inception_v3(weights=None, init_weights=False)  # its weights take values in [-1, 1]
    _fill(net, weights)
    net.fc = nn.Identity()

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            x = x.expand(-1, 3, -1, -1)
            pooled: Tensor = self.net(nn.functional.interpolate(x, (299, 299), mode="bilinear", antialias=True))
            return pooled

    return Pooled()


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
            path.parent.mkdir(parents=True, exist_ok=True)
            said = json.dumps({"data": name, "samples": len(source), "features": features.name})
            replace_file(path, save({"features": found.contiguous()}, {"made_from": said}))
    return found
