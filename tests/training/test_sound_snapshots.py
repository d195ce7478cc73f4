"""No snapshot has weights that are not finite, and no average is made of one that has."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sdescore import Denoiser, KarrasSDE
from sdescore.training.averages import Averages, PowerFunction
from sdescore.training.posthoc_averages import reconstruct, snapshots, write_snapshots

RULES = (PowerFunction(0.05), PowerFunction(0.1))


@pytest.fixture
def averages() -> Averages:
    return Averages(Denoiser(nn.Linear(2, 2), KarrasSDE()), RULES, 4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("which", [0, 1])
def test_weights_that_are_not_finite_are_not_written(
    averages: Averages, tmp_path: Path, which: int, bad: float
) -> None:
    with torch.no_grad():
        averages.models[which].net.weight[0, 1] = bad
    with pytest.raises(FloatingPointError, match=r"net\.weight is not finite after step 3"):
        write_snapshots(tmp_path, averages, 3)
    assert not list(tmp_path.iterdir())


def damaged(path: Path, key: str) -> None:
    """Put a NaN into a file."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        said = file.metadata()
    tensors = load_file(path)
    tensors[key].view(-1)[0] = float("nan")
    save_file(tensors, path, said)


@pytest.mark.parametrize("step", [2, 4])
@pytest.mark.parametrize("wanted", [PowerFunction(0.05), PowerFunction(0.08)])
def test_no_average_is_made_of_a_snapshot_that_is_not_finite(
    averages: Averages, tmp_path: Path, step: int, wanted: PowerFunction
) -> None:
    for each in (2, 4):
        write_snapshots(tmp_path, averages, each)
    state, _ = reconstruct(snapshots(tmp_path), wanted, 4)
    assert all(bool(tensor.isfinite().all()) for tensor in state.values())
    path = tmp_path / f"step-{step:06d}.width-0.05.safetensors"
    damaged(path, "net.bias")
    if wanted in RULES and step == 2:
        reconstruct(snapshots(tmp_path), wanted, 4)  # that of step 4 is it, alone
        return
    with pytest.raises(ValueError, match=rf"{path.name}: net\.bias is not finite"):
        reconstruct(snapshots(tmp_path), wanted, 4)


def test_a_snapshot_that_is_cut_off_is_named(averages: Averages, tmp_path: Path) -> None:
    for each in (2, 4):
        write_snapshots(tmp_path, averages, each)
    found = snapshots(tmp_path)
    path = found[0].path
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match=f"{path.name} cannot be read"):
        reconstruct(found, PowerFunction(0.08), 4)


def test_a_changed_byte_anywhere_in_a_snapshot_is_noticed(averages: Averages, tmp_path: Path) -> None:
    for each in (2, 4):
        write_snapshots(tmp_path, averages, each)
    wanted = PowerFunction(0.08)
    path = tmp_path / "step-000002.width-0.1.safetensors"
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ValueError, match=path.name):
            reconstruct(snapshots(tmp_path), wanted, 4)
