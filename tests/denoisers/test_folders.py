"""Saved denoisers: what comes back is what went in."""

import copy
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi, ModelCard, RepoUrl
from packages import install
from safetensors.torch import load_file
from small_nets import filled, small
from torch import Tensor, nn

import sdescore.denoisers.folders
from sdescore import (
    VESDE,
    VPSDE,
    CosineSDE,
    Denoiser,
    DiscreteSDE,
    FlowSDE,
    KarrasSDE,
    LinearSDE,
    NetTerms,
    Scaling,
    SubVPSDE,
    sample,
)
from sdescore.nets import MLP, UNet


def assert_same_weights(one: nn.Module, other: nn.Module) -> None:
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]), name


@pytest.mark.parametrize(
    "sde",
    [
        VPSDE(0.2, 15.0),
        SubVPSDE(),
        VESDE(0.02, 1 / 3),
        CosineSDE(),
        KarrasSDE(sigma_max=10.0),
        FlowSDE(),
        DiscreteSDE.from_betas(torch.linspace(1e-4, 0.02, 10)),
    ],
    ids=lambda sde: type(sde).__name__,
)
def test_a_folder_is_all_one_needs_to_sample(sde: LinearSDE, tmp_path: Path) -> None:
    net = filled(UNet(1, (6, 5), base_width=8, multipliers=(1, 2), blocks=1, heads=2, dropout=0.1, classes=2))
    terms = NetTerms("vp", "rho", 3.0, predicts="v")
    denoiser = Denoiser(net, sde, data_std=0.3, terms=terms, shape=(1, 6, 5), scaling=Scaling(0, 16, 17))
    denoiser.save_pretrained(tmp_path / "a" / "b")
    loaded = Denoiser.from_pretrained(tmp_path / "a" / "b")

    assert loaded.sde == sde and type(loaded.sde) is type(sde)
    assert (loaded.terms, loaded.data_std, loaded.shape) == (terms, 0.3, (1, 6, 5))
    assert loaded.scaling == denoiser.scaling
    assert not loaded.training and not loaded.net.training
    assert_same_weights(loaded.net, net)
    condition = {"label": torch.tensor([0, 1, 2])}
    draws = [sample(sde, d, (3, 1, 6, 5), steps=4, condition=condition) for d in (denoiser, loaded)]
    assert torch.equal(*draws)


def test_the_folder_holds_json_and_safetensors_that_others_can_read(tmp_path: Path) -> None:
    denoiser = small(scaling=None, shape=None)
    denoiser.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["process"] == {"name": "VPSDE", "config": {"beta_min": 0.1, "beta_max": 20.0}}
    assert config["net"]["name"] == "MLP" and config["shape"] is config["scaling"] is None
    assert load_file(tmp_path / "model.safetensors").keys() == denoiser.net.state_dict().keys()
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1  # the weights as readable as the rest
    loaded = Denoiser.from_pretrained(str(tmp_path))
    assert loaded.shape is None and loaded.scaling is None


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_keep_their_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    denoiser = small().to(dtype)
    denoiser.save_pretrained(tmp_path)
    assert_same_weights(Denoiser.from_pretrained(tmp_path).net, denoiser.net)


def test_what_wraps_or_lays_out_the_net_is_not_saved(tmp_path: Path) -> None:
    net = filled(UNet(1, 4, base_width=4, multipliers=(1,), blocks=1, heads=1))
    net.to(memory_format=torch.channels_last)
    denoiser = copy.deepcopy(Denoiser(net, VPSDE()))
    denoiser.net = torch.compile(denoiser.net)
    denoiser.save_pretrained(tmp_path)
    loaded = Denoiser.from_pretrained(tmp_path)
    assert type(loaded.net) is UNet
    assert_same_weights(loaded.net, net)


