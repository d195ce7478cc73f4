"""The proof on a GPU: its table, what stands when it is cut off, and that it goes on from there."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripting import NEEDS_SCRIPTS, SCRIPTS

pytestmark = NEEDS_SCRIPTS


def rows(step: str, speeds: dict[str, float]) -> list[dict[str, Any]]:
    return [{"step": step, "name": name, "done": True, "figures": {"images/s": v}} for name, v in speeds.items()]


def test_goals(script: Callable[[str], Any]) -> None:
    table = script("bench.gpu_table")
    goals = {goal.name: goal for goal in table.GOALS if goal.step == "train"}
    ours = {"sdescore, compiled, batch 256": 400.0, "sdescore, compiled, batch 128": 300.0}
    found = rows("train", {**ours, "diffusers, compiled": 250.0, "diffusers, eager": 320.0})
    goal = goals["images/s ÷ diffusers' best"]
    assert goal.row(found) == {"step": "train", "what": goal.name, "figures": "1.25", "goal": "≥ 1.3", "reached": "no"}
    found[0]["figures"]["images/s"] = 480.0
    assert goal.row(found)["reached"] == "yes"
    found[0]["done"] = False  # and is not counted
    assert goal.row(found)["figures"] == "0.938"
    assert goal.row(found[:2]) is None and goals["share of the matrix rate"].row(found) is None


def test_table_replaces_keeps_and_refuses(script: Callable[[str], Any], tmp_path: Path) -> None:
    table = script("bench.gpu_table").Table
    one = table(tmp_path, {"card": "A"})
    one.add("train", "x", {"failed": "of memory"}, done=False)
    one.add("train", "y", {"images/s": 12345.6})
    one.add("train", "x", {"images/s": 2.0})
    again = table(tmp_path, {"card": "A"})
    assert again.done("train") == {"x", "y"} and again.done("tests") == set() and again.finished == []
    text = (tmp_path / "table.md").read_text("utf-8")
    assert "12,346" in text and "of memory" not in text and text.index("images/s 2") < text.index("12,346")
    with pytest.raises(ValueError, match="of another card; expected a new folder"):
        table(tmp_path, {"card": "B"})


def test_what_takes_too_long_is_ended_and_taken_again(
    script: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu = script("bench.gpu")
    monkeypatch.setattr(gpu, "LEAST", 0.0)
    monkeypatch.setattr(gpu, "machine", lambda config: {"card": "none"})
    config = gpu.GpuConfig(minutes=0.03, out=str(tmp_path / "out"), work=str(tmp_path / "work"))
    taken: list[str] = []
    sleeper = tmp_path / "pid"

    def first(step: str, given: Any, seconds: float) -> list[str]:
        taken.append(step)
        assert (tmp_path / "out/results.json").exists()  # which says of what machine the step's figures are
        waits = f"sleep 60 & echo $! > {sleeper}; wait"
        return ["sh", "-c", {"train": waits, "sample": "exit 3"}.get(step, "true")]

    gpu.prove(config, first)
    assert taken == list(gpu.STEPS)
    assert json.loads((tmp_path / "out/results.json").read_text("utf-8"))["machine"] == {"card": "none"}
    said = capsys.readouterr().out
    assert "train: cut off after" in said and "sample: ended with status 3" in said and "tests: finished" in said
    child = Path("/proc", sleeper.read_text().strip(), "stat")  # the process's own child is gone, too
    assert not child.exists() or child.read_text().split()[2] == "Z"

    def second(step: str, given: Any, seconds: float) -> list[str]:
        taken.append(step)
        return ["true"]

    for expected in (["train", "sample"], []):
        del taken[:]
        gpu.prove(config, second)
        assert taken == expected


def content(out: Path) -> list[dict[str, Any]]:
    path = out / "results.json"
    return json.loads(path.read_text("utf-8"))["rows"] if path.exists() else []


@pytest.mark.slow
def test_killed_at_three_random_instants(tmp_path: Path) -> None:
    """The whole rehearsal: the table holds what was done, nothing runs on, and the rest is done in the end."""
    seed = int(os.environ.get("KILL_SEED", 0))
    draw = random.Random(seed)
    out = tmp_path / "out"
    command = [sys.executable, str(SCRIPTS / "bench/gpu.py"), "--rehearse=true", "--minutes=8"]
    command += [f"--out={out}", f"--work={tmp_path / 'work'}", f"--pack={tmp_path / 'none'}"]
    kept: list[dict[str, Any]] = []
    for _ in range(3):
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(draw.uniform(15, 60))
        running.send_signal(signal.SIGKILL)
        running.wait()
        time.sleep(1)
        found = content(out)
        assert all(row in found for row in kept), seed
        assert not [each for each in Path("/proc").glob("[0-9]*") if str(out) in _arguments(each)]
        kept = [row for row in found if row["done"]]
        print(f"killed: {len(kept)} figures stand")
    for _ in range(3):  # a slow machine needs more than one turn
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        finished = json.loads((out / "results.json").read_text("utf-8"))["finished"]
    assert set(finished) == {"tests", "train", "sample", "likelihood", "cifar10"}, done.stdout
    assert all(row in content(out) for row in kept)
    assert (out / "samples.png").exists() and "bits/dim" in (out / "table.md").read_text("utf-8")
    print(done.stdout)


def _arguments(process: Path) -> str:
    try:
        return (process / "cmdline").read_text()
    except OSError:
        return ""
