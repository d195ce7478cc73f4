"""Features of samples: functions and modules that a user names."""

import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sdescore.common.fingerprint import fingerprint
from sdescore.common.plugins import named_object
from sdescore.evaluation.default_features import random_filters, values

__all__ = ["Features", "Function", "inception", "load_weights", "rows_of"]

Function = Callable[[Tensor], Any]  # of model values (n, *shape) to a row for each
BUILT_IN: dict[str, Function] = {"values": values, "random-filters": random_filters}


class Features:
    """A function of model values (n, *shape) in [-1, 1] to features (n, d), by its name.

    Args:
        name: module:function; module:Class of an nn.Module, or a function that makes one, with weights; a TorchScript
            file; "inception" for torchvision's Inception v3 with weights; or "values" and "random-filters", which
            need neither: see default_features.
        weights: File of a state_dict, .safetensors or one that torch.load reads with weights_only, for the last two
            kinds of module; nothing is ever unpickled beyond tensors.
        device: Where modules run.

    `identity` changes with the name, the source file of the function, the content of the files and the weights.

    Raises ValueError for what cannot be found or loaded.
    """

    def __init__(self, name: str, weights: str | None = None, device: torch.device | str = "cpu") -> None:
        self.name, digest = name, hashlib.sha256(name.encode())
        path = Path(name)
        if name in BUILT_IN:
            found: Any = BUILT_IN[name]
            digest.update(_source_of(found))
        elif name == "inception":
            if weights is None:
                raise ValueError("features='inception' needs weights: a file of torchvision's Inception v3")
            found = inception(weights)
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
                    raise ValueError(f"features={name!r} makes a {type(found).__name__}; expected an nn.Module to fill")
                if weights is not None:
                    _fill(found, weights)
        if weights is not None and name in BUILT_IN:
            raise ValueError(f"weights={weights!r} with features={name!r}, which have none")
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
        said = (str(error) or repr(error)).splitlines()[0]
        raise ValueError(f"{path} does not hold weights alone: {said}") from error
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


def rows_of(function: Function, x: Tensor) -> Tensor:
    """What a function gives for model values x (n, *shape): (n, d), on the CPU. Raises ValueError for another shape."""
    found = torch.as_tensor(function(x)).detach()
    if found.ndim != 2 or len(found) != len(x):
        name = getattr(function, "name", function)
        raise ValueError(f"{name} gave {tuple(found.shape)} for {len(x)} samples; expected (n, d)")
    return found.cpu()
