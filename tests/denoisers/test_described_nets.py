"""Folders that describe nets of any size are refused at the cost of their files, and whatever else a config says."""

import json
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sdescore import VPSDE, Denoiser
from sdescore.nets import MLP, UNet


def changed(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads((folder / "config.json").read_text())
    change(content)
    (folder / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("argument", "value", "said"),
    [
        ("depth", 10_000_000, "many more (parameters|modules) than there are weights"),
        ("width", 100_000_000, "does not hold the weights of the net"),
        ("width", 10**15, "does not describe a denoiser|does not hold"),
        ("features", 10**9, "does not hold the weights of the net"),
        ("depth", 3, "does not hold the weights of the net"),
    ],
)
def test_a_net_of_another_size_is_refused_before_it_is_made(
    argument: str, value: int, said: str, tmp_path: Path
) -> None:
    Denoiser(MLP(2, width=8, depth=1), VPSDE(), shape=(2,)).save_pretrained(tmp_path)
    changed(tmp_path, lambda content: content["net"]["config"].update({argument: value}))
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(ValueError, match=said):
        Denoiser.from_pretrained(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.process_time() - began < 10 and peak < 200 << 20


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["net"].update(config=None),
        lambda content: content["process"].update(config=None),
        lambda content: content["process"].update(config=[1]),
        lambda content: content.update(net=None),
        lambda content: content.update(terms=None),
        lambda content: content.update(scaling=[]),
        lambda content: content.update(shape=3),
        lambda content: content.update(data_std="wide"),
        lambda content: content["net"].update(name=["MLP"]),
        lambda content: content["net"]["config"].update(width=None),
        lambda content: content["net"]["config"].update(width={"module": None}),
    ],
)
def test_configs_of_other_kinds_are_refused_by_the_file_s_name(
    change: Callable[[dict[str, Any]], None], tmp_path: Path
) -> None:
    Denoiser(MLP(2, width=8, depth=1), VPSDE(), shape=(2,)).save_pretrained(tmp_path)
    changed(tmp_path, change)
    with pytest.raises(ValueError, match=r"config\.json does not describe a denoiser"):
        Denoiser.from_pretrained(tmp_path)


LOAD = """
import sys
from sdescore import Denoiser
Denoiser.from_pretrained(sys.argv[1])
assert not [name for name in sys.modules if name.startswith(("torch._dynamo", "sympy"))]
"""


@pytest.mark.slow
def test_looking_at_a_net_loads_no_compiler(tmp_path: Path) -> None:
    net = UNet(1, 8, base_width=8, multipliers=(1, 2), blocks=1, classes=3)
    Denoiser(net, VPSDE(), shape=(1, 8, 8)).save_pretrained(tmp_path)
    subprocess.run([sys.executable, "-c", LOAD, str(tmp_path)], check=True)


def test_nets_of_the_right_size_come_back(tmp_path: Path) -> None:
    net = UNet(1, 8, base_width=8, multipliers=(1, 2), blocks=1, classes=3)
    Denoiser(net, VPSDE(), shape=(1, 8, 8)).save_pretrained(tmp_path)
    found = Denoiser.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), found.net.parameters(), strict=True))
    assert all(tensor.device.type == "cpu" for tensor in [*found.parameters(), *found.buffers()])
