"""What config.json says of a Denoiser, and the Denoiser's arguments from it."""

import inspect
import json
import operator
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, Protocol

from torch import nn

from sdescore.common.plugins import find_plugin, named_object, plugin_name
from sdescore.common.scaling import Scaling
from sdescore.denoisers.codes import Codes
from sdescore.denoisers.terms import NetTerms
from sdescore.processes.base import LinearSDE

__all__ = [
    "NETS",
    "PROCESSES",
    "Saveable",
    "bare",
    "build_net",
    "build_process",
    "describe",
    "find_class",
    "rebuild",
    "to_json",
]

NETS = "sdescore.nets"
PROCESSES = "sdescore.processes"
MODULE = "module"  # the one key that marks a net among another net's arguments
FORMAT = 2  # of config.json; other formats are refused


class Saveable(Protocol):
    """What is saved of a Denoiser."""

    net: Any
    sde: LinearSDE
    terms: NetTerms
    data_std: float
    shape: tuple[int, ...] | None
    scaling: Scaling | None
    codes: Codes | None


def bare(net: nn.Module) -> nn.Module:
    """The net itself, where torch.compile() has wrapped it."""
    return getattr(net, "_orig_mod", net)


def describe(denoiser: Saveable) -> dict[str, Any]:
    """The content of config.json but the checksum. Raises ValueError for what could not be loaded again."""
    scaling = denoiser.scaling
    if not isinstance(denoiser.net, nn.Module):
        raise ValueError(f"net is a {type(denoiser.net).__name__}; expected a module, which has weights to save")
    content = {
        "format": FORMAT,
        "net": _describe_net(denoiser.net),
        "process": _describe_process(denoiser.sde),
        "terms": asdict(denoiser.terms),
        "data_std": denoiser.data_std,
        "shape": denoiser.shape,
        "scaling": None if scaling is None else asdict(scaling),
    }
    if denoiser.codes is not None:
        content["codes"] = denoiser.codes.to_json()
    to_json(content)
    return content


def to_json(content: dict[str, Any]) -> str:
    """The text of config.json. Raises ValueError for what JSON cannot hold."""
    try:
        return json.dumps(content, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(f"config.json cannot hold {content}: {error}") from error


def _describe_process(sde: LinearSDE) -> dict[str, Any]:
    name = plugin_name(PROCESSES, type(sde), "sde")
    if not is_dataclass(sde):
        raise ValueError(f"sde is of type {name}; expected a dataclass, whose fields are its arguments")
    return {"name": name, "config": asdict(sde)}


def _describe_net(net: nn.Module) -> dict[str, Any]:
    """A net's name and arguments; an argument that is a net itself becomes {MODULE: its own name and arguments}."""
    net = bare(net)
    config = getattr(net, "config", None)
    if isinstance(config, dict):
        config = {
            key: {MODULE: _describe_net(value)} if isinstance(value, nn.Module) else value
            for key, value in config.items()
            if not key.startswith("_")  # what diffusers adds to the arguments
        }
    return {"name": plugin_name(NETS, type(net), "net"), "config": config if isinstance(config, dict) else None}


def rebuild(content: Any, net: nn.Module | None, trust_code: bool) -> dict[str, Any]:
    """The arguments of a Denoiser from the content of config.json. Raises TypeError or ValueError.

    Unless it is trusted, a stranger's folder chooses code among installed plug-ins alone.
    """
    if isinstance(content, dict) and content.get("format") != FORMAT:
        raise ValueError(f"format is {content.get('format')!r}; this version of sdescore reads {FORMAT}")
    whole = {"codes": None, **content} if isinstance(content, dict) else content  # left out where there are none
    _, described, process, terms, data_std, shape, scaling, codes, _ = _fields(
        whole, "format net process terms data_std shape scaling codes sha256", "it"
    )
    name, config = _fields(described, "name config", "net")
    if net is None and config is None:
        raise ValueError(f"net is a {name}, whose arguments are not known; expected net=, the net itself")
    process_name, process_config = _fields(process, "name config", "process")
    return {
        "net": build_net(name, config, trust_code=trust_code) if net is None else net,
        "sde": build_process(process_name, process_config, "process", trust_code),
        "terms": NetTerms(**terms),
        "data_std": data_std,
        "shape": None if shape is None else tuple(map(operator.index, shape)),
        "scaling": None if scaling is None else Scaling(**scaling),
        "codes": None if codes is None else Codes.from_json(codes),
    }


def _fields(content: Any, names: str, where: str) -> list[Any]:
    """The values of a JSON object that has exactly these names."""
    if not isinstance(content, dict) or set(content) != set(names.split()):
        given = sorted(content) if isinstance(content, dict) else content
        raise ValueError(f"{where} has {given}; expected an object of {names.replace(' ', ', ')}")
    return [content[name] for name in names.split()]


def _check_arguments(argument: str, config: Any) -> None:
    if not isinstance(config, Mapping):
        raise ValueError(f"{argument} has config={config!r}; expected an object of its arguments")


def find_class(group: str, name: Any, argument: str, trust_code: bool) -> Any:
    """The class of a registered name, or of module:name if such code may be imported. Raises ValueError for others."""
    if ":" not in str(name):
        return find_plugin(group, name, argument)
    if not trust_code:
        raise ValueError(
            f"{argument}={name!r} is no plug-in but someone's own code; expected trust_code=True, which imports it, or "
            "net=, the net itself"
        )
    return named_object(name, argument)


def build_net(
    name: str, config: Mapping[str, Any], known: Mapping[str, Any] | None = None, *, trust_code: bool = False
) -> nn.Module:
    """A net by its name and arguments; an argument {MODULE: {"name": ..., "config": ...}} is a net itself.

    Each net also gets the arguments in `known` that it takes. Raises ValueError for arguments that do not fit.
    """
    cls = find_class(NETS, name, "net", trust_code)
    _check_arguments("net", config)
    takes = inspect.signature(cls)
    known = known or {}

    def argument(value: Any) -> Any:
        if not isinstance(value, dict) or value.keys() != {MODULE}:
            return value
        inner_name, inner_config = _fields(value[MODULE], "name config", "net")
        return build_net(inner_name, inner_config, known, trust_code=trust_code)

    given = {key: value for key, value in known.items() if key in takes.parameters}
    given |= {key: argument(value) for key, value in config.items()}
    try:
        takes.bind(**given)
    except TypeError as error:
        raise ValueError(f"net={name!r} takes {', '.join(takes.parameters)}: {error}") from error
    net = cls(**given)
    if not isinstance(net, nn.Module):
        raise ValueError(f"net={name!r} makes a {type(net).__name__}; expected a module")
    return net


def build_process(name: str, config: Mapping[str, Any], argument: str = "sde", trust_code: bool = False) -> LinearSDE:
    """A process by its name and arguments. Raises ValueError for an unknown name, and TypeError for other arguments."""
    cls = find_class(PROCESSES, name, argument, trust_code)
    _check_arguments(argument, config)
    # JSON has no tuples, and a process is hashable.
    sde: LinearSDE = cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in config.items()})
    return sde