def test_saving_again_replaces_the_folder_but_not_a_readme_of_ones_own(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    (tmp_path / "README.md").write_text("mine")
    denoiser = Denoiser(MLP(3, width=4, depth=2), VESDE(), "score")
    denoiser.save_pretrained(tmp_path)
    loaded = Denoiser.from_pretrained(tmp_path)
    assert loaded.sde == VESDE() and loaded.predicts == "score"
    assert_same_weights(loaded.net, denoiser.net)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_failed_save_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = small()
    denoiser.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full_disk(weights: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(sdescore.denoisers.folders, "save_file", full_disk)
        with pytest.raises(OSError, match="No space"):
            small(VESDE()).save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("survivor", ["config.json", "model.safetensors"])
def test_a_save_killed_between_two_files_is_never_a_mixture(
    survivor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small().save_pretrained(tmp_path)

    replace = os.replace

    def killed(source: Path, target: Path) -> None:
        if Path(target).name == survivor:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        small(VESDE()).save_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        Denoiser.from_pretrained(tmp_path)


def test_folders_need_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # as if it were not installed
    denoiser = small()
    denoiser.save_pretrained(tmp_path)
    assert_same_weights(Denoiser.from_pretrained(tmp_path).net, denoiser.net)
    with pytest.raises(FileNotFoundError, match=r"'runs/absent' is no folder here, and the Hub .*huggingface_hub"):
        Denoiser.from_pretrained("runs/absent")


def test_the_hub_is_given_the_folder_and_gives_it_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a Hub that is a local folder."""
    hub = tmp_path / "hub"

    def create_repo(self: HfApi, repo_id: str, *, private: bool, exist_ok: bool) -> RepoUrl:
        assert (self.token, private, exist_ok) == ("secret", True, True)
        return RepoUrl(f"https://huggingface.co/someone/{repo_id}")

    def upload_folder(self: HfApi, *, repo_id: str, folder_path: str, commit_message: str) -> str:
        assert commit_message == "better"
        shutil.copytree(folder_path, hub / repo_id)
        return "the commit"

    def snapshot_download(repo_id: str, *, allow_patterns: list[str], revision: str) -> str:
        assert allow_patterns == ["config.json", "model.safetensors"] and revision == "main"
        return str(hub / repo_id)

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    denoiser = small()
    assert denoiser.push_to_hub("model", private=True, token="secret", commit_message="better") == "the commit"
    card = ModelCard.load(hub / "someone/model/README.md")
    assert card.data.library_name == "sdescore" and card.data.tags == ["sdescore"]
    assert_same_weights(Denoiser.from_pretrained("someone/model", revision="main").net, denoiser.net)


OUTSIDE = """
from torch import nn

class Tied(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.config = {"size": size}
        self.one = nn.Linear(size, size)
        self.two = nn.Linear(size, size)
        self.two.weight = self.one.weight

    def forward(self, x, c_noise):
        return self.two(self.one(x))
"""


def test_a_net_from_outside_is_saved_and_found_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = "tied-net = outside_nets:Tied"
    install(monkeypatch, tmp_path, "outside_nets", "sdescore.nets", entries, OUTSIDE)
    import outside_nets  # type: ignore[import-not-found]

    denoiser = Denoiser(outside_nets.Tied(3), VPSDE(), "data")
    denoiser.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["net"]["name"] == "tied-net"
    net: Any = Denoiser.from_pretrained(tmp_path / "saved").net
    assert type(net) is outside_nets.Tied and net.one.weight is net.two.weight
    assert_same_weights(net, denoiser.net)

    install(monkeypatch, tmp_path, "rival_nets", "sdescore.nets", "tied-net = rival_nets:Tied", OUTSIDE)
    for attempt in (
        lambda: denoiser.save_pretrained(tmp_path / "again"),
        lambda: Denoiser.from_pretrained(tmp_path / "saved"),
    ):
        with pytest.raises(ValueError, match=r"'tied-net' is claimed more than once: .*outside_nets.*rival_nets"):
            attempt()
