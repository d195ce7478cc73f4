"""Denoisers that could not be loaded again are not saved, and folders without a denoiser are refused."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_nets import small
from torch import Tensor

from sdescore import VPSDE, Denoiser, LinearSDE


class NoDataclass(LinearSDE):
    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return t


def not_json() -> Denoiser:
    denoiser = small()
    denoiser.net.config = {"features": 2, "device": torch.device("cpu")}
    return denoiser


@pytest.mark.parametrize(
    ("denoiser", "message"),
    [
        (Denoiser(lambda y, t: y, VPSDE()), "net is a function; expected a module, which has weights to save"),
        (small(NoDataclass()), "sde is of type .*:NoDataclass; expected a dataclass, whose fields are its arguments"),
        (not_json(), "config.json cannot hold .*: Object of type device is not JSON"),
    ],
)
def test_what_could_not_be_loaded_again_is_not_saved(denoiser: Denoiser, message: str, tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=message):
        denoiser.save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*absent"):
        Denoiser.from_pretrained(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match="'runs/absent' is no folder here, and the Hub"):
        Denoiser.from_pretrained("runs/absent", local_files_only=True, cache_dir=tmp_path)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_incomplete_folder(missing: str, tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"{tmp_path.name} has no {missing}; it holds .*README.md"):
        Denoiser.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("format", 1, "format is 1; this version of sdescore reads 2"),
        ("extra", 1, "expected an object of format, net, process"),
        ("net.name", "ResNet", "net='ResNet' is not installed; expected UNet, .*MLP"),
        ("net.name", "os:system", "net='os:system' is no plug-in but someone's own code; expected trust_code=True"),
        ("net.config", None, "net is a MLP, whose arguments are not known; expected net=, the net itself"),
        ("net.config.width", -1, "width has -1; expected"),
        ("net.config.wide", 8, "unexpected keyword argument 'wide'"),
        ("process.name", "os:system", "process='os:system' is no plug-in but someone's own code"),
        ("process.name", "OUSDE", "process='OUSDE' is not installed; expected .*VPSDE"),
        ("process.config.beta_min", 30.0, "beta_min=30.0"),
        ("process.config.beta_mid", 1.0, "unexpected keyword argument 'beta_mid'"),
        ("terms.predicts", "noises", "predicts='noises'; expected"),
        ("terms.time", "index", "an index into a table, and a VPSDE has none"),
        ("terms.times", "index", "unexpected keyword argument 'times'"),
        ("data_std", "wide", "data_std='wide'; expected a positive number"),
        ("shape", ["a"], "cannot be interpreted as an integer"),
        ("scaling", {"low": 1, "high": 0}, "high=0; expected a finite number above 1"),
    ],
)
def test_config_that_describes_no_denoiser(path: str, value: Any, message: str, tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    *parents, last = path.split(".")
    place = config
    for name in parents:
        place = place[name]
    place[last] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"config.json does not describe a denoiser: .*{message}"):
        Denoiser.from_pretrained(tmp_path)


@pytest.mark.parametrize("text", [b"", b"{", b"[1, 2]", b"\xff\xfe", b"null", b"[" * 100_000])
def test_config_that_is_not_the_json_of_one(text: bytes, tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes(text)
    with pytest.raises(ValueError, match=r"config\.json does not describe a denoiser"):
        Denoiser.from_pretrained(tmp_path)


def test_weights_that_are_corrupt_or_of_another_net(tmp_path: Path) -> None:
    denoiser = small()
    denoiser.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    whole, weights = path.read_bytes(), load_file(path)

    def refused(message: str) -> None:
        with pytest.raises(ValueError, match=f"(?s)model.safetensors {message}"):
            Denoiser.from_pretrained(tmp_path)

    one_bit = bytearray(whole)
    one_bit[-1] ^= 1
    for damaged in (b"", whole[: len(whole) // 2], b"x" * len(whole), bytes(one_bit)):
        path.write_bytes(damaged)
        refused("is damaged: its SHA-256 is [0-9a-f]{64}; expected [0-9a-f]{64}$")

    def replaced(weights: dict[str, Tensor]) -> None:
        """As by someone who makes the folder agree with itself."""
        save_file(weights, path)
        config = json.loads((tmp_path / "config.json").read_text())
        config["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        (tmp_path / "config.json").write_text(json.dumps(config))

    replaced({name: tensor for name, tensor in weights.items() if name != "entry.bias"})
    refused(r"does not hold the weights.*: entry\.bias is \(8,\) in the net, absent in the file")
    replaced({**weights, "more": torch.ones(1)})
    refused(r"does not hold the weights.*: more is absent in the net, \(1,\) in the file")
    replaced({**weights, "entry.bias": torch.ones(9)})
    refused(r"does not hold the weights.*: entry\.bias is \(8,\) in the net, \(9,\) in the file")
