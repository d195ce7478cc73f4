"""Pickles that would run something, that are damaged, or that hold something else than EDM's nets."""

import json
import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from edm_originals import Persistent, checkpoint, torch_utils

from sdescore.interop import load_edm
from sdescore.interop.persistence import Record, Reference, read_pickle

CASES: dict[str, Any] = json.loads((Path(__file__).parent / "edm_numbers.json").read_text("utf-8"))["cases"]
SMALL = CASES["EDM2"]


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


def written(folder: Path, content: Any) -> Path:
    file = folder / "network.pkl"
    with torch_utils(), open(file, "wb") as out:
        pickle.dump(content, out)
    return file


def changed(folder: Path, case: dict[str, Any], **kwargs: Any) -> Path:
    """The checkpoint of a case that states other arguments than it was built with."""
    stated = {**case, "kwargs": {**case["kwargs"], **kwargs}}
    return checkpoint(folder / "network.pkl", stated, built=case)


HIDING: dict[str, Callable[[Any], Any]] = {
    "as the whole": lambda call: call,
    "beside the net": lambda call: {"ema": 1, "encoder": call},
    "as a key": lambda call: {call: 1},
    "in a state": lambda call: {"ema": Persistent("Precond", {"_modules": {"unet": call}}, "")},
    "in arguments": lambda call: {"ema": Persistent("Precond", {"_init_args": (call,)}, "")},
    "as the meta of an object": lambda call: {"ema": Call(Persistent("", {}, "").__reduce__()[0], call)},
    "in a storage": lambda call: {"ema": Call(torch.storage._load_from_bytes, pickle.dumps(call))},
    "after a storage's header": lambda call: {"ema": Call(torch.storage._load_from_bytes, with_header(call))},
    "as a tensor's size": lambda call: {"ema": Call(torch._utils._rebuild_tensor_v2, torch.ones(2), 0, call, (1,))},
}


def with_header(content: Any) -> bytes:
    """A storage's pickle, with something else for the storage."""
    parts = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, content)
    return b"".join(pickle.dumps(part, protocol=4) for part in parts)


