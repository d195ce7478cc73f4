"""The codes of a data set: made once, whatever happens on the way, and never taken for another's."""

import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sdescore.common.files import locked
from sdescore.common.scaling import Scaling
from sdescore.data import Arrays, Conditioned, MappedCodes, load, write_codes
from sdescore.data.source import read
from sdescore.denoisers import Autoencoder

RAW = torch.randint(0, 17, (23, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
SOURCE = Arrays(RAW, torch.arange(23) % 3, Scaling(0, 16, 17))
PIXELS = RAW / 8.0 - 1
TURN = torch.linalg.qr(torch.randn(64, 64, generator=torch.Generator().manual_seed(1)))[0]


def turned(x: Tensor) -> Tensor:
    """64 pixels as 16 channels of 2x2, which no rule for pictures may turn around."""
    return (x.flatten(1) @ TURN).reshape(-1, 16, 2, 2)


def spread(x: Tensor) -> tuple[Tensor, Tensor]:
    return turned(x), 0.1 + 0 * turned(x)


def autoencoder(encoder: Callable[[Tensor], Any] = turned, name: str = "mine:turned") -> Autoencoder:
    return Autoencoder(encoder, lambda z: (z.flatten(1) @ TURN.T).reshape(-1, 1, 8, 8), name)


def whole(codes: MappedCodes) -> Tensor:
    return codes.__getitems__(range(len(codes)))[0]


def quietly(source: Any, made: Autoencoder, folder: Path, batch_size: int = 5) -> MappedCodes:
    return write_codes(source, made, folder, batch_size=batch_size, progress=False)


def test_codes_are_those_of_the_encoder_with_what_is_known_of_the_data(tmp_path: Path) -> None:
    source = Conditioned(SOURCE, {"size": torch.arange(46.0).reshape(23, 2)})
    source.class_names = ["one", "two", "three"]
    made = quietly(source, autoencoder(), tmp_path / "a")
    for codes in (made, load(str(tmp_path / "a"), conditions=["size"]), pickle.loads(pickle.dumps(made))):
        assert isinstance(codes, MappedCodes)
        assert (codes.shape, codes.classes, codes.class_names) == ((16, 2, 2), 3, ["one", "two", "three"])
        torch.testing.assert_close(whole(codes), turned(PIXELS))
        _, known = read(codes, [22, 4])
        assert known["label"].tolist() == [1, 1] and known["size"].tolist() == [[44.0, 45.0], [8.0, 9.0]]
    assert sorted(path.name for path in (tmp_path / "a").iterdir() if path.name != ".lock") == [
        "codes.json", "codes.npy", "known.label.npy", "known.size.npy",
    ]  # fmt: skip
    assert (made.codes.autoencoder, made.codes.shape, made.codes.scaling) == ("mine:turned", (1, 8, 8), SOURCE.scaling)
    assert made.autoencoder is not None


def test_each_channel_has_the_deviation_that_edm_expects(tmp_path: Path) -> None:
    codes = quietly(SOURCE, autoencoder(), tmp_path / "a")
    x = codes.scaling.to_model(whole(codes)).double()
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.full((16,), 0.5).double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(codes.scaling.to_data(x.float()), turned(PIXELS), rtol=1e-5, atol=1e-5)
    dead = quietly(SOURCE, autoencoder(lambda x: torch.cat([turned(x), 0 * turned(x)], 1), "mine:dead"), tmp_path / "b")
    assert isinstance(dead.scaling.low, float)  # one scale for all: a channel without deviation has none of its own


class Interrupted(Exception):
    pass


def breaking(stop: Callable[[], None], after: int) -> tuple[Callable[[Tensor], Any], list[int]]:
    """spread(), but what happens after so many batches; and the sizes of all batches."""
    seen: list[int] = []

    def encoder(x: Tensor) -> Any:
        seen.append(len(x))
        if len(seen) > after:
            stop()
        return spread(x)

    return encoder, seen


def test_what_was_made_before_an_interruption_is_kept(tmp_path: Path) -> None:
    def stop() -> None:
        raise Interrupted

    unbroken = quietly(SOURCE, autoencoder(spread), tmp_path / "a")
    encoder, _ = breaking(stop, after=3)
    with pytest.raises(Interrupted):
        quietly(SOURCE, autoencoder(encoder), tmp_path / "b")
    assert not (tmp_path / "b" / "codes.npy").exists()
    with pytest.raises(FileNotFoundError):
        MappedCodes(tmp_path / "b")
    encoder, seen = breaking(stop, after=1000)
    codes = quietly(SOURCE, autoencoder(encoder), tmp_path / "b")
    assert seen == [5, 3, 1]  # the rest, and a row to compare
    assert torch.equal(whole(codes), whole(unbroken))  # draws of the posterior too
    quietly(SOURCE, autoencoder(encoder), tmp_path / "b")
    assert seen == [5, 3, 1, 1]
    torch.testing.assert_close(whole(quietly(SOURCE, autoencoder(spread), tmp_path / "c", 23)), whole(unbroken))


def test_a_part_of_another_autoencoder_is_made_anew(tmp_path: Path) -> None:
    def stop() -> None:
        raise Interrupted

    encoder, _ = breaking(stop, after=3)
    with pytest.raises(Interrupted):
        quietly(SOURCE, autoencoder(encoder, "mine:other"), tmp_path / "a")
    torch.testing.assert_close(whole(quietly(SOURCE, autoencoder(), tmp_path / "a")), turned(PIXELS))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_killed_process_leaves_its_rows_and_no_lock(tmp_path: Path) -> None:
    encoder, _ = breaking(lambda: os.kill(os.getpid(), signal.SIGKILL), after=2)
    child = os.fork()
    if child == 0:
        quietly(SOURCE, autoencoder(encoder), tmp_path / "a")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    encoder, seen = breaking(lambda: None, after=0)
    codes = quietly(SOURCE, autoencoder(encoder), tmp_path / "a")
    assert seen == [5, 5, 3, 1]
    assert torch.equal(whole(codes), whole(quietly(SOURCE, autoencoder(spread), tmp_path / "b")))


def test_another_s_codes_are_not_taken(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    layer = nn.Linear(64, 64)

    def weighted(x: Tensor) -> Tensor:
        found: Tensor = layer(x.flatten(1))
        return found

    quietly(SOURCE, autoencoder(weighted), folder)
    quietly(SOURCE, autoencoder(weighted, "moved:elsewhere"), folder)  # the same weights
    other = Arrays(RAW.flip(0), SOURCE.labels, SOURCE.scaling)
    unlabelled = Arrays(RAW, None, SOURCE.scaling)
    for source, message in (
        (other, "has the codes of other data, 23 samples"),
        (unlabelled, "other data|was made with"),
    ):
        with pytest.raises(ValueError, match=message):
            quietly(source, autoencoder(weighted), folder)
    with torch.no_grad():
        layer.weight[0, 0] += 1e-3
    with pytest.raises(ValueError, match="is not the one that made the codes, 'mine:turned': its weights"):
        quietly(SOURCE, autoencoder(weighted), folder)
    quietly(SOURCE, autoencoder(), tmp_path / "b")
    with pytest.raises(ValueError, match="the encoder makes another code of sample 0 now"):
        quietly(SOURCE, autoencoder(lambda x: 1.1 * turned(x)), tmp_path / "b")  # by the same name


def test_folders_that_will_not_do(tmp_path: Path) -> None:
    (tmp_path / "codes.npy").write_bytes(b"mine")
    with pytest.raises(ValueError, match="is not empty, and has no codes; expected a new folder"):
        quietly(SOURCE, autoencoder(), tmp_path)
    assert (tmp_path / "codes.npy").read_bytes() == b"mine"
    with locked(tmp_path / "a"), pytest.raises(BlockingIOError, match="is in use: another process writes to it"):
        quietly(SOURCE, autoencoder(), tmp_path / "a")
    with pytest.raises(ValueError, match="the codes of sample 0 are not finite"):
        quietly(SOURCE, autoencoder(lambda x: turned(x) / 0), tmp_path / "a")
    quietly(Arrays(RAW, None, SOURCE.scaling), autoencoder(), tmp_path / "b")
    np.save(tmp_path / "b" / "codes.npy", np.zeros((4, 16, 2, 2), np.float32))
    with pytest.raises(
        ValueError, match=r"codes\.json does not describe the codes beside it: codes\.npy has 4 samples"
    ):
        MappedCodes(tmp_path / "b")
