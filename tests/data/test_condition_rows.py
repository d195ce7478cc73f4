"""Conditions beside samples: where they are read from, and what is refused."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sdescore.data import Conditioned, load
from sdescore.data.conditions import MappedRows, condition_statistics
from sdescore.data.source import Arrays, read


def arrays(count: int = 12) -> dict[str, np.ndarray]:
    draw = np.random.default_rng(0)
    return {
        "x": draw.integers(0, 256, (count, 1, 8, 8), np.uint8),
        "y": np.arange(count) % 3,
        "past": draw.normal(2020, 5, (count, 2)),
        "low": draw.integers(0, 256, (count, 2, 4, 4), np.uint8),
    }


def test_arrays_beside_a_file_and_a_folder(tmp_path: Path) -> None:
    data = arrays()
    np.save(tmp_path / "a.npy", data["x"])
    np.save(tmp_path / "a.past.npy", data["past"])
    source = load(str(tmp_path / "a.npy"), conditions=["past"])
    raw, known = read(source, [3, 1])
    assert known["past"].equal(torch.from_numpy(data["past"][[3, 1]])) and raw.shape == (2, 1, 8, 8) and source.lazy
    with pytest.raises(ValueError, match=r"there is no file .*a\.low\.npy"):
        load(str(tmp_path / "a.npy"), conditions=["low"])
    np.save(tmp_path / "a.low.npy", data["low"][:-1])
    with pytest.raises(ValueError, match="condition 'low' has 11 rows; expected 12, one for each sample"):
        load(str(tmp_path / "a.npy"), conditions=["low"])
    with pytest.raises(ValueError, match="but data='digits' has none"):
        load("digits", conditions=["past"])


def test_a_data_set_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_set.py").write_text(
        "import torch\nfrom sdescore.data import Arrays, Conditioned\n"
        "made = Conditioned(Arrays(torch.arange(6.0)), {'past': torch.arange(6)})\n"
    )
    monkeypatch.chdir(tmp_path)
    assert read(load("own_set:made", conditions=["past"]), [4])[1]["past"].tolist() == [[4]]
    with pytest.raises(ValueError, match=r"conditions=\['low'\], but data='own_set:made' has \['past'\]"):
        load("own_set:made", conditions=["low"])


def test_columns_of_a_hugging_face_data_set(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = arrays()
    columns = {"x": [row.tolist() for row in data["x"]], "past": data["past"].tolist(), "y": data["y"].tolist()}
    datasets.Dataset.from_dict(columns).save_to_disk(str(tmp_path / "set"))
    options: Any = {"conditions": ["past"], "args": None}
    from sdescore import Scaling

    source = load(str(tmp_path / "set"), scaling=Scaling(), **options)
    assert read(source, [2, 0])[1]["past"].numpy() == pytest.approx(data["past"][[2, 0]])
    with pytest.raises(ValueError, match="has no column 'low'"):
        load(str(tmp_path / "set"), scaling=Scaling(), conditions=["low"])


def test_rows_and_tokens_of_nan_are_none_and_half_of_one_is_refused() -> None:
    source = Arrays(torch.arange(3.0))
    text = torch.zeros(3, 4, 2)
    text[1, 2:] = torch.nan
    text[2] = torch.nan
    assert read(Conditioned(source, {"text": text}), [1, 2])[1]["text"].isnan().sum() == 12
    text[0, 1, 1] = torch.nan
    with pytest.raises(ValueError, match="condition 'text' of sample 0 is not finite; expected numbers, or NaN"):
        read(Conditioned(source, {"text": text}), [1, 0])
    for bad in (torch.tensor([[0.0, math.nan]] * 3), torch.tensor([[0.0, math.inf]] * 3)):
        with pytest.raises(ValueError, match="condition 'past' of sample 0 is not finite"):
            read(Conditioned(source, {"past": bad}), [0])


def test_statistics_leave_out_what_is_not_there() -> None:
    rows = torch.tensor([[1.0, 7.0], [math.nan, math.nan], [3.0, 7.0]])
    source = Conditioned(Arrays(torch.arange(3.0)), {"past": rows})
    assert condition_statistics(source, "past", 1) == ([2.0, 7.0], [1.0, 1.0])
    assert condition_statistics(source, "past", None) == (4.5, pytest.approx(np.std([1, 7, 3, 7])))


def test_mapped_rows_are_mapped_again_elsewhere(tmp_path: Path) -> None:
    import pickle

    np.save(tmp_path / "a.npy", arrays()["past"])
    again = pickle.loads(pickle.dumps(MappedRows(tmp_path / "a.npy")))
    assert isinstance(again.rows, np.memmap) and len(again) == 12
