"""A net of one's own from the command line: trained by module:name, and sampled where its code is trusted."""

import json
from pathlib import Path

import numpy as np
import pytest
from scripting import Refusal

from sdescore.cli import main

MINE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, features, width=4):
        super().__init__()
        self.config = {"features": features, "width": width}
        self.layers = nn.Sequential(nn.Linear(features, width), nn.Tanh(), nn.Linear(width, features))

    def forward(self, x, c_noise):
        return self.layers(x) * c_noise[:, None]
"""


def test_a_net_of_ones_own_is_trained_and_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Refusal
) -> None:
    (tmp_path / "net_of_mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).normal(size=(64, 3)).clip(-1, 1).astype(np.float32))
    data = ["--data", str(tmp_path / "data.npz"), "--data_low", "-1", "--data_high", "1"]
    net = ["--net", "net_of_mine:Net", "--net_args", '{"width": 5}']
    run = tmp_path / "run"
    main(["train", *data, *net, "--steps", "3", "--batch_size", "8", "--sample_every", "0", "--out", str(run)])
    saved = json.loads((run / "model" / "config.json").read_text())["net"]
    assert saved == {"name": "net_of_mine:Net", "config": {"features": 3, "width": 5}}

    arguments = ["--model", str(run / "model"), "--out", str(tmp_path / "out"), "--count", "4", "--nfe", "4"]
    assert "expected trust_code=True, which imports it" in refusal("sample", *arguments)
    main(["sample", *arguments, "--trust_code", "true"])
    with np.load(tmp_path / "out" / "samples.npz") as file:
        assert file["x"].shape == (4, 3)
