"""Settings: files that expand without end, that are nested without end, or are none; and values of other kinds."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scripting import Refusal

from sdescore.cli.evaluate import EvaluateConfig
from sdescore.cli.likelihood import LikelihoodConfig
from sdescore.cli.sample import SampleConfig
from sdescore.training.config import TrainConfig
from sdescore.training.run_log import read_log

LAUGHS = "a: &a [1,1,1,1,1,1,1,1,1]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize(
    "content",
    [LAUGHS.encode(), b"[" * 100_000, b"data_args: " + b"{a: " * 100_000, b"\xff\x00", b"steps: &a 3\nkeep: *a"],
)
def test_files_of_settings_are_bounded(content: bytes, tmp_path: Path, refusal: Refusal) -> None:
    path = tmp_path / "settings.yaml"
    path.write_bytes(content)
    said = refusal("train", "--config", str(path), "--out", str(tmp_path / "out"))
    expected = "can't decode" if content == b"\xff\x00" else "settings have no aliases, and at most 30 levels"
    assert expected in said


def test_settings_that_are_text_with_a_star_stay_text() -> None:
    from sdescore.cli.command_line import load_yaml, parse

    assert parse(SampleConfig, "sdescore sample", None, ["--model", "*.npz", "--out", "[a"]).model == "*.npz"
    assert load_yaml("{a: [1, 2]}") == {"a": [1, 2]}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"steps": 2.5}, r"steps=2\.5; expected an integer"),
        ({"flips": "no"}, "flips='no'; expected True or False"),
        ({"seed": True}, "seed=True; expected an integer"),
        ({"batch_size": "3"}, "batch_size='3'; expected an integer"),
        ({"lr": "fast"}, "lr='fast'; expected a number"),
        ({"minutes": True}, "minutes=True; expected a number"),
        ({"sde": 5}, "sde=5; expected a text"),
        ({"out": None}, "out=None; expected a text"),
    ],
)
def test_kinds_of_training_s_settings(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=said):
        replace(TrainConfig(), **changed)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SampleConfig("m", "o", count=2.5), r"count=2\.5"),  # type: ignore[arg-type]
        (lambda: SampleConfig("m", "o", seed=None), "seed=None"),  # type: ignore[arg-type]
        (lambda: LikelihoodConfig("m", probes=True), "probes=True"),
        (lambda: EvaluateConfig("s", threshold="high"), "threshold='high'"),  # type: ignore[arg-type]
    ],
)
def test_kinds_of_other_settings(make: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        make()


def test_an_unknown_net_is_named_before_any_data_is_read() -> None:
    with pytest.raises(ValueError, match="net='nope' is not installed; expected"):
        TrainConfig(net="nope")


@pytest.mark.parametrize("line", [b'{"step": \xff}\n', b"[" * 100_000 + b"\n", b"nothing\n", b"3\n"])
def test_a_damaged_log_is_named(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(b'{"step": 1, "loss": 2.0}\n' + line)
    with pytest.raises(ValueError, match=r"log\.jsonl"):
        read_log(tmp_path)
