"""Pickles of EDM's `torch_utils.persistence`, read without running anything that is in them.

Such a pickle holds the source code of its classes. Here objects become records of their names, arguments and states,
and only tensors are built, by our own code: no name in a file is ever imported.
"""

import io
import pickle
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

__all__ = ["Record", "Reference", "read_pickle"]

PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
# The header of a storage's own pickle, as torch.save wrote it before it wrote zip files.
STORAGE_HEADER = (0x1950A86A20F9469CFC6C, 1001)
DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
STORAGES = {f"{module}.{name}Storage": dtype for module in ("torch", "torch.cuda") for name, dtype in DTYPES.items()}
# Classes and functions of which no more is made than a record.
INERT = {
    *("numpy.ndarray", "numpy.dtype", "numpy.random._pickle.__randomstate_ctor", "_codecs.encode", "builtins.set"),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
}
INERT_MODULES = "torch.nn.modules."


class Record:
    """An object in a pickle: the name of its class, what made it, and its state; a mapping has its items as state."""

    name = ""
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    state: Any

    def __new__(cls, *args: Any) -> "Record":
        record = super().__new__(cls)
        record.args = args
        record.kwargs = {}
        record.state = {}
        return record

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __repr__(self) -> str:
        return f"<{self.name} of a pickle>"

    def tensors(self, prefix: str = "") -> dict[str, Tensor]:
        """The state_dict of a module, under the names that begin with the prefix, without it."""
        return {name.removeprefix(prefix): x for name, x in _tensors(self, "").items() if name.startswith(prefix)}


class Reference:
    """A name in a pickle that the caller allowed to stand there; nothing is behind it."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        raise ValueError(f"it gives {self.name} a state")

    def __repr__(self) -> str:
        return f"<the name {self.name}>"


class Rebuild(Reference):
    """One of our own functions behind a name in a pickle."""

    __slots__ = ("_function",)

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        super().__init__(name)
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)


def _tensors(record: Record, path: str) -> dict[str, Tensor]:
    if not isinstance(record.state, dict):
        raise ValueError(f"{record.name} has a {type(record.state).__name__} for a state; expected a dict")
    own = [record.state.get(kind) or {} for kind in ("_parameters", "_buffers")]
    found = {path + name: x for named in own for name, x in named.items() if isinstance(x, Tensor)}
    for name, module in (record.state.get("_modules") or {}).items():
        if isinstance(module, Record):
            found |= _tensors(module, f"{path}{name}.")
    return found


def _persistent(meta: Any) -> Record:
    """The record of a persistent object; `module_src`, its source code, is dropped."""
    if not isinstance(meta, dict) or meta.get("type") != "class" or not isinstance(meta.get("class_name"), str):
        raise ValueError("a persistent object has no class_name")
    state = meta.get("state") or {}
    record = Record(*(state.get("_init_args") or ()))
    record.name = meta["class_name"]
    record.kwargs = dict(state.get("_init_kwargs") or {})
    record.state = state
    return record


def _tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return torch.as_strided(storage, size, stride, offset)  # which refuses what lies outside


def _storage(content: bytes) -> Tensor:
    """The numbers of a storage, which are a pickle in the pickle. Raises ValueError for anything else."""
    file = io.BytesIO(content)
    header = [_StorageReader(file).load() for _ in range(3)]
    if tuple(header[:2]) != STORAGE_HEADER or not header[2].get("little_endian"):
        raise ValueError("a tensor's storage has another format than little-endian 1001")
    dtype, key = _StorageReader(file).load()
    if _StorageReader(file).load() != [key]:
        raise ValueError("a tensor's storage is not alone")
    size = int.from_bytes(file.read(8), "little") * dtype.itemsize
    numbers = bytearray(file.read(size))
    if len(numbers) != size:
        raise ValueError(f"a tensor's storage has {len(numbers)} bytes; expected {size}")
    return torch.frombuffer(numbers, dtype=dtype) if size else torch.empty(0, dtype=dtype)


REBUILT: dict[str, Callable[..., Any]] = {
    PERSISTENT: _persistent,
    "collections.OrderedDict": dict,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch.storage._load_from_bytes": _storage,
}


class _Reader(pickle.Unpickler):
    def __init__(self, file: BinaryIO, references: Collection[str] = ()) -> None:
        super().__init__(file)
        self.references = references

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        # All that is handed out is new, so that no pickle can change it for the next one.
        if full in REBUILT:
            return Rebuild(full, REBUILT[full])
        if full == "dnnlib.util.EasyDict":
            return type("EasyDict", (dict,), {})
        if full in INERT or full.startswith(INERT_MODULES):
            return type("InertRecord", (Record,), {"name": full})
        if full in self.references:
            return Reference(full)
        raise ValueError(f"it asks for {full}, which is refused; expected the nets, tensors and settings of EDM")

    def persistent_load(self, pid: Any) -> Any:
        raise ValueError("it refers to what lies outside of it")


class _StorageReader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in STORAGES:
            raise ValueError(f"a tensor's storage asks for {full}, which is refused; expected a torch storage")
        return STORAGES[full]

    def persistent_load(self, pid: Any) -> tuple[torch.dtype, str]:
        kind, dtype, key, _, _, view = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or view is not None:
            raise ValueError("a tensor's storage is of another kind")
        return dtype, key


def read_pickle(file: str | Path, references: Collection[str] = ()) -> Any:
    """What a pickle holds: numbers, texts and containers as they are, tensors on the CPU, and a Record for all else.

    Any other name is refused, except that `references` may stand in the file as mere names, such as that of a function
    that an object was given. Raises FileNotFoundError, and ValueError naming the file for one that is refused, damaged
    or truncated.
    """
    with open(file, "rb") as content:
        try:
            return _Reader(content, references).load()
        except Exception as error:  # whatever damaged bytes lead to
            raise ValueError(f"{file} was not read: {error}") from error
