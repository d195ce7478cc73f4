"""Nets and processes of someone's own: saved as module:name, and imported where the user says so alone."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_nets import filled
from tiny_diffusers import unet
from torch import nn

from sdescore import VPSDE, Denoiser, DiscreteSDE, NetTerms, sample
from sdescore.nets import MLP

MINE = """
from dataclasses import dataclass
from pathlib import Path

from torch import nn
from sdescore import VPSDE

Path(__file__).with_name("ran").touch()


class Net(nn.Module):
    def __init__(self, inner, width=4):
        super().__init__()
        self.config = {"inner": inner, "width": width}
        self.inner = inner
        self.layer = nn.Linear(2, 2)

    class Nested(nn.Linear):
        def __init__(self, size):
            super().__init__(size, size)
            self.config = {"size": size}

    def forward(self, x, c_noise):
        return self.layer(self.inner(x))


class NoConfig(nn.Linear):
    def forward(self, x, c_noise):
        return super().forward(x)


@dataclass(frozen=True)
class Process(VPSDE):
    more: float = 1.0


def function(**config):
    return 3
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of the user's own, in a folder of its own, that leaves a trace when it is run."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "my_own_net.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    import my_own_net  # type: ignore[import-not-found]

    return my_own_net


def forget(mine: Any) -> Path:
    """As in another process; returns the trace."""
    del sys.modules["my_own_net"]
    trace = Path(mine.__file__).with_name("ran")
    trace.unlink()
    return trace


def test_a_net_and_a_process_of_ones_own(mine: Any, tmp_path: Path) -> None:
    denoiser = Denoiser(filled(mine.Net(mine.Net.Nested(2))), mine.Process(0.2, more=2.0), terms="score-sde")
    denoiser.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    inner = {"module": {"name": "my_own_net:Net.Nested", "config": {"size": 2}}}
    assert config["net"] == {"name": "my_own_net:Net", "config": {"inner": inner, "width": 4}}
    assert config["process"]["name"] == "my_own_net:Process"
    before = sample(denoiser.sde, denoiser, (3, 2), steps=4)

    trace = forget(mine)
    with pytest.raises(ValueError, match="net='my_own_net:Net' is no plug-in but someone's own code; expected tr"):
        Denoiser.from_pretrained(tmp_path / "saved")
    assert not trace.exists() and "my_own_net" not in sys.modules
    loaded = Denoiser.from_pretrained(tmp_path / "saved", trust_code=True)
    assert trace.exists() and loaded.terms == denoiser.terms
    assert torch.equal(sample(loaded.sde, loaded, (3, 2), steps=4), before)


def test_a_net_is_given_the_weights_of_a_folder(mine: Any, tmp_path: Path) -> None:
    """One whose arguments nobody knows; and, without its code, one that is no plug-in."""
    net = mine.NoConfig(2, 2)
    Denoiser(net, VPSDE()).save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["net"]["config"] is None
    for trust in (False, True):
        with pytest.raises(ValueError, match="net is a my_own_net:NoConfig, whose arguments are not known; expec"):
            Denoiser.from_pretrained(tmp_path / "saved", trust_code=trust)
    trace = forget(mine)
    other = nn.Linear(2, 2)
    loaded = Denoiser.from_pretrained(tmp_path / "saved", net=other)
    assert loaded.net is other and torch.equal(other.weight, net.weight) and not trace.exists()
    with pytest.raises(ValueError, match="does not hold the weights"):
        Denoiser.from_pretrained(tmp_path / "saved", net=nn.Linear(2, 3))


def test_a_net_of_a_script_is_saved_and_given_back(tmp_path: Path) -> None:
    class Local(MLP):
        """Of no module that could be imported."""

    net = filled(Local(2, width=8, depth=1))
    Denoiser(net, VPSDE()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"net='test_own_nets:.*<locals>.Local'.*has no attribute"):
        Denoiser.from_pretrained(tmp_path, trust_code=True)
    loaded = Denoiser.from_pretrained(tmp_path, net=Local(2, width=8, depth=1))
    assert torch.equal(loaded.net.entry.weight, net.entry.weight)


def test_a_model_of_diffusers(tmp_path: Path) -> None:
    """Its arguments are those of its own configuration."""
    pytest.importorskip("diffusers")
    sde = DiscreteSDE.from_betas(VPSDE().betas(50))
    denoiser = Denoiser(unet(), sde, terms=NetTerms("state", "index", rounded=True), shape=(3, 8, 8)).eval()
    denoiser.save_pretrained(tmp_path)
    loaded = Denoiser.from_pretrained(tmp_path, trust_code=True)
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(loaded(x, torch.tensor(20.0)), denoiser(x, torch.tensor(20.0)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_own_net:Absent", "has no attribute 'Absent'"),
        ("my_absent_net:Net", "No module named 'my_absent_net'"),
        ("my_own_net:", "expected 'module:name'"),
        ("my_own_net:function", "net='my_own_net:function' makes a int; expected a module"),
        (7, "net=7 is not installed"),
    ],
)
def test_names_that_lead_nowhere(name: Any, message: str, mine: Any, tmp_path: Path) -> None:
    Denoiser(MLP(2, width=8, depth=1), VPSDE()).save_pretrained(tmp_path / "saved")
    path = tmp_path / "saved" / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "net": {"name": name, "config": {}}}))
    with pytest.raises(ValueError, match=f"config.json does not describe a denoiser: .*{message}"):
        Denoiser.from_pretrained(tmp_path / "saved", trust_code=True)
