"""Scripts as their users start them: those that are commands, and one that needs what others share."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from scripting import NEEDS_SCRIPTS, SCRIPTS

from sdescore.cli import COMMANDS

pytestmark = NEEDS_SCRIPTS


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "solvers"])
def test_a_command_is_a_script_too(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(SCRIPTS / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out.startswith(f"usage: sdescore {name} ")


def test_a_benchmark_finds_what_scripts_share_and_hides_no_package(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPTS / "bench/stochastic.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("usage: bench/stochastic.py "), done.stderr