@pytest.mark.parametrize("hiding", HIDING)
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch {}",), f"{os.system.__module__}.system"),
        (eval, ("open({!r}, 'w')",), "builtins.eval"),
        (subprocess.Popen, (("touch", "{}"),), "subprocess.Popen"),
    ],
)
def test_calls_are_refused_by_name_wherever_they_hide(
    hiding: str, function: Callable[..., Any], arguments: Any, name: str, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    fill = [tuple(part.format(mark) for part in a) if isinstance(a, tuple) else a.format(mark) for a in arguments]
    file = written(tmp_path, HIDING[hiding](Call(function, *fill)))
    with pytest.raises(ValueError, match=rf"network\.pkl was not read: .*asks for {name}, which is refused"):
        load_edm(file)
    assert not mark.exists()


def test_the_code_that_a_checkpoint_carries_does_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    file = checkpoint(tmp_path / "network.pkl", SMALL, code=f"import os; os.system('touch {mark}')")
    assert b"touch" in file.read_bytes()
    load_edm(file)
    assert not mark.exists()


def op(*parts: str | bytes) -> bytes:
    """A pickle of opcodes as they are, and of texts."""
    texts = [b"\x8c" + bytes([len(part)]) + part.encode() if isinstance(part, str) else part for part in parts]
    return b"\x80\x04" + b"".join(texts) + b"."


GLOBAL = b"\x93"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (op("torch._utils", "_rebuild_tensor_v2.__globals__", GLOBAL), "asks for torch._utils._rebuild_tensor_v2.__gl"),
        (op("torch", "load", GLOBAL), "asks for torch.load, which is refused"),
        (op("builtins", "getattr", GLOBAL), "asks for builtins.getattr, which is refused"),
        (op("torch.nn.parallel", "DataParallel", GLOBAL), "asks for torch.nn.parallel.DataParallel"),
        (op("solvers", "adasde_sampler", GLOBAL), "asks for solvers.adasde_sampler, which is refused"),
        (op("outside", b"Q"), "refers to what lies outside of it"),
        # A state for one of our functions, and attributes for it.
        (op("torch._utils", "_rebuild_parameter", GLOBAL, b"}", "x", b"K\x01sb"), "_rebuild_parameter a state"),
        (
            op("torch._utils", "_rebuild_parameter", GLOBAL, b"N}", "__call__", b"K\x01s\x86b"),
            "_rebuild_parameter a st",
        ),
        # A state for a class of records.
        (op("numpy", "dtype", GLOBAL, b"N}", "__new__", b"K\x01s\x86b"), "was not read"),
        (b"", "Ran out of input"),
        (b"weights", "was not read"),
        (b"PK\x03\x04", "was not read"),
    ],
)
def test_what_is_no_checkpoint_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "network.pkl"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load_edm(file)
    assert str(file) in str(caught.value)
    # What was tried has changed nothing for the next.
    load_edm(checkpoint(tmp_path / "good.pkl", SMALL))


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    whole = checkpoint(tmp_path / "whole.pkl", SMALL).read_bytes()
    file = tmp_path / "network.pkl"
    for end in [*range(0, len(whole), len(whole) // 40), len(whole) - 1]:
        file.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"network\.pkl was not read"):
            load_edm(file)


def test_a_truncated_storage_is_refused(tmp_path: Path) -> None:
    storage = torch.ones(9).__reduce_ex__(4)[1][0]
    function, (content,) = storage.__reduce__()
    assert torch.equal(read_pickle(written(tmp_path, Call(function, content))), torch.ones(9))
    with pytest.raises(ValueError, match="a tensor's storage has 35 bytes; expected 36"):
        read_pickle(written(tmp_path, Call(function, content[:-1])))


def test_a_tensor_that_reaches_past_its_storage_is_refused(tmp_path: Path) -> None:
    build, (storage, _, _, *rest) = torch.ones(4).__reduce_ex__(4)
    assert torch.equal(read_pickle(written(tmp_path, Call(build, storage, 1, (3,), *rest))), torch.ones(3))
    with pytest.raises(ValueError, match="out of bounds"):
        read_pickle(written(tmp_path, Call(build, storage, 2, (3,), *rest)))


def test_a_missing_file() -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pkl"):
        load_edm("nowhere.pkl")


def test_names_may_stand_in_a_file_where_the_caller_says_so_and_are_never_called(tmp_path: Path) -> None:
    name = f"{os.system.__module__}.system"
    state = {"_init_kwargs": {"sampler": os.system}, "_modules": {"act": torch.nn.Sigmoid()}}
    record = read_pickle(written(tmp_path, Persistent("Predictor", state, "")), references=[name])
    assert isinstance(record, Record) and record.name == "Predictor"
    reference = record.kwargs["sampler"]
    assert type(reference) is Reference and reference.name == name
    assert record.state["_modules"]["act"].name == "torch.nn.modules.activation.Sigmoid"
    mark = tmp_path / "mark"
    with pytest.raises(ValueError, match="not callable"):
        read_pickle(written(tmp_path, Call(os.system, f"touch {mark}")), references=[name])
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"ema": Persistent("Predictor", {}, "")}, "found Predictor; expected EDMPrecond, VPPrecond"),
        ({"net": torch.ones(2)}, "found net; expected EDMPrecond"),
        ([1, 2], r"found ema; expected"),
        ({"ema": Persistent("Precond", {}, "")}, "holds no denoiser of EDM"),
        ({"ema": Persistent("Precond", {"_init_args": (8,) * 7}, "")}, "7 arguments by position; expected at most 6"),
    ],
)
def test_other_objects_are_named(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"network\.pkl.*{message}"):
        load_edm(written(tmp_path, content))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("EDM2", {"num_experts": 8}, "its EDM2UNet has num_experts=8; expected img_resolution"),
        ("EDM2", {"resample_filter": [1, 3, 3, 1]}, r"its EDM2UNet has resample_filter=\[1, 3, 3, 1\]"),
        ("ADM under EDM", {"model_type": "os.system"}, "its net is a os.system; expected DhariwalUNet, SongUNet"),
        ("DDPM++ under VP", {"embedding_type": "learned"}, "embedding='learned'; expected 'positional', 'fourier'"),
        ("DDPM++ under VP", {"beta_min": -1.0}, "beta_min=-1.0"),
        ("EDM2", {"sigma_data": -1.0}, "data_std=-1.0"),
        # Refused by names and shapes, before there is memory for it.
        ("EDM2", {"model_channels": 8_000_000}, "size mismatch for enc.8x8_conv.weight"),
        ("EDM2", {"num_blocks": 2}, "Missing key.*enc.8x8_block1"),
        ("EDM2", {"label_dim": 0}, "Unexpected key.*emb_label.weight"),
        ("ADM under EDM", {"augment_dim": 3}, "size mismatch for map_augment.weight"),
    ],
)
def test_nets_that_do_not_fit(name: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"(?s)network\.pkl.*{message}"):
        load_edm(changed(tmp_path, CASES[name], **changes))
